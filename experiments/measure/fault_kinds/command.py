"""A command under way in the folder of a fault: its words, its signals, its end."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .fault import LIMIT_S, Ran

LAUNCH = Path(__file__).with_name("launch.py")
GRACE_S = 1.5  # for the children of a command that has ended


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
        assert pipe
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

    def __init__(
        self, arguments: Sequence[str], how: How, folder: Path, environment: Mapping[str, str]
    ) -> None:
        """Start it in `folder`, with the limits and what else `how` says."""
        self.how = how
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
        # a child begins as a copy of this process, and the system counts that as its peak
        self._inherited_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._seen_kb = 0
        self.process = subprocess.Popen(
            [os.fsencode(each) for each in command],
            stdin=subprocess.PIPE if how.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder / how.folder,
            env=environment,
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
                self._look_at_memory()
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
        peak_kb = usage.ru_maxrss if usage and status is not None else 0
        if peak_kb <= self._inherited_kb:
            peak_kb = self._seen_kb
        return Ran(status, out, err, seconds, peak_kb / (1 << 10), tuple(self.sent), left)

    def _look_at_memory(self) -> None:
        """Note the peak of its memory since it became the command, in kB."""
        with suppress(OSError):
            status = Path(f"/proc/{self.process.pid}/status").read_text(errors="replace")
            peaks = [line.split()[1] for line in status.splitlines() if line[:6] == "VmHWM:"]
            self._seen_kb = max(self._seen_kb, *map(int, peaks), 0)

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
