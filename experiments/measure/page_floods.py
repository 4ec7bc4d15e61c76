"""What viewers and floods cost the loop: its rate with and without them, in turns.

Floods go out as fast as a process can send. Sending takes a core by itself, and so does the
system's part of it. So the same OSC flood is sent to a socket beside the session too: what the
session loses beyond that is its own doing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ...common.backend.memory import footprint_bytes
from .page_session import open_files, rate, ratio, session, socket_of, state, summary

SETTLE_S = 1.0
VIEWERS = """
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
OSC = """
import random, socket, sys
from sdxs.common.io.inputs.osc_wire import encode
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(("127.0.0.1", 0))
port = int(sys.argv[1]) or own.getsockname()[1]
out, draw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), random.Random(0)
# What makes a frame dearer (smoothing, blending, mirroring) is only asked for in vain.
free, dear = ["seed", "feedback", "control_scale", "edges", "position"], ["ema", "blend", "skip"]
good, bad = [0, 1, 0.5, True], [float("nan"), -1e30, "x"]
some = [encode(f"/sdxs/{draw.choice(free)}", draw.choice(good + bad)) for _ in range(600)]
some += [encode(f"/sdxs/{draw.choice(dear)}", draw.choice(bad)) for _ in range(300)]
some += [encode("/sdxs/next_prompt"), encode("/sdxs/nothing", 1.0), b"/", b"#bundle\\0" * 3] * 25
draw.shuffle(some)
while True:
    for one in some:
        try:
            out.sendto(one, ("127.0.0.1", port))
        except OSError:
            pass
"""
SOCKETS = """
import sys
from websockets.sync.client import connect
some = ['{"do":"step","name":"seed","delta":1}', '{"do":"set","name":"ema","value":1e400}',
        '{"do":"event","name":"next_prompt"}', '{', '{"do":"ask"}', '[' * 9000]
while True:
    try:
        with connect(sys.argv[1], open_timeout=60) as socket:
            while True:
                for one in some:
                    socket.send(one)
    except Exception:
        pass  # it was left for being too fast: again
"""


@contextmanager
def _running(program: str, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def _until_nobody(address: str) -> None:
    while state(address)["people"]["here"]:
        time.sleep(0.1)


def with_viewers(count: int, rounds: int, seconds: float, size: int) -> dict[str, object]:
    """Measure the loop's rate alone and with viewers, in turns; and what is left of them."""
    alone, watched, here, stayed = [], [], count, count
    with session("synthetic", size) as (address, pid):
        time.sleep(3 * SETTLE_S)
        rate(address, 0.1)
        before, files = footprint_bytes(pid), open_files(pid)
        for _ in range(rounds):
            alone.append(rate(address, seconds))
            with _running(VIEWERS, socket_of(address), str(count)) as viewers:
                while len(state(address)["people"]["here"]) < count and viewers.poll() is None:
                    time.sleep(0.1)
                time.sleep(SETTLE_S)
                here = min(here, len(state(address)["people"]["here"]))
                watched.append(rate(address, seconds))
                stayed = min(stayed, len(state(address)["people"]["here"]))
                held = footprint_bytes(pid) - before
            _until_nobody(address)
        left, files_left = footprint_bytes(pid) - before, open_files(pid)
    quiet, busy = summary(alone), summary(watched)
    return {
        "viewers": here,
        "stayed": stayed,  # one that never reads is left after 40 s
        "alone": quiet,
        "watched": busy,
        "of_the_rate": ratio(busy, quiet),
        "memory_held_bytes": held,
        "memory_left_bytes": left,
        "open_files_left": None if files is None or files_left is None else files_left - files,
        "load": round(os.getloadavg()[0], 2),
    }


def with_floods(rounds: int, seconds: float, size: int, port: int) -> dict[str, Any]:
    """Measure the loop's rate in quiet, beside a flood, and under one by OSC or at the socket.

    port: any free UDP port for OSC.
    """
    rates: dict[str, list[float]] = {"quiet": [], "beside": [], "osc": [], "socket": []}
    prompts = ("--prompt", "a", "--prompt", "b")
    with session("synthetic", size, more=("--osc", str(port), *prompts)) as (address, pid):
        time.sleep(3 * SETTLE_S)
        before, files = footprint_bytes(pid), open_files(pid)
        floods = {"beside": (OSC, "0"), "osc": (OSC, str(port))}
        floods["socket"] = (SOCKETS, socket_of(address))
        for number in range(rounds):
            for way in rotated(list(rates), number):
                program = floods.get(way)
                with _running(*program) if program else nullcontext():
                    time.sleep(SETTLE_S)
                    rates[way].append(rate(address, seconds))
                _until_nobody(address)
        left, files_left = footprint_bytes(pid) - before, open_files(pid)
    found: dict[str, Any] = {way: summary(each) for way, each in rates.items()}
    quiet = dict(found["quiet"])
    for way in ("beside", "osc", "socket"):
        found[way]["of_the_rate"] = ratio(found[way], quiet)
    found["osc"]["of_the_rate_beside"] = ratio(found["osc"], found["beside"])
    found["memory_left_bytes"] = left
    found["open_files_left"] = None if files is None or files_left is None else files_left - files
    found["load"] = round(os.getloadavg()[0], 2)
    return found


def rotated(ways: list[str], number: int) -> list[str]:
    """Return the ways in another order each round."""
    at = number % len(ways)
    return ways[at:] + ways[:at]
