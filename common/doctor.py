"""Check this machine for a session; every finding has a remedy.

Imports no backend and prints nothing.
"""

import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import cast

import numpy as np

from .backend.assembly import DEFAULT_MODEL
from .backend.spec import BackendSpec, located, specs
from .checkpoint.find import find, local_folder, weights_folder
from .checkpoint.registry import ENTRIES
from .errors import SdxsError, SourceError
from .io.inputs.here import audio_here, link_here, midi_here, osc_here
from .io.outputs import here as outputs
from .io.sinks.window import window_obstacle
from .io.sources import permission
from .io.sources.camera import Camera
from .io.sources.permission import Permission
from .io.sources.screen_here import screen_here
from .web.here import page_here

PYTHONS = ((3, 11), (3, 12), (3, 13))
PACKAGES = ("sdxs", "numpy", "tokenizers", "safetensors", "huggingface-hub")
OPENCV = ("opencv-python", "opencv-python-headless")
CAMERA_S = 1.5
SLOW_CAMERA_FPS = 20.0

_DEMO_NEEDS = ("python", "packages", "demo weights")


@dataclass(frozen=True, slots=True)
class Check:
    """State one finding and its remedy.

    ok: True passes, None works with a limit, False fails. `remedy` is empty only if `ok` is True.
    """

    name: str
    ok: bool | None
    finding: str
    remedy: str = ""


Probe = Callable[[], Sequence[Check]]


def examine(probes: Sequence[tuple[str, Probe]]) -> list[Check]:
    """Run every probe; an unexpected exception becomes a finding."""
    checks: list[Check] = []
    for name, probe in probes:
        try:
            checks += probe()
        # one failing probe must not hide the findings of the others
        except Exception as error:
            said = (
                str(error) if isinstance(error, SdxsError) else f"{type(error).__name__}: {error}"
            )
            checks.append(
                Check(
                    name, False, said, "please report this with the output of `sdxs doctor --json`"
                )
            )
    return checks


def probes(camera: int) -> list[tuple[str, Probe]]:
    """Return the probes that need no backend, the quick ones first."""
    return [
        ("python", lambda: [python()]),
        ("packages", lambda: [packages()]),
        ("demo weights", lambda: [demo_weights()]),
        ("model", lambda: [model()]),
        ("disk", lambda: [disk()]),
        ("display", lambda: [display()]),
        ("camera", lambda: [look_at_camera(camera)]),
        ("screen", lambda: [Check("screen", *screen_here())]),
        ("osc", lambda: [Check("osc", *osc_here())]),
        ("midi", lambda: [Check("midi", *midi_here())]),
        ("link", lambda: [Check("link", *link_here())]),
        ("audio", lambda: [Check("audio", *audio_here())]),
        ("page", lambda: [Check("page", *page_here())]),
        ("mjpeg", lambda: [Check("mjpeg", *outputs.mjpeg_here())]),
        ("streams", lambda: [Check("streams", *outputs.streams_here())]),
        ("ndi", lambda: [Check("ndi", *outputs.ndi_here())]),
        ("syphon", lambda: [Check("syphon", *outputs.syphon_here())]),
        ("vcam", lambda: [Check("vcam", *outputs.camera_here())]),
        ("hub", lambda: [hub()]),
    ]


def backend_probes() -> list[tuple[str, Probe]]:
    """Return the probes of the installed backends."""
    asked = [spec for spec in specs().values() if spec.doctor]
    return [(spec.name, partial(_ask, spec)) for spec in asked]


def _ask(spec: BackendSpec) -> Sequence[Check]:
    return cast(Probe, located(spec.doctor, spec))()


def can_run_demo(checks: Sequence[Check], backends: Collection[str]) -> bool:
    """Tell whether `make demo` will run: its needs are met and one of `backends` is usable."""
    usable = {check.name for check in checks if check.ok is not False}
    return usable.issuperset(_DEMO_NEEDS) and not usable.isdisjoint(backends)


def python() -> Check:
    version, machine = sys.version_info[:2], platform.machine()
    finding = f"{platform.python_version()} on {platform.system()} {machine}"
    if version not in PYTHONS:
        return Check(
            "python",
            False,
            f"{finding}; 3.11 to 3.13 are supported",
            "make a new environment: uv venv -p 3.13",
        )
    if sys.platform == "darwin" and machine == "x86_64":
        return Check(
            "python",
            False,
            f"{finding}: an Intel build",
            "install an arm64 Python; it takes Apple silicon",
        )
    return Check("python", True, finding)


def packages() -> Check:
    """Check the versions of every package that a session imports."""
    # a missing backend package is reported by that backend's own check
    of_backends = (spec.package for spec in specs().values() if spec.package)
    versions = {name: _version(name) for name in (*PACKAGES, *OPENCV, *of_backends)}
    missing = [name for name in PACKAGES if not versions[name]]
    opencvs = [name for name in OPENCV if versions[name]]
    if not opencvs:
        missing.append("opencv-python")
    finding = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if missing:
        return Check(
            "packages",
            False,
            f"missing: {', '.join(missing)}; {finding}",
            f"pip install {' '.join(missing)}",
        )
    if len(opencvs) > 1:
        remedy = f"pip uninstall {' '.join(opencvs)}, then pip install the one you want"
        return Check("packages", None, f"two OpenCV builds overwrite each other; {finding}", remedy)
    return Check("packages", True, finding)


