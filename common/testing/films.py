"""Make small films as people have them: `python -m sdxs.common.testing.films KIND OUT`.

Every film is two seconds of the same picture at 25 frames a second unless its kind says otherwise:
red on the left, green on the right, a white disc in the middle, a bar on top that turns from blue
to yellow at `EVENT_S`, and a beep of 1 kHz from there on. Run it in a process of its own: PyAV and
OpenCV do not go together on macOS.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

WIDTH, HEIGHT, FPS, SECONDS, EVENT_S = 192, 128, 25, 2.0, 0.8
SOUND_HZ = 48_000
RED, GREEN, BLUE, YELLOW = (200, 40, 30), (30, 160, 60), (30, 40, 200), (230, 210, 40)
VARIABLE_S = [*(i / 25 for i in range(20)), *(0.8 + i / 5 for i in range(6))]
BROWSER_S = [round(i * 0.0334 + (7 * i % 11) / 1000, 3) for i in range(60)]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a film is made, and what is right for it.

    aspect: of a pixel. turned: degrees to the right. transfer: color_trc. matrix: color_space of
    the file, None for no tag. says: what a user sees.
    """

    codec: str
    says: str
    pix_fmt: str = "yuv420p"
    stamps_s: Sequence[float] = field(default_factory=lambda: [i / FPS for i in range(50)])
    sound: str = ""
    muxer: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] = (WIDTH, HEIGHT)
    aspect: Fraction = Fraction(1)
    turned: int = 0
    transfer: int = 1
    matrix: int | None = 1
    full: bool = False
    edit: Callable[[bytes], bytes] | None = None
    rate: Fraction = Fraction(FPS)


