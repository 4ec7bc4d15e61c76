"""Read still and moving pictures of image files, as people have them.

A file is known by its content, never by its name. Pillow reads it, with pillow-heif for an iPhone's
HEIC: turned as its EXIF says, and transparent parts over a colour. A size that is out of reason is
refused from the header, before anything is decoded.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import SdxsWarning, SourceError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

BACKGROUND = "white"
MOST_PIXELS = 250_000_000  # of a picture; phones take up to 200 million
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # Pillow's names; a TIFF's pages are no animation
LEAST_FRAME_MS = 20  # browsers show shorter frames of an animation for 100 ms
SHORT_FRAME_MS = 100


def frame_count(path: Path) -> int:
    """Return the number of frames of an image, 1 for a still one, 0 for a file of another kind.

    By its content. Raises SourceError for an image that cannot be read.
    """
    try:
        with _opened(path) as image:
            return int(getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
    except _NoImage:
        return 0


def read_image(path: Path, background: str = BACKGROUND) -> np.ndarray:
    """Return an image, or the first frame of an animation, uint8 (H, W, 3) BGR.

    background: colour behind transparent parts, as 'white' or '#336699'. Raises SourceError for a
    file that is no image, is cut off or has too many pixels, UsageError for an unknown colour.
    """
    with _opened(path) as image:
        return _as_bgr(path, image, background)


def read_animation(path: Path, background: str = BACKGROUND) -> Iterator[tuple[np.ndarray, float]]:
    """Yield the frames of an animation, uint8 (H, W, 3) BGR, with how long each is shown in ms.

    Raises as `read_image` does.
    """
    from PIL import ImageSequence

    with _opened(path) as image:
        for frame in ImageSequence.Iterator(image):
            picture = _as_bgr(path, frame, background)
            shown_ms = float(frame.info.get("duration", 0))
            yield picture, shown_ms if shown_ms >= LEAST_FRAME_MS else SHORT_FRAME_MS


def colour_of(text: str) -> tuple[int, int, int]:
    """Return the RGB of a colour by name or as '#336699'. Raises UsageError."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise UsageError(
            f"--background {text}: unknown colour; expected a name such as white, or #336699"
        ) from None


def why_not_a_file(path: Path) -> str:
    """Return why nothing can be read from a path, or '' for a file."""
    try:
        if path.is_dir():
            return "is a folder, expected a file"
        if not path.is_file():
            return "no such file"
        return "is empty (0 bytes), copy it again" if path.stat().st_size == 0 else ""
    except OSError as error:  # a name that is too long, a folder that may not be entered
        return f"cannot be read ({error.strerror})"
    except ValueError:  # a zero byte in the name
        return "is no name of a file"


class _NoImage(SourceError):
    """The file is of another kind."""


@contextmanager
def _opened(path: Path) -> "Iterator[Image]":
    """Open an image and check its header; what Pillow raises becomes SourceError."""
    from PIL import Image, UnidentifiedImageError

    _register_heif()
    obstacle = why_not_a_file(path)
    if obstacle:
        raise SourceError(f"{path}: {obstacle}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # damaged metadata is no reason to refuse a picture
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(path) as image:
                _refuse_size(path, image.size)
                yield image
    except Image.DecompressionBombError:
        raise SourceError(f"{path}: {_TOO_LARGE}") from None
    except UnidentifiedImageError:
        raise _NoImage(
            f"{path}: not an image that can be read ({path.stat().st_size:,} bytes); try a .png or "
            ".jpg"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, TypeError) as error:
        raise SourceError(
            f"{path}: the image is damaged or cut off ({_short(error)}); get it again, or save it "
            "anew with a program that can read what is left"
        ) from None


_TOO_LARGE = (
    f"has more pixels than sdxs reads ({MOST_PIXELS // 10**6} million); make it smaller first"
)


def _refuse_size(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise SourceError(f"{path}: {size[0]} x {size[1]} {_TOO_LARGE}")


def _as_bgr(path: Path, image: "Image", background: str) -> np.ndarray:
    from PIL import Image, ImageOps

    image.load()  # raises for a file that is cut off
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):  # Pillow would clip at 255
        grey = (np.asarray(turned).astype(np.uint16) >> 8).astype(np.uint8)
        turned = Image.fromarray(grey)
    elif turned.mode in ("I", "F"):
        raise SourceError(
            f"{path}: holds {'whole' if turned.mode == 'I' else 'floating-point'} numbers of 32 "
            "bits, expected 8 or 16 bits a channel; save it as a PNG"
        )
    if turned.has_transparency_data:
        behind = Image.new("RGBA", turned.size, (*colour_of(background), 255))
        turned = Image.alpha_composite(behind, turned.convert("RGBA"))
    return np.ascontiguousarray(np.asarray(turned.convert("RGB"))[..., ::-1])


def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def _short(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


def rate_of(shown_ms: list[float]) -> tuple[float, list[int]]:
    """Return a rate in frames a second, and how often each frame is repeated to keep its time."""
    whole = [max(1, round(each / 10)) for each in shown_ms]  # hundredths of a second
    step = math.gcd(*whole)
    return 100 / step, [each // step for each in whole]


def warn_of_frames(path: Path, count: int) -> None:
    """Warn that only the first of several frames is used."""
    warnings.warn(
        f"{path.name} is an animation of {count} frames, and only the first is used here; "
        "`sdxs live --source` plays it",
        SdxsWarning,
        stacklevel=3,
    )