def demo_weights() -> Check:
    try:
        checkpoint = find("demo", download=False)
        checkpoint.verify()
    except SdxsError as error:
        return Check(
            "demo weights", False, str(error), "check the repository out again, or reinstall sdxs"
        )
    return Check("demo weights", True, f"complete: {checkpoint.folder}")


def model() -> Check:
    """List the checkpoints on this machine; check for the default one of `sdxs live`."""
    here = [known.name for known in ENTRIES.values() if local_folder(known)]
    finding = f"here: {', '.join(here) or 'none'}"
    if DEFAULT_MODEL in here:
        return Check("model", True, finding)
    return Check(
        "model", None, f"{finding}; {DEFAULT_MODEL} is not", f"sdxs weights pull {DEFAULT_MODEL}"
    )


def disk() -> Check:
    """Compare the free space in the weights folder with the largest checkpoint on the hub."""
    folder = weights_folder()
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    largest_gb = max(
        _gigabytes(known.note) for known in ENTRIES.values() if known.repo and not known.pickle_only
    )
    finding = f"{free_gb:.1f} GB free in {folder}; the largest model takes {largest_gb:.1f} GB"
    if free_gb < largest_gb:
        return Check(
            "disk", None, finding, "free space, or set $SDXS_WEIGHTS to a folder on another disk"
        )
    return Check("disk", True, finding)


def display() -> Check:
    obstacle = window_obstacle()
    if not obstacle:
        return Check("display", True, "a window can be shown")
    if "headless build" in obstacle:
        remedy = (
            "pip uninstall opencv-python-headless && pip install opencv-python, or "
            "--headless --out FILE"
        )
    else:
        remedy = "run it on a machine with a screen, or sdxs live --headless --out FILE"
    return Check("display", False, obstacle, remedy)


def look_at_camera(index: int) -> Check:
    """Open a camera and time its frames for 1.5 seconds; never make macOS ask for permission."""
    name = f"camera {index}"
    allowed = permission.camera_permission()
    if allowed is Permission.NOT_ASKED:
        return Check(
            name,
            None,
            "macOS has not been asked yet whether this program may use it",
            "sdxs live asks, before it downloads anything; without a camera: --source synthetic, "
            "or a video file",
        )
    if allowed in (Permission.DENIED, Permission.RESTRICTED):
        return Check(name, False, "macOS does not allow this program to use it", _camera_remedy())
    try:
        camera = Camera(index)
    except SourceError:
        return Check(
            name,
            False,
            "cannot be opened: none is connected, another program has it, or it is not allowed",
            _camera_remedy(),
        )
    reader = _Reader(camera)
    reader.thread.start()
    reader.thread.join(CAMERA_S + 1.5)
    if reader.thread.is_alive():
        return Check(name, False, "opens, but delivers no frame", _camera_remedy())
    camera.close()
    if len(reader.stamps_ns) < 2 or reader.picture is None:
        return Check(name, False, "opens, but delivers no frames", _camera_remedy())
    fps = (len(reader.stamps_ns) - 1) * 1e9 / (reader.stamps_ns[-1] - reader.stamps_ns[0])
    finding = (
        f"{reader.picture.shape[1]} x {reader.picture.shape[0]}, {fps:.1f} frames a second measured"
    )
    cameras = permission.count_cameras()
    if cameras is not None and cameras > 1:
        finding += f"; one of {cameras} cameras, of which one may be an iPhone nearby"
    if not reader.picture.any():
        return Check(name, None, f"{finding}, all black", _camera_remedy())
    if fps < SLOW_CAMERA_FPS:
        return Check(
            name,
            None,
            finding,
            "more light: a camera lengthens its exposure in the dark; or another USB port",
        )
    return Check(name, True, finding)


def camera_hangs() -> bool:
    """Tell whether a camera read is still blocked; the process must then exit without joining."""
    return any(thread.name == _Reader.NAME for thread in threading.enumerate())


def hub() -> Check:
    from .checkpoint.hub import reachable

    obstacle = reachable()
    if obstacle:
        return Check(
            "hub", False, obstacle, "connect to the network to pull models; --model demo needs none"
        )
    return Check("hub", True, "models can be pulled")


class _Reader:
    """Read a camera for CAMERA_S seconds in a separate thread, because a read may block forever."""

    NAME = "sdxs-doctor-camera"

    def __init__(self, camera: Camera) -> None:
        self.stamps_ns: list[int] = []
        self.picture: np.ndarray | None = None
        self._camera = camera
        self.thread = threading.Thread(target=self._read, name=self.NAME, daemon=True)

    def _read(self) -> None:
        try:
            # not timed: the first read waits for the camera to start
            self.picture = self._camera.read()
            began_ns = time.perf_counter_ns()
            while time.perf_counter_ns() - began_ns < CAMERA_S * 1e9:
                self.picture = self._camera.read()
                self.stamps_ns.append(time.perf_counter_ns())
        except SourceError:
            self.stamps_ns.clear()


def _camera_remedy() -> str:
    others = (
        "others: sdxs doctor --cameras, then --camera 1; without one: --source synthetic, or a "
        "video file"
    )
    if sys.platform == "darwin":
        return f"{permission.SETTINGS}; {others}"
    if sys.platform == "linux" and not any(Path("/dev").glob("video*")):
        return f"there is no /dev/video*: connect a camera, or pass it into the container; {others}"
    return f"close the program that uses it; on Linux the user must be in the group video; {others}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _gigabytes(note: str) -> float:
    """Return the size in GB that a registry note states, or 0."""
    size = re.search(r"([\d.]+) GB", note)
    return float(size[1]) if size else 0.0
