"""The pass of starts: each in a process of its own, from the request for it to the first picture.

A cold start finds an empty folder where its framework keeps what it compiles, a prompt that nobody
has encoded, and weights that are not in the page cache. The kept one after it finds what the cold
one left. Folders of the user are not touched. Times are of the clock that all processes share.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ...backend.process.child import Child
from ...backend.spec import BackendSpec, spec_of
from ...checkpoint.find import Checkpoint
from ...errors import SdxsError
from ..model.start import COLD, KEPT, Start, Starts
from .page_cache import can_drop, drop, resident
from .requests import Close, Entrant
from .run_state import RunState
from .starting import Begun, Order, serve

DROPPED = 0.01  # share of pages that may stay


def measure_starts(run: RunState) -> None:
    """Start every backend `cold_start` times cold, each time followed by a kept start."""
    for entrant in run.able():
        spec = spec_of(entrant.backend, peers=True) if entrant.backend else None
        found = run.of[entrant.label].starts = plan_of(spec, run.checkpoint)
        for number in range(run.plan.cold_start):
            run.say(f"{entrant.label}: start {number + 1} of {run.plan.cold_start}")
            with TemporaryDirectory(prefix="sdxs-bench-", ignore_cleanup_errors=True) as folder:
                for kind in (COLD, KEPT) if is_cold(found) else (KEPT,):
                    found.starts.append(_start(run, entrant, spec, found, kind, Path(folder)))
            run.save_now()


def plan_of(spec: BackendSpec | None, checkpoint: Checkpoint) -> Starts:
    """Say what can be emptied before a cold start, and why the rest cannot."""
    if spec and spec.programs:
        page_cache = "kept: the weights are in programs, whose files are the backend's"
    elif not can_drop():
        page_cache = "kept: this system drops no single file without root"
    else:
        files = weights_of(checkpoint)
        drop(files)
        stayed = resident(files)
        if stayed is None:
            page_cache = "asked to drop the weights' files; whether it did cannot be seen"
        elif stayed > DROPPED:
            page_cache = f"kept: {stayed:.0%} of the weights' files stay when they are dropped"
        else:
            page_cache = "the weights' files are dropped; libraries stay"
    cache = spec.compile_cache() if spec else None
    moved = " and ".join(cache.variables) if cache else ""
    why = cache.why if cache else "the backend names no cache of what it compiles"
    return Starts(page_cache, f"an empty folder by {moved}" if moved else f"kept: {why}")


def is_cold(plan: Starts) -> bool:
    """Tell whether anything can be emptied, so that a cold start differs from a kept one."""
    return not (plan.page_cache.startswith("kept") and plan.compile_cache.startswith("kept"))


def weights_of(checkpoint: Checkpoint) -> list[Path]:
    """Return the files of weights that a start reads."""
    files = [checkpoint.unet_weights, checkpoint.vae_weights, checkpoint.text_encoder_weights]
    if checkpoint.control:
        files.append(checkpoint.control.weights)
    return [path.resolve() for path in files]


def _start(
    run: RunState,
    entrant: Entrant,
    spec: BackendSpec | None,
    plan: Starts,
    kind: str,
    folder: Path,
) -> Start:
    files = weights_of(run.checkpoint)
    if kind == COLD and not (spec and spec.programs):
        drop(files)
    start = Start(kind, resident=resident(files))
    moved = {name: folder / name for name in spec.compile_cache().variables} if spec else {}
    for place in moved.values():
        place.mkdir(exist_ok=True)
    order = Order(
        run.checkpoint,
        run.plan.prompt,
        folder / "prompts" if is_cold(plan) else None,
        run.plan.seed,
        run.plan.turn_s,
        {name: str(place) for name, place in moved.items()},
    )
    run.watch()
    began_ns = time.perf_counter_ns()
    try:
        child = Child(entrant.label, serve, order, watch=run.watch)
        try:
            begun = child.ask(entrant, Begun)
        finally:
            child.end(Close())
    except SdxsError as error:
        start.error = f"{entrant.label}, a {kind} start: {error}"
        run.report.failures.append(start.error)
        return start
    start.phases_ms = phases(began_ns, begun.ends)
    start.whole_ms = (begun.ends[-1][1] - began_ns) / 1e6
    start.steady_ms = begun.steady_ms
    if moved:
        start.compiled_files = sum(
            path.is_file() for place in moved.values() for path in place.rglob("*")
        )
    return start


def phases(began_ns: int, ends: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Return the milliseconds of each phase, from the ends of all in their order."""
    found: dict[str, float] = {}
    for name, end_ns in ends:
        found[name] = found.get(name, 0.0) + (end_ns - began_ns) / 1e6
        began_ns = end_ns
    return found
