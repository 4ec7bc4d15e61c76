"""Convert pictures between OpenCV and a backend: crop or pad, resize, colour order."""

import numpy as np

from ..backend import copies
from .opencv import cv2
from .size import Fit, FrameSize


def to_frame_rgb(
    picture: np.ndarray, out: np.ndarray, mirror: bool = False, fit: Fit = "crop"
) -> None:
    """Fill `out`, uint8 (H, W, 3) RGB, with `picture`, uint8 BGR of any size.

    mirror: flip left and right. fit: for a picture of other proportions: 'crop' takes its middle,
    'pad' shows all of it between black bars, 'stretch' distorts it. A larger picture is averaged
    over whole pixels to less than twice the size, and then interpolated.
    """
    picture, inner = _placed(picture, out, fit)
    cv2.cvtColor(_resized(picture, inner, apart=fit == "stretch"), cv2.COLOR_BGR2RGB, dst=inner)
    copies.count("to RGB", inner.nbytes)
    if mirror:
        cv2.flip(out, 1, dst=out)  # in place
        copies.count("mirror", out.nbytes)


def enlarge(picture: np.ndarray, out: np.ndarray, fit: Fit) -> None:
    """Fill `out`, uint8, with a larger copy of `picture`, interpolated by cubics.

    fit: see `to_frame_rgb`.
    """
    picture, inner = _placed(picture, out, fit)
    cv2.resize(picture, inner.shape[1::-1], dst=inner, interpolation=cv2.INTER_CUBIC)
    copies.count("enlarge", inner.nbytes)


def _placed(picture: np.ndarray, out: np.ndarray, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of a picture to show, and the part of `out` to fill; blacken the rest."""
    if fit == "crop":
        picture = middle(picture, FrameSize.of_picture(out))
    inner = middle(out, FrameSize.of_picture(picture)) if fit == "pad" else out
    if inner.shape != out.shape:
        out[:] = 0
        copies.count("bars", out.nbytes - inner.nbytes)
    return picture, inner


def middle(picture: np.ndarray, wanted: FrameSize) -> np.ndarray:
    """Return the largest part of a picture with the proportions of `wanted`; a view."""
    size = FrameSize.of_picture(picture)
    width = min(size.width, _share(size.height, wanted.width, wanted.height))
    height = min(size.height, _share(size.width, wanted.height, wanted.width))
    top, left = (size.height - height) // 2, (size.width - width) // 2
    return picture[top : top + height, left : left + width]


def _share(side: int, part: int, whole: int) -> int:
    """Return side * part / whole in whole pixels, at least one."""
    return max(1, (side * part + whole // 2) // whole)


def _resized(picture: np.ndarray, out: np.ndarray, apart: bool) -> np.ndarray:
    """Return a picture of the size of `out`.

    apart: shrink each axis by itself, for a picture of other proportions.
    """
    times = tuple(picture.shape[axis] // out.shape[axis] for axis in (0, 1))
    picture = _averaged(picture, out, times if apart else (min(times),) * 2)
    return _scaled(picture, out.shape[0], out.shape[1])


def _averaged(picture: np.ndarray, out: np.ndarray, times: tuple[int, ...]) -> np.ndarray:
    """Return a picture of 1/times the height and width, uint8, of the means of whole pixels.

    Linear interpolation reads two pixels a side and skips the rest, which flickers where the
    picture moves. Means over whole pixels are several times faster than over parts of pixels, and
    over two by two the fastest. So between three and four times the size of `out` is first
    interpolated to twice its size, which skips no pixel.
    """
    while max(times) > 1:
        wide = [times[a] == 3 and picture.shape[a] % out.shape[a] > 0 for a in (0, 1)]
        twice = (2 * out.shape[a] if wide[a] else picture.shape[a] for a in (0, 1))
        picture = _scaled(picture, *twice)
        times = tuple(2 if wide[a] else max(1, times[a]) for a in (0, 1))
        steps = [2 if count % 2 == 0 else count for count in times]
        times = tuple(count // step for count, step in zip(times, steps, strict=True))
        height, width = (picture.shape[axis] // step for axis, step in enumerate(steps))
        # along one side interpolation at half the size makes the same means, and faster
        way = cv2.INTER_LINEAR if sorted(steps) == [1, 2] else cv2.INTER_AREA
        picture = _scaled(picture[: height * steps[0], : width * steps[1]], height, width, way)
    return picture


def _scaled(
    picture: np.ndarray, height: int, width: int, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """Return a picture of another size; one of that size already is returned itself."""
    if picture.shape[:2] == (height, width):
        return picture
    picture = cv2.resize(picture, (width, height), interpolation=interpolation)
    copies.count("resize", picture.nbytes)
    return picture


def enlarged(picture: np.ndarray, height: int, widest: int) -> np.ndarray:
    """Enlarge a picture to at most `height` by `widest` pixels; return a larger one unchanged."""
    factor = min(height / picture.shape[0], widest / picture.shape[1])
    if factor <= 1:
        return picture
    size = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
