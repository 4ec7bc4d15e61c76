"""OpenCV, imported quietly: its own lines on stderr would bury the one line we say."""

import os

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET

import cv2

__all__ = ["cv2"]
