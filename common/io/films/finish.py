"""Make an ordinary film of a recording: its index in front, and the sound of its source beside it.

Nothing is encoded again. The side of the child.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from ...files import beside, free_name
from .formats import CONTAINERS
from .plan import Sound, for_ffmpeg

Report = Callable[[str, float], None]


def finish(
    partial: Path, path: Path, sound: Sound | None, frames: int, report: Report
) -> tuple[Path | None, str]:
    """Move a recording to its final name, or beside an earlier file that is better.

    frames: that were encoded; a file that holds fewer replaces nothing. Return the name, None if
    nothing of it can be played, and what is not as it should be, or ''.
    """
    container = CONTAINERS[path.suffix.lower()]
    if sound and sound.codec not in container.audio:
        sound = None
    whole = beside(partial, "whole")
    try:
        if container.indexed or sound:
            held = _rewrite(partial, whole, sound, report)
        else:
            held, whole = _count(partial), partial
        reason = f"it holds {held} of {frames} pictures" if held < frames else ""
    except (OSError, av.error.FFmpegError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        if sound:
            reason = f"without its sound, {reason}"
    if not reason:
        whole.replace(path)
        partial.unlink(missing_ok=True)
        return path, ""
    if whole != partial:
        with suppress(OSError):
            whole.unlink(missing_ok=True)
    return _kept(partial, path, reason)


def _kept(partial: Path, path: Path, reason: str) -> tuple[Path | None, str]:
    """Keep what was recorded under a name of its own."""
    try:
        held = _count(partial)
    except (OSError, av.error.FFmpegError, ValueError):
        held = 0
    if not held:
        partial.unlink(missing_ok=True)
        return None, f"{path}: nothing could be recorded ({reason}); free space or record elsewhere"
    final = free_name(path)
    partial.replace(final)
    earlier = f"; the earlier {path.name} is as it was" if final != path else ""
    return final, f"{final}: plays, but is incomplete ({reason}){earlier}"


def _count(path: Path) -> int:
    """Count the pictures of a file without decoding them."""
    with av.open(for_ffmpeg(path)) as file:
        return sum(packet.dts is not None for packet in file.demux(file.streams.video[0]))


def _rewrite(partial: Path, whole: Path, sound: Sound | None, report: Report) -> int:
    """Copy pictures and sound into `whole`; return how many pictures it holds."""
    container = CONTAINERS[whole.suffix.lower()]
    options = {"movflags": "faststart"} if container.indexed else {}
    with (
        av.open(for_ffmpeg(partial)) as recorded,
        av.open(for_ffmpeg(whole), "w", format=container.muxer, options=options) as made,
    ):
        pictures = recorded.streams.video[0]
        video = made.add_stream_from_template(pictures)
        if pictures.codec_context.codec_tag == "hvc1":
            video.codec_context.codec_tag = "hvc1"  # which QuickTime needs, and a copy loses
        # the decoder's delay comes before 0, which only these containers can say
        heard = _Heard(sound, early=container.indexed) if sound else None
        audio = made.add_stream_from_template(heard.stream) if heard else None
        held, end_s, size = 0, 0.0, max(1, partial.stat().st_size)
        for packet in recorded.demux(pictures):
            if packet.dts is None or packet.time_base is None:
                continue  # the flush at the end
            begin_s = float(packet.dts * packet.time_base)
            end_s = begin_s + float((packet.duration or 0) * packet.time_base)
            report("finishing the film", (packet.pos or 0) / size)
            packet.stream = video
            if heard and audio:
                _mux(made, audio, heard.until(begin_s))
            made.mux(packet)
            held += 1
        if heard and audio:
            _mux(made, audio, heard.until(end_s))
            heard.close()
    return held


def _mux(
    made: OutputContainer, audio: AudioStream, packets: "Iterator[Packet[AudioStream]]"
) -> None:
    for packet in packets:
        packet.stream = audio
        made.mux(packet)


class _Heard:
    """The packets of a sound in the time of the recording, pass after pass."""

    def __init__(self, sound: Sound, early: bool) -> None:
        self._sound = sound
        self._early = early
        self._file: InputContainer = av.open(for_ffmpeg(sound.place))
        self.stream = self._file.streams.audio[0]
        self._packets = self._shifted()
        self._kept: Packet[AudioStream] | None = None

    def until(self, end_s: float) -> "Iterator[Packet[AudioStream]]":
        """Yield what begins before `end_s`."""
        while True:
            packet = self._kept or next(self._packets, None)
            self._kept = packet
            if packet is None or packet.pts is None or packet.time_base is None:
                return
            if float(packet.pts * packet.time_base) >= end_s:
                return
            self._kept = None
            yield packet

    def close(self) -> None:
        self._file.close()

    def _shifted(self) -> "Iterator[Packet[AudioStream]]":
        sound, last, number = self._sound, None, 0
        while True:
            began_s = number * (sound.period_s or 0.0) - sound.zero_s
            for packet in self._file.demux(self.stream):
                if packet.pts is None or packet.dts is None or packet.time_base is None:
                    continue
                shift = round(began_s / packet.time_base)
                first = -(packet.duration or 0) if self._early else 0
                if packet.pts + shift < (first if last is None else last + 1):
                    continue  # before the first picture, or in the pass before
                packet.pts += shift
                packet.dts = packet.pts
                last = packet.pts + (packet.duration or 1) - 1
                if sound.period_s and float(packet.pts * packet.time_base) >= (
                    (number + 1) * sound.period_s
                ):
                    break
                yield packet
            if not sound.period_s or last is None:
                return
            number += 1
            self._file.close()
            self._file = av.open(for_ffmpeg(sound.place))
            self.stream = self._file.streams.audio[0]
