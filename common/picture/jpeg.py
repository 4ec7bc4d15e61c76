"""Encode JPEGs; check one by its header, before a decoder allocates what the header asks for.

A JPEG of 3 MB can say 16000 x 16000, which costs 1.5 GB to decode. Only baseline JPEGs pass, as a
browser's canvas writes them: a progressive one can make a decoder go over the picture a thousand
times.
"""

import numpy as np

from ..errors import UsageError
from .opencv import cv2

QUALITY = 85  # of a JPEG
MOST_PIXELS = 3840 * 2160
_BASELINE = (0xC0, 0xC1)  # ITU T.81, table B.1
_OTHER_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC0, 0xC1, 0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END = 0xDA, 0xD9
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}


def jpeg(picture: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3) RGB or (H, W)."""
    turned = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    _, packed = cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(packed)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height that a baseline JPEG's header says. Raises UsageError.

    Refuses more than MOST_PIXELS, and whatever is no baseline JPEG of one or three colours.
    """
    if data[:2] != b"\xff\xd8":
        raise UsageError("the picture is no JPEG; send a baseline JPEG")
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _BASELINE:
            return _size(data[at + 4 : at + 10])
        elif marker in _OTHER_FRAMES:
            raise UsageError("the picture is no baseline JPEG, but progressive or lossless, say")
        elif marker in (_START_OF_SCAN, _END):
            break
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise UsageError("the picture's header is damaged or cut off; send a baseline JPEG")


def _size(header: bytes) -> tuple[int, int]:
    """Read precision, height, width and the number of colours."""
    if len(header) < 6:
        raise UsageError("the picture's header is cut off; send a baseline JPEG")
    height, width = int.from_bytes(header[1:3], "big"), int.from_bytes(header[3:5], "big")
    if header[0] != 8 or header[5] not in (1, 3):
        raise UsageError("the picture is no JPEG of 8 bits and one or three colours")
    if not 0 < width * height <= MOST_PIXELS:
        raise UsageError(
            f"the picture is {width} x {height}; expected {MOST_PIXELS:,} pixels at most"
        )
    return width, height
