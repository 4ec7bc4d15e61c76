"""Films whose frames come at their own times: stamps are the truth, containers' figures are not."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.errors import SdxsWarning
from sdxs.common.io.films.plan import FilmFacts
from sdxs.common.io.sources import film
from sdxs.common.io.sources.film import VideoFile, is_regular, usual_fps
from sdxs.common.io.sources.registry import open_source

VARIABLE = [40 * i if i < 10 else 400 + 200 * (i - 10) for i in range(20)]  # ms; the event at 400
BROWSER = [round(33.4 * i) for i in range(60)]


class Film:
    """FilmReader of frames with time stamps, in a container that says `fps` and `count`.

    The pictures turn from dark to bright at 400 ms.
    """

    real = film.FilmReader

    def __init__(
        self,
        stamps_ms: Sequence[float],
        fps: float,
        count: float,
        errors: int = 0,
        cut: bool = False,
    ) -> None:
        self.stamps_ms, self.fps, self.count = stamps_ms, fps, count
        self.errors, self.cut = errors, cut

    def install(self, patch: pytest.MonkeyPatch, path: Path) -> None:
        path.write_bytes(b"a film")
        patch.setattr(
            film,
            "FilmReader",
            lambda asked: Reader(self) if asked.place == str(path) else Film.real(asked),
        )


class Reader:
    def __init__(self, film: Film) -> None:
        self.film, self.at = film, -1
        self.errors, self.cut_off = film.errors, film.cut
        shown = [ms / 1000 for ms in film.stamps_ms[:48]]
        self.facts = FilmFacts(
            height=64,
            width=64,
            rate=film.fps,
            count=max(0, int(film.count)),
            duration_s=0.0,
            intervals_s=tuple(after - before for before, after in itertools.pairwise(shown)),
            damaged=film.errors > 0,
            sound="",
            again=True,
            notes=(),
        )

    def read(self) -> tuple[np.ndarray, float] | None:
        self.at += 1
        if self.at >= len(self.film.stamps_ms):
            return None
        stamp_ms = self.film.stamps_ms[self.at]
        return np.full((64, 64, 3), 220 if stamp_ms >= 400 else 30, np.uint8), stamp_ms / 1000

    def rewind(self) -> None:
        self.at = -1

    def close(self) -> None:
        pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.mkv"


def times(path: Path) -> list[float]:
    source, found = VideoFile(path), []
    while source.read() is not None:
        found.append(round(source.stamp_s, 3))
    return found


@pytest.mark.parametrize(
    ("stamps", "fps", "count", "rate", "length"),
    [
        ([50 * i for i in range(60)], 20, 60, 20, 60),
        ([round(1000 * i / 30) for i in range(60)], 30, 60, 30, 60),  # rounded to milliseconds
        ([1001 * i / 30 for i in range(60)], 29.97, 60, 29.97, 60),
        (BROWSER, 1000, 1982, 29.9, None),
        (VARIABLE, 30, 67, 25, None),
        (VARIABLE, 10.45, 20, 25, None),
        (BROWSER, 90_000, 0, 29.9, None),
        (BROWSER, float("nan"), -1, 29.9, None),
        ([0.0] * 30, 25, 30, 25, None),  # a container without time stamps
        ([0.0] * 30, 0, 30, 30, None),
    ],
)
def test_a_containers_figures_are_believed_where_the_stamps_agree(
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    stamps: list[float],
    fps: float,
    count: float,
    rate: float,
    length: int | None,
) -> None:
    """Bug: 1000 frames a second were believed, and 1,982 frames."""
    Film(stamps, fps, count).install(monkeypatch, path)
    source = VideoFile(path)
    assert source.fps == pytest.approx(rate, rel=0.05) and source.length == length


def test_every_frame_carries_its_own_time(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    Film(VARIABLE, 10.45, 20).install(monkeypatch, path)
    assert times(path) == [stamp / 1000 for stamp in VARIABLE]
    again = VideoFile(path, repeat=True)
    seen = []
    for _ in range(41):
        again.read()
        seen.append(again.stamp_s)
    assert all(after > before for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize(
    ("stamps", "fps", "count"), [(BROWSER, 1000, 1982), (VARIABLE, 10.45, 20), (VARIABLE, 30, 67)]
)
def test_events_and_duration_hold_within_half_a_frame(
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    tmp_path: Path,
    path: Path,
    stamps: list[float],
    fps: float,
    count: float,
) -> None:
    """Bug: 1.98 s became 0.06 s, and an event at 0.400 s landed at 0.957 s."""
    Film(stamps, fps, count).install(monkeypatch, path)
    out = tmp_path / "out.avi"
    done = command(
        *("live", "--backend", "identity", "--model", "demo", "--size", 64, "--headless"),
        *("--source", path, "--out", out),
    )
    assert done.code == 0, done.err
    written, levels = VideoFile(out), []
    rate = written.fps
    while (read := written.read()) is not None:
        levels.append(int(read.mean()))
    half = 0.5 / rate + 0.001
    event_s = next(stamp for stamp in stamps if stamp >= 400) / 1000
    assert abs(next(i for i, level in enumerate(levels) if level > 120) / rate - event_s) <= half
    assert abs((len(levels) - 1) / rate - stamps[-1] / 1000) <= half


def test_a_film_without_a_known_length_holds_prompts_as_a_camera_does(
    monkeypatch: pytest.MonkeyPatch, command: Command, tmp_path: Path, path: Path
) -> None:
    """Bug: two prompts over 60 frames rendered 3,964."""
    Film(BROWSER, 1000, 1982).install(monkeypatch, path)
    done = command(
        *("live", "--backend", "identity", "--model", "demo", "--size", 64, "--headless"),
        *("--source", path, "--out", tmp_path / "frames", "--prompt", "a", "--prompt", "b"),
    )
    assert done.code == 0, done.err
    assert len(list((tmp_path / "frames").iterdir())) == 2 * 48


def test_what_is_lost_is_said(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Bug: a damaged stretch, or an end that is cut off, passed in silence."""
    whole = [round(1000 * i / 30) for i in range(60)]
    Film(whole, 30, 60).install(monkeypatch, path)
    assert len(times(path)) == 60
    Film([*whole[:20], *whole[25:]], 30, 60, errors=3).install(monkeypatch, path)
    with pytest.warns(SdxsWarning, match="5 of its frames are damaged and were left out"):
        assert len(times(path)) == 55
    Film(whole[:39], 30, 60, cut=True).install(monkeypatch, path)
    with pytest.warns(SdxsWarning, match=r"cut off at 1\.30 s of 2\.00 s"):
        assert len(times(path)) == 39


def test_the_clip_of_the_repository_is_regular() -> None:
    clip = open_source(str(Path(__file__).parent.parent / "docs" / "demo" / "clip.mp4"), 64)
    assert isinstance(clip, VideoFile) and clip.fps == 20 and clip.length == 60


def test_rates() -> None:
    assert is_regular(25, [0.04, 0.04, 0.08], damaged=True)
    assert not is_regular(25, [0.04, 0.04, 0.08]), "a screen recorder leaves out what stands still"
    assert not is_regular(25, [0.04, 0.055]) and not is_regular(25, [0.04, 0.055], damaged=True)
    assert is_regular(240, [0.004, 0.005, 0.004]) and not is_regular(30, [0.04, 0.2])
    assert not is_regular(1000, [0.033]) and not is_regular(float("inf"), [])
    assert usual_fps(float("inf"), []) == 30 and usual_fps(24, [0.0]) == 24
