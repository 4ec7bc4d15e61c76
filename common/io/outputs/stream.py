"""A network stream by FFmpeg (PyAV), H.264 without delay; within a process without cv2.

RTMP carries FLV, RTSP its own, SRT, UDP and TCP an MPEG transport stream. Without sound.
"""

from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error
import av.logging
import numpy as np
from av.video.frame import PictureType
from av.video.stream import VideoStream

from ...errors import SinkError, SinkLost
from .plan import OutputPlan
from .stream_url import MUXERS, why_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av.packet import Packet

TICKS = 90_000  # a second
KEY_S = 2.0  # between key frames, so that a late receiver waits no longer
BITS_PER_PIXEL, LEAST_BITS = 0.25, 1_000_000
OPEN_S, SILENT_S = 10.0, 10.0
BT709, NARROW = 1, 1  # of ITU-T H.273, and FFmpeg's color_range
REFUSED = (
    av.error.HTTPUnauthorizedError,
    av.error.HTTPForbiddenError,
    av.error.HTTPBadRequestError,
    av.error.PermissionError,
)


class StreamOutlet:
    """Encodes and sends; a lost connection raises SinkLost, a missing protocol SinkError."""

    idle_s: float | None = None

    def __init__(self, plan: OutputPlan) -> None:
        """Connect. Raises SinkLost, SinkError."""
        av.logging.set_level(av.logging.PANIC)
        self._plan = plan
        self._last = self._last_key = -1
        scheme = plan.name.partition("://")[0].lower()
        try:
            self._file = av.open(
                plan.name,
                "w",
                format=MUXERS[scheme],
                options=_options(scheme),
                timeout=(OPEN_S, SILENT_S),
            )
            self._stream = self._encoder()
            self._file.start_encoding()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._refusal(error) from None

    def send(self, picture: np.ndarray, at_s: float) -> None:
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=BT709, dst_color_range=NARROW
        )
        self._last = max(round(at_s * TICKS), self._last + 1)  # times go up
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        if self._last_key < 0 or self._last - self._last_key >= KEY_S * TICKS:
            frame.pict_type, self._last_key = PictureType.I, self._last
        try:
            self._mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise self._refusal(error, "lost its connection") from None

    def idle(self) -> None:
        """Nothing: `idle_s` is None."""

    def close(self) -> None:
        try:
            self._mux(self._stream.encode(None))
            self._file.close()
        except (av.error.FFmpegError, OSError):
            return  # the receiver is gone

    def _mux(self, packets: "Sequence[Packet[VideoStream]]") -> None:
        for packet in packets:
            self._file.mux(packet)

    def _encoder(self) -> VideoStream:
        plan = self._plan
        stream = self._file.add_stream("libx264", rate=plan.rate)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = plan.width, plan.height, "yuv420p"
        context.time_base = stream.time_base = Fraction(1, TICKS)
        context.gop_size = max(1, round(KEY_S * plan.fps))
        bits = max(LEAST_BITS, round(BITS_PER_PIXEL * plan.width * plan.height * plan.fps))
        context.bit_rate = bits
        context.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "bf": "0",
            "maxrate": str(bits),
            "bufsize": str(bits // 2),
            "forced-idr": "1",
        }
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = NARROW
        return stream

    def _refusal(self, error: Exception, what: str = "cannot be reached") -> SinkError:
        """Say what went wrong, where, and whether another try may help."""
        label, said = self._plan.label, getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.error.ProtocolNotFoundError):
            return SinkError(f"{label}: {why_missing(label.partition('://')[0])}")
        if isinstance(error, REFUSED):
            return SinkError(f"{label}: its server refuses it ({said}); check address and key")
        if isinstance(error, av.error.EncoderNotFoundError | ValueError):
            return SinkError(f"{label}: cannot be encoded ({said}); send it elsewhere")
        return SinkLost(f"{label}: {what} ({said}); check the address and that its server runs")


def _options(scheme: str) -> dict[str, str]:
    if scheme in ("rtsp", "rtsps"):
        return {"rtsp_transport": "tcp"}
    if scheme in ("rtmp", "rtmps"):
        return {"flvflags": "no_duration_filesize"}
    return {"pes_payload_size": "0"}
