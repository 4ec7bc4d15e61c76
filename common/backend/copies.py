"""Bytes that the host copies, counted by the hand that copies them.

A hand is whoever writes pixels or tensors into memory of its own: `count` stands beside the copy
and adds the bytes written. What a driver, OpenCV's decoder or a GPU does inside itself is not
seen.
"""

import threading

_lock = threading.Lock()  # hands belong to several threads
_counts: dict[str, int] = {}


def count(hand: str, copied_bytes: int) -> None:
    """Account for a copy that has just been made."""
    with _lock:
        _counts[hand] = _counts.get(hand, 0) + copied_bytes


def take() -> dict[str, int]:
    """Return what was copied in this process since the last call, by hand, and start again from
    nothing.
    """
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken
