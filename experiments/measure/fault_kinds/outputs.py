"""Faults of what is written: files that are there, places that cannot be, limits, full disks."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from .checkpoints import EITHER, REFUSED
from .damage import write
from .fault import ERROR, FINE, USAGE, Case, Right, kind
from .media import BASE, live
from .place import How, Place

SUFFIXES = ("mp4", "mkv", "mov", "webm", "png", "jpg", "gif", "avi")
FILMS = ("mp4", "mkv", "mov")
# Less than this is no room for the pictures that a film's process shares.
FILM_BYTES = (150_000, 300_000)


@kind("outputs over earlier files")
def earlier(draw: Random) -> Iterator[Case]:
    """An earlier good file stays where a new one cannot be written whole."""
    for suffix in FILMS:
        limit = draw.randrange(500, 6_000) if suffix == "mkv" else draw.randrange(*FILM_BYTES)
        yield (
            f"a film over an earlier .{suffix}, files of at most {limit:,} bytes",
            partial(_film_over, suffix=suffix, limit=limit),
        )
    for limit in draw.sample(range(20, 5_000), 2):
        what = f"a picture over an earlier one, files of at most {limit:,} bytes"
        yield what, partial(_picture_over, limit=limit)
    for option, name in (("--stats", "a.json"), ("--contact-sheet", "a.jpg")):
        limit = draw.randrange(10, 300)
        yield (
            f"{option} over an earlier file, files of at most {limit} bytes",
            partial(_beside_over, option=option, name=name, limit=limit),
        )
    yield "a picture that is there, without --force", _unforced
    yield "bench --json over an earlier file, files of at most 900 bytes", _bench_over
    yield "frames into a folder that holds some", _folder_over


def _good(place: Place, suffix: str) -> str:
    """Write an earlier good output; return its name."""
    source = place.samples.film if suffix in FILMS else place.samples.cat
    shutil.copyfile(source, place.folder / f"a.{suffix}")
    return f"a.{suffix}"


def _film_over(place: Place, suffix: str, limit: int) -> None:
    name = _good(place, suffix)
    given = ("--source", "synthetic", "--frames", "3000", "--out", name)
    how = How(lacks={"limits": {"FSIZE": limit}})
    live(place, *given, right=Right((ERROR,), whole=(name,)), how=how)


def _picture(place: Place, *more: str, right: Right, how: How | None = None) -> None:
    place.sdxs(
        *("image", "--model", str(place.samples.tiny), "--backend", "mlx", "--prompt", "x"),
        *("--input", str(place.samples.cat), *more),
        right=right,
        how=how,
    )


def _picture_over(place: Place, limit: int) -> None:
    name = _good(place, "png")
    how = How(lacks={"limits": {"FSIZE": limit}})
    given = ("--out", name, "--force")
    _picture(place, *given, right=Right(EITHER, says=name, whole=(name,)), how=how)


def _beside_over(place: Place, option: str, name: str, limit: int) -> None:
    write(place.folder / name, "{}" if name.endswith("json") else place.samples.cat.read_bytes())
    given = ("--source", "synthetic", "--frames", "2", option, name)
    how = How(lacks={"limits": {"FSIZE": limit}})
    live(place, *given, right=Right((ERROR,), says=name, kept=(name,)), how=how)


def _unforced(place: Place) -> None:
    name = _good(place, "png")
    _picture(place, "--out", name, right=Right((USAGE,), says="--force", kept=(name,)))


def _bench_over(place: Place) -> None:
    write(place.folder / "a.json", "{}")
    place.sdxs(
        *("bench", "--quick", "--rounds", "1", "--model", str(place.samples.tiny), "--size", "64"),
        *("--backend", "identity", "--json", "a.json"),
        right=Right(says="a.json", kept=("a.json",)),
        how=How(lacks={"limits": {"FSIZE": 900}}),
    )


def _folder_over(place: Place) -> None:
    write(place.folder / "out/frame-000001.png", place.samples.cat.read_bytes())
    given = ("--source", "synthetic", "--frames", "2", "--out", "out/")
    kept = ("out/frame-000001.png",)
    live(place, *given, right=Right(REFUSED, says="out", kept=kept))


@kind("outputs in places that cannot be")
def places(draw: Random) -> Iterator[Case]:
    """Folders that are missing, shut, files or links; devices; a folder in the file's place."""
    for suffix in draw.sample(SUFFIXES, 4):
        yield f"a folder called a.{suffix}", partial(_into_folder, suffix=suffix)
    for suffix in draw.sample(SUFFIXES, 3):
        given = ("absent", f"absent/a.{suffix}")
        yield f"a .{suffix} in a folder that is missing", partial(_missing, name=given[1])
    for suffix in draw.sample(SUFFIXES, 3):
        yield f"a .{suffix} in a folder that is shut", partial(_shut, suffix=suffix)
    for suffix in draw.sample(SUFFIXES, 2):
        yield f"a .{suffix} in a folder that is a file", partial(_file_as_folder, suffix=suffix)
    for suffix in draw.sample(SUFFIXES, 2):
        yield f"a .{suffix} that is a link to nowhere", partial(_link, suffix=suffix, to="absent/b")
        yield f"a .{suffix} that is a link to itself", partial(_link, suffix=suffix, to="")
    for name in ("/dev/full", "film:/dev/full", "/dev/null", "/proc/a.mp4", "image:/dev/stdout"):
        yield f"--out {name}", partial(_device, name=name)
    for command in ("image", "live"):
        yield f"{command}: over its own source", partial(_over_source, command=command)
    yield "live: one file twice", _twice


