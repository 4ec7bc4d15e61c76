"""Which codecs a container takes, and how the files of this project are encoded."""

from dataclasses import dataclass
from typing import Literal

VideoCodec = Literal["h264", "hevc", "prores"]
PCM = ("pcm_s16le", "pcm_s24le", "pcm_s16be", "pcm_s24be", "pcm_f32le")


@dataclass(frozen=True, slots=True)
class Container:
    """A container by its suffix: FFmpeg's name, and what it takes.

    video: codecs of `--video-codec`, the first by default; an empty name is Motion JPEG.
    audio: codecs that are copied into it. own_times: frames may come at any time.
    """

    muxer: str
    video: tuple[str, ...]
    audio: tuple[str, ...]
    own_times: bool = True

    @property
    def indexed(self) -> bool:
        """Whether a file has an index, which can stand in front (MP4 and QuickTime)."""
        return self.muxer in ("mp4", "mov")


_LOSSY = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
CONTAINERS: dict[str, Container] = {
    ".mp4": Container("mp4", ("h264", "hevc"), _LOSSY),
    ".mov": Container("mov", ("h264", "hevc", "prores"), ("aac", "mp3", "ac3", "alac", *PCM)),
    ".mkv": Container(
        "matroska", ("h264", "hevc", "prores"), (*_LOSSY, "vorbis", "mp2", "dts", *PCM)
    ),
    ".avi": Container("avi", ("mjpeg",), ("mp3", "ac3", "pcm_s16le"), own_times=False),
}


@dataclass(frozen=True, slots=True)
class Encoding:
    """An encoder of FFmpeg: its name, pixel format and options. tag: of the codec in MP4."""

    encoder: str
    pix_fmt: str
    options: tuple[tuple[str, str], ...] = ()
    tag: str = ""

    @property
    def full_range(self) -> bool:
        """Whether levels are 0 to 255, as in a JPEG."""
        return self.pix_fmt.startswith("yuvj")


# Without B-frames a packet's time is its frame's, and a film in fragments begins at 0.
SOFTWARE: dict[str, Encoding] = {
    "h264": Encoding("libx264", "yuv420p", (("preset", "veryfast"), ("crf", "18"), ("bf", "0"))),
    "hevc": Encoding(
        "libx265",
        "yuv420p",
        (
            ("preset", "veryfast"),
            ("crf", "20"),
            ("x265-params", "bframes=0:log-level=none"),
        ),
        "hvc1",  # QuickTime plays no hev1
    ),
    "prores": Encoding("prores_ks", "yuv422p10le", (("profile", "3"),)),
    "mjpeg": Encoding("mjpeg", "yuvj420p", (("q", "3"),)),
}
VIDEOTOOLBOX: dict[str, Encoding] = {
    "h264": Encoding("h264_videotoolbox", "yuv420p", (("q:v", "65"), ("bf", "0"))),
    "hevc": Encoding("hevc_videotoolbox", "yuv420p", (("q:v", "65"), ("bf", "0")), "hvc1"),
    "prores": Encoding("prores_videotoolbox", "yuv422p10le", (("profile", "hq"),)),
}


def suffix_for(codec: str) -> str:
    """Return the suffix of the first container that takes a codec; '' takes any."""
    return next(name for name, each in CONTAINERS.items() if codec in ("", *each.video))
