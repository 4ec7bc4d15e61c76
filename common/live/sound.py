"""Make what lets sound move a session from the options that it is started with."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UsageError
from ..files import expanded
from ..io.inputs.extras import needing
from ..io.sound.bands import Ear
from ..io.sound.follower import Response
from ..io.sound.wav import WavFile
from .modulation import EXPECTED, Modulation, check_routes, read_route
from .parameters import LiveParameters

NO_PORTAUDIO = (
    "--audio: PortAudio is not installed, which sounddevice needs; on Debian: apt install "
    "libportaudio2"
)


def sound_path(audio: str | None) -> Path | None:
    """Return the path that `--audio` names, None where it names a device."""
    if audio is None:
        return None
    is_path = audio.lower().endswith(".wav") or "/" in audio or expanded(audio).is_file()
    return expanded(audio) if is_path else None


def refuse_parts(audio: str | None, routes: Sequence[str]) -> None:
    """Raise UsageError for half of what sound needs, or a route that cannot be read."""
    if audio is None and routes:
        raise UsageError("--audio-to: is part of --audio; add --audio default, or --audio FILE.wav")
    if audio is not None and not audio.strip():
        raise UsageError("--audio is empty; expected default, a part of an input's name, or a file")
    if audio is not None and not routes:
        raise UsageError(f"--audio {audio}: moves nothing; add --audio-to {EXPECTED}")
    for each in routes:
        read_route(each)


def open_ear(audio: str) -> Ear:
    """Open a file, or find a device. Raises UsageError."""
    path = sound_path(audio)
    if path is not None:
        return WavFile(path)
    try:
        with needing("--audio", "audio"):
            from ..io.sound.device import AudioDevice
    except OSError:
        raise UsageError(NO_PORTAUDIO) from None
    return AudioDevice(audio)


def make_sound(
    audio: str,
    routes: Sequence[str],
    response: Response,
    values: LiveParameters,
    unusable: Mapping[str, str],
    realtime: bool,
    by_film: bool,
    takes_turns: bool,
) -> Modulation:
    """Open what is heard, and start nothing yet. See `make_stage`. Raises UsageError."""
    read = [read_route(each) for each in routes]
    check_routes(read, values, unusable, takes_turns, not realtime)
    ear = open_ear(audio)
    if ear.is_live and not realtime:
        raise UsageError(
            f"--audio {audio}: a file that is rendered frame by frame leaves no time to listen in; "
            "give --audio FILE.wav, or add --realtime"
        )
    return Modulation(read, ear, response, by_film)
