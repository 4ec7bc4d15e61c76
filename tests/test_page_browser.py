"""The page in a real browser, with a fake camera, before a real session."""

import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from browser import browser
from PIL import Image

from sdxs.common.io.sources.synthetic import read_counter
from sdxs.common.testing.chromium import Chromium, Tab, write_camera

FRAMES = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def serving(port: int, folder: Path) -> Iterator[str]:
    """Run `sdxs live` with the browser's camera as its source; yield the page's address."""
    command = [sys.executable, "-m", "sdxs.cli", "live", "--backend", "identity", "--model", "demo"]
    command += [
        "--size",
        "160",
        "--fit",
        "stretch",
        "--source",
        "browser:",
        "--headless",
        "--web",
        str(port),
    ]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as session:
        assert session.stderr is not None
        try:
            address = next(
                found[1] for line in session.stderr if (found := re.match(r"page: (\S+)", line))
            )
            yield address
        finally:
            session.kill()


def asked(address: str, path: str, body: object = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as said:
        return json.load(said)


def seen(tab: Tab) -> np.ndarray:
    """What the canvas shows, uint8 (H, W, 3) RGB."""
    url = tab.ask("document.getElementById('picture').toDataURL('image/png')")
    with urllib.request.urlopen(url) as png:
        return np.asarray(Image.open(BytesIO(png.read())).convert("RGB"))


def of(name: str, wanted: str = "") -> str:
    return f"document.getElementById('{name}'){wanted}"


def steering(tab: Tab, yes: bool = True) -> None:
    tab.until(f"{'!' if yes else ''}{of('steered')}.disabled")


def test_the_camera_of_a_browser_is_seen_and_steered_in_it(tmp_path: Path) -> None:
    chromium, port, camera = browser(), free_port(), tmp_path / "camera.y4m"
    write_camera(camera, 160, 160, FRAMES, fps=15)
    with Chromium(chromium, camera) as running:
        with serving(port, tmp_path) as address:
            first = running.open(address)
            steering(first)
            first.ask(of("camera-switch", ".click()"))
            first.until("sdxs.ages.length > 5")
            numbers = {read_counter(seen(first))}
            for _ in range(20):  # a frame of the camera after another, however busy the machine is
                shown = first.ask("sdxs.shown")
                first.until(f"sdxs.shown > {shown}")
                numbers.add(read_counter(seen(first)))
            assert len(numbers) > 1 and max(numbers) < FRAMES
            _move_and_type(first, address)
            _travel(first, address)
            _record(first, tmp_path)
            _hand_over(first, running.open(address))
            _looks(first)
        # the session has been killed, and comes back at the same address
        first.until(f"{of('connection')}.className === 'lost'")
        steering(first, False)
        with serving(port, tmp_path):
            first.until("document.getElementById('connection').textContent === 'connected'")
            steering(first)
            shown = first.ask("sdxs.shown")
            first.until(f"sdxs.shown > {shown} + 3")
            assert read_counter(seen(first)[: seen(first).shape[1]]) < FRAMES


def _hand_over(first: Tab, second: Tab) -> None:
    """Give the steering away; it comes back when the other page's tab is killed."""
    second.until(f"!{of('ask')}.hidden && {of('steered')}.disabled")
    second.ask(of("ask", ".click()"))
    first.until("document.querySelector('#asking button')")
    first.ask("document.querySelector('#asking button').click()")
    steering(second)
    steering(first, False)
    first.until("!document.querySelector('#camera-switch').ariaPressed.includes('true')")
    second.close()
    steering(first)
    first.ask(of("camera-switch", ".click()"))


def _move_and_type(tab: Tab, address: str) -> None:
    slider = "document.querySelector('[data-parameter=blend]')"
    tab.ask(f"{slider}.value = 0.5; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    tab.until(f"{of('note')}.textContent.includes('camera 0.5')")
    assert asked(address, "api/state")["values"]["blend"] == 0.5
    asked(address, "api/parameters", {"values": {"ema": 0.3}})  # another input
    tab.until("document.querySelector('[data-parameter=ema]').value === '0.3'")
    tab.key("+")
    tab.until("document.querySelector('[data-parameter=feedback]').value === '0.1'")
    tab.key("t")
    assert tab.ask("document.activeElement.id") == "prompt"
    for letter in "neon":
        tab.key(letter)
    tab.ask(f"{of('prompt-form')}.requestSubmit()")
    tab.until(
        "[...document.querySelectorAll('#gallery button')].some(b => b.textContent === 'neon')"
    )
    assert asked(address, "api/prompt")["prompt"] == "neon"
    tab.ask("document.activeElement.blur()")


def _travel(tab: Tab, address: str) -> None:
    """Blend three prompts of the gallery on the pad: by arrow keys, a finger and a slider."""
    tab.ask(of("corners", ".click()"))
    for number in (1, 2, 3):
        tab.ask(f"document.querySelectorAll('#gallery button')[{number}].click()")
    tab.ask(of("corners", ".click()"))
    tab.until(f"!{of('square')}.hidden && {of('pad')}.hidden")
    tab.until("document.querySelectorAll('.corner').length === 3")
    tab.ask(of("pad-surface", ".focus()"))
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        tab.key(key)
    text = f"{of('pad-surface')}.getAttribute('aria-valuetext')"
    assert tab.ask(text).startswith("86 % ")  # 0.9 times 0.95
    tab.until(f"{of('prompt')}.value.endsWith('@ 0.1 0.05')")
    said = asked(address, "api/prompt")
    assert (said["position"], said["position_y"]) == (0.1, 0.05)
    assert str(said["prompt"]).count(" // ") == 1
    tab.ask(
        f"(() => {{ const pad = {of('pad-surface')}, box = pad.getBoundingClientRect();"
        "pad.setPointerCapture = () => {}; pad.dispatchEvent(new PointerEvent('pointerdown', "
        "{clientX: box.left + box.width / 2, clientY: box.bottom + 50, pointerId: 1})); })()"
    )
    tab.until(f"{of('prompt')}.value.endsWith('@ 0.5 1')")  # over the edge is at the edge
    slider = of("pad-down")
    tab.ask(f"{slider}.value = 0.25; {slider}.dispatchEvent(new Event('input'))")
    tab.until(f"{of('prompt')}.value.endsWith('@ 0.5 0.25')")
    assert "25 % " in tab.ask(f"{slider}.getAttribute('aria-valuetext')")
    tab.ask(f"{of('prompt')}.value = 'neon'; {of('prompt-form')}.requestSubmit()")
    tab.until(f"{of('square')}.hidden")


def _record(tab: Tab, folder: Path) -> None:
    recording = f"{of('record')}.getAttribute('aria-pressed') === 'true'"
    tab.ask(of("record", ".click()"))
    tab.until(recording)
    shown = tab.ask("sdxs.shown")
    tab.until(f"sdxs.shown > {shown} + 3")
    tab.ask(of("record", ".click()"))
    tab.until(f"!({recording}) && {of('note')}.textContent.includes('saved')")
    assert len(list(folder.glob("sdxs-*.mp4"))) == 1
    tab.ask(of("snapshot", ".click()"))
    tab.until(f"{of('note')}.textContent.includes('.png')")
    assert len(list(folder.glob("sdxs-*.png"))) == 1


def _looks(tab: Tab) -> None:
    """The picture, the camera beside it and a split; light and dark; every control has a name."""
    tab.shape(1200, 800)
    height, width = seen(tab).shape[:2]
    tab.key("d")
    tab.until(f"{of('picture')}.width === {2 * width} && {of('picture')}.height === {height}")
    tab.key("c")
    tab.until(f"{of('picture')}.width === {width} && !{of('split-row')}.hidden")
    tab.key("f")
    tab.until("document.fullscreenElement?.id === 'screen'")
    tab.key("f")
    tab.until("!document.fullscreenElement")
    assert re.fullmatch(r"\d+\.\d\d GiB", tab.ask(f"{of('memory')}.textContent"))
    shades = []
    for dark in (False, True):
        tab.shape(390, 800, dark, phone=True)
        picture = np.asarray(Image.open(BytesIO(tab.screenshot())).convert("L"))
        assert picture.shape == (800, 390)
        shades.append(int(picture[795, 2]))
    assert shades[0] > 230 and shades[1] < 40
    assert tab.ask("document.documentElement.scrollWidth") == 390  # nothing hangs over the edge
    nameless = tab.ask(
        "[...document.querySelectorAll('button, input, select, textarea')].filter(e => "
        "!(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()))"
        ".map(e => e.id)"
    )
    assert nameless == []
