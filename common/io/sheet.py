"""A contact sheet of a session: the camera on top, then a row of frames for each prompt."""

import warnings
from pathlib import Path

import numpy as np

from ..errors import SdxsWarning, UsageError
from ..files import expanded
from ..live.threads.frames import LiveFrame
from ..picture.draw import contact_sheet
from .sinks.image import ImageSink
from .sources.image import IMAGE_SUFFIXES

COLUMNS = 5
MOST_BYTES = 256 << 20  # of pictures kept until the end: 65 rows at 512


class Sheet:
    """Picks five frames, evenly spaced, from the time each prompt is held."""

    def __init__(self, path: Path, hold: int) -> None:
        """Take frames per prompt as `hold`.

        Raises SinkError if `path` cannot be written, UsageError if it names no image.
        """
        path = expanded(path)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise UsageError(
                f"--contact-sheet {path}: expected an image ({', '.join(IMAGE_SUFFIXES)})"
            )
        self._sink = ImageSink(path)
        self._hold = hold
        self._picks = sorted({int((i + 0.5) * hold / COLUMNS) for i in range(COLUMNS)})
        self._camera: list[np.ndarray] = []
        self._rows: dict[str, list[np.ndarray]] = {}
        self._full = False

    def add(self, frame: LiveFrame) -> None:
        """Keep a copy of the frame if it is one of the picks."""
        row = self._rows.get(frame.prompt)
        if row is None and self._full:
            return
        if row is None:
            row = self._rows[frame.prompt] = []
        if len(row) == len(self._picks) or frame.id % self._hold < self._picks[len(row)]:
            return
        if len(self._camera) < len(self._picks):
            self._camera.append(frame.camera.copy())
        row.append(frame.outputs[0].copy())
        if (len(self._rows) + 1) * COLUMNS * frame.camera.nbytes >= MOST_BYTES and not self._full:
            self._full = True
            warnings.warn(
                f"--contact-sheet: holds its first {len(self._rows)} prompts; later ones are left "
                "out",
                SdxsWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        """Write what was collected; nothing if that is nothing."""
        rows = [(name, pictures) for name, pictures in self._rows.items() if pictures]
        if rows:
            self._sink.write(contact_sheet([("camera", self._camera), *rows]), 0)
            self._sink.close()
            self._rows.clear()
