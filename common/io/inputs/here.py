"""Which inputs work on this machine, for `sdxs doctor`: state, finding and remedy of each."""

import socket
from importlib import metadata

from ...errors import UsageError, in_a_line, reason
from .address import LOOPBACK
from .extras import LINK_REMEDY, NO_WHEEL

# True works, None with a limit, False not; what was found; what to do about it, '' if it works.
State = tuple[bool | None, str, str]


def osc_here() -> State:
    """Look for python-osc, and for a UDP port of this machine."""
    version = _version("python-osc")
    if not version:
        return None, "python-osc is not installed", "pip install 'sdxs[osc]', for --osc"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
            tried.bind((LOOPBACK, 0))
    except OSError as error:
        return False, f"no UDP port can be opened ({reason(error)})", "allow UDP on the loopback"
    return True, f"python-osc {version}: sdxs live --osc 9000", ""


def midi_here() -> State:
    """Look for mido and python-rtmidi, and for devices."""
    versions = {name: _version(name) for name in ("mido", "python-rtmidi")}
    missing = [name for name, version in versions.items() if not version]
    if missing:
        hint = f"; {NO_WHEEL}" if NO_WHEEL else ""
        remedy = f"pip install 'sdxs[midi]', for --midi{hint}"
        return None, f"not installed: {', '.join(missing)}", remedy
    from .midi import port_names

    finding = ", ".join(f"{name} {version}" for name, version in versions.items())
    try:
        names = port_names()
    except UsageError as error:
        remedy = "on Linux load snd-seq, and pass /dev/snd into a container"
        return None, f"{finding}; {error}", remedy
    if not names:
        return None, f"{finding}; no MIDI input is connected", "connect a device"
    return True, f"{finding}; here: {', '.join(map(in_a_line, names))}", ""


def link_here() -> State:
    """Look for aalink; joins no session."""
    version = _version("aalink")
    if not version:
        return None, "aalink is not installed", f"for --link: {LINK_REMEDY}"
    return True, f"aalink {version}: sdxs live --link", ""


def audio_here() -> State:
    """Look for sounddevice, for PortAudio, and for audio inputs. Opens none."""
    version = _version("sounddevice")
    if not version:
        remedy = "pip install 'sdxs[audio]', for --audio; a WAV file needs nothing"
        return None, "sounddevice is not installed", remedy
    finding = f"sounddevice {version}"
    try:
        from ..sound.device import input_names

        names = [name for _, name in input_names()]
    except OSError as error:  # of the import
        remedy = "on Debian: apt install libportaudio2; a WAV file needs nothing"
        return None, f"{finding}; PortAudio is not installed ({reason(error)})", remedy
    except UsageError as error:
        return None, f"{finding}; {error}", "check the system's sound; a WAV file needs nothing"
    if not names:
        return None, f"{finding}; no audio input", "connect one, or use --audio FILE.wav"
    return True, f"{finding}; here: {', '.join(map(in_a_line, names))}", ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
