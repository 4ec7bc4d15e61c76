"""Make an ordinary film of a recording: its index in front, and the sound of its source beside it.

Nothing is encoded again. The side of the child.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from ...files import beside
from .formats import CONTAINERS
from .plan import Sound

Report = Callable[[str, float], None]


def finish(partial: Path, path: Path, sound: Sound | None, report: Report) -> str:
    """Move a recording to its final name; return what could not be done, or ''.

    The recording is never lost: what fails here leaves it as it is, under the final name.
    """
    container = CONTAINERS[path.suffix.lower()]
    if sound and sound.codec not in container.audio:
        sound = None
    indexed = container.muxer in ("mp4", "mov")
    if not (indexed or sound):
        partial.replace(path)
        return ""
    whole = partial.with_name(beside(path, "whole").name)
    try:
        _rewrite(partial, whole, sound, report)
        whole.replace(path)
        partial.unlink()
        return ""
    except (OSError, av.error.FFmpegError, ValueError) as error:
        with suppress(OSError):
            whole.unlink(missing_ok=True)
        partial.replace(path)
        lost = " without its sound" if sound else ""
        free = "free space, then " if getattr(error, "errno", 0) == errno.ENOSPC else ""
        return (
            f"{path.name}: plays{lost}, but is left as it was recorded "
            f"({getattr(error, 'strerror', None) or error}); {free}copy it with a video program"
        )


def _rewrite(partial: Path, whole: Path, sound: Sound | None, report: Report) -> None:
    container = CONTAINERS[whole.suffix.lower()]
    options = {"movflags": "faststart"} if container.muxer in ("mp4", "mov") else {}
    with (
        av.open(str(partial)) as recorded,
        av.open(str(whole), "w", format=container.muxer, options=options) as made,
    ):
        pictures = recorded.streams.video[0]
        video = made.add_stream_from_template(pictures)
        if pictures.codec_context.codec_tag == "hvc1":
            video.codec_context.codec_tag = "hvc1"  # which QuickTime needs, and a copy loses
        heard = _Heard(sound) if sound else None
        audio = made.add_stream_from_template(heard.stream) if heard else None
        end_s, size = 0.0, max(1, partial.stat().st_size)
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
        if heard and audio:
            _mux(made, audio, heard.until(end_s))
            heard.close()


def _mux(
    made: OutputContainer, audio: AudioStream, packets: "Iterator[Packet[AudioStream]]"
) -> None:
    for packet in packets:
        packet.stream = audio
        made.mux(packet)


class _Heard:
    """The packets of a sound in the time of the recording, pass after pass."""

    def __init__(self, sound: Sound) -> None:
        self._sound = sound
        self._file: InputContainer = av.open(sound.place)
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
                if packet.pts + shift < (0 if last is None else last + 1):
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
            self._file = av.open(sound.place)
            self.stream = self._file.streams.audio[0]
