"""OpenCV, imported quietly: its own lines on stderr would bury the one line we say.

The backends' packages come first: one of them may have to load a library before OpenCV loads its
own copy of it.
"""

import os
from contextlib import suppress

from ..backend.spec import specs

with suppress(Exception):  # raised again to those who ask for a backend
    specs()

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET

import cv2

__all__ = ["cv2"]
