"""Cameras as they describe themselves, and what a user asks of one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import UsageError
from .place import without_password

Size = tuple[int, int]  # width and height in pixels
Rates = tuple[tuple[float, float], ...]  # (slowest, fastest) in frames a second; alike for one rate

LARGEST = 99_999  # pixels a side
RATE_TOLERANCE = 0.01  # 29.97 passes for 30


@dataclass(frozen=True, slots=True)
class CameraMode:
    """One size that a camera offers.

    rates: empty where the driver does not tell them. pixels: the format in four characters, such as
    'MJPG'; '' where OpenCV does not need to know. raw: not compressed. largest: where a driver
    offers all sizes of a range, its other end.
    """

    size: Size
    rates: Rates = ()
    pixels: str = ""
    raw: bool = True
    largest: Size | None = None

    def offers(self, size: Size, fps: float) -> bool:
        """Tell whether it has this size at this rate; a rate that is not told is believed."""
        fits = self._has(size)
        slack = fps * RATE_TOLERANCE
        return fits and (
            not self.rates or any(low - slack <= fps <= high + slack for low, high in self.rates)
        )

    @property
    def size_text(self) -> str:
        last = f" to {size_text(self.largest)}" if self.largest else ""
        return f"{size_text(self.size)}{last}"

    def _has(self, size: Size) -> bool:
        if self.largest is None:
            return size == self.size
        ends = zip(self.size, size, self.largest, strict=True)
        return all(low <= side <= high for low, side, high in ends)


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """A camera as the system lists it.

    number: OpenCV's index. modes: empty where it does not tell them. untold: why, where that is
    known.
    """

    number: int
    name: str
    modes: tuple[CameraMode, ...] = ()
    untold: str = ""

    @property
    def sizes(self) -> list[tuple[str, Rates]]:
        """Every size with its rates in whatever format, the largest first."""
        rates: dict[tuple[Size, str], set[tuple[float, float]]] = {}
        for mode in self.modes:
            rates.setdefault((mode.largest or mode.size, mode.size_text), set()).update(mode.rates)
        ordered = sorted(rates, key=lambda key: (key[0][0] * key[0][1], key), reverse=True)
        return [(text, _without_repeats(rates[top, text])) for top, text in ordered]


@dataclass(frozen=True, slots=True)
class CameraRequest:
    """What is asked of a camera; None leaves it to the camera. Raises UsageError."""

    size: Size | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not all(0 < side <= LARGEST for side in self.size):
            raise UsageError(
                f"--camera-size {size_text(self.size)}: expected 1 to {LARGEST} pixels a side, "
                "such as 1280x720"
            )

    def __bool__(self) -> bool:
        return self.size is not None or self.fps is not None

    def __str__(self) -> str:
        return " ".join(
            [
                *([f"--camera-size {size_text(self.size)}"] if self.size else []),
                *([f"--camera-fps {rate_text(self.fps)}"] if self.fps else []),
            ]
        )

    def refuse_for(self, source: str) -> None:
        """Raise UsageError: this source is no camera, and would ignore what is asked."""
        if self:
            raise UsageError(
                f"{self}: --source {without_password(source)} is no camera and would ignore it; "
                "drop it, or name a camera with --camera"
            )

    def pixels_from(self, modes: Sequence[CameraMode], size: Size, fps: float) -> str:
        """Return 'MJPG' if only that offers the size at the rate, else ''.

        Many cameras offer large sizes raw at a few frames a second only. size, fps: what is used
        where nothing is asked.
        """
        size, fps = self.size or size, self.fps or fps
        offering = [mode for mode in modes if mode.offers(size, fps)]
        if any(mode.raw for mode in offering):
            return ""
        return "MJPG" if any(mode.pixels == "MJPG" for mode in offering) else ""


def size_text(size: Size) -> str:
    """Write a size as `picture.size.read_size` reads it."""
    return f"{size[0]}x{size[1]}"


def rate_text(fps: float) -> str:
    """Write a rate with two decimals at most: 30, 29.97."""
    return f"{fps:.2f}".rstrip("0").rstrip(".")


def rates_text(rates: Rates) -> str:
    """Write rates and ranges of them: '5, 15 to 30'; 'not told' if there are none."""
    return ", ".join(_range_text(*each) for each in rates) or "not told"


def offered(camera: CameraInfo) -> str:
    """Write sizes with their fastest rates in one line: '1280x720 at up to 30, 640x480'."""
    return ", ".join(
        f"{size} at up to {rate_text(max(high for _, high in rates))}" if rates else size
        for size, rates in camera.sizes
    )


def _range_text(low: float, high: float) -> str:
    ends = dict.fromkeys((rate_text(low), rate_text(high)))
    return " to ".join(ends)


def _without_repeats(rates: Iterable[tuple[float, float]]) -> Rates:
    """Sort rates; those that read alike are one."""
    return tuple({_range_text(*each): each for each in sorted(rates)}.values())
