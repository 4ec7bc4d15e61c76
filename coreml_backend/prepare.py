"""Check that Core ML runs here; build, check and compile its programs before the first frame.

Core ML ends a process rather than a call, and holds the GIL for minutes while it prepares a
program. So everything that loads one runs in a child process (`apart.py`): the command survives,
shows progress and ends on Ctrl-C.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, cast

import numpy as np

from ..common.backend.process.apart import run_apart
from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError
from ..common.picture.size import FrameSize
from ..common.system import macos_major, macos_version
from . import apart, cache
from .objc_values import frameworks
from .options import CoreMLOptions
from .runner import Progress, require_pillow

if TYPE_CHECKING:
    from .compute_plan import PlanSummary
    from .gate import Reference  # imports OpenCV, which must follow MLX

# 9.0 is the first version whose models run on the GPU of macOS 27.2 (MochiDiffusion#521). sdxs uses
# private parts of coremltools, so check them before allowing another major version.
SUPPORTED_COREMLTOOLS = 9
LEAST_MACOS = 14
# Reported first loads take half a minute to nine minutes; only one that hangs takes longer.
PREPARE_TIMEOUT_S = 3600.0
BEST_MACOS = 15  # scaled_dot_product_attention, several functions in a package
COREMLTOOLS_REMEDY = (
    f"pip install 'coremltools>={SUPPORTED_COREMLTOOLS},<{SUPPORTED_COREMLTOOLS + 1}'"
)


def refuse_without_runtime(options: CoreMLOptions) -> None:
    """Raise UsageError if Core ML cannot run here or coremltools is missing."""
    if options.on_core_ml and sys.platform != "darwin":
        raise UsageError(
            "--backend coreml: Core ML needs macOS; use --backend mlx, or --coreml-runtime "
            "reference, a slow interpreter that computes the same pictures"
        )
    coremltools_version()
    _refuse_old_system(options)
    if options.runtime == "pyobjc":
        frameworks(images=options.input == "image")
    if options.runtime == "coreml" and options.input == "image":
        require_pillow()


def _refuse_old_system(options: CoreMLOptions) -> None:
    """Raise UsageError if this macOS is too old for these options."""
    system = macos_major()
    if not options.on_core_ml or system is None:
        return
    needs = [
        (LEAST_MACOS, "Core ML as sdxs uses it", "--backend mlx"),
        (BEST_MACOS, "--attention sdpa", "--attention matmul"),
        (BEST_MACOS, "--sizes", "one --size"),
    ]
    asked = (True, "sdpa" in options.forms, bool(options.sizes))
    for (least, what, instead), wanted in zip(needs, asked, strict=True):
        if wanted and system < least:
            raise UsageError(
                f"{what} needs macOS {least}, this is {macos_version()}; use {instead}"
            )


def coremltools_version() -> str:
    """Return the installed version. Raises UsageError for a missing or unsupported one."""
    try:
        found = metadata.version("coremltools")
    except metadata.PackageNotFoundError:
        raise UsageError(
            f"--backend coreml: coremltools is not installed; {COREMLTOOLS_REMEDY}"
        ) from None
    if not is_supported(found):
        raise UsageError(
            f"--backend coreml: coremltools {found} is installed, "
            f"expected {SUPPORTED_COREMLTOOLS}.x, the tested version; {COREMLTOOLS_REMEDY}"
        )
    return found


def is_supported(version: str) -> bool:
    """Tell whether sdxs supports this version of coremltools."""
    return version.partition(".")[0] == str(SUPPORTED_COREMLTOOLS)


def find_or_build(
    checkpoint: Checkpoint,
    options: CoreMLOptions,
    reference: "Reference | None" = None,
    progress: Progress | None = None,
    force: bool = False,
) -> cache.Built:
    """Return the programs for `checkpoint`, building them if needed.

    With `reference`, every returned program has passed the gate. Raises BackendError if the build
    or the gate fails; then the cache stays unchanged, and a failed gate saves two pictures.
    """
    library, identity = coremltools_version(), options.identity()
    report = progress or (lambda step, done: None)

    def make(partial: cache.Built) -> cache.Findings:
        began = time.perf_counter()
        error = _build(checkpoint, options, partial, report)
        return cache.Findings(time.perf_counter() - began, error)

    gate = None
    if reference is not None:
        judge = reference  # mypy does not narrow a parameter inside a function
        gate = cache.Gate(
            [gate_key(options, size) for size in _sizes(options)],
            lambda built: check_sizes(checkpoint, options, built, judge, report),
        )

    def waiting() -> None:
        report("wait for another process that prepares the same program", 0.0)

    key = cache.key(checkpoint, identity, library)
    return cache.find_or_build(checkpoint.name, identity, key, make, gate, force, waiting)


def gate_key(options: CoreMLOptions, size: FrameSize) -> str:
    """Name a gate by size, compute units and runtime: what differs may differ in its results."""
    where = "+".join(dict.fromkeys(options.units(stage) for stage in options.stages))
    where += " through PyObjC" * (options.runtime == "pyobjc")
    return f"{size} by {where if options.on_core_ml else 'the interpreter'}"


def _sizes(options: CoreMLOptions) -> tuple[FrameSize, ...]:
    return options.sizes or (options.size,)


def check_sizes(
    checkpoint: Checkpoint,
    options: CoreMLOptions,
    built: cache.Built,
    reference: "Reference",
    report: Progress,
) -> dict[str, float]:
    """Gate every size of a package; return PSNR in dB by `gate_key`. Raises BackendError."""
    from .gate import check

    gate_db = {}
    for size in _sizes(options):
        report(f"check at {size.words} against the reference", 1.0)
        sized = replace(options, size=size)
        rendered = cast(
            np.ndarray, _run(options, apart.render_probe, (built, checkpoint, sized), report)
        )
        gate_db[gate_key(options, size)] = round(
            check(checkpoint, rendered, reference, cache.cache_folder(), sized), 1
        )
    return gate_db


def warm_up(
    checkpoint: Checkpoint, options: CoreMLOptions, built: cache.Built, progress: Progress
) -> None:
    """Compile and load every program on Core ML before a session, with progress.

    Core ML keeps its preparation for the Neural Engine, which takes up to minutes. Does nothing
    after the first time, or on the reference interpreter.
    """
    if options.on_core_ml and not all(
        built.compiled(stage).exists()
        and built.was_loaded(stage, options.units(stage), options.function)
        for stage in options.stages
    ):
        _run(options, apart.load, (built, checkpoint, options), progress)


def plan_lines(built: cache.Built, options: CoreMLOptions) -> list[str]:
    """Return `compute_plan.describe`, asked in a process of its own. Raises BackendError."""
    return cast(list[str], _run(options, apart.plan, (built, options), lambda step, done: None))


def plan_summaries(built: cache.Built, options: CoreMLOptions) -> "list[PlanSummary]":
    """Return `compute_plan.plans`, asked in a process of its own. Raises BackendError."""
    asked = _run(options, apart.plan_summaries, (built, options), lambda step, done: None)
    return cast("list[PlanSummary]", asked)


def _run(
    options: CoreMLOptions,
    task: Callable[..., object],
    arguments: tuple[object, ...],
    report: Progress,
) -> object:
    """Call `task(*arguments, report)`: in a child process if it calls Core ML, else here."""
    if not options.on_core_ml:
        return task(*arguments, report)
    temporary = _temporary_folder()
    try:
        return run_apart(
            "coreml",
            f"{task.__module__}:{task.__qualname__}",
            *arguments,
            report=report,
            timeout_s=PREPARE_TIMEOUT_S,
            remedies=options.remedies(),
            environment={"TMPDIR": temporary},
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_folder() -> str:
    """Make a folder for a compiler, which leaves files behind when it is killed.

    It lies with the partial builds and is swept as they are; where nothing can be written there, in
    the system's own temporary folder.
    """
    try:
        return tempfile.mkdtemp(prefix=f"{cache.PARTIAL}{os.getpid()}-", dir=cache.cache_folder())
    except OSError:
        return tempfile.mkdtemp(prefix="sdxs-")


def _build(
    checkpoint: Checkpoint, options: CoreMLOptions, partial: cache.Built, report: Progress
) -> float:
    """Write one package per stage; return the largest relative error of the weights."""
    from .program import build, build_sizes, read_metadata

    errors = [0.0]
    for number, stage in enumerate(options.stages):
        variant, path = options.variant(stage), partial.package(stage)
        share = _share(report, number / len(options.stages), 1 / len(options.stages), stage)
        if options.sizes:
            build_sizes(checkpoint, variant, options.sizes, path, share)
        else:
            build(checkpoint, variant, path, share)
        errors.append(float(read_metadata(path).get("weights_relative_error", 0)))
    return max(errors)


def _share(
    report: Progress, start: float, share: float, stage: str
) -> Callable[[str, float], None]:
    return lambda step, done: report(f"{step} {stage}", start + share * done)
