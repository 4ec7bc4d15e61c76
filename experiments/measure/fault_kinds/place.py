"""Where one fault happens: a folder of its own, commands and calls in it, and their judgement."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO

from ....common.errors import SdxsError
from .fault import FINE, LIMIT_S, Ran, Right
from .judge import complaints, fingerprints
from .samples import Samples

LAUNCH = Path(__file__).with_name("launch.py")
NOBODY = 65534
GRACE_S = 1.5  # for the children of a command that has ended
CANARY = "canary"


@dataclass(frozen=True, slots=True)
class How:
    """How a command is started. See `launch.py` for `lacks`.

    signals: pairs of seconds after its start, or a text that it says, and a signal.
    """

    environment: Mapping[str, str | None] = field(default_factory=dict)
    lacks: Mapping[str, object] = field(default_factory=dict)
    signals: Sequence[tuple[float | str, int]] = ()
    folder: str = ""
    stdin: str = ""
    limit_s: float = LIMIT_S
    program: Sequence[str] = ()  # in place of `-m sdxs.cli`


class _Heard:
    """What comes out of a pipe, read by a thread until its end."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._read = bytearray()
        self.thread = threading.Thread(target=self._listen, args=(pipe,), daemon=True)
        self.thread.start()

    def _listen(self, pipe: IO[bytes]) -> None:
        while read := os.read(pipe.fileno(), 1 << 16):
            self._read += read
        pipe.close()

    def text(self) -> str:
        return bytes(self._read).decode("utf-8", "replace")


