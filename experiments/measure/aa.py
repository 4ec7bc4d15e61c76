"""Test bench itself: a backend against itself, and against a slower twin.

Run as `python -m sdxs.experiments aa [--json PATH] [--runs 20] [--only KIND]`; runs are added to
those that PATH holds, so that the whole can be made in pieces. `same` is an identity backend that
copies each frame a thousand times against itself, `slower` against one that does 5 % more of it,
`mlx` MLX on the demo checkpoint against itself. In `starts-same` and `starts-slower` every start
draws for itself how much more or less it copies, with a spread of 2 %, as processes differ by where
their memory lies; in `kept-same` too, with the same processes in every round, where the interval
cannot know of it. `timed-same` and `timed-slower` are the same as the two with `starts`, but their
frames take their time by the clock, so that a busy machine adds little to what is planted.
"""

import json
import math
import mmap
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ...common.backend.identity import IdentityBackend
from ...common.backend.options import BackendOptions
from ...common.backend.protocol import StageTimes
from ...common.bench.measure.machine import conditions, git_revision
from ...common.bench.measure.requests import Entrant
from ...common.bench.measure.runner import BenchPlan, Runner
from ...common.bench.model.statistics import ratio
from ...common.checkpoint.find import find
from ...common.settings import setting
from ...mlx_sdxs.options import MlxOptions
from .. import record
from ..options import Options, option

ROUNDS, TURNS, TURN_S = 12, 3, 0.15
SIZE = 128
COPIES = (
    1000  # about a millisecond: shorter than the slices in which a busy system hands out its cores
)
PLANTED = 1.05
COPY_NS, SPIN_NS = 1000, 200_000  # a copy by the clock; what a sleep may last too long
SPREAD = 0.02  # of the starts: standard deviation of the logarithm
Kind = Literal[
    "same",
    "slower",
    "starts-same",
    "starts-slower",
    "kept-same",
    "timed-same",
    "timed-slower",
    "mlx",
]
KINDS: tuple[str, ...] = get_args(Kind)
MLX = "sdxs.mlx_sdxs.backend:MlxBackend"


@dataclass(frozen=True, slots=True)
class CopyingOptions(BackendOptions):
    """Settings of the backend that copies."""

    copies: int = setting(0, "copies of a frame, each of them real work", minimum=0)
    spread: float = setting(0.0, "how much starts differ, as a share of the copies", minimum=0)
    timed: bool = setting(False, "wait a microsecond for each copy, and copy nothing")


class CopyingBackend(IdentityBackend):
    """Return frames unchanged after `copies` copies each: real work of a known amount."""

    name = "copying"

    def __init__(self, checkpoint: object, options: CopyingOptions) -> None:
        super().__init__(checkpoint, options)
        self._timed = options.timed
        chance = np.random.default_rng()  # every start has luck of its own
        self._copies = copies_of_a_start(options, chance)
        # Whole pages of their own: where two heap blocks lie to each other makes a copy between
        # them up to 2 % slower, and differs with as little as the length of a setting (Mytkowicz
        # et al. 2009).
        size = int(np.prod(self._shape))
        self._source, self._target = (
            np.frombuffer(mmap.mmap(-1, size), np.uint8) for _ in range(2)
        )

    def collect(self, out: np.ndarray) -> StageTimes:
        if self._timed:
            wait_until(time.perf_counter_ns() + self._copies * COPY_NS)
            return super().collect(out)
        frame, _ = self._frames[0]
        np.copyto(self._source, frame.reshape(-1))
        for _ in range(self._copies):
            np.copyto(self._target, self._source)
        return super().collect(out)


def copies_of_a_start(options: CopyingOptions, chance: np.random.Generator) -> int:
    """Return how often a process copies each frame, drawn once for its life."""
    return round(options.copies * math.exp(options.spread * chance.standard_normal()))


def wait_until(moment_ns: int) -> None:
    """Return at a moment of the clock: sleep, and ask the clock for the rest."""
    if (left := moment_ns - SPIN_NS - time.perf_counter_ns()) > 0:
        time.sleep(left / 1e9)
    while time.perf_counter_ns() < moment_ns:
        pass


