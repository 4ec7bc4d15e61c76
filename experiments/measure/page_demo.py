"""What a page costs the demo on this machine: its rate headless, read by a program, in a browser.

A session without a page tells its rate only when it ends. So each round runs one session with
`--stats` and no page, and one with a page that nobody, a program and a browser look at in turn. A
headless browser paints in software, on the cores that the demo computes on.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ...common.errors import SdxsError
from ...common.testing.chromium import Chromium
from .page_floods import VIEWERS, _running
from .page_session import rate, ratio, session, socket_of, state, summary, wait_for_frames

SETTLE_S = 1.0
MLX = ("--backend", "mlx")
_WARM_UP = 5  # frames that load and compile


def headless(frames: int, size: int) -> float:
    """Return the demo's rate over so many frames without a page, as its own figures have it."""
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats.json"
        command = [sys.executable, "-m", "sdxs.cli", "live", "--model", "demo", *MLX, "--headless"]
        command += ["--realtime", "--source", "synthetic", "--size", str(size), "--skip", "-1"]
        command += ["--frames", str(frames), "--stats", str(stats)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SdxsError(f"the demo without a page failed: {done.stderr[-500:]}")
        return float(json.loads(stats.read_text())["fps"])


def demo(rounds: int, seconds: float, size: int, browser: str) -> dict[str, object]:
    """Measure every way in every round."""
    rates: dict[str, list[float]] = {"headless": [], "unseen": [], "program": [], "browser": []}
    for _ in range(rounds):
        with session("synthetic", size, MLX) as (address, _):
            wait_for_frames(address, _WARM_UP)
            rates["unseen"].append(rate(address, seconds))
            with _running(VIEWERS, socket_of(address), "3"):
                while len(state(address)["people"]["here"]) < 3:
                    time.sleep(0.1)
                time.sleep(SETTLE_S)
                rates["program"].append(rate(address, seconds))
            with Chromium(browser) as running:
                tab = running.open(address)
                tab.until("sdxs.shown > 5")
                time.sleep(SETTLE_S)
                rates["browser"].append(rate(address, seconds))
        frames = max(_WARM_UP, round(seconds * rates["unseen"][-1]))
        rates["headless"].append(headless(frames, size))
    found: dict[str, Any] = {way: summary(each) for way, each in rates.items()}
    alone = dict(found["headless"])
    for way in ("unseen", "program", "browser"):
        found[way]["of_headless"] = ratio(found[way], alone)
    return {**found, "load": round(os.getloadavg()[0], 2)}
