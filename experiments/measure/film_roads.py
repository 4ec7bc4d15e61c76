"""Measure why films go through PyAV in a process of its own: four roads, alone and beside a loop.

Run as `python -m sdxs.experiments film-roads [--json PATH] [--rounds 5] [--seconds 10]`. A 720p
film of panned photographs is decoded and encoded by OpenCV (mp4v) and by PyAV in the loop's own
process, by `FilmReader` and `FilmWriter`, and by an ffmpeg program over a pipe where
`imageio-ffmpeg` is installed. Each road runs in a fresh process, in turns. Beside the loop: NumPy
works without a pause, while a second thread moves the film at its own rate for half a second and
rests as long, again and again; the figure is the share of work that is left.
"""

import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

from ...common.backend.process.apart import Report, run_apart
from ...common.io.films.formats import SOFTWARE
from ...common.io.films.plan import Film, FilmPlan
from ...common.settings import setting
from .. import record
from ..options import Options, result_file

WIDTH, HEIGHT, FPS = 1280, 720, 30
PHOTOGRAPHS = Path(__file__).parents[2] / "docs" / "demo"
BURST = 15  # frames of a film beside work
REST_S = BURST / FPS  # work alone after each burst
Figures = dict[str, float]


def pictures(count: int) -> Iterator[np.ndarray]:
    """Yield photographs side by side, panned: uint8 (720, 1280, 3) RGB.

    Pillow and not OpenCV reads them, because PyAV may be in the same process.
    """
    from PIL import Image

    tall, found = HEIGHT + 160, []
    for name in ("astronaut.jpg", "coffee.jpg", "cat.jpg"):
        with Image.open(PHOTOGRAPHS / name) as image:
            wide = round(image.width * tall / image.height)
            found.append(np.asarray(image.convert("RGB").resize((wide, tall))))
    whole = np.hstack(found)
    reach = whole.shape[1] - WIDTH
    for number in range(count):
        left = abs((7 * number + reach) % (2 * reach) - reach)  # there and back
        top = round(80 + 80 * np.sin(number / 15))
        yield np.ascontiguousarray(whole[top : top + HEIGHT, left : left + WIDTH])


# Decoding: each road yields uint8 (720, 1280, 3) BGR, valid until the next.


def _opencv_decodes(path: Path) -> Iterator[np.ndarray]:
    from ...common.picture.opencv import cv2

    film = cv2.VideoCapture(str(path))
    while True:
        read, picture = film.read()
        if not read:
            break
        yield picture
    film.release()


def _pyav_decodes(path: Path) -> Iterator[np.ndarray]:
    from ...common.io.films.decode import Decoder

    decoder = Decoder(Film(str(path), path.name, (0, 0, 0)))
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    while decoder.read(picture) is not None:
        yield picture
    decoder.close()


def _sdxs_decodes(path: Path) -> Iterator[np.ndarray]:
    from ...common.io.films.reader import FilmReader

    reader = FilmReader(Film(str(path), path.name, (0, 0, 0)))
    while (found := reader.read()) is not None:
        yield found[0]
    reader.close()


def _ffmpeg_decodes(path: Path) -> Iterator[np.ndarray]:
    command = [_ffmpeg(), "-v", "quiet", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "bgr24"]
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    with subprocess.Popen([*command, "-"], stdout=subprocess.PIPE, bufsize=1 << 20) as program:
        assert program.stdout is not None
        while program.stdout.readinto(picture.data.cast("B")) == picture.nbytes:  # type: ignore[attr-defined]
            yield picture


# Encoding: each road writes all pictures, and finishes the film.


def _opencv_encodes(path: Path, given: Iterator[np.ndarray]) -> None:
    from ...common.picture.opencv import cv2

    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    film = cv2.VideoWriter(str(path), fourcc, FPS, (WIDTH, HEIGHT))
    for picture in given:
        film.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    film.release()


def _pyav_encodes(path: Path, given: Iterator[np.ndarray]) -> None:
    from ...common.io.films.encode import Encoder
    from ...common.io.films.finish import finish

    plan = _plan(path)
    encoder = Encoder(plan)
    for number, picture in enumerate(given):
        encoder.write(picture, number / FPS)
    encoder.close()
    finish(plan.path, path, None, encoder.frames, lambda step, done: None)


def _sdxs_encodes(path: Path, given: Iterator[np.ndarray]) -> None:
    from ...common.io.films.writer import FilmWriter

    writer = FilmWriter(path.name)
    writer.open(_plan(path))
    for number, picture in enumerate(given):
        writer.write(picture, number / FPS)
    writer.finish(path, None)
    writer.close()


