"""Sources and sinks by `kind:rest`: what each one opens, and what is still a path."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import SinkError, SourceError, UsageError
from sdxs.common.io.kinds import split_kind
from sdxs.common.io.sinks import registry as sinks
from sdxs.common.io.sinks.film import VideoFileSink
from sdxs.common.io.sinks.folder import FolderSink
from sdxs.common.io.sinks.image import ImageSink
from sdxs.common.io.sinks.registry import SINKS, is_window, open_sink, sink_path
from sdxs.common.io.sources import registry as sources
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.image import ImageFile
from sdxs.common.io.sources.registry import SOURCES, open_source, source_path
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live import opening
from sdxs.common.live.opening import open_session
from sdxs.common.live.options import SessionFiles, SessionOptions
from sdxs.common.live.parameters import LiveParameters
from sdxs.common.picture.opencv import cv2

CLIP = Path(__file__).parent.parent / "docs" / "demo" / "clip.mp4"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("film:clip.mp4", ("film", "clip.mp4")),
        ("image:/tmp/a b.png", ("image", "/tmp/a b.png")),
        ("window:", ("window", "")),
        ("camera:0", ("camera", "0")),
        ("ndi:stage: left", ("ndi", "stage: left")),
        ("clip.mp4", None),
        ("0", None),
        ("./take:1.mp4", None),  # how a path with a colon is written
        ("../take:1.mp4", None),
        ("/films/take:1.mp4", None),
        ("12:30.mp4", None),
        ("Take:1.mp4", None),
        ("C:\\films\\clip.mp4", None),
        ("c:clip.mp4", None),
        ("rtsp://camera/1", None),
        ("https://example.org/clip.mp4", None),
        (":clip.mp4", None),
        ("", None),
    ],
)
def test_what_is_a_kind_and_what_is_a_path(text: str, found: tuple[str, str] | None) -> None:
    assert split_kind(text) == found


def test_a_file_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_kind("film:1.png") == ("film", "1.png")
    cv2.imwrite("1.png", np.zeros((8, 8, 3), np.uint8))
    Path("1.png").rename("film:1.png")
    assert split_kind("film:1.png") is None
    assert isinstance(open_source("film:1.png", 64), ImageFile)
    assert split_kind(f"film:{'x' * 5000}") == ("film", "x" * 5000), "no file has such a name"


def test_every_kind_of_source_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), np.zeros((8, 8, 3), np.uint8))
    opened: list[int] = []
    monkeypatch.setattr(sources, "Camera", lambda which, request: opened.append(which))
    open_source("camera:2", 64)
    open_source("3", 64)
    assert opened == [2, 3]
    assert isinstance(open_source(f"film:{CLIP}", 64), VideoFile)
    assert isinstance(open_source(f"image:{tmp_path / 'in.png'}", 64), ImageFile)
    assert isinstance(open_source("synthetic:", 64), Synthetic)
    of_files = ["browser", "camera", "film", "image"]
    assert list(SOURCES) == [*of_files, "ndi", "screen", "synthetic", "syphon"]


def test_every_kind_of_sink_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "Window", lambda: "the window")
    assert isinstance(open_sink(f"film:{tmp_path}/a.mp4", 30), VideoFileSink)
    assert isinstance(open_sink(f"image:{tmp_path}/a.png", 30), ImageSink)
    assert isinstance(open_sink(f"folder:{tmp_path}/frames.v2", 30), FolderSink)
    assert open_sink("window:", 30) == "the window"
    assert list(SINKS) == ["film", "image", "folder", "window"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("opening", "spec", "says"),
    [
        (
            open_source,
            "ndy:stage",
            r"--source ndy:stage: unknown kind 'ndy'; expected browser:, camera:, .*",
        ),
        (open_source, "take:1.mp4", r"a path with a colon is written \./take:1\.mp4"),
        (open_source, "camera:", "the name of a camera is empty; expected a number or a name"),
        (open_source, "film:", "--source film: expected a path after the colon"),
        (open_source, "synthetic:fast", "expected nothing after synthetic:"),
        (open_sink, "ndy:stage", r"--out ndy:stage: unknown kind 'ndy'; expected film:, .*window:"),
        (open_sink, "image:a.mp4", r"--out image:a\.mp4: expected a name ending in \.png"),
        (open_sink, "film:a.png", r"--out film:a\.png: expected a name ending in \.mp4"),
        (open_sink, "folder: ", "--out folder: expected a path after the colon"),
        (open_sink, "window:2", "--out window:2: expected nothing after window:"),
    ],
)
def test_what_no_kind_takes_is_refused(
    opening: Callable[[str, int], object], spec: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        opening(spec, 30)
    assert "\n" not in str(refused.value)


def test_a_url_is_no_kind() -> None:
    with pytest.raises(SourceError, match="understood as a stream by rtsp"):
        open_source("rtsp://127.0.0.1:9/1", 64)


def test_where_a_kind_writes_and_reads() -> None:
    assert sink_path("image:out.png") == sink_path("out.png") == Path("out.png")
    assert sink_path("window:") is None and is_window("window:") and not is_window("out.png")
    assert source_path("film:in.mp4") == source_path("in.mp4") == Path("in.mp4")
    assert source_path("0") is source_path("synthetic") is source_path("camera:0") is None


def open_with(source: str, *outs: str, headless: bool = True) -> object:
    return open_session(
        SessionOptions(source, headless=headless),
        LiveParameters(),
        SessionFiles(outs),
        64,
        None,  # type: ignore[arg-type]
        [],
    )


@pytest.mark.parametrize(
    ("source", "outs", "says"),
    [
        (f"film:{CLIP}", (str(CLIP),), "is also --source"),
        ("synthetic", ("a.png", "image:a.png"), "is also --out"),
        ("synthetic", ("window:", "window:"), "is named twice"),
    ],
)
def test_one_place_named_twice_is_refused(source: str, outs: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        open_with(source, *outs)


@pytest.mark.parametrize(
    ("outs", "headless", "opened"),
    [(("window:",), True, 1), ((), False, 1), (("window:",), False, 1), ((), True, 0)],
)
def test_out_window_opens_the_one_window(
    outs: tuple[str, ...], headless: bool, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[int] = []

    def window() -> None:
        windows.append(1)
        raise SinkError("no display here")

    class Encoder:
        adapters = None

        def __init__(self, _: object) -> None:
            pass

        def encode(self, _: str) -> np.ndarray:
            if not opened:
                raise SinkError("far enough")
            return np.zeros((1, 77, 4), np.float32)

    monkeypatch.setattr(opening, "Window", window)
    monkeypatch.setattr(opening, "TextEncoder", Encoder)
    with pytest.raises(SinkError):
        open_with("synthetic", *outs, headless=headless)
    assert len(windows) == opened


def test_out_window_counts_more_than_headless(
    demo: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "Window", lambda: None)
    options = SessionOptions(str(CLIP), headless=True)
    backends = [IdentityBackend(None, BackendOptions(64))]
    files = SessionFiles(("window:",))
    session = open_session(options, LiveParameters(), files, 64, demo, backends)
    assert session.total is None and len(session.prompts.texts) == 10
    assert session.loop._options.realtime
    session.source.close()
