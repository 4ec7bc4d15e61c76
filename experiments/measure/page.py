"""Measure the page: camera to screen in a real browser, and what many viewers cost the loop.

Run as `python -m sdxs.experiments page [--json PATH] [--seconds 600] [--viewers 50] [--size 512]`.
A headless Chromium has a fake camera of 30 frames a second whose frames carry their number; the
session is `sdxs live` with the identity backend. The page's own script notes when each number is
seen in the camera, and reads it out of the canvas's pixels again. The cost of viewers is the rate
of a session's frames beside its rate without: programs that read as fast as they can, one of one
frame a second, and one that never reads. Exits with 1 if a target is missed.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.backend.memory import footprint_bytes
from ...common.errors import SdxsError
from ...common.settings import setting
from ...common.testing.chromium import Chromium, installed_browser, write_camera
from .. import record
from ..options import Options, result_file

LEAST_FPS, MOST_AGE_P95_MS, LEAST_RATE = 25.0, 80.0, 0.97
CAMERA_FRAMES = 300
WARM_UP_S = 3.0
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
VIEWER = """
import asyncio, json, sys
from websockets.asyncio.client import connect
url, count = sys.argv[1], int(sys.argv[2])

async def read(every_s):
    async with connect(url, max_size=None, open_timeout=60, max_queue=1) as socket:
        await socket.send(json.dumps({"do": "show", "layers": ["picture"], "credit": 3}))
        async for message in socket:
            if isinstance(message, bytes):
                head = json.loads(message[4:4 + int.from_bytes(message[:4], "little")])
                if every_s:
                    await asyncio.sleep(every_s)
                await socket.send(json.dumps({"do": "shown", "frame": head["frame"]}))

async def never():
    async with connect(url, max_size=None, open_timeout=60, max_queue=1) as socket:
        await socket.send(json.dumps({"do": "show", "layers": ["picture"], "credit": 3}))
        await asyncio.sleep(1e6)

async def main():
    await asyncio.gather(never(), read(1.0), *(read(0) for _ in range(count - 2)))

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class PageOptions(Options):
    """How long, how many, how large."""

    json: Path | None = result_file()
    seconds: float = setting(600.0, "length of the browser's part", minimum=2, unit="s")
    viewers: int = setting(50, "programs that look on, in the second part", minimum=2, maximum=60)
    size: int = setting(512, "side of the frames", minimum=64, unit="pixels")


@contextmanager
def session(source: str, size: int) -> "Iterator[tuple[str, int]]":
    """Run a session; yield the page's address and the process."""
    command = [sys.executable, "-m", "sdxs.cli", "live", "--backend", "identity", "--model", "demo"]
    command += ["--size", str(size), "--fit", "stretch", "--skip", "-1", "--source", source]
    command += ["--headless", "--web", "0"]
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


def in_the_browser(seconds: float, size: int) -> dict[str, object]:
    """Measure camera to screen. Raises SdxsError without a Chromium."""
    path = installed_browser()
    if path is None:
        raise SdxsError("there is no Chromium; install one, or measure elsewhere")
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
    }


def rate(address: str, seconds: float) -> float:
    """Return the frames a second that a session shows meanwhile."""
    before, began = state(address)["figures"]["shown"], time.perf_counter()
    time.sleep(seconds)
    after, ended = state(address)["figures"]["shown"], time.perf_counter()
    return round(float(after - before) / (ended - began), 3)


def with_viewers(count: int, seconds: float, size: int) -> dict[str, object]:
    """Measure the loop's rate alone, with viewers, and alone again."""
    with session("synthetic", size) as (address, pid):
        time.sleep(WARM_UP_S)
        alone = rate(address, seconds)
        before = footprint_bytes(pid)
        socket = f"{address.replace('http', 'ws', 1)}api/socket"
        with subprocess.Popen([sys.executable, "-c", VIEWER, socket, str(count)]) as viewers:
            try:
                while len(state(address)["people"]["here"]) < count and viewers.poll() is None:
                    time.sleep(0.1)
                time.sleep(WARM_UP_S)
                here = len(state(address)["people"]["here"])
                watched = rate(address, seconds)
                stayed = len(state(address)["people"]["here"])
                held = footprint_bytes(pid) - before
            finally:
                viewers.kill()
        while state(address)["people"]["here"]:
            time.sleep(0.1)
        after = rate(address, seconds)
        left = footprint_bytes(pid) - before
    return {
        "viewers": here,
        "stayed": stayed,  # one that never reads is left after 40 s
        "fps_alone": alone,
        "fps_watched": watched,
        "fps_after": after,
        "of_the_rate": round(watched / max(alone, after), 4),
        "memory_held_bytes": held,
        "memory_left_bytes": left,
    }


def missed(browser: dict[str, Any], viewers: dict[str, Any], wanted: int) -> list[str]:
    """Say which targets are not reached."""
    p95 = browser["camera_to_screen_ms"]["p95"]
    checks = (
        (browser["fps"] >= LEAST_FPS, f"{browser['fps']} fps, expected {LEAST_FPS} at least"),
        (p95 <= MOST_AGE_P95_MS, f"p95 {p95} ms, expected {MOST_AGE_P95_MS} at most"),
        (viewers["viewers"] == wanted, f"{viewers['viewers']} viewers were let in of {wanted}"),
        (
            viewers["of_the_rate"] >= LEAST_RATE,
            f"{viewers['of_the_rate']} of the rate with viewers, expected {LEAST_RATE} at least",
        ),
    )
    return [said for good, said in checks if not good]


def run(options: PageOptions) -> int:
    """Measure both parts; return 1 if a target is missed."""
    browser = in_the_browser(options.seconds, options.size)
    print(json.dumps(browser), flush=True)
    viewers = with_viewers(options.viewers, min(options.seconds, 60.0), options.size)
    print(json.dumps(viewers), flush=True)
    complaints: Sequence[str] = missed(browser, viewers, options.viewers)
    for each in complaints:
        print(f"MISSED: {each}")
    if options.json:
        figures = {"browser": browser, "viewers": viewers, "missed": list(complaints)}
        record.write(options.json, figures, options)
    return 1 if complaints else 0
