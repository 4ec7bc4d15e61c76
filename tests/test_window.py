"""The window's own logic on a fake of OpenCV's window, and a real window where one can be shown."""

import os
import subprocess
import sys
from collections import deque

import numpy as np
import pytest

from sdxs.common.io.sinks import window as sinks
from sdxs.common.io.sinks.window import Window, key_of, window_obstacle, with_bars
from sdxs.common.picture.opencv import cv2


class Screen:
    """What cv2's window functions were told, and what they answer."""

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []
        self.keys: deque[int] = deque()
        self.visible = 1.0
        self.destroyed = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sinks, "window_obstacle", lambda: "")
        monkeypatch.setattr(sinks, "COCOA_PAUSE_S", 0.0)  # the clock here is real
        answers = {
            "namedWindow": lambda *_: None,
            "resizeWindow": lambda *_: None,
            "setWindowProperty": lambda *_: None,
            "imshow": lambda _, picture: self.shown.append(picture.copy()),
            "pollKey": lambda: self.keys.popleft() if self.keys else -1,
            "getWindowProperty": lambda *_: self.visible,
            "getWindowImageRect": lambda *_: (0, 0, 200, 100),
            "destroyAllWindows": lambda: setattr(self, "destroyed", self.destroyed + 1),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(cv2, name, answer)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    made.install(monkeypatch)
    return made


def picture() -> np.ndarray:
    made = np.zeros((64, 64, 3), np.uint8)
    made[..., 0] = 200  # red
    return made


def test_pictures_are_shown_in_opencvs_colour_order(screen: Screen) -> None:
    Window().write(picture(), 0)
    assert (screen.shown[0][..., 2] == 200).all() and not screen.shown[0][..., :2].any()


def test_keys_come_in_order_and_none_is_lost_to_painting(screen: Screen) -> None:
    window = Window()
    screen.keys.extend([ord("n"), ord("p")])
    window.write(picture(), 0)  # painting polls too
    taken = [window.key() for _ in range(4)]
    assert [key for key in taken if key is not None] == [ord("n"), ord("p")]


@pytest.mark.skipif(sys.platform == "darwin", reason="its window has no close button")
def test_the_close_button_ends_it_once(screen: Screen) -> None:
    window = Window()
    window.write(picture(), 0)
    assert not window.closed
    screen.visible = 0.0
    window.key()  # painting has just polled; the next look finds out
    window.key()
    assert window.closed
    shown = len(screen.shown)
    window.write(picture(), 0)
    window.close()
    assert len(screen.shown) == shown and screen.destroyed == 0


@pytest.mark.parametrize(
    ("code", "key"),
    [
        (ord("q"), ord("q")),
        (13, 13),
        (27, 27),
        (0xFF0D, 13),
        (0xFF1B, 27),
        (0xFF08, 8),
        (0xFFAB, ord("+")),
        (0x1000000 + 0x4E2D, 0x4E2D),
        (0xE9, 0xE9),
    ],
)
def test_key_codes_of_every_toolkit(code: int, key: int) -> None:
    assert key_of(code) == key


@pytest.mark.parametrize(
    ("system", "code"),
    [
        ("linux", 0xFF51),  # X11: arrow left
        ("linux", 0xFFE1),  # shift
        ("darwin", 0xF702),  # Cocoa: arrow left
        ("darwin", 0xF704),  # F1
        ("darwin", 0xF728),  # forward delete
        ("linux", 0),
        ("darwin", 0),
    ],
)
def test_keys_without_a_character_mean_nothing(
    monkeypatch: pytest.MonkeyPatch, system: str, code: int
) -> None:
    monkeypatch.setattr(sinks.sys, "platform", system)
    assert key_of(code) is None


def test_bars_keep_proportions() -> None:
    wide = with_bars(picture(), 200, 100)
    assert (
        wide.shape == (64, 128, 3) and (wide[:, 32:96, 0] == 200).all() and not wide[:, :32].any()
    )
    assert with_bars(picture(), 0, 0).shape == (64, 64, 3)


def test_a_display_that_does_not_answer_is_refused_and_aborts_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenCV aborts the process that asks for a window there; only the probe may die."""
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:  QT5\n")
    monkeypatch.setattr(sinks.sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":77")

    def aborted(*_: object, **__: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(
            [], -6, "", "qt.qpa.xcb: could not connect to display :77\n"
        )

    monkeypatch.setattr(sinks.subprocess, "run", aborted)
    assert "could not connect to display :77" in window_obstacle()


def test_a_real_window() -> None:
    if window_obstacle():
        pytest.skip(f"no window here: {window_obstacle()}")
    script = (
        "import numpy as np\nfrom sdxs.common.io.sinks.window import Window\nwindow = Window()\n"
        "for _ in range(5): window.write(np.zeros((720, 720, 3), np.uint8), 0); "
        "window.key()\nwindow.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr


# Cocoa, whose polls take 10 ms and whose full screen takes a second


class Cocoa(Screen):
    """The window under macOS, with a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.sizes, self.full = 0.0, [], []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pause_s = sinks.COCOA_PAUSE_S
        super().install(monkeypatch)
        monkeypatch.setattr(sinks, "COCOA_PAUSE_S", pause_s)
        system = type("System", (), {"platform": "darwin", "executable": sys.executable})
        monkeypatch.setattr(sinks, "sys", system)
        clock = type("Clock", (), {"monotonic": staticmethod(lambda: self.now_s)})
        monkeypatch.setattr(sinks, "time", clock)
        monkeypatch.setattr(sinks, "_BARS", False)
        monkeypatch.setattr(cv2, "pollKey", self.poll)
        monkeypatch.setattr(cv2, "resizeWindow", lambda _, *size: self.sizes.append(size))
        monkeypatch.setattr(cv2, "setWindowProperty", self.set)

    def poll(self) -> int:
        self.now_s += 0.010
        return self.keys.popleft() if self.keys else -1

    def set(self, title: str, prop: int, value: float) -> None:
        if prop == cv2.WND_PROP_FULLSCREEN:
            self.full.append(value == cv2.WINDOW_FULLSCREEN)


@pytest.fixture
def cocoa(monkeypatch: pytest.MonkeyPatch) -> Cocoa:
    made = Cocoa()
    made.install(monkeypatch)
    return made


def test_polls_do_not_hold_up_a_fast_display(cocoa: Cocoa) -> None:
    """Bug: one poll of 10 ms for each picture, so no more than 87 pictures a second."""
    window, shown = Window(), 0
    cocoa.keys.append(ord("n"))
    while cocoa.now_s < 1.0:
        cocoa.now_s += 0.001  # what else a picture takes; the source has 200 a second
        due = int(cocoa.now_s * 200)
        if due > shown:
            window.write(picture(), 0)
            shown += 1
        if window.key() == ord("n"):
            cocoa.keys.append(ord("n"))
    assert shown > 150 and len(cocoa.keys) == 1, "keys are still seen"


def test_full_screen_and_back_restores_the_windows_size(cocoa: Cocoa) -> None:
    """Bug: OpenCV leaves full screen with a window of the screen's size."""
    window = Window()
    window.write(picture(), 0)
    assert cocoa.sizes == [(64, 64)]
    window.toggle_full_screen()
    cocoa.now_s += 0.5
    window.toggle_full_screen()  # macOS still animates and would ignore it
    assert cocoa.full == [True]
    cocoa.now_s += 2.0
    window.write(picture(), 0)
    window.toggle_full_screen()
    assert cocoa.full == [True, False]
    window.write(picture(), 0)
    assert cocoa.sizes == [(64, 64)], "not while it animates"
    cocoa.now_s += 1.5
    window.write(picture(), 0)
    assert cocoa.sizes == [(64, 64)] * 2


def test_a_wide_picture_fits_on_a_small_screen(cocoa: Cocoa) -> None:
    Window().write(np.zeros((720, 1440, 3), np.uint8), 0)
    assert cocoa.sizes == [(1200, 600)]


def test_over_ssh_a_window_is_tried_in_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug: AppKit may abort a process that cannot reach the window server."""
    asked: list[str] = []

    def refused(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        return subprocess.CompletedProcess(command, -6, "", "")

    monkeypatch.setattr(sinks, "sys", type("System", (), {"platform": "darwin", "executable": "p"}))
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "GUI:  COCOA")
    monkeypatch.setattr(sinks.subprocess, "run", refused)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert window_obstacle() == "" and asked == []
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.2 50000 10.0.0.1 22")
    sinks._probe_display.cache_clear()
    for _ in range(2):
        assert "cannot be used" in window_obstacle()
    assert len(asked) == 1 and "namedWindow" in asked[0]
    sinks._probe_display.cache_clear()