class Command:
    """A command under way. Threads read what it says, so that it never waits for a reader."""

    def __init__(self, place: "Place", arguments: Sequence[str], how: How) -> None:
        self.how, self._place = how, place
        self.sent: list[int] = []
        # texts or seconds to wait for, seconds after that, and signals
        self._left = [(moment, 0.0, number) for moment, number in how.signals]
        self._seen: dict[float | str, float] = {}
        # -P: no module is looked for in the folder of the fault
        command = [sys.executable, "-P", *(how.program or ("-m", "sdxs.cli")), *arguments]
        if how.lacks:
            told = json.dumps(dict(how.lacks))
            command = [sys.executable, "-I", "-S", str(LAUNCH), told, *command]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [os.fsencode(each) for each in command],
            stdin=subprocess.PIPE if how.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=place.folder / how.folder,
            env=place.environment(how.environment),
            start_new_session=True,
        )
        self._heard = [_Heard(self.process.stdout), _Heard(self.process.stderr)]
        if how.stdin and self.process.stdin:
            with suppress(OSError):
                self.process.stdin.write(how.stdin.encode())
                self.process.stdin.close()

    def err(self) -> str:
        """What it has said so far on stderr."""
        return self._heard[1].text()

    def pause(self) -> None:
        """Let a moment pass, and kill it if its time is over."""
        time.sleep(0.01)
        if time.monotonic() - self.began > self.how.limit_s:
            self.process.kill()

    def ended(self) -> bool:
        """Tell whether it has ended; its status is left for `wait`."""
        found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found is not None

    def children(self) -> list[tuple[int, str]]:
        """Its living descendants and their command lines, in the order that they were started."""
        found, parents = [], {self.process.pid}
        for place in sorted(Path("/proc").glob("[0-9]*"), key=lambda each: int(each.name)):
            with suppress(OSError):
                parent = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                if int(parent) in parents:
                    parents.add(int(place.name))
                    line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append((int(place.name), line))
        return found

    def send(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        self.sent.append(number)
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def wait(self) -> Ran:
        """Wait for its end, sending its signals; kill it at its limit."""
        status = usage = None
        while status is None:
            pid, code, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                status = os.waitstatus_to_exitcode(code)
            elif time.monotonic() - self.began > self.how.limit_s:
                break
            else:
                self._send_due()
                time.sleep(0.001 if self._left else 0.01)
        seconds = time.monotonic() - self.began
        left = self._others() if status is not None else False
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if status is None:
            os.wait4(self.process.pid, 0)
        self.process.returncode = status if status is not None else -9  # Popen need not look
        for each in self._heard:
            each.thread.join(GRACE_S)
        out, err = (each.text() for each in self._heard)
        peak = usage.ru_maxrss / (1 << 10) if usage and status is not None else 0.0
        return Ran(status, out, err, seconds, peak, tuple(self.sent), left)

    def schedule(self, signals: Sequence[tuple[float | str, float, int]]) -> None:
        """Send signals: each so long after a time since the start, or after a text is said."""
        self._left += signals

    def _send_due(self) -> None:
        while self._left:
            moment, more_s, number = self._left[0]
            if time.monotonic() < self._time_of(moment) + more_s:
                return
            self._left.pop(0)
            self.send(number)

    def _time_of(self, moment: float | str) -> float:
        if not isinstance(moment, str):
            return self.began + moment
        if moment not in self._seen:
            if moment not in self.err():
                return math.inf
            self._seen[moment] = time.monotonic()
        return self._seen[moment]

    def _others(self) -> bool:
        """Tell whether another process of its group stays; a zombie waits for init, and is none."""
        until = time.monotonic() + GRACE_S
        while time.monotonic() < until:
            if not _living(self.process.pid):
                return False
            time.sleep(0.02)
        return True


def _living(group: int) -> bool:
    """Tell whether a process of this group runs or is stopped."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = place.read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except OSError:  # it has just ended
            continue
        state, _, its_group, *_ = after_name.split()
        if int(its_group) == group and state not in "ZX":
            return True
    return False


class Place:
    """A folder for one fault, and what was found wrong in it."""

    def __init__(self, folder: Path, samples: Samples, draw: Random) -> None:
        self.base, self.samples, self.draw = folder, samples, draw
        self.folder = folder / "work"
        for each in (self.folder, folder / "home", folder / "cache", folder / "weights"):
            each.mkdir(parents=True)
        self.wrong: list[str] = []
        self.noted: list[str] = []
        self.last: Ran | None = None

    def environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """The environment of a command: this one's paths, a home and a cache of its own."""
        kept = (
            "PATH",
            "PYTHONPATH",
            "LD_LIBRARY_PATH",
            "VIRTUAL_ENV",
            "TMPDIR",
            "DYLD_LIBRARY_PATH",
        )
        made = {name: os.environ[name] for name in kept if name in os.environ}
        made |= {
            "HOME": str(self.base / "home"),
            "XDG_CACHE_HOME": str(self.base / "cache"),
            "SDXS_WEIGHTS": str(self.base / "weights"),
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "COLUMNS": "200",
            # a limit of a file's size would cut off what Python keeps of this code
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name, value in changes.items():
            if value is None:
                made.pop(name, None)
            else:
                made[name] = value
        return made

    def start(self, *arguments: str, how: How | None = None) -> Command:
        """Start `sdxs` with these arguments, or what `how` names."""
        how = how or How()
        if how.lacks.get("user") is not None and os.getuid() == 0:
            self._hand_over()
        return Command(self, arguments, how)

    def sdxs(self, *arguments: str, right: Right | None = None, how: How | None = None) -> Ran:
        """Run `sdxs` with these arguments to its end, and judge it."""
        before = fingerprints(self.folder)
        return self.judge(self.start(*arguments, how=how).wait(), right or Right(), before)

    def judge(self, ran: Ran, right: Right, before: Mapping[str, str]) -> Ran:
        """Note what is wrong with what a command did."""
        self.last = ran
        self.wrong += complaints(ran, right, self.folder, before)
        return ran

    def call(self, function: Callable[[], object], right: Right | None = None) -> object:
        """Call a function of the API here, and judge it as a command; return what it returned."""
        before, right = fingerprints(self.folder), right or Right()
        began, err, code, found = time.monotonic(), "", FINE, None
        peak = _PeakMemory()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = function()
        except SdxsError as error:
            code, err = error.exit_code, f"error: {error}"
        except BaseException:
            code, err = 1, traceback.format_exc()
        seconds = time.monotonic() - began
        self.judge(Ran(code, "", err, seconds, peak.grown_mb()), right, before)
        return found

    def note(self, what: str) -> None:
        """Say what is done, where that is drawn here: it is added to the words of the fault."""
        self.noted.append(what)

    def demand(self, true: bool, wrong: str) -> None:
        """Note `wrong` unless it is true."""
        if not true:
            self.wrong.append(wrong)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of the files here by name, as `judge` takes them."""
        return fingerprints(self.folder)

    def checkpoint(self, name: str = "tiny") -> Path:
        """Copy the tiny checkpoint into the folder; return its folder there."""
        return Path(shutil.copytree(self.samples.tiny, self.folder / name))

    def canary(self) -> Path:
        """The file that executed code would make."""
        return self.folder / CANARY

    def finish(self) -> None:
        """Look for a canary."""
        self.demand(not self.canary().exists(), "something was executed: the canary is there")

    def _hand_over(self) -> None:
        for path in (self.base, *self.base.rglob("*")):
            with suppress(OSError):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


class _PeakMemory:
    """How far the resident memory of this process rises, where Linux tells."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = self._peak()

    def grown_mb(self) -> float:
        return max(0.0, self._peak() - self._before)

    def _peak(self) -> float:
        try:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
        except OSError:
            return 0.0
        (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
        return int(line.split()[1]) / (1 << 10)


def threads() -> int:
    """Count the threads of this process, with those of libraries where Linux tells."""
    task = Path("/proc/self/task")
    return len(list(task.iterdir())) if task.is_dir() else threading.active_count()
