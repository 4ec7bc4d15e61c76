"""NDI, by cyndilib; the side of the child. Senders are found by name through mDNS."""

import time

import numpy as np
from cyndilib.finder import Finder, Source
from cyndilib.receiver import Receiver
from cyndilib.video_frame import VideoFrameSync
from cyndilib.wrapper.ndi_recv import RecvBandwidth, RecvColorFormat

from ...errors import SourceError
from ...patience import Patience
from .match import named

FIND_S, LOOK_S = 10.0, 0.25
POLL_S = 0.004  # for a new picture


class NdiInlet:
    """Receives BGRX; a sender that goes away and comes back is received again."""

    def __init__(self, spec: str, name: str) -> None:
        """Find the sender within ten seconds. Raises SourceError."""
        self._finder = Finder()
        self._finder.open()
        source = self._found(spec, name)
        self.name = f"ndi:{source.name}"
        # frame sync hands out the newest; cyndilib's own buffers stall after a few frames (0.1.3)
        self._frame = VideoFrameSync()
        self._receiver = Receiver(
            color_format=RecvColorFormat.BGRX_BGRA, bandwidth=RecvBandwidth.highest
        )
        self._receiver.frame_sync.set_video_frame(self._frame)
        self._receiver.set_source(source)
        self._stamp = 0.0

    def receive(self, wait_s: float) -> np.ndarray | None:
        patience = Patience(wait_s)
        frame = self._frame
        while True:
            self._receiver.frame_sync.capture_video()
            width, height = frame.get_resolution()
            stamp = frame.get_timestamp_posix()
            if width and height and stamp != self._stamp:
                self._stamp = stamp
                rows = np.asarray(frame.get_array()).reshape(height, frame.get_line_stride())
                return rows[:, : 4 * width].reshape(height, width, 4)[..., :3]
            if not patience.left_s():
                return None
            time.sleep(POLL_S)

    def close(self) -> None:
        self._receiver.disconnect()
        self._finder.close()

    def _found(self, spec: str, name: str) -> Source:
        patience, names = Patience(FIND_S), list[str]()
        while patience.left_s():
            names = self._finder.get_source_names()
            if match := named(names, name):
                return self._finder.get_source(match)
            self._finder.wait_for_sources(LOOK_S)
        heard = f"there are {', '.join(names)}" if names else "none was found in 10 s"
        raise SourceError(
            f"--source {spec}: no NDI sender of that name, or more than one ({heard}); start it, "
            "or name it in full; on Linux avahi-daemon has to run"
        )
