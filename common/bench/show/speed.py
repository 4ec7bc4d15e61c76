"""The headline's rows: how long a frame takes, how much that varies, and on what terms."""

from ..model import statistics
from ..model.report import BackendReport
from ..model.terms import terms_of
from .numbers import ms
from .pictures import FAILED, picture_cell

SPEED_HEADS = (
    "backend",
    "a frame takes",
    "p95",
    "p99",
    "frames/s",
    "starts differ",
    "latency",
    "p95",
    "frames",
    "picture",
    "what",
)


def speed_cells(backend: BackendReport, fresh: bool) -> list[str]:
    """Return a backend's row under `SPEED_HEADS`; of one that failed the second cell says so.

    One with a wrong picture has no times: they are none of this work. fresh: whether each round was
    a start of its own.
    """
    found, latency, facts = backend.summary, backend.latency, backend.describe
    cells = ["failed", *[""] * 6, "0"]
    if found and latency:
        cells = [ms(found.median), ms(found.p95), ms(found.p99), f"{found.fps:.1f}"]
        cells.append(_between_starts(backend, fresh))
        cells += [ms(latency.median), ms(latency.p95), str(found.frames)]
        cells = [FAILED, *[""] * 6, cells[-1]] if backend.wrong else cells
    names = ("device", "dtype", "lanes", "mode", "blas")
    cells.append(picture_cell(backend))
    told = [facts[name] for name in names if name in facts]
    told += [str(terms)] if (terms := terms_of(facts)) else []
    return [backend.label, *cells, ", ".join(told)]


def _between_starts(backend: BackendReport, fresh: bool) -> str:
    """How much starts differ from each other, standard deviation as a share of the time."""
    if not fresh:
        return "left out"
    spread = statistics.between_rounds(backend.frames)
    return f"{spread:.1%}" if spread is not None else ""
