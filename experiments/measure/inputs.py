"""Try pictures and films as people have them: what `sdxs live` makes of each, or says of it.

Run as `python -m sdxs.experiments inputs [--json PATH] [--table docs/inputs.md]`. Every input is
made here, by `common.testing.films` and by Pillow, and rendered by the backend that changes
nothing. The figures are read back from what was written.
"""

import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...common.backend.process.apart import run_apart
from ...common.settings import setting
from .. import record
from ..options import Options, option, result_file

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

SIZE = 128
MOST_OFF = 12  # levels that a codec may lose
HALF_S = 0.021  # half a frame
SPOTS = {  # of the picture that `common.testing.films` draws: row and column as shares, colour
    "left": (0.75, 0.12, (200, 40, 30)),
    "right": (0.75, 0.88, (30, 160, 60)),
    "end of the bar": (0.08, 0.5, (230, 210, 40)),
}
STEPS = [step / 10 for step in range(1, 10)]


@dataclass(frozen=True, slots=True)
class Read:
    """What is in a film. beep_s: when its sound begins; event_s: when its bar turns."""

    frames: int
    seconds: float
    event_s: float
    sound: str
    beep_s: float


@dataclass(frozen=True, slots=True)
class Tried:
    """One input and what became of it.

    off: largest difference of a spot from its colour, in levels; -1 where there is nothing to see.
    said: the warnings and errors, without folders.
    """

    name: str
    kind: str
    code: int
    said: str
    given: Read | None
    made: Read | None
    off: float


@dataclass(frozen=True, slots=True)
class InputsOptions(Options):
    """Where the result goes."""

    only: str = setting("", "try only inputs whose name contains this", flag="--only")
    json: Path | None = result_file()
    table: Path | None = option(None, "write the table for the manual", metavar="PATH")


