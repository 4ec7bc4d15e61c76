"""Run one question in a child process, so that a crash of it costs one answer only.

The child has a time limit, and a process group of its own: Ctrl-C reaches the parent alone, which
then ends the whole group. Its output is kept: messages of Core ML's compiler (E5RT, ANECCompile)
are the only sign of a failed compile for the Neural Engine.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..common.files import home_folder
from .setup import Answer, Setup

LAST_LINES = 40
DEATH_S = 10.0  # a process inside a driver may not even die at once
MODULE = __package__
_BAR = re.compile(r"\d+%\||passes/s\]|ops/s\]")  # of tqdm


def run_question(
    ask: str, setup: Setup, limit_s: float, environment: Mapping[str, str], scratch: Path
) -> Answer:
    """Ask one question in a child process and return its answer with `seconds` and `stderr`.

    ask: 'module:function'. environment: added to this process's. A child that died answers
    {"ok": False, "died": "SIGSEGV"}, one that hung also `limit_s`. Raises KeyboardInterrupt after
    it has ended the child.
    """
    request, reply, log = (scratch / name for name in ("request.json", "answer.json", "log.txt"))
    reply.unlink(missing_ok=True)
    request.write_text(json.dumps({"ask": ask, "setup": asdict(setup)}), encoding="utf-8")
    began = time.monotonic()
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(request), str(reply)],
            stdin=subprocess.PIPE,  # its end tells the child that this process has ended
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
            start_new_session=True,
        )
        hung = False
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            end_group(child)
    answer: Answer = {"seconds": round(time.monotonic() - began, 3)}
    answer = _read(reply) | _end_of(child.returncode, hung, limit_s, reply.exists()) | answer
    lines = last_lines(log)
    answer |= {"stderr": lines} if lines else {}
    return {key: shareable(value, scratch) for key, value in answer.items()}


def end_group(child: "subprocess.Popen[bytes]") -> None:
    """Kill the child and whatever it started."""
    with suppress(ProcessLookupError, PermissionError):  # a Mac says the second of a dead group
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(DEATH_S)
    if child.stdin:
        child.stdin.close()


def _read(reply: Path) -> Answer:
    if not reply.exists():
        return {"ok": False}
    found: Answer = json.loads(reply.read_text(encoding="utf-8"))
    return found


def _end_of(code: int | None, hung: bool, limit_s: float, answered: bool) -> Answer:
    """Describe an end that is not a plain exit; {} for a plain one."""
    after: Answer = {"after_answer": True} if answered else {}
    if hung or code is None:
        how = "SIGKILL" if code is not None else "not even by SIGKILL"
        return {"ok": False, "died": how, "hung": True, "limit_s": limit_s, **after}
    if code < 0:
        return {"ok": False, "died": signal_name(-code), **after}
    if code or not answered:
        return {"ok": False, "error": f"its process ended with exit code {code}", **after}
    return {}


def signal_name(number: int) -> str:
    """Return the name of a signal: 'SIGABRT' for 6."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a child's output, without progress bars."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    kept = [line for line in lines if line and not _BAR.search(line)]
    return kept[-LAST_LINES:]


def shareable(value: object, scratch: Path) -> object:
    """Return a value of an answer without the paths of the temporary folder and the user's home."""
    if isinstance(value, dict):
        return {key: shareable(each, scratch) for key, each in value.items()}
    if isinstance(value, list):
        return [shareable(each, scratch) for each in value]
    if isinstance(value, str):
        for path, name in ((str(scratch), "SCRATCH"), (str(home_folder()), "~")):
            value = value.replace(path, name) if len(path) > 1 else value
    return value
