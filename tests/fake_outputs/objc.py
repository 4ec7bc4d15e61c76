"""PyObjC's autorelease pools, as far as they can be counted."""

from collections.abc import Iterator
from contextlib import contextmanager

depth = 0


@contextmanager
def autorelease_pool() -> Iterator[None]:
    global depth
    depth += 1
    try:
        yield
    finally:
        depth -= 1
