"""An X server without a screen, and windows of one colour on it, through libxcb alone."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DEPTH = 24
BACK_PIXEL, OVERRIDE = 2, 512  # of a window's attributes
PLACE = {"x": 1, "y": 2, "width": 4, "height": 8}  # XCB_CONFIG_WINDOW


@contextmanager
def xvfb(size: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run an X server and yield its display; it says itself when it is ready."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{size}x{DEPTH}", "-noreset"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, pass_fds=[writing], stdout=quiet, stderr=quiet) as server:
        os.close(writing)
        try:
            with os.fdopen(reading) as said:
                number = said.readline().strip()
            assert number, "Xvfb has not started"
            yield f":{number}", server
        finally:
            server.terminate()


class Painter:
    """A client that makes windows."""

    def __init__(self, display: str) -> None:
        self._xcb: Any = ctypes.CDLL("libxcb.so.1")
        for name in ("xcb_connect", "xcb_get_setup"):
            getattr(self._xcb, name).restype = ctypes.c_void_p
        self._c = ctypes.c_void_p(self._xcb.xcb_connect(display.encode(), None))

        class Screens(ctypes.Structure):
            _fields_ = (("data", ctypes.POINTER(ctypes.c_uint32)), ("rem", ctypes.c_int))

        self._xcb.xcb_setup_roots_iterator.restype = Screens
        setup = ctypes.c_void_p(self._xcb.xcb_get_setup(self._c))
        self._root = self._xcb.xcb_setup_roots_iterator(setup).data[0]

    def window(self, title: str, place: tuple[int, int, int, int], colour: int) -> int:
        number = int(self._xcb.xcb_generate_id(self._c))
        values = (ctypes.c_uint32 * 2)(colour, 1)
        mask = BACK_PIXEL | OVERRIDE
        self._xcb.xcb_create_window(self._c, 0, number, self._root, *place, 0, 1, 0, mask, values)
        text = title.encode()
        self._xcb.xcb_change_property(self._c, 0, number, 39, 31, 8, len(text), text)  # WM_NAME
        self._do("map_window", number)
        return number

    def move(self, number: int, **place: int) -> None:
        mask = sum(PLACE[name] for name in place)
        values = (ctypes.c_uint32 * len(place))(
            *(place[n] & 0xFFFFFFFF for n in PLACE if n in place)
        )
        self._xcb.xcb_configure_window(self._c, number, mask, values)
        self._sync()

    def hide(self, number: int) -> None:
        self._do("unmap_window", number)

    def show(self, number: int) -> None:
        self._do("map_window", number)

    def destroy(self, number: int) -> None:
        self._do("destroy_window", number)

    def close(self) -> None:
        self._xcb.xcb_disconnect(self._c)

    def _do(self, what: str, number: int) -> None:
        getattr(self._xcb, f"xcb_{what}")(self._c, number)
        self._sync()

    def _sync(self) -> None:
        """Wait until the server has done what was asked."""
        self._xcb.xcb_get_input_focus_reply.restype = ctypes.c_void_p
        cookie = self._xcb.xcb_get_input_focus(self._c)
        reply = self._xcb.xcb_get_input_focus_reply(self._c, cookie, None)
        ctypes.CDLL(None).free(ctypes.c_void_p(reply))
