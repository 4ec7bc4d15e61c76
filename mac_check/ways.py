"""Compare the ways to call Core ML: predict here, predict hosted, PyObjC here.

What only a Mac knows, and this asks: whether Core ML takes memory of ours for inputs and results
(sites `another backing` in `copied_bytes` say where it did not), whether PyObjC's calls let other
threads run, whether the asynchronous prediction ends, and whether any of it ends the process.

Copies that the bridge of coremltools makes inside are not counted: by its source it returns fresh
arrays, and takes the inputs' memory as it is. A hosted backend's own copies are those of `predict
here`, in its child.
"""

import os
from collections.abc import Callable

import numpy as np

from ..common.backend import copies
from ..common.backend.memory import footprint_bytes
from ..common.backend.process.hosted import HostedBackend
from ..common.backend.protocol import Backend
from ..coreml_backend import objc_values
from ..coreml_backend.backend import CoreMLBackend
from ..coreml_backend.gate import probe
from . import behaviour
from .coreml import hosted_backend, nearness, render, spread
from .setup import Answer, Setup


def ask_way(setup: Setup) -> Answer:
    """Load, render and close `cycles` times by one way; measure frames in the first.

    gil_share: share of the time of rendering in which a counting thread did not run, from 0 to 1;
    it also shares the lock with what Python itself does in a frame, so it is a little too large.
    """
    if lacking := _lacking(setup):
        return lacking
    pictures, footprints, answer = list[np.ndarray](), list[int](), Answer()
    for cycle in range(max(2, int(setup.number("cycles", 5)))):
        backend, checkpoint = _backend(setup), setup.checkpoint()
        backend.load()
        try:
            if cycle == 0:
                answer = _measured(setup, backend)
            pictures.append(render(backend, checkpoint, setup.frame, min(setup.frames, 20))[0])
            footprints.append(_footprint(backend))
        finally:
            backend.close()
    off = max(int(np.abs(pictures[0].astype(int) - other).max()) for other in pictures[1:])
    growth = footprints[-1] - footprints[1]
    near = nearness(pictures[-1], setup)
    steady = off == 0 and growth <= behaviour.GROWTH_LIMIT_BYTES
    return {
        **near,
        **answer,
        "ok": bool(near["ok"]) and steady,
        "cycles": len(pictures),
        "largest_difference_between_cycles": off,
        "growth_bytes": growth,
        "footprint_bytes": footprints[-1],
    }


def _measured(setup: Setup, backend: Backend) -> Answer:
    """Time frames, count copies per frame, and watch another thread."""
    checkpoint = setup.checkpoint()
    render(backend, checkpoint, setup.frame, 3)  # what the first frames find out and allocate
    copies.take()
    probe(checkpoint, setup.frame)
    asking = copies.take()  # `render` makes the picture, too
    _, intervals, bridges = render(backend, checkpoint, setup.frame, setup.frames)
    counted = {site: total - asking.get(site, 0) for site, total in copies.take().items()}
    per_frame = {site: total / len(intervals) for site, total in counted.items() if total}
    kept = behaviour.speed_kept(lambda: render(backend, checkpoint, setup.frame, setup.frames))
    return {
        "frame_ms": spread(intervals[1:]),
        "bridge_ms": spread(bridges[1:]),
        "copied_bytes": per_frame,
        "gil_share": min(1.0, max(0.0, 1.0 - kept)),
    }


def _backend(setup: Setup) -> Backend:
    if setup.text("way") == "predict hosted":
        return hosted_backend(setup.checkpoint(), setup.options())
    return CoreMLBackend(setup.checkpoint(), setup.options())


def _footprint(backend: Backend) -> int:
    pids = [backend.pid] if isinstance(backend, HostedBackend) else []
    return sum(map(footprint_bytes, [os.getpid(), *pids]))


def _lacking(setup: Setup) -> Answer:
    """Return the answer of a question that cannot be asked without PyObjC, or {}."""
    if setup.options().runtime != "pyobjc" or not (packages := objc_values.missing(images=False)):
        return {}
    note = f"{' and '.join(packages)} is not installed; {objc_values.remedy(packages)}"
    return {"ok": True, "asked": False, "note": note}


def _through_pyobjc(ask: Callable[[Setup], Answer], setup: Setup) -> Answer:
    return _lacking(setup) or ask(setup)


def ask_feedback(setup: Setup) -> Answer:
    """Ask `behaviour.ask_feedback` of PyObjC: x0 is read where Core ML wrote it."""
    return _through_pyobjc(behaviour.ask_feedback, setup)


def ask_overflow(setup: Setup) -> Answer:
    """Ask `behaviour.ask_overflow` of PyObjC."""
    return _through_pyobjc(behaviour.ask_overflow, setup)


def ask_prompt_change(setup: Setup) -> Answer:
    """Ask `behaviour.ask_prompt_change` of PyObjC: inputs change in place."""
    return _through_pyobjc(behaviour.ask_prompt_change, setup)


def ask_idle_predictions(setup: Setup) -> Answer:
    """Ask `behaviour.ask_idle_predictions` of PyObjC: nothing dies a second after a prediction."""
    return _through_pyobjc(behaviour.ask_idle_predictions, setup)
