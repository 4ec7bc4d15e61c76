"""Arrays and pictures as Core ML takes them from Python's own memory, through PyObjC.

PyObjC hands on the address of a contiguous buffer, and lets go of the buffer when the call ends. So
only arrays of `inputs.lend` are wrapped, which are never freed: Core ML needs no deallocator, and
none of its threads ever has to call into an interpreter that may be gone. For the same reason it
gets no list, dict, int or str of Python, which PyObjC would hand on as objects that ask Python for
every element, under its lock: `array_of` and `dictionary_of` make Foundation's own.

Two ways to hand on a picture were possible. A pixel buffer around our own bytes needs no IOSurface
and is what PyObjC tests. One with an IOSurface may be faster for the GPU and the Neural Engine;
only a Mac can tell.
"""

import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from ..common.errors import BackendError, UsageError
from . import inputs

LEAST_PYOBJC = 12
PACKAGES = {"CoreML": "pyobjc-framework-CoreML", "Quartz": "pyobjc-framework-Quartz"}
# MLMultiArrayDataType
DATA_TYPES = {"float64": 0x10040, "float32": 0x10020, "float16": 0x10010, "int32": 0x20020}
BGRA = int.from_bytes(b"BGRA", "big")  # kCVPixelFormatType_32BGRA
READ_ONLY = 1  # kCVPixelBufferLock_ReadOnly


@dataclass(frozen=True, slots=True)
class Frameworks:
    """PyObjC's modules. quartz: None where no picture is an image."""

    objc: ModuleType
    coreml: ModuleType
    foundation: ModuleType
    quartz: ModuleType | None = None


