"""Count the bytes that the host copies, per copy site.

A copy site is a place in the code that copies frame bytes; it calls `count` with the bytes written.
Copies inside a driver, OpenCV's decoder or a GPU are not counted.
"""

import threading

_lock = threading.Lock()  # several threads copy
_counts: dict[str, int] = {}


def count(site: str, copied_bytes: int) -> None:
    """Add the bytes of one copy to its copy site."""
    with _lock:
        _counts[site] = _counts.get(site, 0) + copied_bytes


def take() -> dict[str, int]:
    """Return the bytes copied in this process since the last call, per copy site, and reset."""
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken
