"""Decode a film, a stream or a pipe, as its display is meant; the side of the child.

Turned as its matrix says, in square pixels, in the standard range, alpha over a colour.
"""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import av.error
import av.filter
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from ...errors import SourceError, SourceLost
from .hdr import NAMES, write_cube
from .plan import PIPE, Film, FilmFacts, for_ffmpeg

PROBED_PACKETS, REORDERED = 48, 16  # most frames that a codec keeps back
NO_DECODER = "no decoder for its codec; convert it to H.264 first"
OPEN_S, SILENT_S = 15.0, 10.0  # for streams
MOST_ERRORS = 1000  # in a row, of a file without an end
HIGH_DEFINITION = 720  # rows from which untagged colours are BT.709's
BT709, UNSPECIFIED = 1, 2  # color_space of ITU-T H.273
CUT_OFF = ("ended prematurely", "ends prematurely", "partial file")  # of FFmpeg's messages


class Decoder:
    """Every picture of a film, in the order of display, with its own time.

    errors: what FFmpeg found damaged so far. cut_off: the file ends before its end.
    """

    _decoded: Iterator[av.VideoFrame]

    def __init__(self, film: Film) -> None:
        """Open the film and decode its first frame. Raises SourceError."""
        # FFmpeg reads on over damage; only its log tells
        av.logging.set_level(av.logging.ERROR)
        self._logging = av.logging.Capture(local=False)
        self._log = self._logging.__enter__()
        self._film = film
        self.errors = 0
        self.cut_off = False
        self._open()
        decoded = self._decoded
        first = next(decoded, None)
        if first is None:
            pipe = "; of a pipe, .mp4 and .mov need their index in front: pipe .mkv or .ts"
            raise SourceError(
                f"{film.name}: holds no frames that can be decoded; it was cut off, or is neither "
                f"a video nor an image{pipe if _is_pipe(film.place) else ''}; name another file"
            )
        self._decoded = itertools.chain([first], decoded)
        self._display = Display(first, self._stream, film.background)
        height, width = self._display.shape
        self.facts = FilmFacts(
            height,
            width,
            float(self._stream.average_rate or self._stream.guessed_rate or 0),
            self._stream.frames,
            _tagged_s(self._stream.metadata.get("DURATION", "")),
            self._intervals_s,
            self.errors > 0,
            self._sound(),
            Path(film.place).is_file() or film.place.startswith("http"),
            self._display.notes,
        )

    def read(self, out: np.ndarray) -> float | None:
        """Write the next picture into `out`, uint8 (H, W, 3) BGR; return its time in seconds.

        A frame without a time returns minus infinity. None at the end. Raises SourceLost.
        """
        frame = next(self._decoded, None)
        self._read_log()
        if frame is None:
            return None
        np.copyto(out, self._display.picture(frame))
        if frame.pts is None or frame.time_base is None:
            return -float("inf")
        return float(frame.pts * frame.time_base)

    def rewind(self) -> None:
        """Begin again. Raises SourceError if the file is gone."""
        self._container.close()
        self.errors, self.cut_off = 0, False
        self._open()

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        film = self._film
        try:
            self._container: InputContainer = av.open(
                for_ffmpeg(film.place),
                timeout=(OPEN_S, SILENT_S) if "://" in film.place else None,
                options={"rtsp_transport": "tcp"} if film.place.startswith("rtsp") else {},
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{film.name}: {_why_not(film.place, error)}") from None
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            kinds = _kinds(self._container)
            self._container.close()
            raise SourceError(
                f"{film.name}: holds no video, only {kinds}; name a video, an image or a camera"
            )
        self._stream = streams[0]
        if self._stream.codec_context is None:
            raise SourceError(f"{film.name}: {NO_DECODER}")
        self._stream.thread_type = "SLICE" if film.live else "AUTO"
        self._packets = self._demuxed()
        head = [] if film.live else list(itertools.islice(self._packets, PROBED_PACKETS))
        self._read_log()
        # a pipe must not be opened again
        self.cut_off |= Path(film.place).is_file() and _is_short(Path(film.place))
        self._intervals_s = _intervals_s(head, self._stream.time_base or Fraction(1))
        self._decoded = self._frames(itertools.chain(head, self._packets))

    def _read_log(self) -> None:
        for _, _, line in self._log:
            if any(said in line for said in CUT_OFF):
                self.cut_off = True
            else:
                self.errors += 1
        self._log.clear()

    def _demuxed(self) -> "Iterator[Packet[VideoStream]]":
        """Yield packets to the end, over damaged stretches. Raises SourceLost."""
        packets, in_a_row = self._container.demux(self._stream), 0
        while in_a_row < MOST_ERRORS:
            try:
                yield next(packets)
                in_a_row = 0
            except StopIteration:
                return
            except av.error.InvalidDataError:
                in_a_row += 1
                packets = self._container.demux(self._stream)
            except (av.error.FFmpegError, OSError) as error:
                raise SourceLost(
                    f"{self._film.name}: delivers no more ({error.strerror}); check the "
                    "connection or the disk; what was recorded until then is kept"
                ) from None

    def _frames(self, packets: "Iterator[Packet[VideoStream]]") -> Iterator[av.VideoFrame]:
        for packet in packets:
            try:
                yield from packet.decode()
            except av.error.DecoderNotFoundError:
                raise SourceError(f"{self._film.name}: {NO_DECODER}") from None
            except av.error.FFmpegError:
                continue  # the log has it

    def _sound(self) -> str:
        sounds = self._container.streams.audio
        if not sounds:
            return ""
        context = sounds[0].codec_context
        return context.codec.canonical_name if context else "unknown"


class Display:
    """How the frames of one stream are shown. notes: what a user should know of it."""

    def __init__(
        self, frame: av.VideoFrame, stream: VideoStream, background: tuple[int, int, int]
    ) -> None:
        ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        self._size = in_square_pixels(frame.width, frame.height, ratio or Fraction(1))
        self._turns = round(frame.rotation / 90) % 4
        width, height = self._size
        self.shape = (width, height) if self._turns % 2 else (height, width)
        self._background = np.array(background[::-1], np.uint32)
        self._colours = (
            BT709 if frame.colorspace == UNSPECIFIED and frame.height >= HIGH_DEFINITION else None
        )
        self._alpha = any(part.is_alpha for part in frame.format.components)
        self._graph: av.filter.Graph | None = None
        self.notes: tuple[str, ...] = ()
        if frame.color_trc in NAMES:
            cube = write_cube(frame.color_trc)
            try:
                self._graph = _tone_mapping(frame, stream, cube)
            finally:
                cube.unlink()  # it has been read
            self.notes = (f"{NAMES[frame.color_trc]} is tone-mapped to the standard range",)

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """Return a frame as uint8 (H, W, 3) BGR."""
        if self._graph:
            self._graph.push(frame)
            frame = self._graph.pull()  # type: ignore[assignment]
        width, height = self._size
        shown = frame.reformat(
            width=width,
            height=height,
            format="bgra" if self._alpha else "bgr24",
            src_colorspace=None if self._graph else self._colours,
        ).to_ndarray()
        if self._alpha:
            alpha = shown[..., 3:].astype(np.uint32)
            mixed = shown[..., :3] * alpha + self._background * (255 - alpha) + 127
            shown = (mixed // 255).astype(np.uint8)
        return np.rot90(shown, self._turns) if self._turns else shown


def in_square_pixels(width: int, height: int, ratio: Fraction) -> tuple[int, int]:
    """Return the size of a picture whose pixels are `ratio` times as wide as high; it grows."""
    if ratio > 1:
        return round(width * ratio), height
    return width, round(height / ratio) if ratio > 0 else height


def _intervals_s(packets: "list[Packet[VideoStream]]", time_base: Fraction) -> tuple[float, ...]:
    """Return the times between the first frames, which packets tell in another order."""
    stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
    if len(packets) == PROBED_PACKETS:  # others may belong between the last of them
        stamps = stamps[:-REORDERED]
    return tuple(float((b - a) * time_base) for a, b in itertools.pairwise(stamps))


def _tone_mapping(frame: av.VideoFrame, stream: VideoStream, cube: Path) -> av.filter.Graph:
    graph = av.filter.Graph()
    nodes = [
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=stream.time_base,
        ),
        graph.add("scale", "in_color_matrix=bt2020:out_range=pc"),
        graph.add("format", "rgb48le"),
        graph.add("lut3d", file=str(cube), interp="tetrahedral"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    for before, after in itertools.pairwise(nodes):
        before.link_to(after)
    graph.configure()
    return graph


def _tagged_s(duration: str) -> float:
    """Read Matroska's tag of one stream's duration, '00:00:02.000000000'; 0 without one."""
    try:
        hours, minutes, seconds = duration.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _is_short(path: Path) -> bool:
    """Tell whether an AVI file says that it is longer than it is."""
    with suppress(OSError, ValueError), path.open("rb") as file:
        head = file.read(12)
        said = int.from_bytes(head[4:8], "little") + 8
        return head[:4] == b"RIFF" and head[8:] == b"AVI " and said > path.stat().st_size + 1
    return False


def _kinds(container: InputContainer) -> str:
    kinds = (
        "a cover picture" if stream.type == "video" else str(stream.type)
        for stream in container.streams
    )
    return " and ".join(dict.fromkeys(kinds)) or "nothing known"


def _why_not(place: str, error: BaseException) -> str:
    """Say why a place cannot be opened, and what to do about it."""
    if isinstance(error, av.error.DecoderNotFoundError):
        return NO_DECODER
    if "://" in place and not place.startswith("file:"):
        return (
            f"cannot be opened ({getattr(error, 'strerror', None) or error}); understood as a "
            f"stream by {place.partition(':')[0]}; check the address and that it is served"
        )
    if Path(place).is_file() and _is_cut_off(Path(place)):
        return "was cut off before its index (moov); record it anew, or repair it with untrunc"
    if _is_pipe(place):
        return "is empty, or no video that can be read from its front; try .mkv or .ts"
    size = Path(place).stat().st_size if Path(place).is_file() else 0
    return f"not a video that can be read, and no image ({size:,} bytes); try an .mp4 or a .png"


def _is_pipe(place: str) -> bool:
    return place == PIPE or Path(place).is_fifo()


def _is_cut_off(path: Path) -> bool:
    """Tell whether a file begins as MP4 or QuickTime and has no index."""
    with suppress(OSError, ValueError), path.open("rb") as file:
        end = path.stat().st_size
        at, kinds = 0, []
        while at + 8 <= end:
            file.seek(at)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            kinds.append(kind)
            length = int.from_bytes(head[8:16], "big") if length == 1 else length or end - at
            if length < 8:
                break
            at += length
        return kinds[:1] in ([b"ftyp"], [b"mdat"], [b"wide"]) and b"moov" not in kinds
    return False
