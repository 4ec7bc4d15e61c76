"""Encode pictures into a film that plays however it ends; the side of the child.

MP4 and QuickTime are written in fragments, so that a film without an end still plays; `finish`
makes an ordinary file of it.
"""

import sys
import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import av
import av.error
import av.logging
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from ...errors import SdxsWarning, SinkError
from .formats import CONTAINERS, SOFTWARE, VIDEOTOOLBOX, Encoding
from .plan import FilmPlan, for_ffmpeg

TICKS = 90_000  # a second; the clock of MPEG
BT709, NARROW, FULL = 1, 1, 2  # of ITU-T H.273, and FFmpeg's color_range
BT601 = 5
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
MOST_FPS = 1000


class Encoder:
    """Encode RGB pictures. VideoToolbox encodes on a Mac, x264, x265 and FFmpeg elsewhere.

    frames: encoded so far.
    """

    def __init__(self, plan: FilmPlan) -> None:
        """Open the file and its encoder. Raises SinkError, OSError."""
        av.logging.set_level(av.logging.PANIC)
        self._plan = plan
        container = CONTAINERS[plan.suffix]
        codec = plan.codec or container.video[0]
        self._step = round(TICKS / plan.fps)
        self._last = -1  # ticks
        self.frames = 0
        self._file = av.open(
            for_ffmpeg(plan.path),
            "w",
            format=container.muxer,
            options={"flush_packets": "1"}  # what is written is on the disk
            | (FRAGMENTS if container.indexed else {}),
        )
        self._encoding, self._stream = self._first_that_opens(_encodings(codec))
        self._constant = not container.own_times

    def write(self, picture: np.ndarray, at_s: float) -> None:
        """Encode uint8 (H, W, 3) RGB, shown from `at_s` on. Raises OSError, FFmpegError."""
        encoding = self._encoding
        full = encoding.full_range
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format=encoding.pix_fmt,
            dst_colorspace=BT601 if full else BT709,
            dst_color_range=FULL if full else NARROW,
        )
        if not full:  # ProRes takes them from the frame
            frame.color_primaries = frame.color_trc = BT709
        at = round(at_s * TICKS)
        self._last = max(at, self._last + 1)  # times go up
        if self._constant:
            frame.pts, frame.time_base = self.frames, 1 / self._plan.rate
        else:
            frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
            frame.duration = self._step
        self._mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Write what the encoder still holds, and the end of the file."""
        try:
            self._mux(self._stream.encode(None))
        finally:
            self._file.close()

    def _mux(self, packets: "Sequence[Packet[VideoStream]]") -> None:
        for packet in packets:
            if not packet.duration and not self._constant:
                packet.duration = self._step
            self._file.mux(packet)

    def _first_that_opens(self, encodings: Sequence[Encoding]) -> tuple[Encoding, VideoStream]:
        refusals = []
        for encoding in encodings:
            try:
                stream = self._opened(encoding)
            except (av.error.FFmpegError, ValueError) as error:
                refusals.append(f"{encoding.encoder}: {error}")
                continue
            if refusals:
                warnings.warn(
                    f"{self._plan.name}: {encoding.encoder} encodes, because {'; '.join(refusals)}",
                    SdxsWarning,
                    stacklevel=2,
                )
            return encoding, stream
        raise SinkError(
            f"{self._plan.name}: no encoder for {self._plan.width} x {self._plan.height} pixels "
            f"({'; '.join(refusals)}); try another --video-codec or a folder of PNGs"
        )

    def _opened(self, encoding: Encoding) -> VideoStream:
        plan = self._plan
        context = cast(VideoCodecContext, av.CodecContext.create(encoding.encoder, "w"))
        _configure(context, plan, encoding)  # a first try outside the file, which keeps a failure
        context.open()
        stream = cast(VideoStream, self._file.add_stream(encoding.encoder, rate=plan.rate))
        _configure(stream.codec_context, plan, encoding)
        if encoding.tag and CONTAINERS[plan.suffix].indexed:
            stream.codec_context.codec_tag = encoding.tag
        if CONTAINERS[plan.suffix].own_times:
            stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
        return stream


def _configure(context: VideoCodecContext, plan: FilmPlan, encoding: Encoding) -> None:
    context.width, context.height, context.pix_fmt = plan.width, plan.height, encoding.pix_fmt
    context.framerate, context.time_base = plan.rate, 1 / plan.rate
    context.gop_size = max(1, min(MOST_FPS, round(plan.fps)))  # a fragment a second
    context.options = dict(encoding.options)
    full = encoding.full_range
    context.colorspace = BT601 if full else BT709
    context.color_primaries = context.color_trc = BT709
    context.color_range = FULL if full else NARROW


def _encodings(codec: str) -> list[Encoding]:
    mac = sys.platform == "darwin" and codec in VIDEOTOOLBOX
    return [*([VIDEOTOOLBOX[codec]] if mac else []), SOFTWARE[codec]]
