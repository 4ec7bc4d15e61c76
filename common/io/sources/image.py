"""An image file, as a source that never ends."""

from pathlib import Path

import numpy as np

from ...picture.still import BACKGROUND, frame_count, read_image, warn_of_frames

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")  # that are written


class ImageFile:
    """One picture, once or over and over."""

    fps = 30.0
    length = 1
    paced = True

    def __init__(self, path: Path, repeat: bool = False, background: str = BACKGROUND) -> None:
        """Read the picture. background: see `read_image`. Raises SourceError, UsageError."""
        self.name = path.name
        self._repeat = repeat
        self._done = False
        self._picture = read_image(path, background)
        if (frames := frame_count(path)) > 1:
            warn_of_frames(path, frames)

    def read(self) -> np.ndarray | None:
        if self._done and not self._repeat:
            return None
        self._done = True
        return self._picture

    def close(self) -> None:
        pass  # the file was closed when it had been read
