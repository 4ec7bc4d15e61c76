"""Try faults in a few worker processes, each with a limit; one that dies is started again."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from .fault import Fault, Outcome

WORKER_LIMIT_S = 180.0  # of all commands of a fault


class Worker:
    """One worker process, which is started when it is first asked."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._seed, self._folder = seed, folder
        self._process: subprocess.Popen[str] | None = None
        self._answers = -1

    def attempt(self, fault: Fault, limit_s: float = WORKER_LIMIT_S) -> Outcome:
        """Let the worker try a fault; what it cannot answer is not survived."""
        began = time.monotonic()
        process = self._process or self._start()
        assert process.stdin
        process.stdin.write(f"{fault.id}\n")
        process.stdin.flush()
        answer = b""
        while not answer.endswith(b"\n"):
            left = began + limit_s - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                return self._lost(fault, f"hung: no end within {limit_s:g} s", began)
            if not (read := os.read(self._answers, 1 << 16)):
                code = process.wait()
                return self._lost(fault, f"the process of the API ended with {code}", began)
            answer += read
        found = json.loads(answer)
        return Outcome(**found | {"wrong": tuple(found["wrong"])})

    def close(self) -> None:
        """End the process and all that it started."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(self._answers)
            assert self._process.stdin
            with suppress(OSError):
                self._process.stdin.close()
            self._process = None

    def _start(self) -> "subprocess.Popen[str]":
        self._answers, given = os.pipe()
        with (self._folder / "workers.txt").open("ab") as said:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    f"{__package__}.worker",
                    str(self._seed),
                    str(self._folder),
                    str(given),
                ],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=[given],
                text=True,
                start_new_session=True,
                env=os.environ
                | {
                    "HF_HUB_OFFLINE": "1",
                    "HOME": str(self._folder / "home"),
                    "XDG_CACHE_HOME": str(self._folder / "home" / "cache"),
                    "SDXS_WEIGHTS": str(self._folder / "home" / "weights"),
                },
            )
        os.close(given)
        return self._process

    def _lost(self, fault: Fault, why: str, began: float) -> Outcome:
        self.close()
        seconds = round(time.monotonic() - began, 2)
        return Outcome(fault.id, fault.kind, fault.what, None, "", seconds, (why,))


def attempt_all(
    chosen: Sequence[Fault],
    seed: int,
    folder: Path,
    workers: int,
    until_s: float | None,
    tell: Callable[[Outcome], None],
) -> list[Outcome]:
    """Try faults in order, so many at once; none is begun after `until_s` (monotonic)."""
    waiting, found, lock = list(chosen), list[Outcome](), threading.Lock()

    def work() -> None:
        worker = Worker(seed, folder)
        try:
            while True:
                with lock:
                    late = until_s is not None and time.monotonic() >= until_s
                    if late or not waiting:
                        return
                    fault = waiting.pop(0)
                outcome = worker.attempt(fault)
                with lock:
                    found.append(outcome)
                    tell(outcome)
        finally:
            worker.close()

    threads = [threading.Thread(target=work, name=f"faults-{n}") for n in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
