"""`kind:rest`, as sources and sinks are named beside plain paths."""

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError
from ..files import expanded

_KIND = re.compile(r"([a-z][a-z0-9]+):(?!//)(.*)", re.DOTALL)


def split_kind(text: str) -> tuple[str, str] | None:
    """Return kind and rest, or None for a path.

    A path is whatever exists, whatever has a separator, a capital or a single letter before the
    colon (`./take:1.mp4`, `C:film.mp4`), and a URL, `rtsp://host/1`.
    """
    found = _KIND.fullmatch(text)
    if found is None or _exists(text):
        return None
    return found[1], found[2]


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def unknown_kind(option: str, text: str, known: Iterable[str]) -> UsageError:
    """The refusal of a kind that there is not."""
    kind = text.partition(":")[0]
    return UsageError(
        f"{option} {text}: unknown kind {kind!r}; expected {', '.join(f'{k}:' for k in known)} or "
        f"a path; a path with a colon is written ./{text}"
    )


def nothing_after(option: str, kind: str, rest: str) -> None:
    """Raise UsageError for a rest where a kind takes none."""
    if rest:
        raise UsageError(f"{option} {kind}:{rest}: expected nothing after {kind}:")


def path_after(option: str, kind: str, rest: str) -> Path:
    """Return the path after the colon. Raises UsageError if there is none."""
    if not rest.strip():
        raise UsageError(f"{option} {kind}: expected a path after the colon")
    return expanded(rest)