def _ffmpeg_encodes(path: Path, given: Iterator[np.ndarray]) -> None:
    how = SOFTWARE["h264"]
    command = [_ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-", "-c:v", how.encoder]
    command += ["-pix_fmt", how.pix_fmt, "-g", str(FPS)]
    for name, value in how.options:
        command += [f"-{name}", value]
    with subprocess.Popen([*command, "-y", str(path)], stdin=subprocess.PIPE) as program:
        assert program.stdin is not None
        for picture in given:
            program.stdin.write(picture.data.cast("B"))


def _plan(path: Path) -> FilmPlan:
    return FilmPlan(path.name, path.with_stem(f"{path.stem}.part"), "", FPS, HEIGHT, WIDTH)


def _ffmpeg() -> str:
    import imageio_ffmpeg  # type: ignore[import-untyped]

    return str(imageio_ffmpeg.get_ffmpeg_exe())


DECODING: Mapping[str, Callable[[Path], Iterator[np.ndarray]]] = {
    "OpenCV": _opencv_decodes,
    "PyAV": _pyav_decodes,
    "sdxs": _sdxs_decodes,
    "ffmpeg": _ffmpeg_decodes,
}
ENCODING: Mapping[str, Callable[[Path, Iterator[np.ndarray]], None]] = {
    "OpenCV": _opencv_encodes,
    "PyAV": _pyav_encodes,
    "sdxs": _sdxs_encodes,
    "ffmpeg": _ffmpeg_encodes,
}


def roads() -> list[str]:
    """Return the roads that can be measured here."""
    return [name for name in DECODING if name != "ffmpeg" or find_spec("imageio_ffmpeg")]


class Moving:
    """A film on its way through one road.

    began: its first picture is there. resting: between two bursts.
    """

    def __init__(self, encoding: bool, road: str, film: Path, frames: int, paced: bool) -> None:
        self.began = threading.Event()
        self.resting = False
        self.cpu_s = self.seconds = 0.0
        self.frames = 0
        self._encoding, self._road, self._film = encoding, road, film
        self._most, self._paced = frames, paced

    def run(self) -> None:
        """Move the film from its first picture to its end."""
        if self._encoding:
            ENCODING[self._road](self._film, self._counted(pictures(self._most)))
        else:
            for _ in self._counted(islice(DECODING[self._road](self._film), self._most)):
                pass
        self.cpu_s = time.process_time() - self._cpu_s
        self.seconds = time.perf_counter() - self._at_s

    def _counted(self, given: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for picture in given:
            if not self.frames:
                self._at_s, self._cpu_s = time.perf_counter(), time.process_time()
                self._burst_s = self._at_s
                self.began.set()
            elif self._paced:
                self._wait()
            self.frames += 1
            yield picture

    def _wait(self) -> None:
        """Wait for the time of the next picture, and rest after each burst."""
        if self.frames % BURST == 0:
            self.resting = True
            time.sleep(REST_S)
            self.resting = False
            self._burst_s = time.perf_counter()
        due_s = self._burst_s + self.frames % BURST / FPS
        time.sleep(max(0.0, due_s - time.perf_counter()))


def move(encoding: bool, road: str, film: str, frames: int, report: Report) -> Figures:
    """Move a film as fast as it goes; runs in a process of its own.

    Returns frames a second, and milliseconds of the processor a frame: of the process that runs the
    loop, and with those that it started.
    """
    moving = Moving(encoding, road, Path(film), frames, paced=False)
    moving.run()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "fps": moving.frames / moving.seconds,
        "loop_cpu_ms": 1e3 * moving.cpu_s / moving.frames,
        "all_cpu_ms": 1e3 * (moving.cpu_s + usage.ru_utime + usage.ru_stime) / moving.frames,
    }
    return figures | ({"bytes": float(Path(film).stat().st_size)} if encoding else {})


def move_beside(encoding: bool, road: str, film: str, frames: int, report: Report) -> Figures:
    """Move a film at its own rate beside work without a pause; runs in a process of its own."""
    moving = Moving(encoding, road, Path(film), frames, paced=True)
    thread = threading.Thread(target=moving.run, daemon=True)
    thread.start()
    moving.began.wait()
    alone, beside = _work(moving, thread)
    thread.join()
    fps = moving.frames / (moving.seconds - (moving.frames - 1) // BURST * REST_S)
    return {"alone": alone, "beside": beside, "left": beside / alone, "fps": fps}


def _work(moving: Moving, thread: threading.Thread) -> tuple[float, float]:
    """Do what stands for the loop until a film has moved; return frames a second alone and beside.

    NumPy on a frame of 256, which frees Python's lock in pieces. It allocates nothing: how soon an
    allocator gives memory back depends on what the road has freed.
    """
    frame = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    x, turned = np.empty(frame.shape, np.float32), np.empty(frame.shape, np.float32)
    done, spent = [0, 0], [0.0, 0.0]
    while thread.is_alive():
        alone, began = moving.resting, time.perf_counter()
        np.multiply(frame, np.float32(1 / 255), out=x)
        for _ in range(3):
            np.multiply(x[::-1], np.float32(0.1), out=turned)
            np.multiply(x, np.float32(0.9), out=x)
            np.add(x, turned, out=x)
        np.multiply(x, np.float32(255), out=turned)
        np.copyto(frame, turned, casting="unsafe")
        done[alone] += 1
        spent[alone] += time.perf_counter() - began
    return done[True] / max(spent[True], 1e-9), done[False] / spent[False]


def summary(rounds: list[dict[str, Figures]]) -> dict[str, dict[str, dict[str, float]]]:
    """Median, least and most of every figure by road, and its ratio to that of sdxs.

    ratio: the median over the rounds of the road's figure divided by that of sdxs.
    """
    return {
        road: {
            key: {
                "median": statistics.median(each[road][key] for each in rounds),
                "min": min(each[road][key] for each in rounds),
                "max": max(each[road][key] for each in rounds),
                "ratio": statistics.median(each[road][key] / each["sdxs"][key] for each in rounds),
            }
            for key in rounds[0][road]
        }
        for road in rounds[0]
    }


def measure(options: "FilmRoadsOptions", names: list[str]) -> dict[str, list[dict[str, Figures]]]:
    """Every round of every case: decoding and encoding, alone and beside work."""
    frames = max(2, round(options.seconds * FPS))
    short = max(BURST + 1, round(options.beside * FPS))
    found: dict[str, list[dict[str, Figures]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        run_apart("film", f"{__name__}:move", True, "sdxs", str(film), max(frames, short))
        for number in range(options.rounds):
            for encoding, case in ((False, "decoding"), (True, "encoding")):
                for function, beside, most in (
                    ("move", "", frames),
                    ("move_beside", " beside work", short),
                ):
                    row: dict[str, Figures] = {}
                    # another road begins each round
                    for road in names[number % len(names) :] + names[: number % len(names)]:
                        place = Path(folder) / "out.mp4" if encoding else film
                        given = (encoding, road, str(place), most)
                        got = run_apart(road, f"{__name__}:{function}", *given)
                        assert isinstance(got, dict)
                        row[road] = got
                    found.setdefault(case + beside, []).append(row)
                    _show(number, case + beside, row)
    return found


def _show(number: int, case: str, row: dict[str, Figures]) -> None:
    print(f"round {number + 1}, {case}")
    for road, figures in row.items():
        told = ", ".join(f"{key} {value:.3g}" for key, value in figures.items() if key != "bytes")
        size = f", {figures['bytes'] / 1e6:.2f} MB" if "bytes" in figures else ""
        print(f"  {road:8} {told}{size}", flush=True)


@dataclass(frozen=True, slots=True)
class FilmRoadsOptions(Options):
    """How long, how often, and where the figures go."""

    json: Path | None = result_file()
    rounds: int = setting(5, "times that all roads take their turns", minimum=1)
    seconds: float = setting(10.0, "length of the film", minimum=0.1, unit="s")
    beside: float = setting(3.0, "how much of it is moved beside work", minimum=0.1, unit="s")


def run(options: FilmRoadsOptions) -> None:
    """Measure every road."""
    names = roads()
    if "ffmpeg" not in names:
        print("ffmpeg over a pipe is left out: imageio-ffmpeg is not installed")
    found = measure(options, names)
    cases = {case: summary(rounds) for case, rounds in found.items()}
    for case, by_road in cases.items():
        print(f"\n{case}: median (least to most), ratio to sdxs")
        for road, figures in by_road.items():
            told = "; ".join(
                f"{key} {each['median']:.4g} ({each['min']:.4g} to {each['max']:.4g}), "
                f"{each['ratio']:.2f}"
                for key, each in figures.items()
            )
            print(f"  {road:8} {told}")
    if options.json:
        film = {"width": WIDTH, "height": HEIGHT, "fps": FPS, "codec": "h264"}
        facts: dict[str, object] = {"film": film, "left_out": sorted(DECODING.keys() - names)}
        record.write(options.json, facts | {"cases": cases, "rounds": found}, options)
