"""Check that Core ML runs here; imports no coremltools, which would take seconds."""

import importlib.util
import sys
from importlib import metadata
from pathlib import Path

from ..common.doctor import Check
from ..common.system import macos_major, macos_version
from . import objc_values, system_cache
from .prepare import (
    BEST_MACOS,
    COREMLTOOLS_REMEDY,
    LEAST_MACOS,
    SUPPORTED_COREMLTOOLS,
    is_supported,
)

LARGE_CACHE_GB = 20.0


def checks() -> list[Check]:
    """Return a check named coreml and, on macOS, one of PyObjC and one of Core ML's cache."""
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
    system, major = macos_version(), macos_major() or 0
    if major < LEAST_MACOS:
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
    finding = f"{tools}, macOS {system}"
    if major < BEST_MACOS:
        remedy = f"macOS {BEST_MACOS} brings faster attention"
        return [Check("coreml", None, finding, remedy), pyobjc(), *caches()]
    return [Check("coreml", True, finding), pyobjc(), *caches()]


def pyobjc() -> Check:
    """Tell whether `--coreml-runtime pyobjc` can be used; nobody needs it."""
    lacking = objc_values.missing(images=True)
    if lacking:
        finding = f"{' and '.join(lacking)} missing: --coreml-runtime pyobjc is not available"
        return Check("coreml pyobjc", None, finding, objc_values.remedy(lacking))
    version = metadata.version(objc_values.PACKAGES["CoreML"])
    return Check("coreml pyobjc", True, f"{version}: --coreml-runtime pyobjc is available")


def caches() -> list[Check]:
    """Tell the size of Core ML's own cache of prepared programs, of every program of this user."""
    sizes = system_cache.sizes()
    if not sizes:
        return []
    size_gb = sum(sizes.values()) / 1e9
    largest = ", ".join(map(str, list(sizes)[:3]))
    finding = f"{size_gb:.1f} GB of prepared programs, of other apps, too; the largest: {largest}"
    if size_gb < LARGE_CACHE_GB:
        return [Check("coreml cache", True, finding)]
    remedy = (
        "delete such a folder to free it; the next start of each of its programs takes minutes "
        "again, in other apps, too"
    )
    return [Check("coreml cache", None, finding, remedy)]


def _has_runtime() -> bool:
    spec = importlib.util.find_spec("coremltools")
    return (
        spec is not None
        and spec.origin is not None
        and any(Path(spec.origin).parent.glob("libcoremlpython*"))
    )
