"""`sdxs live --web`: what the command opens, says and refuses."""

import hashlib
import socket
import threading
from pathlib import Path

import pytest

from command import Command
from sdxs.commands import console, page
from sdxs.common.web import here

LIVE = ("live", "--backend", "identity", "--model", "demo", "--source", "synthetic", "--size", "64")
NO_SCREEN = "there is no screen on this stage"


@pytest.fixture
def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("sdxs.commands.page", "sdxs.common.io.sinks.window"):
        monkeypatch.setattr(f"{place}.window_obstacle", lambda: NO_SCREEN)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "_force_terminal", True)


def test_a_page_alone_is_in_real_time_and_its_address_is_said(command: Command) -> None:
    done = command(*LIVE, "--headless", "--web", "0", "--frames", "3")
    assert done.code == 0, done.err
    assert "page: http://127.0.0.1:" in done.err and "3 frames" in done.out
    assert threading.active_count() == 1 or not [
        each for each in threading.enumerate() if each.name.startswith("sdxs-page")
    ]


def test_a_page_beside_a_film_changes_no_frame_of_it(command: Command, tmp_path: Path) -> None:
    rendered = []
    for name, more in (("alone", ()), ("watched", ("--web", "0"))):
        folder = tmp_path / name
        folder.mkdir()
        done = command(*LIVE, "--headless", "--frames", "4", "--out", f"folder:{folder}", *more)
        assert done.code == 0, done.err
        rendered.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in _pictures(folder)])
    assert len(rendered[0]) == 4 and rendered[0] == rendered[1]


def _pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


@pytest.mark.usefixtures("no_window", "terminal")
def test_in_a_terminal_without_a_window_a_page_takes_its_place_and_says_so(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PORT", 0)
    done = command(*LIVE, "--frames", "2")
    assert done.code == 0, done.err
    assert NO_SCREEN in done.err and "takes its place" in done.err
    assert "page: http://127.0.0.1:" in done.err


@pytest.mark.usefixtures("no_window")
def test_a_script_without_a_window_fails_as_ever_but_not_with_a_page(command: Command) -> None:
    done = command(*LIVE, "--frames", "2")
    assert done.code == 1 and NO_SCREEN in done.err and "add --headless and --out FILE" in done.err
    done = command(*LIVE, "--frames", "2", "--web", "0")
    assert done.code == 0 and NO_SCREEN in done.err, done.err


@pytest.mark.usefixtures("no_window", "terminal")
def test_a_package_that_is_missing_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert here.page_here() == (
        None,
        "not installed: uvicorn",
        "pip install 'sdxs[web]', for --web",
    )
    done = command(*LIVE, "--web", "0")
    assert done.code == 2 and "uvicorn is missing; pip install 'sdxs[web]'" in done.err
    done = command(*LIVE)
    assert done.code == 1 and "add --headless and --out FILE, or" in done.err
    assert "pip install 'sdxs[web]'" in done.err
    monkeypatch.undo()
    assert here.page_here()[0] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--web", "port"), "expected a port"),
        (("--web-token", "file"), "there is no page; add --web"),
        (("--headless", "--out", "x.png", "--source", "browser:"), "is the camera of a page"),
        (("--web", "0", "--headless", "--out", "o/", "--source", "a.png"), "--web shows one"),
    ],
)
def test_what_cannot_be_is_refused(
    command: Command,
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = () if "browser:" in arguments else ("--source", "synthetic")
    if "a.png" in arguments:
        source = ("--source", "b.png")
    done = command("live", "--backend", "identity", "--model", "demo", *source, *arguments)
    assert done.code == 2 and says in done.err


def test_another_address_prints_its_token_and_a_code_for_phones(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.err, "_force_terminal", True)
    done = command(*LIVE, "--headless", "--web", "0.0.0.0:0", "--frames", "2")
    assert done.code == 0, done.err
    assert "http://localhost:" in done.err and "#" in done.err
    assert done.err.count("\u2588") + done.err.count("\u2580") + done.err.count("\u2584") > 100


def test_the_browsers_camera_keeps_a_session_going_without_a_page(command: Command) -> None:
    done = command(
        *LIVE[:5],
        "--source",
        "browser:",
        "--size",
        "64",
        "--headless",
        "--web",
        "0",
        "--frames",
        "2",
    )
    assert done.code == 0, done.err


def test_a_session_that_fails_frees_the_port(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        done = command(*LIVE[:5], "--source", "none.mp4", "--headless", "--web", port)
        assert done.code == 1 and "none.mp4" in done.err
