"""Packages that only some inputs need: a plain error where one is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import UsageError


@contextmanager
def needing(option: str, extra: str) -> Iterator[None]:
    """Raise UsageError, with the remedy, if an import within finds no package."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"{option}: {error.name or 'a package'!r} is not installed; "
            f"`pip install 'sdxs[{extra}]'`"
        ) from None