def missing(images: bool) -> list[str]:
    """Return the packages that are not installed, of those that are needed."""
    needed = ("CoreML", "Quartz") if images else ("CoreML",)
    return [PACKAGES[name] for name in needed if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    return name in sys.modules or find_spec(name) is not None


def remedy(packages: list[str]) -> str:
    """Return the command that installs these packages."""
    return f"pip install {' '.join(repr(f'{each}>={LEAST_PYOBJC}') for each in packages)}"


def frameworks(images: bool = False) -> Frameworks:
    """Import PyObjC. images: Quartz, too. Raises UsageError if it is not installed."""
    lacking = missing(images)
    if lacking:
        raise UsageError(
            f"--coreml-runtime pyobjc: not installed: {' and '.join(lacking)}; {remedy(lacking)}, "
            "or use --coreml-runtime coreml"
        )
    objc, coreml = import_module("objc"), import_module("CoreML")
    foundation = import_module("Foundation")
    return Frameworks(objc, coreml, foundation, import_module("Quartz") if images else None)


def said(error: Any) -> str:
    """Return what an NSError says; an error may be missing, against the rules."""
    return str(error.localizedDescription()) if error is not None else "no reason given"


def array_of(tools: Frameworks, numbers: Iterable[int]) -> Any:
    """Return an NSArray of NSNumbers."""
    made = tools.foundation.NSMutableArray.array()
    for each in numbers:
        made.addObject_(tools.foundation.NSNumber.numberWithLongLong_(int(each)))
    return made


def text_of(tools: Frameworks, text: str) -> Any:
    """Return an NSString."""
    return tools.foundation.NSString.stringWithUTF8String_(text.encode())


def dictionary_of(tools: Frameworks, values: Mapping[str, Any]) -> Any:
    """Return an NSDictionary of Objective-C objects by NSString."""
    made = tools.foundation.NSMutableDictionary.dictionary()
    for name, value in values.items():
        made.setObject_forKey_(value, text_of(tools, name))
    return made


def wrap(tools: Frameworks, array: np.ndarray) -> Any:
    """Return an MLMultiArray over the memory of an array of `inputs.lend`.

    Raises BackendError, also if PyObjC handed on a copy.
    """
    if not inputs.is_lent(array):
        raise BackendError(
            "coreml: an array that may be freed cannot be given to Core ML; take it from "
            "`inputs.lend`"
        )
    strides = [step // array.itemsize for step in array.strides]  # in elements
    init = "initWithDataPointer_shape_dataType_strides_deallocator_error_"
    made, error = getattr(tools.coreml.MLMultiArray.alloc(), init)(
        array,
        array_of(tools, array.shape),
        DATA_TYPES[array.dtype.name],
        array_of(tools, strides),
        None,
        None,
    )
    if made is None:
        raise BackendError(f"coreml: Core ML refused an array of {array.shape} ({said(error)})")
    if read(made).ctypes.data != array.ctypes.data:
        raise BackendError(
            "coreml: PyObjC copied an array instead of handing on its address; "
            f"{remedy([PACKAGES['CoreML']])}, or use --coreml-runtime coreml"
        )
    return made


def read(multi: Any) -> np.ndarray:
    """Return a view of an MLMultiArray, with its strides; valid as long as the MLMultiArray.

    Raises BackendError for a type of numbers that no program of ours has.
    """
    kind = int(multi.dataType())
    names = [name for name, value in DATA_TYPES.items() if value == kind]
    if not names:
        raise BackendError(
            f"coreml: a result has the data type {kind:#x}; expected one of {', '.join(DATA_TYPES)}"
        )
    dtype = np.dtype(names[0])
    shape = tuple(map(int, multi.shape()))
    strides = tuple(int(step) * dtype.itemsize for step in multi.strides())
    span = dtype.itemsize + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    memory = multi.dataPointer().as_buffer(span)
    return np.ndarray(shape, dtype, memory, strides=strides)


class Pixels:
    """A picture in a CVPixelBuffer over our own bytes, BGRA. Neither is ever freed.

    Its memory is touched between lock and unlock only, and never while a prediction runs.
    """

    def __init__(self, tools: Frameworks, height: int, width: int) -> None:
        """Make the buffer. Raises BackendError."""
        assert tools.quartz is not None
        self._quartz = tools.quartz
        self.array = inputs.lend((height, width, 4), "uint8")
        self.array[..., 3] = 255
        # PyObjC gives None instead of a pair if no buffer was made
        made = self._quartz.CVPixelBufferCreateWithBytes(
            None, width, height, BGRA, self.array, 4 * width, None, None, None
        )
        if made is None or made[0]:
            code = made[0] if made else "no buffer"
            raise BackendError(f"coreml: no pixel buffer of {width} x {height} ({code})")
        self.buffer = made[1]

    def write(self, picture: np.ndarray) -> None:
        """Write a picture, uint8 (H, W, 3) RGB."""
        self._lock(0)
        self.array[..., :3] = picture[..., ::-1]
        self._quartz.CVPixelBufferUnlockBaseAddress(self.buffer, 0)

    def read(self) -> np.ndarray:
        """Return a copy, uint8 (H, W, 3) RGB."""
        self._lock(READ_ONLY)
        picture = np.ascontiguousarray(self.array[..., 2::-1])
        self._quartz.CVPixelBufferUnlockBaseAddress(self.buffer, READ_ONLY)
        return picture

    def _lock(self, flags: int) -> None:
        code = self._quartz.CVPixelBufferLockBaseAddress(self.buffer, flags)
        if code:
            raise BackendError(f"coreml: a pixel buffer cannot be locked ({code})")


def read_foreign(tools: Frameworks, buffer: Any) -> np.ndarray:
    """Return a copy of a pixel buffer that Core ML made, uint8 (H, W, 3) RGB."""
    quartz = tools.quartz
    assert quartz is not None
    if quartz.CVPixelBufferLockBaseAddress(buffer, READ_ONLY):
        raise BackendError("coreml: the picture's pixel buffer cannot be locked")
    height, width = quartz.CVPixelBufferGetHeight(buffer), quartz.CVPixelBufferGetWidth(buffer)
    row = quartz.CVPixelBufferGetBytesPerRow(buffer)
    memory = quartz.CVPixelBufferGetBaseAddress(buffer).as_buffer(row * height)
    view = np.ndarray((height, width, 4), np.uint8, memory, strides=(row, 4, 1))
    picture = np.ascontiguousarray(view[..., 2::-1])
    quartz.CVPixelBufferUnlockBaseAddress(buffer, READ_ONLY)
    return picture


_waiting: defaultdict[tuple[int, int], list[Pixels]] = defaultdict(list)
_kept: list[Pixels] = []  # a buffer that is freed calls into the interpreter, from any thread
_guard = threading.Lock()


def lend_pixels(tools: Frameworks, height: int, width: int) -> Pixels:
    """Return a picture's buffer; `give_back_pixels` lets others use it."""
    with _guard:
        found = _waiting[height, width].pop() if _waiting[height, width] else None
    if found is None:
        found = Pixels(tools, height, width)
        inputs.kept(np.array([found], object))
        _kept.append(found)
    return found


def give_back_pixels(pixels: list[Pixels]) -> None:
    """Let later models use these buffers."""
    with _guard:
        for each in pixels:
            _waiting[each.array.shape[:2]].append(each)