def _session(place: Place, name: str, right: Right, how: How | None = None) -> None:
    given = ("--source", "synthetic", "--frames", "4", "--out", name)
    live(place, *given, right=right, how=how)


def _into_folder(place: Place, suffix: str) -> None:
    write(place.folder / f"a.{suffix}/precious.txt", "precious")
    kept = (f"a.{suffix}/precious.txt",)
    # A folder that is there may be meant for frames, whatever its name.
    _session(place, f"a.{suffix}", Right(EITHER, says=f"a.{suffix}", kept=kept))


def _missing(place: Place, name: str) -> None:
    _session(place, name, Right(REFUSED, says="absent"))


def _shut(place: Place, suffix: str) -> None:
    folder = place.folder / "shut"
    folder.mkdir()
    folder.chmod(0o555)
    how = How(lacks={"mortal": True})
    _session(place, f"shut/a.{suffix}", Right(REFUSED, says="shut"), how)
    folder.chmod(0o755)


def _file_as_folder(place: Place, suffix: str) -> None:
    write(place.folder / "file", "precious")
    _session(place, f"file/a.{suffix}", Right(REFUSED, says="file", kept=("file",)))


def _link(place: Place, suffix: str, to: str) -> None:
    path = place.folder / f"a.{suffix}"
    path.symlink_to(to or path.name)
    _session(place, path.name, Right(EITHER))


def _device(place: Place, name: str) -> None:
    _session(place, name, Right(EITHER))
    place.demand(
        all(Path(each).is_char_device() for each in ("/dev/full", "/dev/null")), "a device is gone"
    )


def _over_source(place: Place, command: str) -> None:
    shutil.copyfile(place.samples.cat, place.folder / "cat.png")
    right = Right((USAGE,), says="cat.png", kept=("cat.png",))
    if command == "live":
        live(place, "--source", "cat.png", "--out", "./cat.png", right=right)
    else:
        given = ("--model", str(place.samples.tiny), "--prompt", "x", "--force")
        place.sdxs("image", *given, "--input", "cat.png", "--out", "./cat.png", right=right)


def _twice(place: Place) -> None:
    given = ("--source", "synthetic", "--frames", "4", "--out", "a.mp4", "--out", "./a.mp4")
    live(place, *given, right=Right((USAGE,), says="a.mp4"))


@kind("disks that are full")
def full(draw: Random) -> Iterator[Case]:
    """Limits of a file's size under way, a small disk, a folder that vanishes: code 1, and said."""
    for suffix in draw.sample(("mp4", "mkv", "mov", "webm", "avi"), 4):
        limit = draw.randrange(*FILM_BYTES)
        what = f"a .{suffix}, files of at most {limit:,} bytes"
        yield what, partial(_limited, name=f"a.{suffix}", limit=limit)
    limit = draw.randrange(200, 3_000)
    yield f"frames, files of at most {limit:,} bytes", partial(_limited, name="out/", limit=limit)
    for name in ("a.mp4", "out/"):
        yield f"{name} on a disk of 100 KB", partial(_small_disk, name=name)
    for name in ("a.mp4", "out/"):
        yield f"the folder of {name} vanishes", partial(_vanishes, name=name)
    yield "a Core ML program, files of at most 100 KB", _program


def _limited(place: Place, name: str, limit: int) -> None:
    given = ("--source", "synthetic", "--frames", "3000" if "." in name else "200", "--out", name)
    how = How(lacks={"limits": {"FSIZE": limit}})
    live(place, *given, right=Right((FINE, ERROR), whole=(name.rstrip("/"),)), how=how)


def _small_disk(place: Place, name: str) -> None:
    disk = place.folder / "disk"
    disk.mkdir()
    mounted = _mounted(disk)
    how = None if mounted else How(lacks={"limits": {"FSIZE": 100_000 if "." in name else 800}})
    try:
        given = ("--source", "synthetic", "--frames", "2000", "--out", f"disk/{name}")
        whole = (f"disk/{name}".rstrip("/"),)
        live(place, *given, right=Right((FINE, ERROR), whole=whole), how=how)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)


def _mounted(disk: Path) -> bool:
    """Mount a disk of 100 KB, if this user may."""
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _vanishes(place: Place, name: str) -> None:
    gone = place.folder / "gone"
    gone.mkdir()
    command = place.start(
        *("live", "--model", str(place.samples.tiny), *BASE, "--source", "synthetic"),
        *("--frames", "3000", "--out", f"gone/{name}"),
    )
    while not any(gone.iterdir()) and not command.ended():
        command.pause()
    shutil.rmtree(gone, ignore_errors=True)
    place.judge(command.wait(), Right((FINE, ERROR)), {})


def _program(place: Place) -> None:
    place.checkpoint()
    place.sdxs(
        *("convert", "--model", "tiny", "--size", "64"),
        right=Right(seconds=90),
        how=How(lacks={"limits": {"FSIZE": 100_000}}, limit_s=90),
    )
    left = list((place.base / "weights").rglob("frame.mlpackage"))
    place.demand(not left, "half a program lies in the place of a whole one")
