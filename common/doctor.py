"""What this machine has and lacks for a session: each finding with its remedy. Knows no backend
and prints nothing.
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
from .io.sinks.window import window_obstacle
from .io.sources.camera import Camera

PYTHONS = ((3, 11), (3, 12), (3, 13))
PACKAGES = ("sdxs", "numpy", "tokenizers", "safetensors", "huggingface-hub")
OPENCV = ("opencv-python", "opencv-python-headless")
CAMERA_S = 1.5
SLOW_CAMERA_FPS = 20.0

_DEMO_NEEDS = ("python", "packages", "demo weights")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ok: True is good, None works with a limit, False is missing; `remedy` may be
    empty only if good.
    """

    name: str
    ok: bool | None
    finding: str
    remedy: str = ""


Probe = Callable[[], Sequence[Check]]


def examine(probes: Sequence[tuple[str, Probe]]) -> list[Check]:
    """Run every probe; one that fails in a way nobody foresaw becomes a finding of its own."""
    checks: list[Check] = []
    for name, probe in probes:
        try:
            checks += probe()
        except Exception as error:  # a doctor that dies of what it finds helps nobody
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
    """Everything that can be asked without a backend, quick things first."""
    return [
        ("python", lambda: [python()]),
        ("packages", lambda: [packages()]),
        ("demo weights", lambda: [demo_weights()]),
        ("model", lambda: [model()]),
        ("disk", lambda: [disk()]),
        ("display", lambda: [display()]),
        ("camera", lambda: [look_at_camera(camera)]),
        ("hub", lambda: [hub()]),
    ]


def backend_probes() -> list[tuple[str, Probe]]:
    """What every installed backend asks about itself."""
    asked = [spec for spec in specs().values() if spec.doctor]
    return [(spec.name, partial(_ask, spec)) for spec in asked]


def _ask(spec: BackendSpec) -> Sequence[Check]:
    return cast(Probe, located(spec.doctor, spec))()


def can_run_demo(checks: Sequence[Check], backends: Collection[str]) -> bool:
    """Whether `make demo` will run: what it needs is there, and so is at least one of
    `backends`.
    """
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
    """Versions of everything a session imports."""
    # each backend's own check says what it means that its package is missing
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
    """Which checkpoints are here; the one that `sdxs live` takes by default is the one that
    matters.
    """
    here = [known.name for known in ENTRIES.values() if local_folder(known)]
    finding = f"here: {', '.join(here) or 'none'}"
    if DEFAULT_MODEL in here:
        return Check("model", True, finding)
    return Check(
        "model", None, f"{finding}; {DEFAULT_MODEL} is not", f"sdxs weights pull {DEFAULT_MODEL}"
    )


def disk() -> Check:
    """Free space where checkpoints go, against the largest that can be pulled."""
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
            "--headless "
            "--out FILE"
        )
    else:
        remedy = "run it where there is a screen, or sdxs live --headless --out FILE"
    return Check("display", False, obstacle, remedy)


def look_at_camera(index: int) -> Check:
    """Open a camera and time its frames for a second and a half. On the main thread: macOS asks
    for permission there.
    """
    name = f"camera {index}"
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
    """Whether a camera's read has not returned: the interpreter must then not wait for its
    thread.
    """
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
    """Reads a camera for CAMERA_S in a thread of its own, for a read may never return."""

    NAME = "sdxs-doctor-camera"

    def __init__(self, camera: Camera) -> None:
        self.stamps_ns: list[int] = []
        self.picture: np.ndarray | None = None
        self._camera = camera
        self.thread = threading.Thread(target=self._read, name=self.NAME, daemon=True)

    def _read(self) -> None:
        try:
            self.picture = (
                self._camera.read()
            )  # the first one waits for the camera to start and is not timed
            began_ns = time.perf_counter_ns()
            while time.perf_counter_ns() - began_ns < CAMERA_S * 1e9:
                self.picture = self._camera.read()
                self.stamps_ns.append(time.perf_counter_ns())
        except SourceError:
            self.stamps_ns.clear()


def _camera_remedy() -> str:
    others = (
        "other numbers: sdxs doctor --camera 1; without one: --source synthetic, or a video file"
    )
    if sys.platform == "darwin":
        return (
            "System Settings > Privacy & Security > Camera: allow the program this runs in "
            "(Terminal, iTerm, your "
            f"editor), then restart it; {others}"
        )
    if sys.platform == "linux" and not any(Path("/dev").glob("video*")):
        return f"there is no /dev/video*: connect a camera, or pass it into the container; {others}"
    return f"close the program that uses it; on Linux the user must be in the group video; {others}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _gigabytes(note: str) -> float:
    """The size that the registry's note of a checkpoint names."""
    size = re.search(r"([\d.]+) GB", note)
    return float(size[1]) if size else 0.0
