"""Cameras as Linux' Video4Linux tells them: names from /sys, sizes and rates from the drivers.

The device is asked, no stream is started. Numbers and layouts are those of linux/videodev2.h. A
driver that refuses a question leaves its answer out.
"""

import fcntl
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from .camera_modes import CameraInfo, CameraMode, Rates, Size

Ioctl = Callable[[int, int, bytearray], object]

FOLDER, DEVICES = Path("/sys/class/video4linux"), Path("/dev")
MOST = 512  # answers of one kind: a driver that never says that it is done
QUERYCAP, ENUM_FMT = 0x80685600, 0xC0405602
ENUM_FRAMESIZES, ENUM_FRAMEINTERVALS = 0xC02C564A, 0xC034564B
CAPABILITY = struct.Struct("=80x3I12x")  # version, capabilities of all devices, of this one
FORMAT = struct.Struct("=3I32xI16x")  # index, type, flags, pixels
# index, pixels, type, then a width and a height, or least, most and step of each
SIZE = struct.Struct("=3I6I8x")
# index, pixels, width, height, type, then a fraction of a second, or the least, the most, the step
INTERVAL = struct.Struct("=5I6I8x")
CAPTURE, CAPTURE_PLANES, OF_DEVICE = 0x1, 0x1000, 0x80000000  # V4L2_CAP_*
BUFFERS = {CAPTURE: 1, CAPTURE_PLANES: 9}  # V4L2_BUF_TYPE_VIDEO_CAPTURE, and of several planes
COMPRESSED = 0x1  # V4L2_FMT_FLAG_COMPRESSED
DISCRETE = 1  # V4L2_FRMSIZE_TYPE_DISCRETE and V4L2_FRMIVAL_TYPE_DISCRETE


def cameras(
    folder: Path = FOLDER, devices: Path = DEVICES, ioctl: Ioctl = fcntl.ioctl
) -> list[CameraInfo]:
    """Return the cameras by the number of their device, which is OpenCV's.

    folder, devices: stand in for /sys/class/video4linux and /dev.
    """
    numbers = sorted(
        int(found[1]) for found in map(re.compile(r"video(\d+)").fullmatch, _names(folder)) if found
    )
    listed = (_camera(number, folder, devices, ioctl) for number in numbers)
    return [each for each in listed if each]


def _names(folder: Path) -> list[str]:
    try:
        return [each.name for each in folder.iterdir()]
    except OSError:  # no driver is loaded
        return []


def _camera(number: int, folder: Path, devices: Path, ioctl: Ioctl) -> CameraInfo | None:
    """Return one device; None for one that captures nothing, or is not in this container."""
    entry = f"video{number}"
    try:
        name = (folder / entry / "name").read_text(errors="replace").strip()
    except OSError:
        name = ""
    name = name or entry
    try:
        handle = os.open(devices / entry, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return CameraInfo(number, name, untold=f"{devices / entry}: {error.strerror}")
    try:
        driver = _Driver(handle, ioctl)
        buffers = driver.buffers()
        if buffers == 0:
            return None
        return CameraInfo(number, name, tuple(driver.modes(buffers)) if buffers else ())
    finally:
        os.close(handle)


class _Driver:
    """The driver behind an open device."""

    def __init__(self, handle: int, ioctl: Ioctl) -> None:
        self._handle, self._ioctl = handle, ioctl

    def buffers(self) -> int | None:
        """Return the kind of its pictures' buffers; 0 if it has none, None if it does not tell.

        A webcam has a second device, for its metadata.
        """
        told = self._ask(QUERYCAP, CAPABILITY, bytes(CAPABILITY.size))
        if told is None:
            return None
        _, of_all, of_device = told
        does = of_device if of_all & OF_DEVICE else of_all
        return next((kind for bit, kind in BUFFERS.items() if does & bit), 0)

    def modes(self, buffers: int) -> Iterator[CameraMode]:
        """Yield every size of every pixel format."""
        for told in self._each(ENUM_FMT, FORMAT, buffers):
            flags, pixels = told[2:]
            name = pixels.to_bytes(4, "little").decode("ascii", "replace").strip()
            for size in self._each(ENUM_FRAMESIZES, SIZE, pixels):
                least, most = _ends(size[2], size[3:])
                rates = self._rates(pixels, most)
                largest = None if most == least else most
                yield CameraMode(least, rates, name, not flags & COMPRESSED, largest)

    def _rates(self, pixels: int, size: Size) -> Rates:
        found = []
        for told in self._each(ENUM_FRAMEINTERVALS, INTERVAL, pixels, *size):
            shortest = _rate(told[5], told[6])
            longest = shortest if told[4] == DISCRETE else _rate(told[7], told[8])
            if shortest and longest:
                found.append((longest, shortest))
            if told[4] != DISCRETE:
                break  # a range, and there is only one
        return tuple(sorted(found))

    def _each(self, request: int, layout: struct.Struct, *about: int) -> Iterator[tuple[int, ...]]:
        """Yield the answers by their index until the driver has no more."""
        for index in range(MOST):
            question = struct.pack(f"={1 + len(about)}I", index, *about)
            told = self._ask(request, layout, question.ljust(layout.size, b"\0"))
            if told is None:
                return
            yield told
            if request == ENUM_FRAMESIZES and told[2] != DISCRETE:
                return

    def _ask(self, request: int, layout: struct.Struct, question: bytes) -> tuple[int, ...] | None:
        told = bytearray(question)
        try:
            self._ioctl(self._handle, request, told)
        except OSError:  # EINVAL after the last, ENOTTY where it does not know the question
            return None
        return layout.unpack(told)


def _ends(kind: int, numbers: tuple[int, ...]) -> tuple[Size, Size]:
    """Return the smallest and the largest size of a v4l2_frmsizeenum."""
    if kind == DISCRETE:
        return (numbers[0], numbers[1]), (numbers[0], numbers[1])
    return (numbers[0], numbers[3]), (numbers[1], numbers[4])


def _rate(numerator: int, denominator: int) -> float:
    """Return frames a second of a time between two; 0 for none."""
    return denominator / numerator if numerator else 0.0
