"""What macOS says of a loaded backend's memory: do `bench`'s readers of it read a real Mac?

The question loads MLX or Core ML in its own process, renders, and asks every source. It answers
which were read, what they cost in seconds, and how far dirty and compressed pages explain the
footprint. Elsewhere Linux' account is taken, so that a rehearsal runs the same way.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

from ..common.backend.memory import footprint_bytes
from ..common.backend.protocol import Backend
from ..common.bench.measure import mac_tools
from ..common.bench.measure.accounts import account_of
from ..common.bench.measure.ledgers import ledgers
from ..common.bench.model.unified import Account
from ..common.system import asked
from .models import DEMO
from .question import COMPUTE_UNITS, Question, Unit
from .setup import Answer, Setup

FRAMES = 5
_HERE = __package__


def of_unified_memory(plain: str) -> Iterator[Question]:
    """Return the questions: MLX, and Core ML on the GPU and the Neural Engine.

    plain: the form of attention where none is asked for.
    """
    made = Question("unified memory", f"{_HERE}.unified:ask_accounts", "mlx", DEMO, variant=True)
    yield replace(made, title="mlx", quick=True, expected_s=8.0)
    units: tuple[Unit, ...] = ("gpu", "ne")
    for unit in units:
        attention = plain if unit == "gpu" else "split_einsum"
        chosen = {"attention": attention, "compute_units": COMPUTE_UNITS[unit]}
        yield replace(made, unit=unit, chosen=chosen, title=f"core ml {unit}", expected_s=15.0)


def ask_accounts(setup: Setup) -> Answer:
    """Load a backend in this process, render, and read every source of its memory."""
    from .coreml import render

    backend, before = _backend(setup), footprint_bytes()
    backend.load()
    try:
        render(backend, setup.checkpoint(), setup.frame, FRAMES)
        after, told, uses = footprint_bytes(), account_of(os.getpid()), backend.memory()
        answer: Answer = {
            "footprint_before_bytes": before,
            "footprint_bytes": after,
            "account": asdict(told),
            "explained": _explained(told, after),
            "ledgers": ledgers(),
            "framework": asdict(uses),
        }
    finally:
        backend.close()
    if sys.platform != "darwin":
        return {"ok": told.resident_bytes is not None, **answer}
    tools = {
        "vmmap": _read(mac_tools.from_vmmap, "vmmap", "-summary", str(os.getpid())),
        "footprint": _read(mac_tools.from_footprint, "footprint", str(os.getpid())),
    }
    readable = all(tool["read"] for tool in tools.values()) and bool(answer["ledgers"])
    return {"ok": readable, **answer, "tools": tools}


def _backend(setup: Setup) -> Backend:
    checkpoint = setup.checkpoint()
    if setup.chosen:
        from ..coreml_backend.backend import CoreMLBackend

        return CoreMLBackend(checkpoint, setup.options())
    from ..mlx_sdxs.backend import MlxBackend
    from ..mlx_sdxs.options import MlxOptions

    return MlxBackend(checkpoint, MlxOptions(setup.frame))


def _explained(told: Account, footprint: int) -> float | None:
    """Return dirty and compressed bytes over the footprint; None where a figure is missing."""
    if told.dirty_bytes is None or told.compressed_bytes is None or not footprint:
        return None
    return (told.dirty_bytes + told.compressed_bytes) / footprint


def _read(reader: mac_tools.Reader, *command: str) -> Answer:
    """Ask a tool of macOS: whether its table was read, its seconds, and how it begins if not."""
    began = time.perf_counter()
    text = asked(*command)
    found = reader(text)
    answer: Answer = {"read": found is not None, "seconds": time.perf_counter() - began}
    return answer if found else answer | {"begins": text[:400]}