def facts_of(path: str, report: object) -> Read:
    """Read a film back, in a process of its own: PyAV does not go with OpenCV."""
    import av

    with av.open(path) as file:
        stamps, event_s = [], -1.0
        for frame in _decoded(file):
            picture = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            at_s = float(frame.time or 0)
            yellow = picture[picture.shape[0] // 16, picture.shape[1] // 3, 0] > 128
            if event_s < 0 and yellow:
                event_s = at_s
            stamps.append(at_s)
    with av.open(path) as file:
        sound, beep_s = _sound(file) if file.streams.audio else ("", -1.0)
    step = (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1)
    zero = stamps[0]
    return Read(
        len(stamps),
        round(stamps[-1] - zero + step, 3),
        round(event_s - zero, 3),
        sound,
        round(beep_s - zero, 3),
    )


def _decoded(file: "InputContainer") -> "Iterator[VideoFrame]":
    """Every frame that can be decoded; damage is passed over."""
    import av

    packets = file.demux(file.streams.video[0])
    while True:
        try:
            yield from next(packets).decode()
        except StopIteration:
            return
        except av.error.FFmpegError:
            continue


def _sound(file: "InputContainer") -> tuple[str, float]:
    stream = file.streams.audio[0]
    codec = stream.codec_context.codec.canonical_name
    for frame in file.decode(stream):
        wave = frame.to_ndarray().astype(float)
        wave /= 32768 if frame.format.name.startswith("s16") else 1
        loud = np.nonzero(np.abs(wave[0]) > 0.1)[0]
        if len(loud):
            return codec, float(frame.time or 0) + loud[0] / frame.rate
    return codec, -1.0


def last_picture(path: Path) -> np.ndarray | None:
    """The last picture of a film or an image, uint8 (H, W, 3) RGB."""
    from ...common.io.sources.registry import open_source

    source, shown = open_source(str(path), SIZE), None
    while (picture := source.read()) is not None:
        shown = picture[..., ::-1].copy()
    source.close()
    return shown


def render(source: Path | str, out: Path, *more: str, limit: int = 0) -> tuple[int, str]:
    """Run `sdxs live`; return its code and what it warned of. limit: bytes that a file may have."""
    arguments = ["live", "--backend", "identity", "--model", "demo", "--size", str(SIZE)]
    arguments += ["--headless", "--source", str(source), "--out", str(out), *more]
    done = subprocess.run(
        [sys.executable, "-m", "sdxs.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        if limit
        else None,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith(("warning:", "error:"))]
    if "Traceback" in done.stderr:
        lines.append("TRACEBACK")
    said = "; ".join(line.partition(": ")[2] for line in lines)
    said = said.replace(f"{out.parent}/", "").replace(f"{out.parent.parent}/", "")
    return done.returncode, said


def try_film(name: str, folder: Path) -> Tried:
    """Make a film of `common.testing.films`, render it, and read both."""
    from ...common.io.films.formats import CONTAINERS

    path = folder / name
    subprocess.run(
        [sys.executable, "-m", "sdxs.common.testing.films", name, str(path)],
        check=True,
        capture_output=True,
    )
    sound = "pcm" if name in ("h264.mov", "prores.mov", "mjpeg.avi", "ffv1.mkv") else ""
    out = folder / f"out{'.mkv' if sound or Path(name).suffix not in CONTAINERS else '.mp4'}"
    code, said = render(path, out)
    if code:
        return Tried(name, "film", code, said, None, None, -1)
    given, made = (run_apart("facts", f"{__name__}:facts_of", str(each)) for each in (path, out))
    assert isinstance(given, Read) and isinstance(made, Read)
    shown = last_picture(out)
    assert shown is not None
    drawn = "tone-mapped" not in said  # otherwise the colours are not those drawn
    return Tried(name, "film", code, said, given, made, _off(shown, path) if drawn else -1)


def _off(shown: np.ndarray, path: Path) -> float:
    """How far the spots of the last picture are from their colours, in levels."""
    worst = 0.0
    whole = last_picture(path)
    assert whole is not None
    wide = whole.shape[1] / whole.shape[0]  # the middle square of it is shown
    for row, column, colour in SPOTS.values():
        across = 0.5 + (column - 0.5) * wide
        if not 0.05 < across < 0.95:
            across = 0.1 if column < 0.5 else 0.9
        y, x = int(row * SIZE), int(across * SIZE)
        spot = shown[y - 2 : y + 2, x - 2 : x + 2].mean((0, 1))
        worst = max(worst, float(np.abs(spot - colour).max()))
    return round(worst, 1)


def stills(folder: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Names and makers of still and animated images."""
    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener()
    from ...common.testing.films import picture

    square = np.ascontiguousarray(picture(1.0)[:, 32:160])
    image = Image.fromarray(square)
    tall = Image.fromarray(np.ascontiguousarray(np.rot90(square, 1)))  # turned back by its tag
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = np.dstack([square, np.full(square.shape[:2], 255, np.uint8)])
    alpha[-12:, :, 3] = 0
    moving = [Image.fromarray(np.ascontiguousarray(picture(t)[:, 32:160])) for t in (0.0, 0.5, 1.0)]
    yield "photo.jpg", lambda path: image.save(path, quality=95)
    yield "turned.jpg", lambda path: tall.save(path, quality=95, exif=exif)
    yield "turned.tiff", lambda path: tall.save(path, exif=exif)
    yield "photo.png", lambda path: image.save(path)
    yield (
        "sixteen-bit.png",
        lambda path: Image.fromarray(square[..., 0].astype(np.uint16) * 257).save(path),
    )
    yield "transparent.png", lambda path: Image.fromarray(alpha).save(path)
    yield "phone.heic", lambda path: image.resize((1024, 1024)).save(path, quality=95)
    yield "photo.avif", lambda path: image.save(path, quality=90)
    yield "photo.webp", lambda path: image.save(path, quality=95)
    yield "photo.bmp", lambda path: image.save(path)
    for name in ("moving.gif", "moving.webp", "moving.png"):
        yield (
            name,
            lambda path: moving[0].save(
                path, save_all=True, append_images=moving[1:], duration=500, loop=0
            ),
        )


def try_still(name: str, make: Callable[[Path], object], folder: Path) -> Tried:
    path = folder / name
    make(path)
    animated = name.startswith("moving")
    out = folder / ("out.mkv" if animated else "out.png")
    code, said = render(path, out)
    made = None
    if animated and code == 0:
        found = run_apart("facts", f"{__name__}:facts_of", str(out))
        assert isinstance(found, Read)
        made = found
    shown = last_picture(out) if code == 0 else None
    seen = shown is not None and not name.startswith("sixteen")
    return Tried(name, "still", code, said, None, made, _off(shown, out) if seen else -1)  # type: ignore[arg-type]


def huge_png(path: Path) -> None:
    """A PNG whose header claims 100,000 x 100,000 pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def try_bad(folder: Path) -> Iterator[Tried]:
    """Inputs and outputs that cannot be: each has to end in a line and a code."""
    film, noise = folder / "h264.mkv", folder / "h264.mp4"
    photo = folder / "photo.jpg"
    made: list[tuple[str, bytes]] = [
        ("empty.mp4", b""),
        ("empty.jpg", b""),
        ("text.mp4", b"this is a text"),
        ("photo-called.mp4", photo.read_bytes()),
        ("film-called.png", noise.read_bytes()),
    ]
    for source in (film, noise, folder / "mjpeg.avi", photo):
        data = source.read_bytes()
        made += [
            (f"cut-at-{share:.0%}{source.suffix}".replace("%", ""), data[: int(len(data) * share)])
            for share in STEPS
        ]
    for name, data in made:
        path = folder / name
        path.write_bytes(data)
        still = name.startswith("photo") or name.endswith(".jpg")
        yield _bad(name, *render(path, folder / ("out.png" if still else "out.mkv")))
    huge_png(folder / "huge.png")
    yield _bad("huge.png", *render(folder / "huge.png", folder / "out.png"))
    yield _bad("missing.mp4", *render(folder / "missing.mp4", folder / "out.mp4"))
    yield _bad("a folder without media", *render(_empty(folder), folder / "outs"))
    yield _bad("/dev/null", *render("/dev/null", folder / "out.mp4"))
    yield _bad("camera 63", *render("63", folder / "out.mp4"))
    yield _bad("x" * 258, *render(folder / ("x" * 258), folder / "out.mp4"))
    yield _bad("rtsp://127.0.0.1:9/1", *render("rtsp://127.0.0.1:9/1", folder / "out.mp4"))
    yield _bad("foo://host/1", *render("foo://host/1", folder / "out.mp4"))
    yield _bad("sound that .mp4 does not take", *render(folder / "h264.mov", folder / "out.mp4"))
    yield _bad("a disk that is full", *_to_a_full_disk(folder))
    yield _bad("a folder that vanishes", *_to_a_vanishing_folder(folder))


def _bad(name: str, code: int, said: str) -> Tried:
    return Tried(name[:40], "bad", code, said, None, None, -1)


def _empty(folder: Path) -> Path:
    empty = folder / "empty"
    empty.mkdir()
    return empty


def _to_a_full_disk(folder: Path) -> tuple[int, str]:
    out = folder / "full.mkv"
    code, said = render("synthetic", out, "--frames", "2000", limit=400_000)
    shown = last_picture(out)  # it plays, or this raises
    assert shown is not None
    return code, said


def _to_a_vanishing_folder(folder: Path) -> tuple[int, str]:
    gone = folder / "gone"
    gone.mkdir()
    out = gone / "out.mp4"

    def vanish() -> None:
        while not list(gone.iterdir()):
            time.sleep(0.05)
        shutil.rmtree(gone)

    thread = threading.Thread(target=vanish, daemon=True)
    thread.start()
    found = render("synthetic", out, "--frames", "300")
    thread.join(10)
    return found


def is_right(one: Tried) -> bool:
    """Tell whether an input became what it should, or was refused in one line."""
    if "TRACEBACK" in one.said or one.code not in (0, 1, 2):
        return False
    if one.code and not one.said:
        return False
    if one.code:
        return one.kind == "bad" or any(word in one.name for word in ("no-index", "unknown"))
    if one.kind == "bad":
        return bool(one.said) or one.name in ("photo-called.mp4", "film-called.png")
    in_step = True
    if one.given and one.made:
        half = 0.021  # of a frame
        in_step = (
            abs(one.made.seconds - one.given.seconds) <= 2 * half
            and abs(one.made.event_s - one.given.event_s) <= half
            and (
                one.given.sound != one.made.sound or abs(one.made.beep_s - one.given.beep_s) < 0.05
            )
        )
    return in_step and one.off <= MOST_OFF


def run(options: InputsOptions) -> int:
    """Try every input; return 1 unless each became what it should."""
    from ...common.testing.films import KINDS

    tried: list[Tried] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in KINDS:
            if options.only in kind:
                tried.append(_said(try_film(kind, folder)))
            for out in folder.glob("out.*"):
                out.unlink()
        for still, make in stills(folder):
            if options.only in still:
                tried.append(_said(try_still(still, make, folder)))
        for each in try_bad(folder) if not options.only else ():
            tried.append(_said(each))
    wrong = [one.name for one in tried if not is_right(one)]
    print(f"{len(tried) - len(wrong)} of {len(tried)} right{(wrong and f'; wrong: {wrong}') or ''}")
    if options.json:
        figures = [asdict(one) | {"right": is_right(one)} for one in tried]
        record.write(options.json, {"inputs": figures}, options)
    if options.table:
        options.table.write_text(table(tried), encoding="utf-8")
    return 1 if wrong else 0


def _said(one: Tried) -> Tried:
    """Print what became of an input."""
    facts = [f"code {one.code}"]
    for label, read in (("in", one.given), ("out", one.made)):
        if read:
            facts.append(
                f"{label} {read.frames} frames, {read.seconds:.2f} s, event {read.event_s:.2f}"
                f"{_sound_of(read)}"
            )
    if one.off >= 0:
        facts.append(f"colours off by {one.off:.0f}")
    mark = "right" if is_right(one) else "WRONG"
    print(
        f"{mark} {one.name:28} {'; '.join(facts)}{f' | {one.said}' if one.said else ''}", flush=True
    )
    return one


def _sound_of(read: Read) -> str:
    return f", {read.sound} from {read.beep_s:.2f}" if read.sound else ""


HEAD = """# Pictures and films that were tried

`python -m sdxs.experiments inputs --table docs/inputs.md --json docs/results/inputs.json` makes
every one of these, renders it with the backend that changes nothing, reads back what was written,
and writes this page. \u2713 means: every frame at its time, duration and events within half a
frame, sound in step, colours within 12 levels (of 255) of what was drawn. On Linux; no Mac was
at hand. The manual is [live.md](live.md).

"""


def table(tried: Sequence[Tried]) -> str:
    """The page of the manual, in Markdown."""
    rows = []
    for title, kind in (("Films", "film"), ("Images", "still"), ("What cannot be", "bad")):
        rows += [f"## {title}", "", "| input | what becomes of it |", "|---|---|"]
        plain = [one for one in tried if one.kind == kind and not one.name.startswith("cut-at")]
        rows += [f"| {one.name} | {_became(one)} |" for one in plain]
        cut = [one for one in tried if one.kind == kind and one.name.startswith("cut-at")]
        for suffix in dict.fromkeys(Path(one.name).suffix for one in cut):
            each = [one for one in cut if Path(one.name).suffix == suffix]
            refused = sum(one.code != 0 for one in each)
            rows.append(
                f"| {suffix} cut at every 10 % | {refused} of {len(each)} are refused in one line, "
                f"the others rendered to where they end, and that is said |"
            )
        rows.append("")
    return HEAD + "\n".join(rows)


def _became(one: Tried) -> str:
    facts = []
    if one.made:
        facts.append(f"{one.made.frames} frames, {one.made.seconds:.2f} s{_sound_of(one.made)}")
    mark = ("\u2713 " if one.kind != "bad" else "") if one.code == 0 else f"code {one.code}: "
    said = one.said.replace("|", "\\|")
    return f"{mark}{'; '.join(filter(None, [*facts, said]))}".strip()
