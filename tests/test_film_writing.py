"""Films that are written: what plays them, and what is left when disk, folder or process end."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from browser import browser, told_by

from command import Command
from sdxs.common.backend.process.apart import run_apart
from sdxs.common.backend.process.shared_frames import SharedFrames
from sdxs.common.errors import SdxsWarning, SinkError, UsageError
from sdxs.common.io.films.plan import FilmPlan
from sdxs.common.io.films.writer import FilmWriter
from sdxs.common.io.sinks import film as sinks
from sdxs.common.io.sinks.film import VideoFileSink
from sdxs.common.io.sources.film import VideoFile

CLIP = Path(__file__).parent.parent / "docs" / "demo" / "clip.mp4"
LIVE = ("live", "--backend", "identity", "--model", "demo", "--headless")
RED, GREEN = (200, 40, 30), (30, 160, 60)


def picture(number: int = 0, size: int = 64) -> np.ndarray:
    """Red on the left, green on the right, and a line that moves."""
    made = np.empty((size, size, 3), np.uint8)
    made[:, : size // 2], made[:, size // 2 :] = RED, GREEN
    made[number % size] = 255
    return made


def noise(number: int, size: int = 128) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (size, size, 3), np.uint8)


def facts(path: str, report: object) -> dict[str, object]:
    """How a film is coded; in a child."""
    import av

    with av.open(path) as file:
        stream = file.streams.video[0]
        context = stream.codec_context
        frame = next(file.decode(stream))
        return {
            "codec": context.codec.canonical_name,
            "tag": context.codec_tag,
            "pix_fmt": context.pix_fmt,
            "colours": (
                frame.colorspace,
                frame.color_primaries,
                frame.color_trc,
                frame.color_range,
            ),
            "b_frames": context.has_b_frames,
        }


def coded(path: Path) -> dict[str, object]:
    found = run_apart("facts", "test_film_writing:facts", str(path))
    assert isinstance(found, dict)
    return found


def boxes(path: Path) -> list[str]:
    """The kinds of an MP4 file's boxes, in their order."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        found.append(data[at + 4 : at + 8].decode("latin-1"))
        at += int.from_bytes(data[at : at + 4], "big") or len(data)
    return found


@pytest.mark.parametrize(
    ("name", "codec", "coder", "tag", "pix_fmt"),
    [
        ("a.mp4", "", "h264", "avc1", "yuv420p"),
        pytest.param("a.mov", "h264", "h264", "avc1", "yuv420p", marks=pytest.mark.thorough),
        ("a.mp4", "hevc", "hevc", "hvc1", "yuv420p"),
        ("a.mov", "prores", "prores", "apch", "yuv422p10le"),
        pytest.param("a.mkv", "hevc", "hevc", None, "yuv420p", marks=pytest.mark.thorough),
        ("a.avi", "", "mjpeg", "MJPG", "yuvj420p"),
    ],
)
def test_every_codec_keeps_pictures_and_says_its_colours(
    tmp_path: Path, name: str, codec: str, coder: str, tag: str | None, pix_fmt: str
) -> None:
    sink = VideoFileSink(tmp_path / name, 25, codec=codec)
    for number in range(8):
        sink.write(picture(number), 0)
    sink.close()
    found = coded(tmp_path / name)
    assert (found["codec"], found["pix_fmt"]) == (coder, pix_fmt)
    assert tag is None or found["tag"] == tag
    if coder != "mjpeg":
        assert found["colours"] == (1, 1, 1, 1), "BT.709, narrow range"
    video = VideoFile(tmp_path / name)
    shown = video.read()
    assert shown is not None and (video.length, video.fps) == (8, 25)
    middle = shown[32, [10, 54], ::-1].astype(int)
    assert np.abs(middle - (RED, GREEN)).max() <= 6


def test_mp4_begins_with_its_index_and_has_no_fragments(tmp_path: Path) -> None:
    """A browser plays it while it loads."""
    sink = VideoFileSink(tmp_path / "a.mp4", 10)
    for number in range(25):
        sink.write(picture(number), 0)
    sink.close()
    found = boxes(tmp_path / "a.mp4")
    assert found.index("moov") < found.index("mdat") and "moof" not in found
    assert coded(tmp_path / "a.mp4")["b_frames"] == 0


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "hevc"), ("a.mp4", "prores")])
def test_a_codec_that_a_container_does_not_take(tmp_path: Path, name: str, codec: str) -> None:
    with pytest.raises(UsageError, match=r"takes .*name another container"):
        VideoFileSink(tmp_path / name, 25, codec=codec)


def test_a_codec_without_a_film_is_refused(command: Command, tmp_path: Path) -> None:
    done = command(
        *LIVE, "--source", CLIP, "--frames", 1, "--out", tmp_path / "a.png", "--video-codec", "hevc"
    )
    assert done.code == 2 and "no film is written" in done.err


