"""Screens and windows as sources: X11 for real under Xvfb, ScreenCaptureKit by a strict fake."""

import shutil
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from command import Command
from fake_screencapture import Thing, World, install
from sdxs.common.errors import SdxsWarning, SourceError, SourceLost, UsageError
from sdxs.common.io.sources import screen, screen_here, screen_mac
from sdxs.common.io.sources.registry import open_source
from sdxs.common.io.sources.screen import check_screen
from sdxs.common.io.sources.screen_names import Wanted, read_wanted, the_one_window
from x11_stage import Painter, xvfb

RED, BLUE = 0xC01020, 0x1020C0
MAC = type("System", (), {"platform": "darwin"})
LINUX = type("System", (), {"platform": "linux"})


@pytest.fixture(autouse=True)
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the shape of macOS; the tests of a Mac say so themselves."""
    monkeypatch.setattr(screen, "sys", LINUX)
    monkeypatch.setattr(screen_here, "sys", LINUX)


@pytest.mark.parametrize(
    ("rest", "wanted", "name"),
    [
        ("", Wanted(), "screen 1"),
        ("2", Wanted(2), "screen 2"),
        (" Fire fox ", Wanted(title="Fire fox"), "window 'Fire fox'"),
        ("2nd", Wanted(title="2nd"), "window '2nd'"),
    ],
)
def test_what_follows_the_colon(rest: str, wanted: Wanted, name: str) -> None:
    assert read_wanted(rest) == (wanted if wanted.title else Wanted(wanted.monitor))
    assert read_wanted(rest).name == name


def test_one_window_is_found_by_a_part_of_its_title() -> None:
    titles = ["Mozilla Firefox", "Terminal", "Terminal 2"]
    assert the_one_window("FIRE", titles) == 0 and the_one_window("Terminal", titles) == 1
    with pytest.raises(SourceError, match="several windows .*: Terminal, Terminal 2; name one"):
        the_one_window("term", titles)
    with pytest.raises(SourceError, match=r"no window .*windows: Mozilla Firefox, Terminal"):
        the_one_window("gimp", titles)
    with pytest.raises(SourceError, match="and 5 more"):
        the_one_window("x", [f"w{n}" for n in range(25)])


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sdxs.common.io.sources.screen_x11", raising=False)
    monkeypatch.setitem(sys.modules, "mss", None)
    for spec in ("screen:", "screen:2", "screen:a window"):
        with pytest.raises(UsageError, match=r"--source screen:: 'mss' is not .*'sdxs\[screen\]'"):
            open_source(spec, 64)
        with pytest.raises(UsageError, match="mss"):
            check_screen(spec)
    assert check_screen("synthetic") is None and check_screen("film:screen") is None
    assert screen_here.screen_here() == (
        None,
        "mss is not installed",
        "pip install 'sdxs[screen]', for --source screen:",
    )


# Linux.


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("mss", reason="mss is not installed")
    if not shutil.which("Xvfb"):
        pytest.skip("Xvfb is not installed: apt install xvfb")
    with xvfb("641x403") as (display, _):
        yield display


@pytest.fixture
def painter(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Painter]:
    from sdxs.common.io.sources import screen_x11

    monkeypatch.setenv("DISPLAY", server)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(screen_x11, "FPS", 1e9)
    made = Painter(server)
    yield made
    made.close()


def bgr(colour: int) -> list[int]:
    return [colour & 255, colour >> 8 & 255, colour >> 16]


def test_a_monitor_of_odd_size_and_what_stands_on_it(painter: Painter) -> None:
    number = painter.window("red", (30, 20, 101, 57), RED)
    source = open_source("screen:", 64)
    picture = source.read()
    assert picture is not None and picture.shape == (403, 641, 3) and picture.dtype == np.uint8
    assert picture[20, 30].tolist() == picture[76, 130].tolist() == bgr(RED)
    assert not picture[19].any() and not picture[77].any() and not picture[:, 131].any()
    painter.destroy(number)
    assert not source.read().any()  # type: ignore[union-attr]
    source.close()
    source.close()
    with pytest.raises(SourceError, match=r"screen:2: .*there are monitors 1 \(641x403\)"):
        open_source("screen:2", 64)


def test_a_window_is_followed_when_it_moves_is_resized_and_is_closed(painter: Painter) -> None:
    number = painter.window("Bluebird", (10, 10, 1, 1), BLUE)
    other = painter.window("Redbird", (400, 300, 50, 50), RED)
    source = open_source("screen:blue", 64)

    def shape() -> tuple[int, ...]:
        picture = source.read()
        assert picture is not None and (picture == bgr(BLUE)).all()
        return picture.shape[:2]

    assert shape() == (1, 1)
    painter.move(number, x=100, y=50, width=101, height=57)
    assert shape() == (57, 101)
    painter.move(number, x=600, y=-20)
    assert shape() == (37, 41), "what of it is on the screen"
    with pytest.warns(SdxsWarning, match="window 'blue' is minimised or off the screen"):
        painter.move(number, x=700)
        assert shape() == (37, 41), "its last picture"
        painter.hide(number)
        assert shape() == (37, 41)
    painter.show(number)
    painter.move(number, x=0, y=0)
    assert shape() == (57, 101)
    painter.destroy(number)
    with pytest.raises(SourceLost, match="window 'blue' was closed; .*what was recorded is kept"):
        source.read()
    source.close()
    with pytest.raises(SourceError, match="no window has it in its title; windows: Redbird"):
        open_source("screen:blue", 64)
    painter.destroy(other)


def test_a_display_that_ends_is_lost_and_none_is_an_error(
    monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    with xvfb("64x48") as (display, process):
        monkeypatch.setenv("DISPLAY", display)
        source = open_source("screen:1", 64)
        assert source.read().shape == (48, 64, 3)  # type: ignore[union-attr]
        process.kill()
        process.wait()
        with pytest.raises(SourceLost, match="screen 1: its display has ended"):
            source.read()
        source.close()
        with pytest.raises(SourceError, match="no display to capture"):
            open_source("screen:", 64)
    monkeypatch.delenv("DISPLAY")
    with pytest.raises(SourceError, match=r"\$DISPLAY is not set.*Xvfb :1"):
        check_screen("screen:")
    state, finding, remedy = screen_here.screen_here()
    assert state is None and "no display to capture" in finding and remedy


def test_the_doctor_lists_monitors_and_windows(
    painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = painter.window("Bluebird", (10, 10, 9, 9), BLUE)
    state, finding, remedy = screen_here.screen_here()
    assert (state, remedy) == (True, "") and "monitors 1 (641x403); 1 window" in finding
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    state, finding, remedy = screen_here.screen_here()
    assert state is None and "Wayland" in finding + remedy
    with pytest.warns(SdxsWarning, match="this is a Wayland session"):
        open_source("screen:", 64).close()
    painter.destroy(number)


def test_a_session_captures_a_screen(
    painter: Painter, command: Command, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = painter.window("whole", (0, 0, 641, 403), RED)
    out = tmp_path / "a.png"
    done = command(
        *(
            "live",
            "--backend",
            "identity",
            "--model",
            "demo",
            "--size",
            "64",
            "--source",
            "screen:",
        ),
        *("--headless", "--frames", "3", "--out", str(out)),
    )
    assert done.code == 0 and "source screen 1" in done.err + done.out
    from sdxs.common.picture.opencv import cv2

    assert cv2.imread(str(out))[32, 32].tolist() == bgr(RED)
    painter.destroy(number)


# macOS.


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(
        monitors=[Thing(1512, 982), Thing(2560, 1440, 1.0)],
        windows=[
            Thing(333, 211, text="Mozilla Firefox"),
            Thing(10, 10),
            Thing(50, 40, text="Notes"),
        ],
    )
    monkeypatch.setattr(screen, "sys", MAC)
    monkeypatch.setattr(screen_here, "sys", MAC)
    install(monkeypatch, world)
    yield world
    assert world.broken == []
    for each in (screen_mac._kit, screen_mac._receiver_class):
        each.cache_clear()


def test_a_retina_screen_is_captured_in_pixels_and_at_most_1920(mac: World) -> None:
    for rest, size in (("", (1247, 1920)), ("2", (1080, 1920))):
        source = open_source(f"screen:{rest}", 64)
        mac.stream.show()
        picture = source.read()
        assert picture is not None and picture.shape == (*size, 3)
        assert (picture == (10, 20, 30)).all(), "no byte of the padding"
        source.close()
        source.close()
        assert not mac.stream.running and source.read() is None
    with pytest.raises(SourceError, match=r"monitors 1 \(3024x1964\), 2 \(2560x1440\)"):
        open_source("screen:3", 64)


def test_a_screen_that_does_not_change_gives_its_last_picture(
    mac: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_mac, "SILENCE_S", 0.0)
    source = open_source("screen:2", 64)
    mac.stream.show(status=1)  # idle, before any picture
    mac.stream.show()
    first = source.read()
    mac.stream.show(status=1)
    assert source.read() is first
    mac.monitors[1].colour = (1, 2, 3)
    mac.stream.show(moment=0)  # late, from another thread of the system's
    assert source.read() is first
    mac.stream.show(moment=9)
    assert source.read()[0, 0].tolist() == [1, 2, 3]  # type: ignore[index]
    source.close()


def test_a_window_that_is_resized_is_captured_at_its_new_size(mac: World) -> None:
    source = open_source("screen:fire", 64)
    mac.stream.show()
    assert source.read().shape == (422, 666, 3)  # type: ignore[union-attr]
    assert mac.stream.updates == 0
    mac.windows[0].width = 111  # now narrower than the buffer: no bar of its rest is in the picture
    mac.stream.show()
    picture = source.read()
    assert picture is not None and picture.shape == (422, 222, 3) and picture.all()
    assert mac.stream.updates == 1 and mac.stream.configuration.size == (222, 422)
    mac.windows[0].width, mac.windows[0].height = 2000, 1000
    mac.stream.show()
    assert source.read().shape[1] == 222 and mac.stream.configuration.size == (1920, 960)  # type: ignore[union-attr]
    mac.stream.show()
    assert source.read().shape == (960, 1920, 3)  # type: ignore[union-attr]
    source.close()


def test_a_window_that_is_closed_and_a_capture_that_the_user_ends(mac: World) -> None:
    source = open_source("screen:notes", 64)
    mac.stream.show()
    mac.stream.stop("the user stopped it")
    with pytest.raises(
        SourceLost, match=r"window 'notes': macOS ended .*the user stopped it.*kept"
    ):
        source.read()
    source.close()


def test_a_reader_that_waits_is_woken_by_a_picture_and_by_close(mac: World) -> None:
    source = open_source("screen:", 64)
    found: list[Any] = []
    for act, wanted in ((mac.stream.show, True), (source.close, False)):
        thread = threading.Thread(target=lambda: found.append(source.read()))
        thread.start()
        act()
        thread.join()
        assert (found.pop() is not None) is wanted


def test_nothing_arrives(mac: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_mac, "FIRST_S", 0.0)
    source = open_source("screen:", 64)
    with pytest.raises(SourceLost, match="has sent no picture for 0 s.*System Settings"):
        source.read()
    source.close()
    mac.refuses = True
    with pytest.raises(SourceError, match=r"cannot be captured \(too many streams\)"):
        open_source("screen:", 64)


def test_macos_asks_once_and_the_error_says_where_to_allow_it(
    mac: World, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac.allowed = False
    says = r"does not allow .*Privacy & Security > Screen .*restart it; if a dialog asks, allow"
    with pytest.raises(SourceError, match=says):
        open_source("screen:", 64)
    with pytest.raises(SourceError, match=says):
        check_screen("screen:1")
    assert mac.asked == 2
    from sdxs.commands import live

    monkeypatch.setattr(live, "open_checkpoint_for", lambda model: pytest.fail("downloads"))
    done = command("live", "--source", "screen:", "--headless", "--out", "a.mp4")
    assert done.code == 1 and "System Settings" in done.err
    state, finding, remedy = screen_here.screen_here()
    assert state is None and "does not allow" in finding and "System Settings" in finding
    assert mac.asked == 3 and remedy, "the doctor never asks"


def test_the_doctor_of_a_mac_lists_what_there_is(mac: World) -> None:
    state, finding, remedy = screen_here.screen_here()
    assert state is True and remedy == ""
    assert finding.endswith("monitors 1 (3024x1964), 2 (2560x1440); 2 windows: screen:1")


def test_a_size_is_bounded_and_never_nothing() -> None:
    assert screen_mac.bounded(5120, 2880) == (1920, 1080)
    assert screen_mac.bounded(10000, 1) == (1920, 1) and screen_mac.bounded(7, 5) == (7, 5)


def test_a_mac_is_asked_what_it_captures_and_nobody_is_asked(
    mac: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxs.mac_check.screen import ask_screen

    monkeypatch.setattr(screen_mac, "SILENCE_S", 0.0)
    begin = screen_mac.MacScreen._begin

    def begin_and_show(source: screen_mac.MacScreen, wanted: Wanted) -> None:
        begin(source, wanted)
        mac.stream.show()

    monkeypatch.setattr(screen_mac.MacScreen, "_begin", begin_and_show)
    answer: dict[str, Any] = dict(ask_screen(None))  # type: ignore[arg-type]
    assert answer["ok"] and answer["shapes"] == [[1247, 1920, 3]] * 2 and answer["windows"] == 2
    assert "Firefox" not in str(answer) and answer["sent"]["scale"] == "2.0"
    mac.allowed = False
    answer = dict(ask_screen(None))  # type: ignore[arg-type]
    assert answer == {"ok": True, "asked": False, "permission": "not given"} and mac.asked == 0


def test_a_mac_without_pyobjc_is_told_before_anybody_is_asked(
    mac: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac.allowed = False
    screen_mac._kit.cache_clear()
    monkeypatch.setitem(sys.modules, "ScreenCaptureKit", None)
    with pytest.raises(UsageError, match=r"'ScreenCaptureKit' is not installed.*sdxs\[screen\]"):
        check_screen("screen:")
    assert mac.asked == 0
