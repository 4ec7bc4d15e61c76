"""Measure the page: camera to screen in a real browser, and what viewers and floods cost the loop.

Run as `python -m sdxs.experiments page [--json PATH] [--seconds 600] [--parts browser,floods]`.
browser: a headless Chromium has a fake camera of 30 frames a second whose frames carry their
number; the session is `sdxs live` with the identity backend. The page's own script notes when each
number is seen in the camera, and reads it out of the canvas's pixels again. viewers: the rate of a
session's frames alone and with programs that read as fast as they can, one of one frame a second,
and one that never reads, in turns. floods: the same with messages by OSC and at the socket. demo:
the demo's rate on this machine without a page, and with one. Exits with 1 if a target is missed.
"""

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.backend.memory import footprint_bytes
from ...common.errors import SdxsError, UsageError
from ...common.settings import setting
from ...common.testing.chromium import Chromium, installed_browser, write_camera
from .. import record
from ..options import Options, result_file
from .page_demo import demo
from .page_floods import with_floods, with_viewers
from .page_session import session, state

LEAST_FPS, MOST_AGE_P95_MS, LEAST_RATE = 25.0, 80.0, 0.97
CAMERA_FRAMES = 300
WARM_UP_S = 3.0
PARTS = ("browser", "viewers", "floods", "demo")
DEMO_SIZE = 256  # which the demo was trained for
# Numbers in the camera and on the canvas, both by their pixels: 20 blocks in the top edge.
WATCH = """(() => {
  const small = new OffscreenCanvas(20, 1).getContext('2d', {willReadFrequently: true});
  const number = (from, width) => {
    const side = width / 20;
    small.imageSmoothingEnabled = false;
    small.drawImage(from, 0, side / 2, width, 1, 0, 0, 20, 1);
    const row = small.getImageData(0, 0, 20, 1).data;
    let found = 0;
    for (let bit = 0; bit < 20; bit++) found += (row[4 * bit] > 127) << bit;
    return found;
  };
  const video = document.getElementById('camera-picture');
  const canvas = document.getElementById('picture');
  const seen = new Map(), ages = [];
  let last = -1;
  const camera = () => {
    if (video.videoWidth) {
      const now = number(video, video.videoWidth);
      seen.set(now, performance.now());
      // the film begins again: what lies ahead is of the last time
      for (let ahead = 1; ahead <= FRAMES / 2; ahead++) seen.delete((now + ahead) % FRAMES);
    }
    video.requestVideoFrameCallback(camera);
  };
  const screen = () => {
    const shown = number(canvas, canvas.width), now = performance.now();
    if (shown !== last && seen.has(shown)) ages.push(now - seen.get(shown));
    last = shown;
    requestAnimationFrame(screen);
  };
  video.requestVideoFrameCallback(camera);
  requestAnimationFrame(screen);
  window.measured = { ages, began: performance.now(), shown: sdxs.shown };
})()""".replace("FRAMES", str(CAMERA_FRAMES))


@dataclass(frozen=True, slots=True)
class PageOptions(Options):
    """What to measure: how long, how many, how large. Raises UsageError."""

    json: Path | None = result_file()
    seconds: float = setting(600.0, "length of the browser's part", minimum=2, unit="s")
    viewers: int = setting(50, "programs that look on, in the second part", minimum=2, maximum=60)
    size: int = setting(512, "side of the frames", minimum=64, unit="pixels")
    rounds: int = setting(5, "rounds of the parts that take turns", minimum=1)
    turn: float = setting(8.0, "length of one turn", minimum=0.5, unit="s")
    parts: str = setting(",".join(PARTS), "parts to measure, with commas between them")

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if not set(self.parts.split(",")) <= set(PARTS):
            raise UsageError(f"--parts {self.parts}: expected some of {','.join(PARTS)}")


def _browser() -> str:
    path = installed_browser()
    if path is None:
        raise SdxsError("there is no Chromium; install one, or measure elsewhere")
    return path


def in_the_browser(seconds: float, size: int) -> dict[str, object]:
    """Measure camera to screen. Raises SdxsError without a Chromium."""
    path = _browser()
    with tempfile.TemporaryDirectory() as folder:
        camera = Path(folder) / "camera.y4m"
        write_camera(camera, size, size, CAMERA_FRAMES)
        with session("browser:", size) as (address, pid), Chromium(path, camera) as browser:
            tab = browser.open(address)
            tab.until("sdxs && !document.getElementById('steered').disabled")
            tab.ask("document.getElementById('camera-switch').click()")
            tab.until("sdxs.ages.length > 20")
            time.sleep(WARM_UP_S)
            tab.ask(WATCH)
            before = footprint_bytes(pid)
            time.sleep(seconds)
            script = "JSON.stringify([measured.ages, sdxs.shown - measured.shown, "
            said = tab.ask(f"{script}performance.now() - measured.began])")
            ages, shown, span_ms = json.loads(said)
            grown = footprint_bytes(pid) - before
            figures = state(address)["figures"]
    p50, p95, p99 = (round(float(p), 1) for p in np.percentile(ages, [50, 95, 99]))
    return {
        "seconds": round(span_ms / 1000, 1),
        "fps": round(shown / span_ms * 1000, 2),
        "camera_to_screen_ms": {"p50": p50, "p95": p95, "p99": p99, "read": len(ages)},
        "session_fps": figures["fps"],
        "dropped": figures["dropped"],
        "memory_grown_bytes": grown,
        "load": round(os.getloadavg()[0], 2),
    }


def missed(figures: dict[str, Any], wanted: int) -> list[str]:
    """Say which targets are not reached by the parts that were measured."""
    said = []
    if browser := figures.get("browser"):
        p95 = browser["camera_to_screen_ms"]["p95"]
        if not browser["fps"] >= LEAST_FPS:
            said.append(f"{browser['fps']} fps, expected {LEAST_FPS} at least")
        if not p95 <= MOST_AGE_P95_MS:
            said.append(f"p95 {p95} ms, expected {MOST_AGE_P95_MS} at most")
    rates = {way: figures["floods"][way] for way in ("osc", "socket") if "floods" in figures}
    if viewers := figures.get("viewers"):
        rates["viewers"] = viewers
        if viewers["viewers"] != wanted:
            said.append(f"{viewers['viewers']} viewers were let in of {wanted}")
    for name, each in rates.items():
        found = each["of_the_rate"]["median"]
        if not found >= LEAST_RATE:
            said.append(f"{name}: {found} of the rate, expected {LEAST_RATE} at least")
    return said


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(options: PageOptions) -> int:
    """Measure the parts; return 1 if a target is missed."""
    rounds, turn, size = options.rounds, options.turn, options.size
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "browser": lambda: in_the_browser(options.seconds, size),
        "viewers": lambda: with_viewers(options.viewers, rounds, turn, size),
        "floods": lambda: with_floods(rounds, turn, size, _free_port()),
        "demo": lambda: demo(rounds, turn, DEMO_SIZE, _browser()),
    }
    figures: dict[str, Any] = {}
    for part in options.parts.split(","):
        figures[part] = measures[part]()
        print(json.dumps({part: figures[part]}), flush=True)
    complaints = missed(figures, options.viewers)
    for each in complaints:
        print(f"MISSED: {each}")
    if options.json:
        record.write(options.json, {**figures, "missed": complaints}, options)
    return 1 if complaints else 0