def plan(kind: str) -> BenchPlan:
    """Two entrants: equal ones, or the slower one first."""
    if kind == "mlx":
        pair = tuple(Entrant(label, MLX, MlxOptions(SIZE)) for label in ("first", "second"))
    else:
        location = f"{CopyingBackend.__module__}:CopyingBackend"
        factors = {"slower": PLANTED if kind.endswith("slower") else 1, "quicker": 1}
        spread = 0.0 if kind in ("same", "slower") else SPREAD
        timed = kind.startswith("timed")
        pair = tuple(
            Entrant(
                label,
                location,
                CopyingOptions(SIZE, copies=round(COPIES * factor), spread=spread, timed=timed),
            )
            for label, factor in factors.items()
        )
    return BenchPlan(
        pair,
        {},
        ROUNDS,
        TURNS,
        TURN_S,
        fresh=not kind.startswith("kept"),
        profile=False,
        together=False,
        memory=False,
    )


def run_bench(kind: str) -> dict[str, object]:
    """One run of bench; its ratio and the median of every round."""
    report = Runner(plan(kind), find("demo", download=False)).run()
    assert not report.failures, report.failures
    rounds = {b.label: [float(np.median(r.frame_ms)) for r in b.rounds] for b in report.backends}
    seen = {"conditions": conditions(), "commit": git_revision()}
    return judged({"kind": kind, "round_medians_ms": rounds, **seen})


def judged(run: dict[str, object]) -> dict[str, object]:
    """Compute the ratio from the rounds' medians, and tell whether it is right."""
    first, second = ([[t] for t in medians] for medians in run["round_medians_ms"].values())
    found = ratio(first, second)
    assert found is not None
    slower = str(run["kind"]).endswith("slower")
    right = found.low > 1 if slower else found.contains(1)
    return {**run, "ratio": asdict(found), "right": right}


def stored_runs(path: Path) -> list[dict[str, object]]:
    """Read the runs of a file and judge them again; each keeps the commit that made it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    # files of earlier commits name theirs once, and the oldest within their machine
    commit = content.get("commit") or content["machine"].get("git", "")
    return [judged({"commit": commit, **stored}) for stored in content["runs"]]


@dataclass(frozen=True, slots=True)
class AaOptions(Options):
    """How often, and of which kind."""

    json: Path | None = option(
        None, "add the runs to those in this file", metavar="PATH", use="written"
    )
    runs: int = setting(20, "runs of each kind; 0 only judges the file's runs again", minimum=0)
    only: Kind | None = setting(None, "the only kind to run", shown="all of them")


def run(options: AaOptions) -> None:
    """Run bench on each kind of pair, and judge every run."""
    runs = stored_runs(options.json) if options.json and options.json.exists() else []
    for _ in range(options.runs):
        for kind in (options.only,) if options.only else KINDS:
            runs.append(run_bench(kind))
            print(kind, runs[-1]["ratio"], "right" if runs[-1]["right"] else "WRONG", flush=True)
            if options.json:
                record.write(options.json, figures(runs), options)
    if options.json and runs:
        record.write(options.json, figures(runs), options)
    for kind in KINDS:
        verdicts = [r["right"] for r in runs if r["kind"] == kind]
        print(f"{kind}: right in {sum(map(bool, verdicts))} of {len(verdicts)}")


def figures(runs: list[dict[str, object]]) -> dict[str, object]:
    """The plan, the verdicts counted by kind, and every run."""
    what = {"rounds": ROUNDS, "turns": TURNS, "turn_s": TURN_S, "size": SIZE, "planted": PLANTED}
    what["spread of starts"] = SPREAD
    right = {
        kind: f"{sum(bool(r['right']) for r in runs if r['kind'] == kind)} of "
        f"{sum(r['kind'] == kind for r in runs)}"
        for kind in KINDS
    }
    return {"plan": what, "right": right, "runs": runs}
