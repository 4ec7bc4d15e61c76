"""A folder of numbered PNGs."""

from pathlib import Path

import numpy as np

from ...errors import SinkError
from ...files import check_writable
from ...picture.record import Stamp
from .image import save_image

NAMES = "frame-*.png"


class FolderSink:
    """A folder of numbered PNGs, frame-000001.png onwards."""

    def __init__(self, path: Path) -> None:
        self.written: list[Path] = []
        self._path = path
        self._count = 0
        self._stamp: Stamp | None = None
        if path.exists() and not path.is_dir():
            raise SinkError(
                f"{path}: is a file, and without a suffix a folder is meant; name another one, or "
                "add .mp4 or .png"
            )
        if path.exists() and any(path.glob(NAMES)):
            raise SinkError(
                f"{path}: already holds frames of another session; name a new folder or empty this "
                "one"
            )
        check_writable(path / "frame-000001.png", path if path.is_dir() else path.absolute().parent)

    def stamp_next(self, stamp: Stamp) -> None:
        self._stamp = stamp

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        self._path.mkdir(exist_ok=True)
        self._count += 1
        save_image(self._path / f"frame-{self._count:06d}.png", picture, self._stamp)
        self.written = [self._path]

    def close(self) -> None:
        pass  # every file is whole
