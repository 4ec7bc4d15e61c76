"""Interrupt `sdxs live` at random moments: exit code, time to exit, and the video left behind.

Run as `python -m sdxs.experiments interrupts --runs 50 [--json PATH]`. Moments are spread
from the command's first instant, through loading, into rendering.
"""

import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...common.errors import SourceError
from ...common.io.sources.film import VideoFile
from ...common.settings import setting
from .. import record
from ..options import Options, result_file

LIMIT_S = 1.0
# What Python says when SIGINT comes while it starts, before any line of ours could run; it then
# ends with 1.
FAREWELL = "Fatal Python error: init_"
BAD_WORDS = ("Traceback", "terminate called", "Aborted", "core dumped", "leaked", "Fatal")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One interrupted run. frames: of the video, 0 if none was begun, -1 if it cannot be played."""

    signal: str
    after_s: float
    isolate: bool
    code: int
    exit_s: float
    frames: int
    left_over: tuple[str, ...]
    complaint: str
    farewell: bool = False

    @property
    def good(self) -> bool:
        """Right, and within the second that a user is promised."""
        return self.right and self.exit_s <= LIMIT_S

    @property
    def right(self) -> bool:
        """Right code, nothing half-written, no crash."""
        number = signal.Signals[self.signal].value
        # Before the command's own handlers stand, Python dies of the signal itself; a shell sees
        # the same code.
        codes = (128 + number, -number, *([1] if self.farewell else []))
        return self.code in codes and self.frames >= 0 and not self.left_over and not self.complaint


def interrupt(number: signal.Signals, after_s: float, isolate: bool) -> Outcome:
    """Start a session, send it a signal after `after_s`, and look at what it leaves."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        command = [
            sys.executable,
            "-m",
            "sdxs.cli",
            "live",
            "--model",
            "demo",
            "--size",
            "64",
            "--source",
            "synthetic",
            "--headless",
            "--frames",
            "1000000",
            "--out",
            str(out),
            *(["--isolate"] if isolate else []),
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(after_s)  # the moment is what is being tested
        process.send_signal(number)
        began = time.perf_counter()
        try:
            _, errors = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        took = time.perf_counter() - began
        left = tuple(path.name for path in Path(folder).iterdir() if path != out)
        complaint = next(
            (line for line in errors.splitlines() if any(word in line for word in BAD_WORDS)), ""
        )
        farewell = process.returncode == 1 and FAREWELL in errors
        if farewell or process.returncode == -number:
            complaint = ""  # Python's own, before any line of ours ran
        return Outcome(
            number.name,
            after_s,
            isolate,
            process.returncode,
            took,
            _frames(out),
            left,
            complaint,
            farewell,
        )


def _frames(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        video, count = VideoFile(path), 0
        while video.read() is not None:
            count += 1
        return count
    except SourceError:
        return -1


@dataclass(frozen=True, slots=True)
class InterruptsOptions(Options):
    """How often."""

    runs: int = setting(50, "commands to interrupt", minimum=1)
    json: Path | None = result_file()


def run(options: InterruptsOptions) -> int:
    """Interrupt every run; return 1 unless all ended well."""
    moments = np.random.default_rng(0).uniform(0.05, 4.0, options.runs)
    outcomes = []
    for number, moment in enumerate(moments):
        sent = (signal.SIGINT, signal.SIGTERM)[number % 2]
        outcomes.append(interrupt(sent, round(float(moment), 3), isolate=number % 4 >= 2))
        print(
            f"{number + 1}/{options.runs} {'good' if outcomes[-1].good else 'BAD'} {outcomes[-1]}",
            flush=True,
        )
    good = sum(outcome.good for outcome in outcomes)
    slowest = max(outcome.exit_s for outcome in outcomes)
    print(f"{good} of {len(outcomes)} good, slowest exit {slowest:.2f} s")
    if options.json:
        runs = [asdict(outcome) | {"good": outcome.good} for outcome in outcomes]
        record.write(options.json, {"runs": runs}, options)
    return 0 if good == len(outcomes) else 1
