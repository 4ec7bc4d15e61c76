"""Run a session with a page in a process of its own, and take its rate."""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...common.errors import SdxsError

IDENTITY = ("--backend", "identity", "--fit", "stretch")


@contextmanager
def session(
    source: str, size: int, how: Sequence[str] = IDENTITY, more: Sequence[str] = ()
) -> "Iterator[tuple[str, int]]":
    """Run a session of the demo; yield the page's address and the process.

    how: backend and its options. more: of the command, such as an OSC port.
    """
    command = [sys.executable, "-m", "sdxs.cli", "live", "--model", "demo", *how]
    command += ["--size", str(size), "--skip", "-1", "--source", source]
    command += ["--headless", "--web", "0", *more]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process,
    ):
        try:
            yield _address(process, said), process.pid
        finally:
            process.kill()


def _address(process: "subprocess.Popen[bytes]", said: Any) -> str:
    while process.poll() is None:
        said.seek(0)
        text = said.read()
        if found := re.search(r"^page: (\S+)$", text, re.MULTILINE):
            return str(found[1])
        time.sleep(0.05)
    raise SdxsError(f"the session ended at once: {text}")


def state(address: str) -> dict[str, Any]:
    """Ask a session how it stands."""
    with urllib.request.urlopen(f"{address}api/state", timeout=60) as said:
        found: dict[str, Any] = json.load(said)
    return found


def socket_of(address: str) -> str:
    """Return the address of a page's socket."""
    return f"{address.replace('http', 'ws', 1)}api/socket"


def wait_for_frames(address: str, count: int) -> None:
    """Wait until a session has shown so many frames; its model is loaded then."""
    while state(address)["figures"].get("shown", 0) < count:
        time.sleep(0.1)


def rate(address: str, seconds: float) -> float:
    """Return the frames a second that a session shows meanwhile."""
    before, began = state(address)["figures"]["shown"], time.perf_counter()
    time.sleep(seconds)
    after, ended = state(address)["figures"]["shown"], time.perf_counter()
    return round(float(after - before) / (ended - began), 3)


def open_files(pid: int) -> int | None:
    """Return how many files and sockets a process has open, where the system says so."""
    folder = Path(f"/proc/{pid}/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else None


def summary(rates: Sequence[float]) -> dict[str, object]:
    """Return median, spread and all values of a rate."""
    spread = [min(rates), max(rates)]
    return {"fps": round(statistics.median(rates), 3), "spread": spread, "all": list(rates)}


def ratio(some: dict[str, object], others: dict[str, object], digits: int = 4) -> dict[str, object]:
    """Return the rate of some rounds beside others of the same rounds: median and spread."""
    pairs = zip(some["all"], others["all"], strict=True)  # type: ignore[call-overload]
    each = [round(one / other, digits) for one, other in pairs]
    return {"median": round(statistics.median(each), digits), "spread": [min(each), max(each)]}
