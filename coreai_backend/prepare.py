"""Check that Core AI runs here; build, check and cache its programs before the first frame.

A program that Apple's runtime cannot read ends the process. So everything that opens one before a
session runs in a child process (`apart.py`).
"""

import platform
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import cast

import numpy as np

from ..common.backend import gate, program_cache
from ..common.backend.process.apart import run_apart
from ..common.backend.program_cache import Findings, Gate
from ..common.backend.programs import Progress
from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError
from ..common.system import macos_major, macos_version
from . import apart
from .cache import BUILDER_VERSION, PROGRAMS, Built
from .options import CoreAIOptions

SUPPORTED = "1.0.0b3"  # sdxs uses private parts of it: check them before allowing another
LEAST_MACOS = 26
LEAST_GLIBC = (2, 34)
REMEDY = f"pip install coreai-core=={SUPPORTED}"
# Nothing is known of first loads on macOS 27; only one that hangs takes longer.
PREPARE_TIMEOUT_S = 3600.0


def refuse_without_runtime() -> None:
    """Raise UsageError if Apple's runtime cannot run here, or its package is missing."""
    if obstacle := obstacle_here():
        raise UsageError(f"--backend coreai: {obstacle}; use --backend mlx")
    found = coreai_version()
    if not found:
        raise UsageError(f"--backend coreai: coreai-core is not installed; {REMEDY}")
    if found != SUPPORTED:
        raise UsageError(
            f"--backend coreai: coreai-core {found} is installed, expected {SUPPORTED}, the tested "
            f"version; {REMEDY}"
        )


def obstacle_here() -> str:
    """Return why no wheel of coreai-core fits this system, or ''."""
    if sys.platform == "darwin":
        if (macos_major() or LEAST_MACOS) < LEAST_MACOS:
            return f"needs macOS {LEAST_MACOS}, this is {macos_version()}"
        return "" if platform.machine() == "arm64" else "needs Apple silicon"
    library, version = platform.libc_ver()
    if sys.platform != "linux" or platform.machine() != "x86_64" or library != "glibc":
        return "Apple's package runs on macOS, and on Linux with an x86-64 processor and glibc"
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_GLIBC:
        return f"needs glibc {LEAST_GLIBC[0]}.{LEAST_GLIBC[1]}, this is {version}"
    return ""


def coreai_version() -> str:
    """Return the installed version of coreai-core, or ''."""
    try:
        return metadata.version("coreai-core")
    except metadata.PackageNotFoundError:
        return ""


def find_or_build(
    checkpoint: Checkpoint,
    options: CoreAIOptions,
    reference: gate.Reference | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Built:
    """Return the program for `checkpoint`, building it if needed.

    With `reference`, it has passed the gate at every size. Raises BackendError if the build or the
    gate fails; then the cache stays unchanged, and a failed gate saves two pictures.
    """
    report = progress or (lambda step, done: None)

    def make(partial: Path) -> Findings:
        began = time.perf_counter()
        error = cast(float, run_task(options, "build", checkpoint, options, partial, report=report))
        return Findings(time.perf_counter() - began, error)

    def check(folder: Path) -> dict[str, float]:
        found = {}
        for size in options.sizes or (options.size,):
            sized = replace(options, size=size)
            report(f"check at {size.words} against the reference", 1.0)
            rendered = cast(
                np.ndarray,
                run_task(options, "render_probe", Built(folder), checkpoint, sized, report=report),
            )
            assert reference is not None
            quality = gate.check("coreai", checkpoint, rendered, reference, PROGRAMS.folder, size)
            found[gate_key(sized)] = round(quality, 1)
        return found

    def waiting() -> None:
        report("wait for another process that prepares the same program", 0.0)

    identity = options.identity()
    keys = [gate_key(replace(options, size=size)) for size in options.sizes or (options.size,)]
    return Built(
        *PROGRAMS.find_or_build(
            checkpoint.name,
            identity,
            program_cache.key(checkpoint, identity, f"{BUILDER_VERSION} {coreai_version()}"),
            make,
            Gate(keys, check) if reference is not None else None,
            force,
            waiting,
        )
    )


def gate_key(options: CoreAIOptions) -> str:
    """Name a gate by size and compute unit, because units differ in their results."""
    return f"{options.size} by {options.used_unit}"


def run_task(options: CoreAIOptions, task: str, *arguments: object, report: Progress) -> object:
    return run_apart(
        "coreai",
        f"{apart.__name__}:{task}",
        *arguments,
        report=report,
        timeout_s=PREPARE_TIMEOUT_S,
        remedies=options.remedies(),
    )
