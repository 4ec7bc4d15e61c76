"""The machine of a run: hardware, versions, and its conditions meanwhile."""

import os
import platform
import re
import shutil
import sys
from pathlib import Path

from ...backend.spec import PEERS, BackendSpec, specs, versions_of
from ...checkpoint.find import PACKAGE_FOLDER
from ...system import asked
from ..model.report import Machine

TELLING = ("OPENBLAS_", "OMP_", "MKL_", "VECLIB_")  # environment that changes speed


def machine() -> Machine:
    """Look at this machine; what it does not tell is left empty."""
    telling = TELLING + tuple(start for spec in _everybody() for start in spec.environment)
    return Machine(
        system=platform.platform(terse=True),
        chip=_chip(),
        accelerator=_accelerator(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=platform.python_version(),
        versions=versions(),
        environment={
            name: _shareable(value)
            for name, value in sorted(os.environ.items())
            if name.startswith(telling)
        },
        git=git_revision(),
    )


def _shareable(value: str) -> str:
    """The value of a variable, unless it is a folder of somebody's: reports are passed on."""
    return "a path" if value.startswith(("/", "~")) else value


def versions() -> dict[str, str]:
    """Installed versions of everything that a figure depends on."""
    return versions_of(_everybody())


def _everybody() -> list[BackendSpec]:
    return [*specs().values(), *specs(PEERS).values()]


def git_revision() -> str:
    """Return the commit of this checkout, with '+changes' if it differs.

    Elsewhere $SDXS_GIT_REVISION, or ''.
    """
    if not (PACKAGE_FOLDER / ".git").exists():
        return os.environ.get("SDXS_GIT_REVISION", "")
    commit = asked("git", "-C", str(PACKAGE_FOLDER), "rev-parse", "--short=12", "HEAD")
    changed = asked(
        # it may be stopped at any time, and would leave its lock
        *("git", "--no-optional-locks", "-C", str(PACKAGE_FOLDER), "status"),
        "--porcelain",
        "--untracked-files=no",
    )
    return f"{commit}{'+changes' if changed else ''}"


def conditions() -> dict[str, str]:
    """Return the system's load, power and heat.

    Keys: load, power, thermal, governor, gpu; absent if the system is silent.
    """
    found = {"load": " ".join(f"{load:.2f}" for load in os.getloadavg())}
    if sys.platform == "darwin":
        found["power"] = _first_match(asked("pmset", "-g", "batt"), r"drawing from '([^']+)'")
        found["thermal"] = " ".join(asked("pmset", "-g", "therm").split())
        found["low power mode"] = _first_match(asked("pmset", "-g"), r"lowpowermode\s+(\d)")
    else:
        found["power"] = _linux_power(Path("/sys/class/power_supply"))
        found["thermal"] = _linux_thermal(Path("/sys/class/thermal"))
        found["governor"] = _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
    if shutil.which("nvidia-smi"):
        what = "temperature.gpu,clocks.sm,clocks.mem,clocks_event_reasons.active,utilization.gpu"
        found["gpu"] = asked("nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader")
    return {name: value for name, value in found.items() if value}


def _chip() -> str:
    if sys.platform == "darwin":
        return asked("sysctl", "-n", "machdep.cpu.brand_string")
    return (
        _first_match(_text(Path("/proc/cpuinfo")), r"model name\s*:\s*(.+)") or platform.processor()
    )


def _accelerator() -> str:
    if sys.platform == "darwin":
        cores = _first_match(
            asked("ioreg", "-rc", "AGXAccelerator"), r'"gpu-core-count"\s*=\s*(\d+)'
        )
        return f"{cores} GPU cores" if cores else ""
    if shutil.which("nvidia-smi"):
        return asked(
            "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
        )
    return ""


def _linux_power(folder: Path) -> str:
    """'mains' or 'battery' where a power supply says so."""
    kinds = [(_text(p / "type"), _text(p / "online")) for p in sorted(folder.glob("*"))]
    mains = [online for kind, online in kinds if kind == "Mains"]
    if not mains:
        return "battery" if any(kind == "Battery" for kind, _ in kinds) else ""
    return "mains" if "1" in mains else "battery"


def _linux_thermal(folder: Path) -> str:
    """The hottest zone in degrees Celsius."""
    degrees = [
        int(text) / 1000
        for p in folder.glob("thermal_zone*/temp")
        if (text := _text(p)).lstrip("-").isdigit()
    ]
    return f"{max(degrees):.0f} C" if degrees else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _first_match(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[1].strip() if found else ""
