"""Films as people have them, made here and rendered as a user would: times, colours, sound, faults.

The makers run in processes of their own, as PyAV and OpenCV must not meet on macOS.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
import warnings
import wave
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.backend.process.apart import run_apart
from sdxs.common.errors import SdxsError, SdxsWarning, SourceError
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.place import camera_of_device, path_of_url, without_password
from sdxs.common.io.sources.registry import open_source

EVENT_S, SECONDS = 0.8, 2.0
RED, GREEN, BLUE, YELLOW = (200, 40, 30), (30, 160, 60), (30, 40, 200), (230, 210, 40)
LIVE = ("live", "--backend", "identity", "--model", "demo", "--size", 128, "--headless")
Maker = Callable[[str], Path]


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Return a function that makes a film of a kind, once."""
    folder = tmp_path_factory.mktemp("films")

    def made(name: str) -> Path:
        path = folder / name
        if not path.exists():
            subprocess.run(
                [sys.executable, "-m", "sdxs.common.testing.films", name, str(path)],
                check=True,
                capture_output=True,
            )
        return path

    return made


def frames(path: Path | str) -> list[tuple[float, np.ndarray]]:
    """Every frame of a film, uint8 (H, W, 3) RGB, with its time in seconds."""
    source, found = open_source(str(path), 128), []
    assert isinstance(source, VideoFile)
    while (shown := source.read()) is not None:
        found.append((source.stamp_s, shown[..., ::-1].copy()))
    source.close()
    return found


def event_s(found: list[tuple[float, np.ndarray]]) -> float:
    """When the bar on top turns from blue to yellow."""
    return next(at_s for at_s, shown in found if shown[4, 20:60, 0].mean() > 128)


def near(shown: np.ndarray, row: float, column: float, colour: tuple[int, int, int]) -> float:
    """The largest difference of a spot of the picture from a colour, in levels."""
    y, x = int(row * shown.shape[0]), int(column * shown.shape[1])
    return float(np.abs(shown[y - 3 : y + 3, x - 3 : x + 3].mean((0, 1)) - colour).max())


# `experiments inputs` tries every kind
CODECS = [
    "h264.ts",
    "h264.flv",
    "hevc.mp4",
    "prores.mov",
    "mjpeg.avi",
    "vp9.webm",
    "mpeg2.mpg",
    "bt601.mp4",
    "full-range.mp4",
    "called.jpg",
]


def thorough(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.thorough)


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_is_read_with_its_times_and_colours(film: Maker, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SdxsWarning)  # a whole film is called whole
        found = frames(film(name))
    assert len(found) == 50 and found[-1][0] == pytest.approx(1.96, abs=0.021)
    assert event_s(found) == pytest.approx(EVENT_S, abs=0.021)
    last = found[-1][1]
    worst = 9 if name in ("wmv2.wmv", "mpeg2.mpg") else 6  # levels that the codec loses
    assert near(last, 0.75, 0.12, RED) <= worst and near(last, 0.75, 0.88, GREEN) <= worst
    assert near(last, 0.08, 0.5, YELLOW) <= worst and near(found[0][1], 0.08, 0.5, BLUE) <= worst


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("vfr.mp4", ".mp4"),
        ("vfr.mkv", ".avi"),
        ("browser.webm", ".mp4"),
        thorough("browser.webm", ".avi"),
        thorough("browser.webm", ".mkv"),
        thorough("ntsc.mp4", ".mp4"),
    ],
)
def test_duration_and_events_hold_in_the_output(
    film: Maker, command: Command, tmp_path: Path, name: str, suffix: str
) -> None:
    """Bug: a browser's recording of 1.98 s became 0.06 s, an event at 0.400 s landed at 0.957 s."""
    out = tmp_path / f"out{suffix}"
    done = command(*LIVE, "--source", film(name), "--out", out)
    assert done.code == 0, done.err
    given, written = frames(film(name)), frames(out)
    half = 0.021 if suffix == ".avi" else 0.002  # of a frame, where frames have no own times
    assert event_s(written) == pytest.approx(event_s(given), abs=half)
    assert written[-1][0] == pytest.approx(given[-1][0], abs=half)
    if suffix != ".avi":
        assert [at for at, _ in written] == pytest.approx([at for at, _ in given], abs=0.002)


def test_a_disc_is_round_whatever_the_shape_of_a_pixel(film: Maker) -> None:
    """Bug: a disc came out 96 wide and 128 high."""
    shown = frames(film("anamorphic.mp4"))[0][1]
    assert shown.shape == (128, 192, 3)
    white = shown.min(-1) > 200
    width, height = np.ptp(np.nonzero(white.any(0))), np.ptp(np.nonzero(white.any(1)))
    assert abs(int(width) - int(height)) <= 4 and height > 40


def test_a_turned_film_is_upright(film: Maker) -> None:
    shown = frames(film("turned.mp4"))[0][1]
    assert shown.shape == (128, 192, 3)
    assert near(shown, 0.75, 0.12, RED) < 6 and near(shown, 0.75, 0.88, GREEN) < 6
    assert near(shown, 0.08, 0.5, BLUE) < 6


