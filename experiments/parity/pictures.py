"""Hash the pictures and the bench report of an `sdxs` command, and compare them with earlier ones.

`python -m sdxs.experiments pictures --json NEW.json [--against OLD.json] [--sdxs PATH]` renders the
demo clip in six settings on `mlx` and on `coreml` with the reference runtime. It proves that a
change of the code changes no picture: on one machine, with one version of every package, all hashes
stay. Of the bench report only keys and types are compared; its figures differ from run to run.
Exits with 1 if anything differs or fails.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...common.checkpoint.find import PACKAGE_FOLDER
from ...common.errors import SdxsError, UsageError
from ...common.picture.png_text import without_text
from ...common.settings import setting
from .. import record
from ..options import Options, option, result_file

NAME = "pictures"
CLIP = PACKAGE_FOLDER / "docs" / "demo" / "clip.mp4"
_DEMO = ("--model", "demo")
_SKETCH = ("--model", "demo-sketch", "--control", "sketch")
SETTINGS: dict[str, tuple[str, ...]] = {
    "demo, plain": (*_DEMO, "--prompt", "an oil painting"),
    "demo, feedback and smoothing": (
        *(*_DEMO, "--prompt", "pop art"),
        *("--feedback", "0.4", "--ema", "0.5"),
    ),
    "demo, blend of prompts, camera mixed in": (
        *(*_DEMO, "--prompt", "(oil painting:1.3) and (neon:0.7)"),
        *("--blend", "0.3"),
    ),
    "demo, two prompts, gliding": (
        *(*_DEMO, "--prompt", "a pencil sketch", "--prompt", "pop art"),
        *("--hold", "2", "--transition", "100ms", "--side-by-side"),
    ),
    "demo-sketch, canny, seed 3": (
        *(*_SKETCH, "--prompt", "ukiyo-e woodblock print"),
        *("--edges", "canny", "--seed", "3"),
    ),
    "demo-sketch, soft, scale 0.6, seed 7": (
        *(*_SKETCH, "--prompt", "dark fantasy"),
        *("--control-scale", "0.6", "--seed", "7"),
    ),
}
BACKENDS: dict[str, tuple[str, ...]] = {
    "mlx": ("--backend", "mlx"),
    "coreml": ("--backend", "coreml", "--coreml-runtime", "reference"),
}
BENCH = ("bench", "--quick", *_DEMO, "--backend", "mlx", "--backend", "identity")
Shape = str | list["Shape"] | dict[str, "Shape"]  # of a JSON document: keys and types


@dataclass(frozen=True, slots=True)
class PicturesOptions(Options):
    """Which command, and what it is compared with."""

    sdxs: Path = option(
        Path(sys.executable).with_name("sdxs"),
        "the command that renders",
        shown="this environment's",
        metavar="PATH",
    )
    frames: int = setting(4, "pictures of each setting", minimum=1)
    size: int = setting(64, "side of a picture", minimum=64, unit="pixels")
    json: Path | None = result_file()
    against: Path | None = option(
        None, "compare with the hashes in this file of an earlier run", metavar="FILE", use="read"
    )


class CommandError(SdxsError):
    """The command under test failed."""


def run(options: PicturesOptions) -> int:
    """Render, write, compare; return 1 if something differs or fails."""
    before = _read(options.against) if options.against else None
    with tempfile.TemporaryDirectory() as folder:
        pictures, failures = render(options, Path(folder))
        shape: Shape = {}
        try:
            shape = bench_shape(options, Path(folder))
        except CommandError as error:
            failures["bench report"] = str(error)
    found = {"pictures": pictures, "bench_shape": shape}
    if options.json:
        record.write(options.json, {**found, "failures": failures}, options)
    for name, message in failures.items():
        print(f"FAILED {name}: {message}")
    changes = list(differences(before, found)) if before else []
    for change in changes:
        print(f"DIFFERS {change}")
    if before and not changes:
        print("no difference")
    return 1 if failures or changes else 0


def render(options: PicturesOptions, folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Render every setting on every backend.

    Returns (sha256 of each picture by 'backend: setting', message of each failure by the same).
    """
    found: dict[str, list[str]] = {}
    failures: dict[str, str] = {}
    given = ("live", "--headless", "--source", str(CLIP))
    measured = ("--size", str(options.size), "--frames", str(options.frames))
    for backend, chosen in BACKENDS.items():
        for setting_name, arguments in SETTINGS.items():
            name = f"{backend}: {setting_name}"
            out = folder / f"pictures-{len(found) + len(failures)}"
            try:
                _command(options, folder, *given, *measured, "--out", str(out), *arguments, *chosen)
            except CommandError as error:
                failures[name] = str(error)
                continue
            found[name] = [_sha256(path) for path in sorted(out.iterdir())]
            print(f"{name}: {len(found[name])} pictures", flush=True)
    return found, failures


def bench_shape(options: PicturesOptions, folder: Path) -> Shape:
    """Run a quick bench and return keys and types of its report. Raises CommandError."""
    report = folder / "bench.json"
    _command(options, folder, *BENCH, "--size", str(options.size), "--json", str(report))
    print("bench report: written", flush=True)
    return shape_of(json.loads(report.read_text(encoding="utf-8")))


def shape_of(value: object) -> Shape:
    """Replace every value of a JSON document by its type; a list by the shape of its first item."""
    if isinstance(value, dict):
        return {key: shape_of(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"  # a round float is written without its point
    return type(value).__name__


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """Name every picture and every place of the bench report that differs, appeared or is gone."""
    for part in ("pictures", "bench_shape"):
        old, new = dict(_leaves(before[part], part)), dict(_leaves(now[part], part))
        for place in sorted(old.keys() | new.keys()):
            if old.get(place) != new.get(place):
                yield f"{place}: {_short(old.get(place))}, now {_short(new.get(place))}"


def _leaves(value: object, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{place} / {key}")
    elif isinstance(value, list) and value:
        for number, each in enumerate(value):
            yield from _leaves(each, f"{place} [{number}]")
    else:
        yield place, str(value)


def _short(value: str | None) -> str:
    return "absent" if value is None else value[:12]


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--against {path}: cannot be read ({error})") from None
    if not isinstance(content, dict) or not {"pictures", "bench_shape"} <= content.keys():
        raise UsageError(f"--against {path}: expected a file that `{NAME}` wrote")
    return content


def _command(options: PicturesOptions, folder: Path, *arguments: str) -> None:
    """Run the command with weights folder and caches of its own. Raises CommandError."""
    # These variables choose other kernels, and with them other roundings.
    kept = {name: v for name, v in os.environ.items() if not name.startswith("OPENBLAS_")}
    own = {"SDXS_WEIGHTS": folder / "weights", "XDG_CACHE_HOME": folder / "cache"}
    for each in own.values():
        each.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            [str(options.sdxs), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=kept | {name: str(each) for name, each in own.items()},
        )
    except OSError as error:
        raise UsageError(f"--sdxs {options.sdxs}: cannot be run ({error.strerror})") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise CommandError(f"exit code {done.returncode}; {lines[-1] if lines else 'no message'}")


def _sha256(path: Path) -> str:
    # the record inside holds versions, which are not the picture
    return hashlib.sha256(without_text(path.read_bytes())).hexdigest()
