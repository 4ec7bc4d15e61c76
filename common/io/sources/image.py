"""An image file, as a source that never ends."""

from pathlib import Path

import numpy as np

from ...errors import SourceError
from ...picture.opencv import cv2

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class ImageFile:
    """One picture, once or over and over."""

    fps = 30.0
    length = 1
    paced = True

    def __init__(self, path: Path, repeat: bool = False) -> None:
        """Read the picture. Raises SourceError if it cannot be."""
        self.name = path.name
        self._repeat = repeat
        self._done = False
        if not path.is_file():
            raise SourceError(
                f"{path}: no such file; --source takes a camera number, a video, an image or "
                "'synthetic'"
            )
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SourceError(f"{path}: not an image OpenCV can read; try a .png or .jpg")
        self._picture = picture

    def read(self) -> np.ndarray | None:
        if self._done and not self._repeat:
            return None
        self._done = True
        return self._picture

    def close(self) -> None:
        pass  # the file was closed when it had been read
