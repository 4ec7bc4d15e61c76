"""Check that Core ML runs here; build, check and compile its programs before the first frame."""

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING

from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError
from . import cache
from .options import CoreMLOptions
from .runner import Progress, open_runner, require_pillow

if TYPE_CHECKING:
    from .gate import Reference  # imports OpenCV, which must follow MLX

# 9.0 is the first version whose models run on the GPU of macOS 27.2 (MochiDiffusion#521). sdxs uses
# private parts of coremltools, so check them before allowing another major version.
SUPPORTED_COREMLTOOLS = 9
LEAST_MACOS = 14
BEST_MACOS = 15  # scaled_dot_product_attention, several functions in a package
COREMLTOOLS_REMEDY = (
    f"pip install 'coremltools>={SUPPORTED_COREMLTOOLS},<{SUPPORTED_COREMLTOOLS + 1}'"
)


def refuse_without_runtime(options: CoreMLOptions) -> None:
    """Raise UsageError if Core ML cannot run here or coremltools is missing."""
    if options.runtime == "coreml" and sys.platform != "darwin":
        raise UsageError(
            "--backend coreml: Core ML needs macOS; use --backend mlx, or --coreml-runtime "
            "reference, a slow interpreter that computes the same pictures"
        )
    coremltools_version()
    _refuse_old_system(options)
    if options.runtime == "coreml" and options.input == "image":
        require_pillow()


def _refuse_old_system(options: CoreMLOptions) -> None:
    """Raise UsageError if this macOS is too old for these options."""
    system = platform.mac_ver()[0].partition(".")[0]
    if options.runtime != "coreml" or not system.isdecimal():
        return
    needs = [
        (LEAST_MACOS, "Core ML as sdxs uses it", "--backend mlx"),
        (BEST_MACOS, "--attention sdpa", "--attention matmul"),
        (BEST_MACOS, "--sizes", "one --size"),
    ]
    asked = (True, options.attention == "sdpa", bool(options.sizes))
    for (least, what, instead), wanted in zip(needs, asked, strict=True):
        if wanted and int(system) < least:
            raise UsageError(
                f"{what} needs macOS {least}, this is {platform.mac_ver()[0]}; use {instead}"
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
        errors = _build(checkpoint, options, partial, report)
        seconds = time.perf_counter() - began
        gate_db = check_sizes(checkpoint, options, partial, reference, report) if reference else {}
        return cache.Findings(seconds, gate_db, errors)

    key = cache.key(checkpoint, identity, library)
    built = cache.find_or_build(checkpoint.name, identity, key, make, force)
    if (
        reference is not None
        and not {gate_key(options, size) for size in _sizes(options)} <= built.record.gate_db.keys()
    ):
        # built without a reference, or gated on other compute units
        cache.add_gate(built, check_sizes(checkpoint, options, built, reference, report))
    return built


def gate_key(options: CoreMLOptions, size: int) -> str:
    """Name a gate by size and compute units, because units differ in their results."""
    where = "+".join(dict.fromkeys(options.units(stage) for stage in options.stages))
    return f"{size} by {where if options.runtime == 'coreml' else 'the interpreter'}"


def _sizes(options: CoreMLOptions) -> tuple[int, ...]:
    return options.sizes or (options.size,)


def check_sizes(
    checkpoint: Checkpoint,
    options: CoreMLOptions,
    built: cache.Built,
    reference: "Reference",
    report: Progress,
) -> dict[str, float]:
    """Gate every size of a package; return PSNR in dB by `gate_key`. Raises BackendError."""
    from .gate import PROBE_SEED, check

    gate_db = {}
    seed = PROBE_SEED if options.noise_seed is None else options.noise_seed
    for size in _sizes(options):
        report(f"check at {size} x {size} against the reference", 1.0)
        sized = replace(options, size=size)
        runners = [open_runner(built, stage, checkpoint, sized, report) for stage in options.stages]
        gate_db[gate_key(options, size)] = round(
            check(checkpoint, size, runners, reference, cache.cache_folder(), seed), 1
        )
    return gate_db


def warm_up(
    checkpoint: Checkpoint, options: CoreMLOptions, built: cache.Built, progress: Progress
) -> None:
    """Compile and load every program on Core ML before a session, with progress.

    Core ML caches its preparation for the Neural Engine, which takes 20 to 40 s. Does nothing after
    the first time, or on the reference interpreter.
    """
    for stage in options.stages:
        met = built.compiled(stage).exists() and built.met(stage, options.units(stage)).exists()
        if options.runtime == "coreml" and not met:
            open_runner(built, stage, checkpoint, options, progress)


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
            build_sizes(checkpoint, variant, list(options.sizes), path, share)
        else:
            build(checkpoint, variant, path, share)
        errors.append(float(read_metadata(path).get("weights_relative_error", 0)))
    return max(errors)


def _share(
    report: Progress, start: float, share: float, stage: str
) -> Callable[[str, float], None]:
    return lambda step, done: report(f"{step} {stage}", start + share * done)