@pytest.mark.not_in_macos_shape(reason="there VideoToolbox is what Linux has")
def test_videotoolbox_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a silent fallback: Linux has no VideoToolbox."""
    found = run_apart("fallback", "test_film_writing:write_as_on_a_mac", str(tmp_path / "a.mp4"))
    assert found == ["libx264 encodes"] and coded(tmp_path / "a.mp4")["codec"] == "h264"


def write_as_on_a_mac(path: str, report: object) -> list[str]:
    """Write a film where the system says it is a Mac; return the warnings. In a child."""
    from sdxs.common.io.films import encode

    encode.sys = type("Sys", (), {"platform": "darwin"})()  # type: ignore[assignment]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        encoder = encode.Encoder(FilmPlan("a.mp4", Path(path), "", 25.0, 64, 64))
    for number in range(3):
        encoder.write(picture(number), number / 25)
    encoder.close()
    texts = [str(each.message) for each in said if issubclass(each.category, SdxsWarning)]
    return [
        "libx264 encodes" for text in texts if "h264_videotoolbox" in text and "libx264" in text
    ]


@pytest.mark.parametrize(
    ("suffix", "earlier"),
    [(".mp4", True), (".mkv", True)]
    + [pytest.param(each, False, marks=pytest.mark.thorough) for each in (".mp4", ".avi")],
)
def test_a_full_disk_leaves_a_film_that_plays(tmp_path: Path, suffix: str, earlier: bool) -> None:
    """The system refuses every byte after the first 400,000, as a full disk does.

    Bug: a film that could not be written took the place of an earlier one.
    """
    out = tmp_path / f"out{suffix}"
    if earlier:
        out.write_bytes(b"an earlier film")
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_film_writing import record_noise\n"
        "if __name__ == '__main__': record_noise(Path(sys.argv[1]))\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(out), str(Path(__file__).parent)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot be written (File too large)") == 1
    names = [out.name, *([f"out-2{suffix}"] if earlier else []), "script.py"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    if earlier:
        assert out.read_bytes() == b"an earlier film"
        assert f"the earlier {out.name} is as it was" in done.stdout
        out = tmp_path / names[1]
    assert done.stdout.endswith(f"[PosixPath('{out}')]\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SdxsWarning)  # that it is cut off
        video, count = VideoFile(out), 0
        while video.read() is not None:
            count += 1
    assert count >= 8


def record_noise(path: Path) -> None:
    """Record until the disk refuses; print every complaint."""
    sink = VideoFileSink(path, 10)
    try:
        for number in range(200):
            sink.write(noise(number), 0)
    except SinkError as error:
        print(error)
    try:
        sink.close()
    except SinkError as error:
        print("again", error)
    print(sink.written)


def test_a_folder_that_vanishes_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    sink = VideoFileSink(folder / "a.mp4", 10)
    for number in range(5):
        sink.write(picture(number), 0)
    shutil.rmtree(folder)
    with pytest.raises(SinkError, match=r"a\.mp4: (cannot be written|its folder cannot)"):
        for number in range(40):
            sink.write(picture(number), 0)
        sink.close()
    with pytest.raises(SinkError):
        sink.close()
        raise SinkError("closed")
    assert not folder.exists()


def test_a_killed_session_leaves_a_file_that_plays(tmp_path: Path) -> None:
    """The temporary file is written in fragments, each of which stands alone."""
    out = tmp_path / "out.mp4"
    arguments = [*LIVE, "--source", "synthetic", "--frames", "100000", "--out", str(out)]
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "sdxs.cli", *map(str, arguments), "--size", "64"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "frame" in line and int(line.split("frame ")[1].split("/")[0].split()[0]) > 90:
            break
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.out\.[0-9a-f]{4}\.partial\.mp4", left.name)
    video = VideoFile(left)
    assert video.read() is not None
    video.close()


def test_a_slow_encoder_keeps_nobody_waiting_and_the_time_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real time a picture that finds no room is left out, and the next one fills its place."""
    monkeypatch.setattr(FilmWriter, "ready", lambda self: False)
    monkeypatch.setattr(sinks, "MOST_WAITING_BYTES", 10 * picture().nbytes)
    sink = VideoFileSink(tmp_path / "a.mkv", 10, realtime=True)
    for number in range(30):
        sink.write(picture(number), number * 100_000_000)
    assert len(sink._waiting) == 10
    monkeypatch.undo()
    sink.close()
    video, count = VideoFile(tmp_path / "a.mkv"), 0
    while video.read() is not None:
        count += 1
    assert count == 10


def test_a_dead_encoder_is_one_line(tmp_path: Path) -> None:
    sink = VideoFileSink(tmp_path / "a.mp4", 10)
    for number in range(30):
        sink.write(picture(number), 0)
    assert sink._writer is not None
    os.kill(sink._writer._child.pid, signal.SIGKILL)
    with pytest.raises(SinkError, match=r"a\.mp4: its process was killed by signal 9"):
        for number in range(20):
            sink.write(picture(number), 0)
    with pytest.raises(SinkError, match=r"what was recorded until then is .*a\.mp4"):
        sink.close()
    assert sink.written == [tmp_path / "a.mp4"] == list(tmp_path.iterdir())


