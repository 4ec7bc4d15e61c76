"""Packages that only some inputs need: a plain error where one is not installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import UsageError

# as of python-rtmidi 1.5.8
NO_WHEEL = (
    "python-rtmidi has no wheel for Python 3.13: there pip needs a C++ compiler, and on Linux "
    "ALSA's headers"
    if sys.version_info >= (3, 13)
    else ""
)
LINK_REMEDY = "`pip install aalink`, which is under the GPL-3 and therefore no part of sdxs"


@contextmanager
def needing(option: str, extra: str, hint: str = "") -> Iterator[None]:
    """Raise UsageError, with the remedy, if an import within finds no package.

    extra: that brings it, '' for none. hint: what more there is to know of the remedy.
    """
    try:
        yield
    except ImportError as error:
        remedy = f"`pip install 'sdxs[{extra}]'`" if extra else ""
        raise UsageError(
            f"{option}: {error.name or 'a package'!r} is not installed; "
            f"{'; '.join(filter(None, (remedy, hint)))}"
        ) from None