def test_transparent_parts_show_the_named_colour(film: Maker) -> None:
    """Bug: hidden colours came back."""
    source = open_source(str(film("alpha.mov")), 128, background="#0000ff")
    shown = source.read()
    assert shown is not None and near(shown[..., ::-1], 0.93, 0.2, (0, 0, 255)) < 4
    assert near(shown[..., ::-1], 0.7, 0.12, RED) < 6
    source.close()


@pytest.mark.parametrize("name", ["hlg.mov", "pq.mp4"])
def test_hdr_is_tone_mapped_and_said(film: Maker, name: str) -> None:
    with pytest.warns(SdxsWarning, match="tone-mapped to the standard range"):
        found = frames(film(name))
    assert len(found) == 50
    shown = found[-1][1].astype(int)
    disc, red, green = shown[64, 96], shown[96, 20], shown[96, 170]
    assert disc.min() > 240 and np.ptp(disc) <= 4, "white stays white"
    assert red[0] > red[1:].max() + 40 and green[1] > green[[0, 2]].max() + 40


def test_damage_is_read_over_and_counted(film: Maker) -> None:
    """Bug: a damaged stretch ended the film at frame 20 of 54, with code 0."""
    with pytest.warns(SdxsWarning, match=r"\d+ of its frames are damaged and were left out"):
        found = frames(film("damaged.mkv"))
    assert 36 <= len(found) < 50 and found[-1][0] == pytest.approx(1.96, abs=0.01)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", ["h264.mkv", "h264.mp4", "mjpeg.avi"])
def test_a_film_cut_anywhere_says_so(film: Maker, tmp_path: Path, name: str, share: float) -> None:
    whole = film(name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * share)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = frames(path)
        except SourceError as error:
            assert "cut off" in str(error) and "\n" not in str(error)
            return
    assert 0 < len(found) < 50
    assert any("cut off at" in str(each.message) for each in said)


@pytest.mark.parametrize(
    ("name", "says"),
    [("no-index.mp4", "cut off before its index"), ("unknown-codec.mkv", "no decoder")],
)
def test_what_cannot_be_read_is_one_line(
    film: Maker, command: Command, tmp_path: Path, name: str, says: str
) -> None:
    done = command(*LIVE, "--source", film(name), "--out", tmp_path / "out.mp4")
    assert done.code == 1 and says in done.err and "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


def test_sound_alone_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    with pytest.raises(SourceError, match="holds no video, only audio"):
        open_source(str(path), 64)


def heard(path: str, report: object) -> tuple[str, float, float]:
    """Codec of a film's sound, when its beep begins, and where it ends, in seconds; in a child."""
    import av

    with av.open(path) as file:
        if not file.streams.audio:
            return "", 0.0, 0.0
        stream, begin_s, end_s = file.streams.audio[0], -1.0, 0.0
        for frame in file.decode(stream):
            wave = frame.to_ndarray().astype(float)
            wave /= 32768 if frame.format.name.startswith("s16") else 1
            loud = np.nonzero(np.abs(wave[0]) > 0.1)[0]
            at_s = float(frame.time or 0)
            if begin_s < 0 and len(loud):
                begin_s = at_s + loud[0] / frame.sample_rate
            end_s = at_s + frame.samples / frame.sample_rate
        return stream.codec_context.codec.canonical_name, begin_s, end_s


def sound_of(path: Path) -> tuple[str, float, float]:
    found = run_apart("sound", "test_film_files:heard", str(path))
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize(
    ("name", "suffix", "codec"),
    [
        ("h264.mp4", ".mp4", "aac"),
        thorough("h264.mp4", ".mkv", "aac"),
        ("h264.ts", ".mp4", "aac"),
        thorough("vfr.mp4", ".mp4", "aac"),
        thorough("h264.mov", ".mov", "pcm_s16le"),
        thorough("vp9.webm", ".mp4", "opus"),
        ("mpeg4.avi", ".avi", "mp3"),
        thorough("mjpeg.avi", ".avi", "pcm_s16le"),
        thorough("ffv1.mkv", ".mkv", "flac"),
    ],
)
def test_sound_is_kept_and_in_step(
    film: Maker, command: Command, tmp_path: Path, name: str, suffix: str, codec: str
) -> None:
    """Bug: sound was dropped without a word."""
    out = tmp_path / f"out{suffix}"
    done = command(*LIVE, "--source", film(name), "--out", out)
    assert done.code == 0 and "sound" not in done.err, done.err
    found, begin_s, end_s = sound_of(out)
    pictures = frames(out)
    assert found == codec
    assert begin_s == pytest.approx(event_s(pictures), abs=0.05)
    assert end_s == pytest.approx(pictures[-1][0] + 0.04, abs=0.15)


def test_sound_is_cut_to_what_was_rendered_and_goes_on_with_the_film(
    film: Maker, command: Command, tmp_path: Path
) -> None:
    short, long = tmp_path / "short.mp4", tmp_path / "long.mp4"
    for out, count in ((short, 30), (long, 90)):
        done = command(*LIVE, "--source", film("h264.mp4"), "--frames", count, "--out", out)
        assert done.code == 0, done.err
    assert sound_of(short)[2] == pytest.approx(1.2, abs=0.05)
    assert sound_of(long)[2] == pytest.approx(3.6, abs=0.05), "the second pass has its sound"


