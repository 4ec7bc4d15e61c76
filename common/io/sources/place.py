"""Places that are no path of a file: URLs, pipes, devices."""

import re
import stat
import urllib.request
from pathlib import Path

from ...errors import SourceError

STANDARD_INPUT = "-"
# of URLs: whether what they name comes at its own pace
SCHEMES = dict.fromkeys(("rtsp", "rtsps", "rtmp", "srt", "udp", "tcp"), True) | dict.fromkeys(
    ("http", "https", "file"), False
)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_VIDEO_DEVICE = re.compile(r"/dev/video(\d+)")


def is_url(text: str) -> bool:
    """Tell whether a text is a URL, of whatever scheme."""
    return _URL.fullmatch(text) is not None


def path_of_url(url: str) -> Path | None:
    """Return the path that a file URL names, None for another URL.

    Raises SourceError for a scheme that is not read, and a file of another machine.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in SCHEMES:
        raise SourceError(
            f"{without_password(url)}: understood as a URL, and {scheme}:// is not read; expected "
            f"{', '.join(f'{each}://' for each in SCHEMES)}, or a path"
        )
    if scheme.lower() != "file":
        return None
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise SourceError(f"{url}: understood as a file of the machine {host}; write file:///path")
    return Path(urllib.request.url2pathname(slash + path))


def is_live(url: str) -> bool:
    """Tell whether what a URL names comes at its own pace."""
    return SCHEMES.get(url.partition("://")[0], False)


def spelled(url: str) -> str:
    """Return a URL with its scheme in small letters, as FFmpeg wants it."""
    scheme, sign, rest = url.partition("://")
    return f"{scheme.lower()}{sign}{rest}"


def without_password(text: str) -> str:
    """Return a source as messages may show it: user, password and query of a URL are left out."""
    scheme, sign, rest = text.partition("://")
    if not sign:
        return text
    host, slash, path = rest.partition("/")
    host, query, _ = host.rpartition("@")[2].partition("?")
    return f"{scheme}{sign}{host}" + ("" if query else f"{slash}{path.partition('?')[0]}")


def is_pipe(path: Path) -> bool:
    """Tell whether a path is that of a pipe; a name that no file can have is none."""
    try:
        return path.is_fifo()
    except (OSError, ValueError):
        return False


def camera_of_device(path: Path) -> int | None:
    """Return the number of the camera that a device file is, None for a path of another kind.

    Raises SourceError for a device that is no camera, or cannot be looked at.
    """
    try:
        if not stat.S_ISCHR(path.stat().st_mode):
            return None
    except (OSError, ValueError):
        return None  # opening it raises the error
    found = _VIDEO_DEVICE.fullmatch(str(path.resolve()))
    if found is None:
        raise SourceError(
            f"{path}: is a device, but no camera; a camera is /dev/video0, or --source 0"
        )
    return int(found[1])
