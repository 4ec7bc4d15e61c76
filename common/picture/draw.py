"""Draw text on pictures and lay out contact sheets."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np

from .opencv import cv2

SMALLEST_TEXT = 10  # pixels; smaller text is illegible
_WEIGHT = 500
_WHITE = (255, 255, 255)
_UNDRAWABLE = "\0"


def label(picture: np.ndarray, text: str) -> None:
    """Write one line of text along the bottom of an RGB picture, in place, on a darkened strip."""
    height, width = picture.shape[:2]
    size = max(SMALLEST_TEXT, height // 21)
    strip = picture[height - round(1.6 * size) - 2 :]
    _darken(strip)
    _write(
        strip, _shortened(drawable(text), width - size, size), (size // 2, round(1.2 * size)), size
    )


def text_block(picture: np.ndarray, lines: Sequence[str], top: bool) -> None:
    """Write lines of text on a darkened box in the left of an RGB picture, in place.

    top: upper left, otherwise lower left. Wraps long lines. Lines that do not fit are omitted: the
    last ones at the top, the first ones at the bottom.
    """
    height, width = picture.shape[:2]
    size = max(SMALLEST_TEXT, height // 36)
    pitch, margin = round(1.5 * size), size // 2
    fitting = max(1, (height - 2 * margin) // pitch)
    wrapped = [part for line in lines for part in wrap(drawable(line), width - 2 * margin, size)]
    wrapped = wrapped[:fitting] if top else wrapped[-fitting:]
    box_width = min(width, max((_width(line, size) for line in wrapped), default=0) + 2 * margin)
    box_height = min(height, pitch * len(wrapped) + margin)
    box = picture[:box_height, :box_width] if top else picture[height - box_height :, :box_width]
    _darken(box)
    for number, line in enumerate(wrapped):
        _write(box, line, (margin, pitch * (number + 1)), size)


def text_table(picture: np.ndarray, rows: Sequence[tuple[str, str]]) -> None:
    """Write two columns of text on a darkened box in the middle of an RGB picture, in place.

    The text shrinks until it fits, down to SMALLEST_TEXT.
    """
    height, width = picture.shape[:2]
    for size in range(max(SMALLEST_TEXT, height // 36), SMALLEST_TEXT - 1, -1):
        pitch, margin = round(1.5 * size), size
        second = max(_width(left, size) for left, _ in rows) + 2 * margin
        box_width = second + max(_width(right, size) for _, right in rows) + margin
        box_height = pitch * len(rows) + margin
        if box_width <= width and box_height <= height:
            break
    top, left_edge = max(0, (height - box_height) // 2), max(0, (width - box_width) // 2)
    box = picture[top : top + box_height, left_edge : left_edge + box_width]
    _darken(box)
    for number, (left, right) in enumerate(rows):
        _write(box, left, (margin, pitch * (number + 1)), size)
        _write(box, right, (second, pitch * (number + 1)), size)


@lru_cache(256)
def drawable(text: str) -> str:
    """Put text on one line and replace characters without a glyph by an ellipsis.

    OpenCV 5 draws UTF-8 in Latin, Greek, Cyrillic, Chinese, Japanese, Korean and more, and question
    marks for the rest. A lone surrogate (an invalid byte on the command line) would crash it.
    """
    text = unicodedata.normalize("NFC", " ".join(text.encode("utf-8", "ignore").decode().split()))
    marked = "".join(
        c if _has_glyph(c) else _UNDRAWABLE
        for c in text
        if unicodedata.category(c) not in _INVISIBLE
    )
    return re.sub(f"{_UNDRAWABLE}+", "\u2026", marked)


@lru_cache(256)
def wrap(text: str, width: int, size: int) -> list[str]:
    """Break text into lines of at most `width` pixels, preferably at spaces."""
    lines = []
    while text:
        end = max(1, _fitting(text, width, size))
        space = text.rfind(" ", 0, end + 1)
        if end < len(text) and space > 0:
            end = space
        lines.append(text[:end])
        text = text[end:].lstrip()
    return lines


# control and joining characters, loose accents
_INVISIBLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Me", "Mn")


@cache
def _face() -> cv2.FontFace:
    return cv2.FontFace("sans")  # comes with OpenCV


@lru_cache(4096)
def _has_glyph(character: str) -> bool:
    if character.isascii():
        return True
    canvas = np.zeros((2, 32, 32), np.uint8)
    for picture, text in zip(canvas, (character, "?"), strict=True):
        cv2.putText(picture, text, (2, 26), 255, _face(), 24, _WEIGHT)
    return not np.array_equal(*canvas)


def _width(text: str, size: int) -> int:
    return int(cv2.getTextSize((0, 0), text, (0, 0), _face(), size, _WEIGHT)[2])


def _fitting(text: str, width: int, size: int) -> int:
    """Return the number of leading characters of `text` that fit into `width` pixels."""
    return bisect_right(
        range(1, len(text) + 1), width, key=lambda count: _width(text[:count], size)
    )


def _shortened(text: str, width: int, size: int) -> str:
    if _width(text, size) <= width:
        return text
    return text[: _fitting(text, width - _width("\u2026", size), size)].rstrip() + "\u2026"


def _darken(part: np.ndarray) -> None:
    np.floor_divide(part, 4, out=part)


def _write(picture: np.ndarray, text: str, at: tuple[int, int], size: int) -> None:
    cv2.putText(picture, text, at, _WHITE, _face(), size, _WEIGHT)


def contact_sheet(rows: list[tuple[str, list[np.ndarray]]]) -> np.ndarray:
    """Stack rows of equally sized RGB pictures; the first picture of a row carries its label."""
    widest = max(len(pictures) for _, pictures in rows)
    lines = []
    for name, pictures in rows:
        cells = [picture.copy() for picture in pictures]
        label(cells[0], name)
        cells += [np.zeros_like(cells[0])] * (widest - len(cells))
        lines.append(np.hstack(cells))
    return np.vstack(lines)