def test_an_encoder_that_died_before_its_first_picture_leaves_no_film(tmp_path: Path) -> None:
    """Bug: a header alone was announced as written."""
    sink = VideoFileSink(tmp_path / "a.mp4", 10)
    sink.write(picture(0), 0)
    assert sink._writer is not None
    os.kill(sink._writer._child.pid, signal.SIGKILL)
    with pytest.raises(SinkError, match=r"a\.mp4: its process was killed by signal 9") as caught:
        sink.close()
    assert "until then" not in str(caught.value)
    assert sink.written == [] == list(tmp_path.iterdir())


def test_memory_that_cannot_be_shared_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bug: the encoder's process showed a traceback beside the line."""

    def create(planes: object) -> SharedFrames:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(SharedFrames, "create", create)
    sink = VideoFileSink(tmp_path / "a.mp4", 10)
    with pytest.raises(SinkError, match=r"no memory for pictures of .*too large\); end other"):
        sink.write(picture(0), 0)
    with suppress(SinkError):
        sink.close()
    assert "Traceback" not in capfd.readouterr().err


PAGE = """<!doctype html><video id="video" muted src="film.mp4"></video><script>
const video = document.getElementById("video"), said = {times: []};
const tell = () => fetch("/said", {method: "POST", body: JSON.stringify(said)});
const seen = (now, frame) => {
  said.times.push(frame.mediaTime);
  video.requestVideoFrameCallback(seen);
};
video.requestVideoFrameCallback(seen);
video.onerror = () => { said.error = video.error.message; tell(); };
video.onplaying = () => { said.began = performance.now(); };
video.onended = () => {
  said.seconds = (performance.now() - said.began) / 1000;
  said.duration = video.duration;
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  canvas.width = said.width = video.videoWidth;
  canvas.height = said.height = video.videoHeight;
  pen.drawImage(video, 0, 0);
  said.left = [...pen.getImageData(10, canvas.height / 2, 1, 1).data].slice(0, 3);
  said.right = [...pen.getImageData(canvas.width - 10, canvas.height / 2, 1, 1).data].slice(0, 3);
  tell();
};
video.play().catch(error => { said.error = String(error); tell(); });
</script>"""


def test_a_browser_plays_it_at_its_speed_and_in_its_colours(
    command: Command, tmp_path: Path
) -> None:
    """Bug: on Linux an .mp4 was MPEG-4 part 2, which no browser plays. The demo's own command."""
    out = tmp_path / "film.mp4"
    demo = ("--source", CLIP, "--side-by-side", "--prompt", "a", "--prompt", "b")
    done = command(*LIVE, *demo, "--size", 256, "--frames", 60, "--hold", 30, "--out", out)
    assert done.code == 0, done.err
    played = told_by(browser(), tmp_path / "profile", PAGE, {"film.mp4": out})
    assert "error" not in played, played
    assert (played["width"], played["height"], played["duration"]) == (512, 256, 3)
    assert isinstance(played["seconds"], float) and played["seconds"] > 2.5  # 60 at 20 a second
    last = VideoFile(out)
    for _ in range(59):
        last.read()
    shown = last.read()
    assert shown is not None
    for place, column in (("left", 10), ("right", 502)):
        difference = np.abs(np.subtract(played[place], shown[128, column, ::-1].astype(int)))
        assert difference.max() <= 12, (place, played[place], shown[128, column, ::-1])


@pytest.mark.parametrize("name", ["take:1.mp4", "10:32.mkv", "50% [a]'b\".mov", "\u00e9\u4e2d.avi"])
def test_any_name_can_be_written_and_read(tmp_path: Path, name: str) -> None:
    """Bug: FFmpeg took what is before a colon for a protocol."""
    sink = VideoFileSink(tmp_path / name, 10)
    for number in range(3):
        sink.write(picture(number), 0)
    sink.close()
    video = VideoFile(tmp_path / name)
    assert video.read() is not None and video.length == 3
    video.close()


def test_a_relative_name_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = VideoFileSink(Path("take:1.mp4"), 10)
    sink.write(picture(), 0)
    sink.close()
    assert VideoFile(Path("take:1.mp4")).read() is not None


def test_an_avi_at_a_rate_that_divides_no_clock(tmp_path: Path) -> None:
    """Bug: at 59.94 frames a second frame 1502 got the number of the one before."""
    sink = VideoFileSink(tmp_path / "a.avi", 60000 / 1001)
    for number in range(1600):
        sink.write(picture(number, 16), 0)
    sink.close()
    assert VideoFile(tmp_path / "a.avi").length == 1600


def test_two_recordings_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """Bug: both wrote one partial file, and what was left could not be decoded."""
    both = [VideoFileSink(tmp_path / "a.mp4", 10) for _ in range(2)]
    for number in range(12):
        for sink in both:
            sink.write(picture(number), 0)
    for sink in both:
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert VideoFile(tmp_path / "a.mp4").length == 12
