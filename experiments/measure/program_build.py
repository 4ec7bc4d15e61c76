"""Measure what building a program costs: for Core ML and for Core AI, from the same weights.

`python -m sdxs.experiments program-build [--json PATH]` (extra `[coreai]`) writes a checkpoint with
random weights in its real layout, then builds the whole frame in both formats, each in a process of
its own, taken in turns. Wall time is the whole process, peak memory the process's resident maximum
as the kernel counts it (files mapped into memory included). "Core AI" writes the asset that a Mac
opens; "Core AI, compiled" also makes what the package's own runtime opens, on Linux only.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.settings import setting
from .. import record
from ..options import Options, result_file
from .coreml_build import Figures, measure, medians, write_apart

ATTENTION = "split_einsum"  # a form that both formats have on every system


def build_coreml(folder: Path, size: int, package: Path) -> Figures:
    """Child: write the .mlpackage."""
    from ...common.checkpoint.find import open_checkpoint
    from ...common.picture.size import FrameSize
    from ...coreml_backend.options import Variant
    from ...coreml_backend.program import build

    began = time.perf_counter()
    build(open_checkpoint(folder), Variant(FrameSize.of(size), ATTENTION), package)
    return {"build_s": time.perf_counter() - began}


def build_coreai(folder: Path, size: int, package: Path) -> Figures:
    """Child: write the .aimodel."""
    from ...common.checkpoint.find import open_checkpoint
    from ...common.picture.size import FrameSize
    from ...coreai_backend.options import Variant
    from ...coreai_backend.program import build

    began = time.perf_counter()
    variant = Variant((FrameSize.of(size),), ATTENTION)
    build(open_checkpoint(folder), variant, package, lambda step, done: None)
    return {"build_s": time.perf_counter() - began}


def build_compiled(folder: Path, size: int, package: Path) -> Figures:
    """Child: write the .aimodel, and the .aimodelx that the package's runtime opens."""
    from ...coreai_backend.private import compile_for_linux

    source = package.with_suffix(".aimodel")
    found = build_coreai(folder, size, source)
    began = time.perf_counter()
    package.mkdir()
    compile_for_linux(source, package)
    return found | {"compile_s": time.perf_counter() - began}


CHILDREN = {
    "Core ML": (build_coreml, "mlpackage"),
    "Core AI": (build_coreai, "aimodel"),
    "Core AI, compiled": (build_compiled, "aimodelx"),
}


@dataclass(frozen=True, slots=True)
class ProgramBuildOptions(Options):
    """Which network, and how often."""

    model: str = setting("sdxs-512-0.9", "an architecture that random weights are written for")
    size: int = setting(512, "side of the picture", minimum=64, unit="pixels")
    rounds: int = setting(3, "times that each format is built, in turns", minimum=1)
    json: Path | None = result_file()


def compare(options: ProgramBuildOptions, say: Callable[[str], None]) -> list[Figures]:
    """Build every format `options.rounds` times in turns; return each build's figures."""
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        folder = write_apart(base / "model", options.model)
        for number in range(options.rounds):
            for route, (_, suffix) in CHILDREN.items():
                package = base / f"{number}.{suffix}"
                runs.append(measure(route, folder, options.size, package, __name__))
                say(json.dumps(runs[-1]))
    return runs


def run(options: ProgramBuildOptions) -> int:
    """Build by every route, in turns; return 1 if one failed."""
    runs = compare(options, print)
    found = {route: medians(runs, route) for route in CHILDREN}
    for route, figures in found.items():
        print(route, {key: round(value, 1) for key, value in figures.items()})
    if options.json:
        weights = "random, float32, real layout"
        record.write(options.json, {"weights": weights, "runs": runs, "medians": found}, options)
    return int(any(each["exit_code"] for each in runs))


if __name__ == "__main__":  # the measured process: ROUTE FOLDER SIZE PACKAGE
    route, folder, size, package = sys.argv[1:]
    print(json.dumps(CHILDREN[route][0](Path(folder), int(size), Path(package))))