def picture(at_s: float, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return the picture at a time: uint8 (height, width, 3) RGB."""
    made = np.empty((height, width, 3), np.uint8)
    made[:, : width // 2], made[:, width // 2 :] = RED, GREEN
    made[: height // 6] = BLUE if at_s < EVENT_S - 1e-6 else YELLOW
    y, x = np.mgrid[:height, :width]
    scale = height / HEIGHT
    inside = (y - height / 2) ** 2 + ((x - width / 2) * (HEIGHT / WIDTH) / (height / width)) ** 2
    made[inside < (30 * scale) ** 2] = 255
    return made


def make(kind: Kind, path: Path) -> None:
    """Write a film of a kind."""
    with av.open(str(path), "w", format=kind.muxer) as file:
        video = _video_stream(file, kind)
        sound = file.add_stream(kind.sound, rate=SOUND_HZ) if kind.sound else None
        packets: list[Packet[VideoStream] | Packet[AudioStream]] = []
        for at_s in kind.stamps_s:
            packets += video.encode(_frame(kind, at_s))
        packets += video.encode(None)
        if isinstance(sound, AudioStream):
            packets += _sound(sound, kind.stamps_s[-1] + 1 / FPS)
        for packet in sorted(packets, key=_time):  # as cameras interleave them
            file.mux(packet)
    if kind.edit:
        path.write_bytes(kind.edit(path.read_bytes()))


def _video_stream(file: OutputContainer, kind: Kind) -> VideoStream:
    stream = file.add_stream(kind.codec, rate=kind.rate)
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.width, context.height = kind.size
    context.pix_fmt = kind.pix_fmt
    context.options = dict(kind.options)
    context.gop_size = 10
    context.sample_aspect_ratio = kind.aspect
    if kind.stamps_s != [i / FPS for i in range(50)] or kind.codec == "libvpx":
        context.time_base = stream.time_base = Fraction(1, 1000)
    if kind.matrix is not None:
        context.colorspace = kind.matrix
        context.color_primaries = 9 if kind.transfer in (16, 18) else 1
        context.color_trc = kind.transfer
        context.color_range = 2 if kind.full else 1
    return stream


def _frame(kind: Kind, at_s: float) -> av.VideoFrame:
    shown = picture(at_s, *kind.size)
    if kind.aspect != 1:  # drawn for square pixels, then squeezed
        wide = picture(at_s, round(kind.size[0] * kind.aspect), kind.size[1])
        shown = np.ascontiguousarray(
            wide[:, np.arange(kind.size[0]) * wide.shape[1] // kind.size[0]]
        )
    if kind.turned:
        shown = np.ascontiguousarray(np.rot90(picture(at_s, *kind.size[::-1]), kind.turned // 90))
    if "a" in kind.pix_fmt.removeprefix("yuv") and kind.pix_fmt != "pal8":
        alpha = np.full((*shown.shape[:2], 1), 255, np.uint8)
        alpha[-HEIGHT // 6 :] = 0  # the foot is transparent; under it is red and green
        frame = av.VideoFrame.from_ndarray(np.dstack([shown, alpha]), format="rgba")
    else:
        frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
    matrix = {None: 5, 1: 1, 6: 5, 9: 9}[kind.matrix]
    frame = frame.reformat(
        format=kind.pix_fmt, dst_colorspace=matrix, dst_color_range=2 if kind.full else 1
    )
    frame.time_base = Fraction(1, 1000)
    frame.pts = round(at_s * 1000)
    return frame


def _sound(stream: AudioStream, end_s: float) -> "list[Packet[AudioStream]]":
    times = np.arange(round(end_s * SOUND_HZ)) / SOUND_HZ
    wave = np.where(times >= EVENT_S, 0.5 * np.sin(2 * np.pi * 1000 * times), 0)
    samples = (wave * 32767).astype(np.int16)[None]
    packets: list[Packet[AudioStream]] = []
    for at in range(0, samples.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(samples[:, at : at + 1024], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_HZ, at, Fraction(1, SOUND_HZ)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def _time(packet: "Packet[VideoStream] | Packet[AudioStream]") -> float:
    return float((packet.dts or 0) * (packet.time_base or 0))


# Edits of a whole file.


def cut(share: float) -> Callable[[bytes], bytes]:
    """Keep the first part of a file."""
    return lambda data: data[: int(len(data) * share)]


def damaged(data: bytes) -> bytes:
    """Overwrite a twelfth of the file with zeros."""
    at = len(data) // 3
    return data[:at] + bytes(len(data) // 12) + data[at + len(data) // 12 :]


def without_default_duration(data: bytes) -> bytes:
    """Turn WebM's DefaultDuration into a void, as browsers write none."""
    at = data.find(b"\x23\xe3\x83")
    if at < 0:
        return data
    length = 4 + (data[at + 3] & 0x7F)
    return (
        data[:at] + b"\xec" + bytes([0x80 | (length - 2)]) + bytes(length - 2) + data[at + length :]
    )


def turned_right(data: bytes) -> bytes:
    """Write the matrix of a quarter turn to the right into MP4's track header."""
    at = data.rfind(b"tkhd") + 4 + 4 + 36  # version and flags, then times, id, duration, layer
    one, minus = (1 << 16).to_bytes(4, "big"), (-1 << 16).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    matrix = b"".join(
        [zero, one, zero, minus, zero, zero, zero, zero, (1 << 30).to_bytes(4, "big")]
    )
    return data[:at] + matrix + data[at + 36 :]


def unknown_codec(data: bytes) -> bytes:
    """Rename the codec of an MP4 or Matroska file to one that there is not."""
    return data.replace(b"avc1", b"zzz9").replace(b"V_MPEG4/ISO/AVC", b"V_NOTHING/KNOWN")


_X264 = (("preset", "veryfast"), ("crf", "12"))
_FAST = (("deadline", "realtime"), ("cpu-used", "8"), ("crf", "10"), ("b", "2M"))
_X265 = (("preset", "ultrafast"), ("crf", "10"), ("x265-params", "log-level=none"))
_WHOLE = "every frame at its time"

# name of a file: its kind. The suffix is the container.
KINDS: dict[str, Kind] = {
    "h264.mp4": Kind("libx264", _WHOLE, options=_X264, sound="aac"),
    "h264.mov": Kind("libx264", _WHOLE, options=_X264, sound="pcm_s16le"),
    "h264.mkv": Kind("libx264", _WHOLE, options=_X264, sound="libopus"),
    "h264.ts": Kind("libx264", _WHOLE, options=_X264, sound="aac"),
    "h264.flv": Kind("libx264", _WHOLE, options=_X264, sound="aac"),
    "hevc.mp4": Kind("libx265", _WHOLE, options=_X265, sound="aac"),
    "prores.mov": Kind("prores_ks", _WHOLE, "yuv422p10le", sound="pcm_s16le"),
    "mjpeg.avi": Kind(
        "mjpeg",
        _WHOLE,
        "yuvj420p",
        options=(("qmax", "3"),),
        sound="pcm_s16le",
        matrix=None,
        full=True,
    ),
    "vp8.webm": Kind("libvpx", _WHOLE, options=_FAST, sound="libopus", matrix=None),
    "vp9.webm": Kind("libvpx-vp9", _WHOLE, options=_FAST, sound="libopus"),
    "av1.mkv": Kind("libsvtav1", _WHOLE, options=(("preset", "12"), ("crf", "15"))),
    "mpeg2.mpg": Kind("mpeg2video", _WHOLE, options=(("q", "2"), ("b", "4M")), sound="mp2"),
    "mpeg4.avi": Kind("mpeg4", _WHOLE, options=(("b", "4M"),), matrix=None, sound="libmp3lame"),
    "ffv1.mkv": Kind("ffv1", _WHOLE, sound="flac"),
    "wmv2.wmv": Kind("wmv2", _WHOLE, options=(("b", "4M"),), matrix=None, muxer="asf"),
    "vfr.mp4": Kind("libx264", "variable rate", options=_X264, stamps_s=VARIABLE_S, sound="aac"),
    "vfr.mkv": Kind("libx264", "variable rate", options=_X264, stamps_s=VARIABLE_S),
    "browser.webm": Kind(
        "libvpx",
        "its container says 1000 frames/s",
        matrix=None,
        options=_FAST,
        stamps_s=BROWSER_S,
        edit=without_default_duration,
        rate=Fraction(1000),
    ),
    "ntsc.mp4": Kind(
        "libx264",
        "30000/1001 frames/s",
        options=_X264,
        stamps_s=[i * 1001 / 30000 for i in range(60)],
        rate=Fraction(30000, 1001),
    ),
    "anamorphic.mp4": Kind(
        "libx264", "a round disc", options=_X264, size=(144, 128), aspect=Fraction(4, 3)
    ),
    "turned.mp4": Kind(
        "libx264", "upright", options=_X264, size=(HEIGHT, WIDTH), turned=90, edit=turned_right
    ),
    "alpha.mov": Kind(
        "prores_ks",
        "the background's colour where it is transparent",
        "yuva444p10le",
        options=(("profile", "4"),),
    ),
    "ten-bit.mp4": Kind("libx265", "10 bits", "yuv420p10le", options=_X265),
    "hlg.mov": Kind(
        "libx265", "tone-mapped, and said", "yuv420p10le", options=_X265, transfer=18, matrix=9
    ),
    "pq.mp4": Kind(
        "libx265", "tone-mapped, and said", "yuv420p10le", options=_X265, transfer=16, matrix=9
    ),
    "bt601.mp4": Kind("libx264", "its own colours", options=_X264, matrix=6),
    "full-range.mp4": Kind("libx264", "its own colours", options=_X264, full=True),
    "damaged.mkv": Kind(
        "libx264", "lost frames are counted", options=(*_X264, ("bf", "0")), edit=damaged
    ),
    "cut.mkv": Kind(
        "libx264",
        "what is there, and that it is cut off",
        options=(*_X264, ("bf", "0")),
        edit=cut(2 / 3),
    ),
    "no-index.mp4": Kind(
        "libx264", "refused: cut off before its index", options=_X264, edit=cut(0.5)
    ),
    "unknown-codec.mkv": Kind("libx264", "refused: no decoder", options=_X264, edit=unknown_codec),
    "called.jpg": Kind("libx264", "read as the film that it is", options=_X264, muxer="mp4"),
}


def main(name: str, path: str) -> None:
    make(KINDS[name], Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
