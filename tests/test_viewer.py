"""Files and window: composition, overlay, snapshots, recordings, and survival of a failing sink."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sdxs.common.backend.description import Description
from sdxs.common.errors import SinkError
from sdxs.common.io.sinks import film as sinks
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.live import viewer as viewer_module
from sdxs.common.live.look import Look, View, compose
from sdxs.common.live.parameters import LiveParameters
from sdxs.common.live.stats import Stats
from sdxs.common.live.threads.frames import LiveFrame
from sdxs.common.live.viewer import LEAST_HEIGHT, RECORDING_FPS, Viewer
from sdxs.common.picture.opencv import cv2

SIZE = 64


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self, failing: bool = False) -> None:
        self.pictures: list[np.ndarray] = []
        self.stamps_ns: list[int] = []
        self.closed = 0
        self._failing = failing

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        self.pictures.append(picture.copy())
        self.stamps_ns.append(shown_ns)

    def close(self) -> None:
        self.closed += 1
        if self._failing:
            raise SinkError("planted")


def frame(number: int = 0, outputs: int = 1, prompt: str = "an oil painting") -> LiveFrame:
    made = LiveFrame(
        np.full((SIZE, SIZE, 3), 50, np.uint8),
        [np.full((SIZE, SIZE, 3), 100 + 50 * n, np.uint8) for n in range(outputs)],
    )
    made.id, made.prompt = number, prompt
    return made


@pytest.mark.parametrize(
    ("outputs", "view", "width"),
    [
        (1, View.OUTPUT, 1),
        (2, View.OUTPUT, 2),
        (1, View.SIDE_BY_SIDE, 2),
        (2, View.SIDE_BY_SIDE, 3),
        (1, View.SPLIT, 1),
    ],
)
def test_composition(outputs: int, view: View, width: int) -> None:
    picture = compose(frame(outputs=outputs), view)
    assert picture.shape == (SIZE, width * SIZE, 3)
    assert picture[0, -1, 0] == 50 + 50 * outputs
    assert picture[0, 0, 0] == (100 if view is View.OUTPUT else 50)


def test_overlay_is_drawn_into_the_window_and_into_no_file() -> None:
    file, window = Kept(), Kept()
    viewer = Viewer(SIZE, Look(overlay=True, help=True, typed="neon"), Stats(), [file], window)
    viewer.say("a note")
    viewer.show(frame())
    assert (file.pictures[0] == 100).all()
    assert window.pictures[0].shape[0] >= LEAST_HEIGHT
    assert (window.pictures[0] != 100).mean() > 0.1


def test_overlay_says_when_a_stand_in_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure beside the interpreter's pictures must not pass for Core ML's."""
    written: list[str] = []
    monkeypatch.setattr(
        viewer_module, "text_block", lambda canvas, lines, top: written.extend(lines)
    )
    stats = Stats()
    stats.backends = [
        Description("coreml", stand_in="reference interpreter, NOT Core ML"),
        Description("mlx"),
    ]
    Viewer(SIZE, Look(overlay=True), stats, [], Kept()).show(frame())
    assert "reference interpreter, NOT Core ML" in written


def test_flicker_is_not_counted_while_a_prompt_glides() -> None:
    """The picture changes on purpose then; the prompt's name stays the same on the way."""
    stats = Stats()
    viewer = Viewer(SIZE, Look(), stats, [], None)
    pairs = []
    for number, turning in enumerate([False, False, True, True, False]):
        shown = frame(number)
        shown.turning = turning
        viewer.show(shown)
        pairs.append(stats.flicker.pairs)
    assert pairs == [0, 1, 1, 1, 2]


def test_a_pause_is_left_out_of_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=0.0)
    clock.perf_counter_ns = lambda: round(clock.now_s * 1e9)
    monkeypatch.setattr(viewer_module, "time", clock)
    file = Kept()
    viewer = Viewer(SIZE, Look(), Stats(), [file], None)
    viewer.toggle_recording(tmp_path / "a.avi")
    for clock.now_s, act in (
        (1.0, lambda: viewer.show(frame(0))),
        (1.1, lambda: viewer.use(LiveParameters(pause=True))),
        (61.1, lambda: viewer.use(LiveParameters(pause=False))),
        (61.25, lambda: viewer.show(frame(1))),
        (61.3, lambda: viewer.use(LiveParameters(pause=True))),
        (91.3, lambda: viewer.use(LiveParameters(pause=False))),
        (91.55, lambda: viewer.show(frame(2))),
    ):
        act()
    viewer.close()
    assert [stamp / 1e9 for stamp in file.stamps_ns] == pytest.approx([1.0, 1.25, 1.55])
    # 0.55 s at 30 frames a second, and not 90 s
    assert VideoFile(tmp_path / "a.avi").length == int(0.55 * RECORDING_FPS) + 1


def test_window_is_redrawn_without_a_new_frame_only_if_something_changed() -> None:
    window, look = Kept(), Look()
    viewer = Viewer(SIZE, look, Stats(), [], window)
    viewer.show(frame())
    viewer.refresh()
    assert len(window.pictures) == 1
    viewer.use(LiveParameters(pause=True))
    viewer.refresh()
    look.typed = "n"
    viewer.refresh()
    viewer.refresh()
    assert len(window.pictures) == 3 and (window.pictures[1] != window.pictures[0]).any()


def test_snapshot_is_the_picture_without_the_overlay(tmp_path: Path) -> None:
    viewer = Viewer(SIZE, Look(overlay=True, help=True), Stats(), [], Kept())
    assert not viewer.save_snapshot(tmp_path / "none.png"), "there is no picture yet"
    viewer.show(frame())
    assert viewer.save_snapshot(tmp_path / "one.png")
    assert (cv2.imread(str(tmp_path / "one.png")) == 100).all()


def test_a_snapshot_that_fails_is_a_note_and_no_end(tmp_path: Path) -> None:
    viewer = Viewer(SIZE, Look(), Stats(), [], Kept())
    viewer.show(frame())
    assert not viewer.save_snapshot(tmp_path / "missing" / "one.png")
    viewer.show(frame(1))


def test_recording_starts_and_stops_and_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = Viewer(SIZE, Look(), Stats(), [], Kept())
    assert viewer.toggle_recording(tmp_path / "a.mp4")
    for number in range(5):
        viewer.show(frame(number))
    assert not viewer.toggle_recording(tmp_path / "unused.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and VideoFile(
        tmp_path / "a.mp4"
    ).read() is not None


def test_a_recording_on_a_full_disk_stops_with_what_it_has_and_the_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = Viewer(SIZE, Look(), Stats(), [], Kept())
    monkeypatch.setattr(sinks, "DISK_CHECK_FRAMES", 1)
    viewer.toggle_recording(tmp_path / "a.avi")
    viewer.show(frame())
    monkeypatch.setattr(sinks.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    import time

    # The recording keeps wall-clock time: its next frame is due after 1/30 s.
    deadline = time.monotonic() + 30
    while not (tmp_path / "a.avi").exists() and time.monotonic() < deadline:
        viewer.show(frame(1))
    assert VideoFile(tmp_path / "a.avi").read() is not None
    viewer.show(frame(2))


def test_every_sink_is_closed_though_one_complains() -> None:
    files = [Kept(), Kept(failing=True), Kept()]
    with pytest.raises(SinkError, match="planted"):
        Viewer(SIZE, Look(), Stats(), files, None).close()
    assert [file.closed for file in files] == [1, 1, 1]
