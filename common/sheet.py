"""A contact sheet of a session: the camera on top, then a row of frames for each prompt."""

from pathlib import Path

import numpy as np

from .frames import Frame
from .image import contact_sheet
from .sink import ImageSink

COLUMNS = 5


class Sheet:
    """Picks five frames, evenly spaced, from the time each prompt is held."""

    def __init__(self, path: Path, hold: int) -> None:
        """hold: frames per prompt. Raises SinkError if `path` cannot be written."""
        self._sink = ImageSink(path)
        self._hold = hold
        self._picks = sorted({int((i + 0.5) * hold / COLUMNS) for i in range(COLUMNS)})
        self._rows: dict[str, list[np.ndarray]] = {}

    def add(self, frame: Frame) -> None:
        """Keep a copy of the frame if it is one of the picks."""
        camera, row = self._rows.setdefault("camera", []), self._rows.setdefault(frame.prompt, [])
        if len(row) == len(self._picks) or frame.id % self._hold < self._picks[len(row)]:
            return
        if len(camera) < len(self._picks):
            camera.append(frame.camera.copy())
        row.append(frame.outputs[0].copy())

    def close(self) -> None:
        """Write what was collected; nothing if that is nothing."""
        rows = [(name, pictures) for name, pictures in self._rows.items() if pictures]
        if rows:
            self._sink.write(contact_sheet(rows), 0)
            self._sink.close()
            self._rows.clear()
