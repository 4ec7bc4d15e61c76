"""An animated image (GIF, WebP, APNG, AVIF), as a film at a constant rate."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...backend import copies
from ...picture.still import BACKGROUND, rate_of, read_animation


class Animation:
    """Every frame of an animation, once or over and over.

    A frame that is shown longer is repeated: times hold within half a hundredth of a second.
    """

    paced = True

    def __init__(self, path: Path, repeat: bool = False, background: str = BACKGROUND) -> None:
        """Read the times of all frames. Raises SourceError, UsageError."""
        self.name = path.name
        self._path, self._background, self._repeat = path, background, repeat
        self.fps, self._repeats = rate_of([ms for _, ms in read_animation(path, background)])
        self.length = sum(self._repeats)
        self._frames = self._play()

    def read(self) -> np.ndarray | None:
        picture = next(self._frames, None)
        if picture is None and self._repeat:
            self._frames = self._play()
            picture = next(self._frames, None)
        if picture is not None:
            copies.count("source", picture.nbytes)
        return picture

    def close(self) -> None:
        self._frames = iter(())

    def _play(self) -> Iterator[np.ndarray]:
        frames = read_animation(self._path, self._background)
        for (picture, _), times in zip(frames, self._repeats, strict=True):
            for _ in range(times):
                yield picture
