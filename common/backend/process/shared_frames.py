"""Shared memory for the frames between a process and its child.

The memory has no name once it exists, so nothing is left however either side dies.
"""

import _posixshmem  # the base of multiprocessing.shared_memory
import math
import mmap
import os
import secrets
from dataclasses import dataclass
from multiprocessing import reduction

import numpy as np

from ...errors import BackendError
from ..protocol import check_frame

SLOTS = 4  # most frames in flight
ALIGNMENT = 64  # bytes: a cache line


@dataclass(frozen=True, slots=True)
class Plane:
    """Shape and dtype of an array in shared memory."""

    shape: tuple[int, ...]
    dtype: str = "uint8"  # the dtype of a picture

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def check(self, frame: np.ndarray) -> None:
        """Raise BackendError unless `frame` is C-contiguous and of this shape and dtype."""
        if self.dtype == "uint8":
            check_frame(frame, self.shape)
        elif frame.dtype != self.dtype or frame.shape != self.shape or not frame.flags.c_contiguous:
            raise BackendError(
                f"frame is {frame.dtype} {frame.shape}; expected contiguous {self.dtype} "
                f"{self.shape}"
            )


Planes = tuple[Plane, Plane, Plane]  # input, output, edges


class SharedFrames:
    """Shared memory for SLOTS frames: input, output and edges in each slot."""

    def __init__(self, planes: Planes, descriptor: int) -> None:
        self._planes = planes
        self._descriptor = descriptor
        memory = np.frombuffer(
            mmap.mmap(descriptor, SLOTS * _slot_bytes(planes)), np.uint8
        ).reshape(SLOTS, -1)
        starts = (0, _aligned(planes[0].nbytes), _slot_bytes(planes[:2]))
        self.given, self.made, self.edges = (
            [
                row[start : start + plane.nbytes].view(plane.dtype).reshape(plane.shape)
                for row in memory
            ]
            for start, plane in zip(starts, planes, strict=True)
        )

    @classmethod
    def create(cls, planes: Planes) -> "SharedFrames":
        """Allocate the memory and unlink its name at once, so a crash leaves nothing behind.

        Raises OSError.
        """
        name = f"/sdxs-{secrets.token_hex(4)}"  # 14 characters fit every system's limit
        descriptor: int = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
        try:
            _posixshmem.shm_unlink(name)
            count = SLOTS * _slot_bytes(planes)
            os.ftruncate(descriptor, count)
            # with it a full /dev/shm raises here; without it the first write raises SIGBUS
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, count)
            return cls(planes, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def __reduce__(self) -> "tuple[type[SharedFrames], tuple[Planes, int]]":
        # Pickled for a spawned process, which inherits the descriptor under the same number.
        return SharedFrames, (self._planes, reduction.DupFd(self._descriptor).detach())

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def close_descriptor(self) -> None:
        """Close the descriptor; the mapping lives as long as the arrays."""
        os.close(self._descriptor)


def _slot_bytes(planes: tuple[Plane, ...]) -> int:
    return sum(_aligned(plane.nbytes) for plane in planes)


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
