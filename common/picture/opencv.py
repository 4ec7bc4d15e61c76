"""Import OpenCV without its log lines on stderr, which would bury the message of sdxs.

The backend packages are imported first: one of them may need to load a library before OpenCV loads
its own copy.
"""

import os
from contextlib import suppress

from ..backend.spec import specs

with suppress(Exception):  # the same error is raised on the first use of a backend
    specs()

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET

import cv2

__all__ = ["cv2"]
