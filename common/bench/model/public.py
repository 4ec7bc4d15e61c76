"""What of a text may be passed on: a run's file is attached to an issue that anybody reads.

Nothing is searched for and cut out: a text is shown if all of it is of a form that is known to be
harmless, and holds no name of this machine or its user; otherwise it is dropped.
"""

import getpass
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress

from ...files import home_folder

REMOVED = "not shown"
# no slash, backslash, tilde or at sign: no path, no address; nothing that Markdown or HTML reads
_TEXT = re.compile(r"[A-Za-z0-9 .,:;+()=%'_-]{0,160}")
_CHIP = re.compile(r"[A-Za-z0-9 .,+()@_-]{0,80}")
_KEY = re.compile(r"[a-z0-9][a-z0-9 _-]{0,31}")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_SYSTEM = re.compile(r"(?:Linux|macOS|Darwin)(?:-\d+(?:\.\d+){0,3})?")
_VERSION = re.compile(r"\d+(?:\.\d+){0,4}(?:(?:a|b|rc|\.dev|\.post)\d+)?")
_BUILD = re.compile(r"\+(?:cpu|cu\d{2,3})")
_COMMIT = re.compile(r"[0-9a-f]{12}(?:\+changes)?")
_FOUR_NUMBERS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
LEAST_NAME = 3  # letters; a shorter name stands in too many words


def own_names() -> frozenset[str]:
    """Return the names of this user and this machine, in lower case."""
    found = {home_folder().name, socket.gethostname(), socket.gethostname().partition(".")[0]}
    with suppress(OSError, KeyError, ImportError):  # a user without an entry
        found.add(getpass.getuser())
    return frozenset(name.lower() for name in found if len(name) >= LEAST_NAME)


def is_text(text: str) -> bool:
    """Tell whether a text is of the harmless form."""
    return bool(_TEXT.fullmatch(text)) and not _FOUR_NUMBERS.search(text)


def is_key(text: str) -> bool:
    """Tell whether a text is a plain word of a label."""
    return bool(_KEY.fullmatch(text))


def is_chip(text: str) -> bool:
    """Tell whether a text may name a processor, as 'Intel(R) Xeon(R) CPU @ 2.20GHz'."""
    return bool(_CHIP.fullmatch(text)) and text.count("@") <= 1 and not re.search(r"\w@", text)


def is_system(text: str) -> bool:
    """Tell whether a text is the name of a system with numbers of a version."""
    return not text or bool(_SYSTEM.fullmatch(text))


def is_version(text: str) -> bool:
    """Tell whether a text is a version with no build of somebody's own."""
    return bool(_VERSION.fullmatch(_BUILD.sub("", text)))


def is_variable(text: str) -> bool:
    """Tell whether a text is spelled as a variable of the environment."""
    return bool(_VARIABLE.fullmatch(text))


def is_commit(text: str) -> bool:
    """Tell whether a text is what `machine.git_revision` makes, or empty."""
    return not text or bool(_COMMIT.fullmatch(text))


def is_date(text: str) -> bool:
    """Tell whether a text is a day, as 2026-01-31."""
    return bool(_DATE.fullmatch(text))


def shown(text: str, names: Iterable[str]) -> str:
    """Return a text that may be passed on, or REMOVED. names: of `own_names`."""
    words = set(re.split(r"[^a-z0-9-]+", text.lower())) | set(re.split(r"[^a-z0-9]+", text.lower()))
    private = any(name in words or ("." in name and name in text.lower()) for name in names)
    return REMOVED if private or not is_text(text) else text


def shown_values(values: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the pairs of which key and value may be passed on; the others are left out."""
    names = frozenset(names)
    pairs = {key: shown(value, names) for key, value in values.items()}
    return {
        key: value
        for key, value in pairs.items()
        if value != REMOVED and is_key(key) and shown(key, names) == key
    }


def system_of(platform: str) -> str:
    """Return the system of `platform.platform`, without a kernel's own name or its C library."""
    found = _SYSTEM.match(platform)
    return found[0] if found else ""


def version_of(version: str) -> str:
    """Return a version without a build of somebody's own, or ''."""
    public = version if is_version(version) else version.partition("+")[0]
    return public if is_version(public) else ""
