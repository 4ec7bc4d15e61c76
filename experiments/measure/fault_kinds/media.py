"""Faults of what is read and written as pictures and films, and of sources that vanish."""

import io
import shutil
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from random import Random

import numpy as np
from PIL import Image

from .checkpoints import EITHER, REFUSED
from .damage import flipped, overwritten, write
from .fault import ERROR, FINE, LOST, Case, Right, kind
from .place import How, Place

BASE = ("--backend", "identity", "--size", "64", "--prompt", "x", "--headless")


def live(place: Place, *more: str, right: Right, how: How | None = None) -> None:
    """Run a session of the identity backend."""
    place.sdxs("live", "--model", str(place.samples.tiny), *BASE, *more, right=right, how=how)


def _png(mode: str, size: tuple[int, int] = (32, 32)) -> bytes:
    made = io.BytesIO()
    Image.new(mode, size).save(made, "PNG")
    return made.getvalue()


def _jpeg(mode: str) -> bytes:
    made = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(made, "JPEG")
    return made.getvalue()


def _huge_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


@kind("pictures")
def pictures(draw: Random) -> Iterator[Case]:
    """Pictures that are cut off, damaged, huge, of rare modes, or something else."""
    share = draw.uniform(0.1, 0.9)
    given: dict[str, tuple[str, bytes, tuple[int, ...]]] = {
        "a PNG of 16 bits": ("a.png", _png("I;16"), (FINE,)),
        "a PNG of one bit": ("a.png", _png("1"), (FINE,)),
        "a PNG with a palette": ("a.png", _png("P"), (FINE,)),
        "a PNG of one pixel": ("a.png", _png("RGB", (1, 1)), EITHER),
        "a PNG of 1 x 20,000": ("a.png", _png("L", (1, 20_000)), EITHER),
        "a JPEG in CMYK": ("a.jpg", _jpeg("CMYK"), (FINE,)),
        "a PNG called .jpg": ("a.jpg", _png("RGB"), (FINE,)),
        "nothing": ("a.png", b"", REFUSED),
        "a text": ("a.png", b"hello", REFUSED),
        "a PNG of 60,000 x 60,000": ("a.png", _huge_png(60_000, 60_000), REFUSED),
        "a PNG of 2^31 x 1": ("a.png", _huge_png(2**31 - 1, 1), REFUSED),
        "a PNG of 0 x 0": ("a.png", _huge_png(0, 0), REFUSED),
        "an SVG": ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', REFUSED),
        "an SVG called .png": ("a.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', REFUSED),
        f"a JPEG cut off at {share:.0%}": ("a.jpg", _jpeg("RGB")[: int(share * 900)], EITHER),
    }
    for what, (name, content, codes) in given.items():
        for command in draw.sample(("image", "live"), 1):
            yield (
                f"{what}: {command}",
                partial(_picture, name=name, content=content, codes=codes, command=command),
            )
    for number in range(4):
        share, bit = draw.random(), draw.randrange(8)
        yield (
            f"bit {bit} at {share:.1%} of a PNG is flipped: {('image', 'live')[number % 2]}",
            partial(_damaged, share=share, bit=bit, command=("image", "live")[number % 2]),
        )


def _damaged(place: Place, share: float, bit: int, command: str) -> None:
    _picture(place, "a.png", flipped(place.samples.cat.read_bytes(), share, bit), EITHER, command)


def _picture(place: Place, name: str, content: bytes, codes: tuple[int, ...], command: str) -> None:
    write(place.folder / name, content)
    if command == "live":
        more = ("--frames", "2", "--source", name, "--out", "b.png")
        live(place, *more, right=Right(codes, whole=("b.png",)))
        return
    place.sdxs(
        *("image", "--model", str(place.samples.tiny), "--backend", "identity", "--size", "64"),
        *("--prompt", "x", "--input", name, "--out", "b.png"),
        right=Right(codes, whole=("b.png",)),
    )


@kind("films")
def films(draw: Random) -> Iterator[Case]:
    """Films that are cut off, damaged, without frames, of another suffix or kind."""
    for _ in range(3):
        share = draw.uniform(0.02, 0.98)
        yield f"cut off at {share:.1%}", partial(_cut_film, share=share)
    for _ in range(4):
        share, new = draw.random(), draw.randbytes(draw.randrange(1, 40))
        what = f"{len(new)} bytes at {share:.1%} overwritten"
        yield what, partial(_overwritten, share=share, new=new)
    for what, content in (
        ("nothing", b""),
        ("zeros", bytes(100_000)),
        ("a header alone", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2"),
        ("a text", b"hello\n" * 100),
        ("a PNG", _png("RGB")),
    ):
        codes = EITHER if what == "a PNG" else REFUSED
        yield f"it is {what}", partial(_film, content=content, codes=codes)
    for suffix in ("mkv", "png", "txt"):
        yield f"an .mp4 called .{suffix}", partial(_called, suffix=suffix)
    yield "a folder called .mp4", _folder


def _film(place: Place, content: bytes, codes: tuple[int, ...], name: str = "a.mp4") -> None:
    write(place.folder / name, content)
    live(place, "--source", name, "--out", "b.mp4", right=Right(codes, whole=("b.mp4",)))


def _cut_film(place: Place, share: float) -> None:
    content = place.samples.film.read_bytes()
    _film(place, content[: int(share * len(content))], EITHER)


def _overwritten(place: Place, share: float, new: bytes) -> None:
    _film(place, overwritten(place.samples.film.read_bytes(), share, new), EITHER)


def _called(place: Place, suffix: str) -> None:
    _film(place, place.samples.film.read_bytes(), EITHER, f"a.{suffix}")


def _folder(place: Place) -> None:
    (place.folder / "a.mp4").mkdir()
    live(place, "--source", "a.mp4", "--out", "b.mp4", right=Right(REFUSED))


@kind("sources that vanish")
def vanishing(draw: Random) -> Iterator[Case]:
    """Sources that end, shrink or disappear under way."""
    yield "a pipe that ends at once", partial(_piped, content=b"")
    yield "a pipe of rubbish", partial(_piped, content=bytes(5000))
    share = draw.uniform(0.3, 0.9)
    yield f"a pipe that ends at {share:.0%} of a film", partial(_piped_film, share=share)
    yield "a film that shrinks to nothing", partial(_changed, how="truncate")
    yield "a film that is removed", partial(_changed, how="remove")
    yield "a film that another replaces", partial(_changed, how="replace")
    yield "a network address where nobody answers", _nobody
    yield "a folder of which files vanish", _folder_vanishes


def _piped(place: Place, content: bytes) -> None:
    write(place.folder / "cat.txt", content)
    program = ("-c", _PIPE, str(place.folder / "cat.txt"))
    place.sdxs(
        *("live", "--model", str(place.samples.tiny), *BASE, "--source", "-", "--out", "b.mp4"),
        right=Right((*EITHER, LOST), whole=("b.mp4",)),
        how=How(program=program),
    )


# Runs the command with a pipe of a file as its stdin.
_PIPE = """
import subprocess, sys
with open(sys.argv[1], "rb") as file:
    cat = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
given = ["/dev/stdin" if each == "-" else each for each in sys.argv[2:]]
sys.exit(subprocess.run([sys.executable, "-m", "sdxs.cli", *given], stdin=cat.stdout).returncode)
"""


def _piped_film(place: Place, share: float) -> None:
    content = place.samples.film.read_bytes()
    _piped(place, content[: int(share * len(content))])


def _changed(place: Place, how: str) -> None:
    path = place.folder / "a.mp4"
    shutil.copyfile(place.samples.film, path)
    command = place.start(
        *("live", "--model", str(place.samples.tiny), *BASE, "--source", "a.mp4", "--frames", "60"),
        *("--hold", "5", "--out", "b.mp4"),
    )
    while "source" not in command.err() and not command.ended():
        command.pause()
    if how == "truncate":
        path.write_bytes(b"")
    elif how == "remove":
        path.unlink()
    else:
        path.unlink()
        path.write_bytes(b"hello")
    place.judge(command.wait(), Right((FINE, ERROR, LOST), whole=("b.mp4",)), {})


def _nobody(place: Place) -> None:
    live(
        place,
        *("--source", "http://127.0.0.1:9/a.mp4", "--out", "b.mp4"),
        right=Right((*REFUSED, LOST), whole=("b.mp4",), seconds=30),
    )


def _folder_vanishes(place: Place) -> None:
    for number in range(3):
        write(place.folder / f"in/{number}.png", place.samples.cat.read_bytes())
    command = place.start(
        *("live", "--model", str(place.samples.tiny), *BASE, "--source", "in", "--out", "out/"),
    )
    while not (place.folder / "out").exists() and not command.ended():
        command.pause()
    (place.folder / "in/2.png").unlink(missing_ok=True)
    place.judge(command.wait(), Right((FINE, ERROR, LOST)), {})
