"""One image file: the last picture of a session."""

from pathlib import Path

import numpy as np

from ...backend import copies
from ...errors import SinkError
from ...files import check_writable, write_whole
from ...picture.opencv import cv2
from ...picture.record import Stamp


class ImageSink:
    """One image file: the last picture of the session."""

    def __init__(self, path: Path) -> None:
        self.written: list[Path] = []
        self._path = path
        self._last: np.ndarray | None = None
        self._stamp: Stamp | None = None
        check_writable(path, path.absolute().parent)

    def stamp_next(self, stamp: Stamp) -> None:
        self._stamp = stamp

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        if self._last is None:
            self._last = np.empty_like(picture)
        np.copyto(self._last, picture)
        copies.count("image", picture.nbytes)

    def close(self) -> None:
        if self._last is not None:
            save_image(self._path, self._last, self._stamp)
            self._last, self.written = None, [self._path]


def save_image(path: Path, picture: np.ndarray, stamp: Stamp | None = None) -> None:
    """Write an RGB picture whole or not at all. Raises SinkError.

    stamp: puts its record into a PNG; files of other kinds carry none.
    """
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not ok:
        raise SinkError(f"{path}: OpenCV cannot encode {path.suffix}; use .png or .jpg")
    content = data.tobytes()
    if stamp is not None and path.suffix.lower() == ".png":
        content = stamp(content, picture)
    write_whole(path, content)
