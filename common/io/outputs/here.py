"""Which outputs and inputs work on this machine, for `sdxs doctor`."""

import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ...errors import SdxsError
from ..inputs.here import State
from .plan import OutputPlan
from .process import ProcessOutlet
from .registry import OUTPUTS, obstacle
from .stream_url import MUXERS

AVAHI = Path("/run/avahi-daemon/socket")


def mjpeg_here() -> State:
    """Return how to show the picture by HTTP; the standard library has it."""
    return True, "sdxs live --to mjpeg:8513", ""


def streams_here() -> State:
    """Ask the installed PyAV's FFmpeg for each protocol, at a port of this machine's own."""
    lacking = [scheme for scheme in MUXERS if not _has(scheme)]
    here = [f"{scheme}://" for scheme in MUXERS if scheme not in lacking]
    finding = f"--to {', '.join(here)}"
    if not lacking:
        return True, finding, ""
    missing = ", ".join(f"{scheme}://" for scheme in lacking)
    remedy = "send udp:// and let an ffmpeg that has it pass it on, see docs/outputs.md"
    return None, f"{finding}; this PyAV's FFmpeg lacks {missing}", remedy


def _has(scheme: str) -> bool:
    """Tell whether FFmpeg knows a protocol: one that it knows finds nobody at port 9."""
    if scheme in ("udp", "tcp"):
        return True
    url = f"{scheme}://127.0.0.1:9" + ("?timeout=1000" if scheme == "srt" else "/a/b")
    try:
        ProcessOutlet(".stream:StreamOutlet", OutputPlan(url, url, 30, 64, 64), bool).close()
    except SdxsError as error:
        return "built without" not in str(error)
    return True


def ndi_here() -> State:
    """Look for cyndilib, and for what finds names on Linux."""
    if why := obstacle("ndi"):
        return None, why.partition(";")[0], "pip install 'sdxs[ndi]', for ndi:NAME in and out"
    finding = f"cyndilib {metadata.version('cyndilib')}: sdxs live --to ndi:NAME, --source ndi:NAME"
    if sys.platform == "linux" and not AVAHI.exists():
        return None, f"{finding}; avahi-daemon does not run", "start it: names are found by it"
    return True, finding, ""


def syphon_here() -> State:
    """Look for syphon-python on a Mac."""
    if sys.platform != "darwin":
        return None, "is for macOS", "ndi:NAME takes its place"
    if why := obstacle("syphon"):
        return None, why.partition(";")[0], "pip install 'sdxs[syphon]', for syphon:NAME"
    return True, "sdxs live --to syphon:NAME, --source syphon:NAME; never seen on a Mac", ""


def camera_here() -> State:
    """Look for pyvirtualcam, and on Linux for a camera of v4l2loopback."""
    if find_spec(OUTPUTS["vcam"].package) is None:
        remedy = "pip install pyvirtualcam (its licence is the GPL), for vcam:"
        return None, "pyvirtualcam is not installed", remedy
    if sys.platform == "linux" and not loopbacks():
        remedy = "sudo modprobe v4l2loopback exclusive_caps=1"
        return None, "pyvirtualcam is installed; there is no v4l2loopback camera", remedy
    return True, "sdxs live --to vcam:", ""


def loopbacks(folder: Path = Path("/sys/devices/virtual/video4linux")) -> list[str]:
    """Return the virtual cameras of this Linux, as /dev/video0."""
    return sorted(f"/dev/{each.name}" for each in folder.glob("video*"))
