"""Pictures between OpenCV and a backend: square crop, resize, colour order, labels."""

from collections.abc import Sequence

import numpy as np

from .opencv import cv2

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def to_square_rgb(picture: np.ndarray, out: np.ndarray) -> None:
    """Fill `out`, uint8 (S, S, 3) RGB, with the centre square of `picture`, uint8 (H, W, 3) BGR."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]  # a view; nothing is copied
    if side != out.shape[0]:
        square = cv2.resize(square, out.shape[:2], interpolation=cv2.INTER_LINEAR)
    cv2.cvtColor(square, cv2.COLOR_BGR2RGB, dst=out)


def label(picture: np.ndarray, text: str) -> None:
    """Write one line of text along the bottom of an RGB picture, in place, on a darkened strip."""
    height, width = picture.shape[:2]
    scale = max(0.35, height / 640)
    thickness = max(1, round(scale * 1.5))
    line = cv2.getTextSize(text, _FONT, scale, thickness)[0][1]
    while text and cv2.getTextSize(text, _FONT, scale, thickness)[0][0] > width - 2 * line:
        text = text[:-4] + "..." if len(text) > 4 else ""
    strip = picture[height - 2 * line - 2 :]
    np.floor_divide(strip, 3, out=strip)
    cv2.putText(picture, text, (line, height - line // 2 - 2), _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)


def text_block(picture: np.ndarray, lines: Sequence[str], top: bool) -> None:
    """Write lines of text at the top or the foot of an RGB picture, in place, on a darkened block."""
    scale = max(0.35, picture.shape[0] / 900)
    thickness = max(1, round(scale * 1.5))
    pitch = round(cv2.getTextSize("Ag", _FONT, scale, thickness)[0][1] * 1.9)
    height = min(picture.shape[0], pitch * len(lines) + pitch // 2)
    block = picture[:height] if top else picture[-height:]
    np.floor_divide(block, 3, out=block)
    for number, line in enumerate(lines):
        at = (pitch // 2, pitch * (number + 1))
        cv2.putText(block, line, at, _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)


def contact_sheet(rows: list[tuple[str, list[np.ndarray]]]) -> np.ndarray:
    """Lay rows of equally sized RGB pictures under each other, each named on its first picture."""
    widest = max(len(pictures) for _, pictures in rows)
    lines = []
    for name, pictures in rows:
        cells = [picture.copy() for picture in pictures]
        label(cells[0], name)
        cells += [np.zeros_like(cells[0])] * (widest - len(cells))
        lines.append(np.hstack(cells))
    return np.vstack(lines)
