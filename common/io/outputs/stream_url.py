"""Addresses of streams that are sent; without FFmpeg, so that any process may ask."""

import re
from urllib.parse import urlsplit

from ...errors import UsageError
from ..sources.place import spelled, without_password

MUXERS = {
    "rtmp": "flv",
    "rtmps": "flv",
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "srt": "mpegts",
    "udp": "mpegts",
    "tcp": "mpegts",
}
_KEYED = ("rtmp", "rtmps")  # whose path ends in a secret


def read_url(option: str, url: str) -> str:
    """Return a URL as FFmpeg wants it. Raises UsageError for one that cannot be sent to."""
    scheme = url.partition("://")[0].lower()
    if scheme not in MUXERS:
        raise UsageError(
            f"{option} {shown(url)}: {scheme}:// is not sent to; expected "
            f"{', '.join(f'{each}://' for each in MUXERS)}"
        )
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", url):
        raise UsageError(f"{option} {shown(url)}: expected {scheme}://HOST:PORT/PATH")
    return spelled(url)


def shown(url: str) -> str:
    """Return a URL as messages may show it: without user, password, query and stream key."""
    plain = without_password(url)
    scheme, _, rest = plain.partition("://")
    if scheme.lower() not in _KEYED:
        return plain
    host, _, path = rest.partition("/")
    app, _, key = path.partition("/")
    return f"{scheme}://{host}/{app}{'/...' if key else ''}"


def why_missing(scheme: str) -> str:
    """Say that this FFmpeg lacks a protocol, and what to do."""
    return (
        f"the FFmpeg of the installed PyAV was built without {scheme}://; send "
        f"udp://127.0.0.1:PORT, and let a program that has it pass it on: ffmpeg -i "
        f"udp://127.0.0.1:PORT -c copy -f {MUXERS[scheme]} {scheme}://HOST:PORT"
    )
