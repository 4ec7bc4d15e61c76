"""Check that Core ML runs here; imports no coremltools, which would take seconds."""

import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path

from ..common.doctor import Check
from .prepare import (
    BEST_MACOS,
    COREMLTOOLS_REMEDY,
    LEAST_MACOS,
    SUPPORTED_COREMLTOOLS,
    is_supported,
)


def checks() -> list[Check]:
    """Return one check, named coreml."""
    try:
        version = metadata.version("coremltools")
    except metadata.PackageNotFoundError:
        return [Check("coreml", False, "coremltools is not installed", COREMLTOOLS_REMEDY)]
    tools = f"coremltools {version}"
    if not is_supported(version):
        return [
            Check(
                "coreml", False, f"{tools}, expected {SUPPORTED_COREMLTOOLS}.x", COREMLTOOLS_REMEDY
            )
        ]
    if sys.platform != "darwin":
        finding = f"{tools} can build models here, but Core ML runs on macOS only"
        return [Check("coreml", False, finding, "use --backend mlx, or a Mac")]
    system = platform.mac_ver()[0]
    if _major(system) < LEAST_MACOS:
        return [
            Check(
                "coreml",
                False,
                f"{tools}, macOS {system}",
                f"update to macOS {BEST_MACOS}; use --backend mlx",
            )
        ]
    if not _has_runtime():
        remedy = (
            "reinstall it with a Python from 3.11 to 3.13: pip install --force-reinstall "
            "coremltools"
        )
        return [Check("coreml", False, f"{tools} lacks its runtime (libcoremlpython)", remedy)]
    if _major(system) < BEST_MACOS:
        remedy = f"macOS {BEST_MACOS} brings faster attention"
        return [Check("coreml", None, f"{tools}, macOS {system}", remedy)]
    return [Check("coreml", True, f"{tools}, macOS {system}")]


def _major(version: str) -> int:
    return int(version.split(".")[0] or 0)


def _has_runtime() -> bool:
    spec = importlib.util.find_spec("coremltools")
    return (
        spec is not None
        and spec.origin is not None
        and any(Path(spec.origin).parent.glob("libcoremlpython*"))
    )
