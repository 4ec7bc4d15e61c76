"""Check that Core AI runs here; imports none of its package."""

from ..common.doctor import Check
from .options import FRAMEWORK_MACOS, has_framework
from .prepare import REMEDY, SUPPORTED, coreai_version, obstacle_here


def checks() -> list[Check]:
    """Return a check named coreai."""
    if obstacle := obstacle_here():
        return [Check("coreai", None, obstacle, "use --backend mlx")]
    found = coreai_version()
    if not found:
        return [Check("coreai", None, "coreai-core is not installed", REMEDY)]
    if found != SUPPORTED:
        return [Check("coreai", False, f"coreai-core {found}, expected {SUPPORTED}", REMEDY)]
    if has_framework():
        return [Check("coreai", True, f"coreai-core {found}, with Core AI of this macOS")]
    finding = (
        f"coreai-core {found}, Apple's runtime on one CPU core: right, and no measure of speed"
    )
    return [Check("coreai", None, finding, f"macOS {FRAMEWORK_MACOS} has Core AI itself")]
