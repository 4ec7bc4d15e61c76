"""The size of a frame: width and height in pixels, read, written and compared in one place."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import UsageError, in_a_line

if TYPE_CHECKING:
    import numpy as np

# How a picture of other proportions becomes a frame: its middle, with black bars, or distorted.
Fit = Literal["crop", "pad", "stretch"]
MOST_PIXELS = 10**9  # of a side; no checkpoint takes as many
_WRITTEN = re.compile(r"(-?\d{1,9})(?:[xX\u00d7](-?\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class FrameSize:
    """Hold width and height in pixels. Raises UsageError for what is no whole number.

    Which sizes are valid is for `Checkpoint.check_size` to say. Smaller means fewer pixels, and
    then less width.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        for side in (self.width, self.height):
            if not isinstance(side, int) or isinstance(side, bool) or abs(side) > MOST_PIXELS:
                raise UsageError(f"size {in_a_line(side)}: expected a whole number of pixels")

    @classmethod
    def of(cls, size: "Size") -> "FrameSize":
        """Return a size as it is, and the square of an int. Raises UsageError for others."""
        return size if isinstance(size, FrameSize) else cls(size, size)

    @classmethod
    def of_picture(cls, picture: "np.ndarray") -> "FrameSize":
        """Return the size of a picture or of its edges, (H, W, ...)."""
        height, width = picture.shape[:2]
        return cls(int(width), int(height))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an array of this size: (H, W)."""
        return self.height, self.width

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def square(self) -> bool:
        return self.width == self.height

    @property
    def words(self) -> str:
        """The size as a sentence has it: '640 x 384'."""
        return f"{self.width} x {self.height}"

    @property
    def json(self) -> int | str:
        """The size as JSON has it: the side of a square, else '640x384'; `from_json` reads it."""
        return self.width if self.square else str(self)

    @classmethod
    def from_json(cls, value: object) -> "FrameSize":
        """Return the size that `json` wrote, or one as it is. Raises UsageError."""
        if isinstance(value, str):
            return read_size(value, "size")
        return value if isinstance(value, FrameSize) else cls(value, value)  # type: ignore[arg-type]  # it checks

    def divided(self, by: int) -> tuple[int, int]:
        """Return rows and columns of latents, where one stands for `by` x `by` pixels."""
        return self.height // by, self.width // by

    def __str__(self) -> str:
        return f"{self.width}" if self.square else f"{self.width}x{self.height}"

    def __lt__(self, other: "FrameSize") -> bool:
        return (self.pixels, self.width) < (other.pixels, other.width)


Size: TypeAlias = FrameSize | int  # an int is the side of a square


def read_size(text: str, where: str = "--size") -> FrameSize:
    """Parse '512' to a square and '640x384' to width and height.

    where: the option that `text` belongs to. Raises UsageError.
    """
    written = _WRITTEN.fullmatch("".join(text.split()))
    if written is None:
        raise UsageError(
            f"{where} {in_a_line(text)}: expected the side of a square in pixels, as 512, or "
            "width x height, as 640x384"
        )
    width, height = written.groups()
    return FrameSize(int(width), int(height or width))


def parse_sizes(text: str) -> tuple[FrameSize, ...]:
    """Parse '512,256' to the two squares, smallest first, and '' to (). Raises UsageError."""
    if not text:
        return ()
    try:
        sizes = [read_size(part) for part in text.split(",")]
    except UsageError:
        sizes = []
    if not sizes or len(set(sizes)) != len(sizes):
        raise UsageError(
            f"--sizes {text}: expected different sizes in pixels, as 256,512 or 256,512x288"
        )
    return tuple(sorted(sizes))


def sizes_text(sizes: tuple[FrameSize, ...]) -> str:
    """Format sizes as `parse_sizes` reads them: '256,512'."""
    return ",".join(map(str, sizes))
