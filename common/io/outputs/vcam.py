"""A virtual camera, by pyvirtualcam; the side of the child.

On Linux the kernel's module v4l2loopback makes one, on macOS OBS does.
"""

import numpy as np
import pyvirtualcam

from ...errors import SinkError
from .plan import OutputPlan

REMEDY = (
    "on Linux: sudo modprobe v4l2loopback exclusive_caps=1; on macOS: open OBS 30 or later, start "
    "its virtual camera once, allow it in System Settings, and stop it there"
)


class CameraOutlet:
    """Shows RGB pictures of one size in a camera that other programs open."""

    idle_s: float | None = None

    def __init__(self, plan: OutputPlan) -> None:
        """Raise SinkError where there is no such camera, or another program sends to it."""
        self._label = plan.label
        try:
            self._camera = pyvirtualcam.Camera(
                plan.width,
                plan.height,
                plan.fps,
                fmt=pyvirtualcam.PixelFormat.RGB,
                device=plan.name or None,
            )
        except RuntimeError as error:
            raise SinkError(
                f"{plan.label}: {' '.join(str(error).split())}; expected a virtual camera that no "
                f"other program sends to: {REMEDY}"
            ) from None

    def send(self, picture: np.ndarray, at_s: float) -> None:
        self._camera.send(np.ascontiguousarray(picture))

    def idle(self) -> None:
        """Nothing: `idle_s` is None."""

    def close(self) -> None:
        self._camera.close()
