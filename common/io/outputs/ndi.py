"""NDI, by cyndilib; the side of the child. Receivers find it by its name through mDNS."""

import numpy as np
from cyndilib.sender import Sender
from cyndilib.video_frame import VideoSendFrame
from cyndilib.wrapper.ndi_structs import FourCC

from ...errors import SinkError
from .plan import OutputPlan

OPAQUE = 255


class NdiOutlet:
    """Sends RGBX; libndi takes its own copy and compresses it for each receiver."""

    idle_s: float | None = None

    def __init__(self, plan: OutputPlan) -> None:
        """Raise SinkError where libndi does not start, or another sender has the name."""
        self._sender = Sender(plan.name, clock_video=False, clock_audio=False)
        self._pixels = np.full((plan.height, plan.width, 4), OPAQUE, np.uint8)
        frame = VideoSendFrame()
        frame.set_resolution(plan.width, plan.height)
        frame.set_frame_rate(plan.rate)
        frame.set_fourcc(FourCC.RGBX)
        self._sender.set_video_frame(frame)
        try:
            self._sender.open()
        except Exception as error:  # of no documented type
            raise SinkError(
                f"{plan.label}: NDI sends nothing by this name ({error}); another program of this "
                "machine may have it: choose another name"
            ) from None

    def send(self, picture: np.ndarray, at_s: float) -> None:
        self._pixels[..., :3] = picture
        self._sender.write_video(self._pixels.reshape(-1))

    def idle(self) -> None:
        """Nothing: `idle_s` is None."""

    def close(self) -> None:
        self._sender.close()
