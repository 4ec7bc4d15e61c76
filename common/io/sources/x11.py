"""The windows of an X11 display, through libxcb: titles, places, and whether they can be seen.

libxcb answers an error as a value. Xlib, by contrast, ends the process when a window has gone.
"""

import ctypes
import ctypes.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...errors import SourceError

MOST_WINDOWS = 2000
DEEPEST = 4  # a window manager puts a title bar or two around each window
VIEWABLE = 2  # XCB_MAP_STATE_VIEWABLE
_WORDS = 1024  # of a title, four bytes each


@dataclass(frozen=True, slots=True)
class Place:
    """Where a window is on the display, without its frame, in pixels."""

    left: int
    top: int
    width: int
    height: int


class _Cookie(ctypes.Structure):
    _fields_ = (("sequence", ctypes.c_uint),)


class _Screens(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.POINTER(ctypes.c_uint32)),
        ("rem", ctypes.c_int),
        ("i", ctypes.c_int),
    )


class _Reply(ctypes.Structure):
    """The head of every reply."""

    _fields_ = (
        ("type", ctypes.c_uint8),
        ("detail", ctypes.c_uint8),
        ("sequence", ctypes.c_uint16),
        ("length", ctypes.c_uint32),
    )


class Display:
    """A connection to the display that $DISPLAY names. One thread."""

    def __init__(self) -> None:
        """Connect. Raises SourceError."""
        name = ctypes.util.find_library("xcb") or "libxcb.so.1"
        try:
            self._xcb: Any = ctypes.CDLL(name)
            self._libc: Any = ctypes.CDLL(None)
        except OSError:
            raise SourceError(
                "screen: libxcb is not installed; on Debian: apt install libxcb1 libxcb-randr0 "
                "libxcb-shm0 libxcb-xfixes0 libxcb-image0"
            ) from None
        self._xcb.xcb_connect.restype = ctypes.c_void_p
        self._connection = ctypes.c_void_p(self._xcb.xcb_connect(None, None))
        if self._xcb.xcb_connection_has_error(self._connection):
            self.close()
            raise SourceError("screen: $DISPLAY names no display that can be reached")
        self._xcb.xcb_get_setup.restype = ctypes.c_void_p
        self._xcb.xcb_setup_roots_iterator.restype = _Screens
        setup = ctypes.c_void_p(self._xcb.xcb_get_setup(self._connection))
        self.root = int(self._xcb.xcb_setup_roots_iterator(setup).data[0])

    def close(self) -> None:
        connection, self._connection = self._connection, ctypes.c_void_p()
        if connection:
            self._xcb.xcb_disconnect(connection)

    def windows(self) -> list[tuple[int, str]]:
        """Return windows that can be seen and have a title.

        A window manager lists them; without one they are looked for among all that there are.
        """
        listed = self._property(self.root, "_NET_CLIENT_LIST")
        numbers = [int.from_bytes(listed[at : at + 4], "little") for at in range(0, len(listed), 4)]
        found = numbers or list(self._below(self.root, DEEPEST))
        named = [(each, self.title(each)) for each in found[:MOST_WINDOWS] if self.is_seen(each)]
        return [(each, title) for each, title in named if title.strip()]

    def title(self, window: int) -> str:
        """Return a window's title, '' if it has none or is gone."""
        for name in ("_NET_WM_NAME", "WM_NAME"):
            if stored := self._property(window, name):
                return stored.decode("utf-8" if name[0] == "_" else "latin-1", errors="replace")
        return ""

    def exists(self, window: int) -> bool:
        return self._ask("get_window_attributes", window) is not None

    def is_seen(self, window: int) -> bool:
        """Tell whether a window is there and not minimised."""
        reply = self._ask("get_window_attributes", window)
        return reply is not None and reply[26] == VIEWABLE

    def place(self, window: int) -> Place | None:
        """Return where a window is; None if it is gone."""
        size = self._ask("get_geometry", window)
        at = self._ask("translate_coordinates", window, self.root, 0, 0)
        if size is None or at is None:
            return None
        left, top = (int.from_bytes(at[n : n + 2], "little", signed=True) for n in (12, 14))
        width, height = (int.from_bytes(size[n : n + 2], "little") for n in (16, 18))
        return Place(left, top, width, height)

    def _below(self, window: int, depth: int) -> Iterator[int]:
        reply = self._ask("query_tree", window)
        count = 0 if reply is None else int.from_bytes(reply[16:18], "little")
        for n in range(count):
            assert reply is not None
            child = int.from_bytes(reply[32 + 4 * n : 36 + 4 * n], "little")
            yield child
            if depth > 1:
                yield from self._below(child, depth - 1)

    def _property(self, window: int, name: str) -> bytes:
        """Return the bytes of a property; b'' if it is not there."""
        stored = name.encode()
        atom = self._ask("intern_atom", 1, len(stored), stored)
        number = 0 if atom is None else int.from_bytes(atom[8:12], "little")
        reply = self._ask("get_property", 0, window, number, 0, 0, _WORDS) if number else None
        if reply is None:
            return b""
        units, count = reply[1] // 8, int.from_bytes(reply[16:20], "little")
        return reply[32 : 32 + units * count]

    def _ask(self, request: str, *arguments: int | bytes) -> bytes | None:
        """Send a request and return its reply, None for an error."""
        if not self._connection:
            return None
        send = getattr(self._xcb, f"xcb_{request}")
        receive = getattr(self._xcb, f"xcb_{request}_reply")
        send.restype, receive.restype = _Cookie, ctypes.c_void_p
        values = [each if isinstance(each, bytes) else ctypes.c_uint32(each) for each in arguments]
        cookie = send(self._connection, *values)
        # without a place for it, libxcb keeps an error in its queue of events
        error = ctypes.c_void_p()
        found = receive(self._connection, cookie, ctypes.byref(error))
        if error:
            self._libc.free(error)
        if not found:
            return None
        head = _Reply.from_address(found)
        reply = ctypes.string_at(found, 32 + 4 * head.length)
        self._libc.free(ctypes.c_void_p(found))
        return reply