@pytest.mark.parametrize(
    ("name", "out", "more", "says"),
    [
        ("h264.mov", "out.mp4", (), r"\.mp4 does not take pcm_s16le; write \.mov"),
        ("h264.mp4", "frames", (), "a folder of PNGs holds none"),
        ("h264.mp4", "out.mp4", ("--realtime",), "add --every-frame"),
        ("mpeg2.mpg", "out.mp4", (), r"\.mp4 does not take mp2; write \.mkv"),
    ],
)
def test_sound_that_cannot_be_kept_is_said(
    film: Maker,
    command: Command,
    tmp_path: Path,
    name: str,
    out: str,
    more: tuple[str, ...],
    says: str,
) -> None:
    done = command(*LIVE, "--source", film(name), "--out", tmp_path / out, *more)
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if "sound of" in line]
    assert len(said) == 1
    assert re.search(says, said[0]), said


@pytest.fixture
def server(film: Maker) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(film("h264.mp4").parent))
    ) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_a_url_is_read(server: str, film: Maker) -> None:
    assert len(frames(f"{server}/h264.mp4")) == 50
    assert len(frames(film("h264.mp4").as_uri())) == 50
    with pytest.raises(SourceError, match="understood as a stream by http"):
        open_source(f"{server}/absent.mp4", 64)


def test_a_pipe_is_read_once(film: Maker, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    feeder = threading.Thread(
        target=lambda: path.write_bytes(film("h264.mkv").read_bytes()), daemon=True
    )
    feeder.start()
    with pytest.warns(SdxsWarning, match="waiting for a program that writes"):
        found = frames(path)
    feeder.join(10)
    assert len(found) == 50 and event_s(found) == pytest.approx(EVENT_S, abs=0.01)


def test_standard_input_is_read(film: Maker, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdxs.cli", *map(str, LIVE), "--source", "-"]
    with film("h264.mkv").open("rb") as given:
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "out.mkv")],
            stdin=given,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "source standard input" in done.stderr and "it is read only once" in done.stderr
    assert len(frames(tmp_path / "out.mkv")) == 50


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("foo://host/1", "understood as a URL, and foo:// is not read; expected rtsp://"),
        ("file://host/film.mp4", "understood as a file of the machine host"),
        ("rtsp://user:secret@127.0.0.1:9/x", r"^rtsp://127\.0\.0\.1:9/x: cannot be opened"),
        ("/dev/null", "is a device, but no camera"),
        ("http://[::1", "cannot be opened"),
        ("RTSP://127.0.0.1:9/x", "Connection refused"),
    ],
)
def test_a_wrong_place_says_what_was_understood(spec: str, says: str) -> None:
    with pytest.raises(SdxsError, match=says) as failure:
        open_source(spec, 64)
    assert "secret" not in str(failure.value)


def test_a_song_with_a_cover_is_no_film(tmp_path: Path) -> None:
    """Bug: it held 'no video, only audio and video'."""
    run_apart("cover", "test_film_files:write_song", str(tmp_path / "song.m4a"))
    with pytest.raises(SourceError, match="only audio and a cover picture"):
        open_source(str(tmp_path / "song.m4a"), 64)


def write_song(path: str, report: object) -> None:
    """Write sound and a cover picture; in a child."""
    import av

    with av.open(path, "w", format="mp4") as file:
        sound = file.add_stream("aac", rate=8000)
        cover = file.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        for packet in [*sound.encode(frame), *sound.encode(None)]:
            file.mux(packet)
        shown = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        for packet in [*cover.encode(shown), *cover.encode(None)]:
            file.mux(packet)


def test_a_whole_film_that_no_pipe_can_bring_says_so(film: Maker, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    threading.Thread(target=feed, args=(path, film("prores.mov")), daemon=True).start()
    with (
        pytest.warns(SdxsWarning, match="waiting for a program"),
        pytest.raises(SourceError, match=r"index in front: pipe \.mkv or \.ts"),
    ):
        open_source(str(path), 64)


def feed(path: Path, film: Path) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads it to its end
        path.write_bytes(film.read_bytes())


def test_tone_mapping_leaves_nothing_behind(
    film: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a temporary folder with a colon in its name ended the film, and cubes were left."""
    odd = tmp_path / "t'mp:x"
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    with pytest.warns(SdxsWarning, match="tone-mapped"):
        source = open_source(str(film("hlg.mov")), 64)
    assert source.read() is not None and not list(odd.glob("*.cube"))
    source.close()


def test_places() -> None:
    assert path_of_url("file:///a%20b/c.mp4") == Path("/a b/c.mp4")
    assert path_of_url("rtsp://camera/1") is None
    assert without_password("http://me:secret@host:8000/a?key=1") == "http://host:8000/a"
    assert camera_of_device(Path(__file__)) is None
