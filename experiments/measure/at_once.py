"""Do one thing twice at once, kill some, and look whether anything false was said or left behind.

Run as `python -m sdxs.experiments at-once [--json PATH]`. Two processes of `sdxs` pull one model
from a hub on this machine, import one pickle, convert one checkpoint, or record one film. In half
of the rounds one of them is killed (SIGKILL), at a random moment after its start or after the first
trace of its writing. Whoever ends with 0 must have left a whole file, at that moment and at the
end; nothing half-written may lie under a final name; and the next run must succeed and clear up.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ...common.settings import setting
from .. import record
from ..options import Options, result_file
from .at_once_work import KINDS, Work, works

LOOK_S = 0.005
LIMIT_S = 240.0
WAITED = ("another process", "wait for another process")


@dataclass(frozen=True, slots=True)
class Round:
    """What came of two processes. killed: '', 'start' or 'trace', whereafter the moment counts.

    codes: exit codes, negative: the signal. wrong: what was false, half-written or left behind.
    """

    kind: str
    killed: str
    after_s: float
    codes: tuple[int, ...]
    waited: int
    seconds: float
    wrong: tuple[str, ...]


@dataclass(slots=True)
class _Runs:
    """The processes of one round, and what was wrong when one of them said success."""

    work: Work
    processes: list["subprocess.Popen[str]"]
    began: float
    wrong: list[str] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)

    def look(self) -> bool:
        """Check the claims of those that have ended since; tell whether all have."""
        for number, process in enumerate(self.processes):
            if number not in self.ended and process.poll() is not None:
                self.ended.add(number)
                if process.returncode == 0 and (found := self.work.amiss()):
                    self.wrong.append(f"said success: {found}")
        return len(self.ended) == len(self.processes)


def one_round(work: Work, killed: str, after_s: float, victim: int) -> Round:
    """Run the command twice at once, kill one of them if asked to, and run it once more."""
    began = time.perf_counter()
    with ExitStack() as open_files:
        said = [open_files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        runs = _Runs(work, [_start(work, work.command, file) for file in said], began)
        moment = None if not killed else began + after_s if killed == "start" else float("inf")
        while not runs.look():
            now = time.perf_counter()
            if moment == float("inf") and work.traces():
                moment = now + after_s
            if moment is not None and now >= moment:
                runs.processes[victim].send_signal(signal.SIGKILL)
                moment = None
            if now - began > LIMIT_S:
                runs.wrong.append("hangs")
                for process in runs.processes:
                    process.kill()
            time.sleep(LOOK_S)
        took = time.perf_counter() - began
        texts = [_text(file) for file in said]
        codes = tuple(process.returncode for process in runs.processes)
        runs.wrong += _judged(work, codes, texts)
        runs.wrong += _next(work, open_files.enter_context(tempfile.TemporaryFile("w+")))
    waited = sum(any(each in text for each in WAITED) for text in texts)
    return Round(work.kind, killed, round(after_s, 3), codes, waited, took, tuple(runs.wrong))


def _judged(work: Work, codes: tuple[int, ...], texts: list[str]) -> list[str]:
    """Say what is wrong once both have ended."""
    wrong = []
    if 0 in codes and (found := work.amiss()):
        wrong.append(f"after a success: {found}")
    if found := work.half():
        wrong.append(f"half-written: {found}")
    if 0 not in codes and -signal.SIGKILL not in codes:
        wrong.append(f"nobody succeeded: {texts}")
    for code, text in zip(codes, texts, strict=True):
        if "Traceback" in text or code not in (0, -signal.SIGKILL, work.refusal):
            wrong.append(f"ended with {code}: {text[-300:]}")
    return wrong


def _next(work: Work, said: object) -> list[str]:
    """Run the command once more, alone; say what is wrong then."""
    process = _start(work, work.again, said)
    process.wait(LIMIT_S)
    if process.returncode:
        return [f"the next run ended with {process.returncode}: {_text(said)[-300:]}"]
    wrong = [f"the next run: {found}"] if (found := work.amiss()) else []
    if left := work.traces(old=True):
        wrong.append(f"left behind: {', '.join(left)}")
    return wrong


def _start(work: Work, command: list[str], said: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "sdxs.cli", *command],
        stdout=said,  # type: ignore[arg-type]
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | work.environment,
    )


def _text(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return str(file.read())  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class AtOnceOptions(Options):
    """How often, and of what."""

    rounds: int = setting(20, "rounds of each kind", minimum=1)
    seed: int = setting(15, "of the moments and the victims", minimum=0)
    kinds: str = setting(",".join(KINDS), "what is done at once")
    json: Path | None = result_file()


def rounds_of(kind: str, count: int, generator: np.random.Generator) -> Iterator[Round]:
    """Do one kind of work; every second round has a kill, within the time of the one before."""
    typical_s = 0.0
    for number in range(count):
        killed = "" if number % 2 == 0 else ("start", "trace")[number // 2 % 2]
        share, victim = float(generator.uniform()), int(generator.integers(2))
        # from the first trace on, a third of the time is left
        after_s = typical_s * share * (1.0 if killed == "start" else 0.3) if killed else 0.0
        with _fresh(kind) as work:
            done = one_round(work, killed, after_s, victim)
        typical_s = typical_s if killed else done.seconds
        yield done


@contextmanager
def _fresh(kind: str) -> Iterator[Work]:
    with tempfile.TemporaryDirectory() as folder, works(kind, Path(folder)) as work:
        yield work


def run(options: AtOnceOptions) -> int:
    """Do every kind of work; return 1 if anything was wrong."""
    generator = np.random.default_rng(options.seed)
    found: list[Round] = []
    for kind in options.kinds.split(","):
        for done in rounds_of(kind, options.rounds, generator):
            found.append(done)
            print(f"{len(found)} {kind} {done.wrong or 'good'} {done}", flush=True)
    counts = {kind: summed(found, kind) for kind in options.kinds.split(",")}
    for kind, count in counts.items():
        print(f"{kind}: {count}")
    if options.json:
        figures = {"counts": counts, "rounds": [asdict(each) for each in found]}
        record.write(options.json, figures, options)
    return 1 if any(each.wrong for each in found) else 0


def summed(rounds: list[Round], kind: str) -> dict[str, int]:
    """Count the rounds of a kind: kills, successes said, waits told, and what was wrong."""
    own = [each for each in rounds if each.kind == kind]
    codes = [code for each in own for code in each.codes]
    return {
        "rounds": len(own),
        "rounds_with_a_kill": sum(bool(each.killed) for each in own),
        "killed_in_time": codes.count(-signal.SIGKILL),
        "said_success": codes.count(0),
        "told_of_waiting": sum(each.waited for each in own),
        "false_or_half": sum(bool(each.wrong) for each in own),
    }
