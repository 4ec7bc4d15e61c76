"""A pyvirtualcam that holds to the documented rules of 0.15, with cameras in a folder.

$SDXS_FAKE_CAMERAS names the folder: a file is a camera, and `NAME.used` says that it is in use. A
picture is appended to its file.
"""

import os
from enum import Enum
from pathlib import Path

import numpy as np


class PixelFormat(Enum):
    RGB = "raw "
    BGR = "24BG"


class Camera:
    def __init__(
        self,
        width: int,
        height: int,
        fps: float,
        *,
        fmt: PixelFormat = PixelFormat.RGB,
        device: str | None = None,
    ) -> None:
        folder = Path(os.environ["SDXS_FAKE_CAMERAS"])
        names = [device] if device else sorted(path.name for path in folder.glob("camera?"))
        errors = []
        for name in names:
            if not (folder / name).exists():
                errors.append(f"Device {name} does not exist.")
            elif (folder / f"{name}.used").exists():
                errors.append(f"Device {name} is already in use.")
            else:
                break
        else:
            raise RuntimeError("\n".join(errors) or "No v4l2 loopback device found.")
        assert width % 2 == height % 2 == 0, "cameras have even sides"
        assert fps > 0 and fmt is PixelFormat.RGB
        self.device, self._shape = name, (height, width, 3)
        self._file, self._used = folder / name, folder / f"{name}.used"
        self._used.touch()
        self._open = True

    def send(self, frame: np.ndarray) -> None:
        if not self._open:
            raise AttributeError("'NoneType' object has no attribute 'send'")
        if frame.dtype != np.uint8:
            raise TypeError(f"unexpected frame dtype: {frame.dtype} != uint8")
        if frame.shape != self._shape:
            raise ValueError(f"unexpected frame shape: {frame.shape} != {self._shape}")
        assert frame.flags.c_contiguous
        with self._file.open("ab") as file:
            file.write(frame.tobytes())

    def close(self) -> None:
        if self._open:
            self._open = False
            self._used.unlink()
