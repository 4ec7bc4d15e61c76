"""Facts about the machine of a check; what a system does not tell is left out."""

import platform
import re
import time
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata

from ..common.bench.measure.heat import thermal_state
from ..common.bench.measure.machine import conditions, machine
from ..common.files import home_folder
from ..common.system import asked, macos_build, macos_version
from ..coreml_backend import system_cache

CRASH_REPORTS = home_folder() / "Library" / "Logs" / "DiagnosticReports"


def environment() -> dict[str, object]:
    """Return the machine, and the version of every package by its name."""
    here = machine()
    facts = asdict(here)
    del facts["versions"]
    return facts | here.versions


def system() -> dict[str, object]:
    """Return the system's version and build, Python's idea of it, and the kind of MLX's wheel.

    A Python linked against an older SDK reports 16 on macOS 26 (cpython gh-135675), and pip then
    chooses another wheel.
    """
    found: dict[str, object] = {
        "macos": macos_version(),
        "build": macos_build(),
        "python_mac_ver": platform.mac_ver()[0],
        "python_machine": platform.machine(),
        "python_compiler": platform.python_compiler(),
        "wheels": {name: wheel_tag(name) for name in ("mlx", "mlx-metal", "coremltools", "numpy")},
        "gpu": _gpu(),
        "memory_bytes_by_sysctl": asked("sysctl", "-n", "hw.memsize"),
        "model": asked("sysctl", "-n", "hw.model"),
    }
    return {name: value for name, value in found.items() if value}


def core_ml_cache_bytes() -> int:
    """Return the bytes of Core ML's own cache, of every program of this user; 0 without one."""
    return sum(system_cache.sizes().values())


def power() -> dict[str, str]:
    """Return load, power source and thermal state, as they are now."""
    return conditions() | {"thermal state": thermal_state()}


def wheel_tag(package: str) -> str:
    """Return the tag of an installed wheel, as 'cp311-cp311-macosx_15_0_arm64'; '' if unknown."""
    with suppress(metadata.PackageNotFoundError):
        text = metadata.distribution(package).read_text("WHEEL") or ""
        return " ".join(re.findall(r"^Tag:\s*(\S+)", text, re.MULTILINE))
    return ""


def _gpu() -> str:
    """Return the lines of system_profiler on chip, cores and Metal."""
    lines = asked("system_profiler", "SPDisplaysDataType").splitlines()
    telling = ("Chipset Model", "Total Number of Cores", "Metal")
    return ", ".join(line.strip() for line in lines if line.strip().startswith(telling))


def crash_reports(since: float) -> list[str]:
    """Return the names of the crash reports that macOS wrote for Python after a time.time()."""
    with suppress(OSError):
        return sorted(
            path.name
            for path in CRASH_REPORTS.glob("[Pp]ython*.ips")
            if path.stat().st_mtime >= since
        )
    return []


def now() -> str:
    """Return the local time with its offset, as '2026-01-31T12:00:00+0100'."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
