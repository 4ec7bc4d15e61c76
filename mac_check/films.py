"""Films on a Mac: what VideoToolbox encodes, and that OpenCV and PyAV stay apart."""

import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from ..common.backend.process.apart import run_apart
from ..common.errors import SdxsError
from ..common.io.sinks.film import VideoFileSink
from ..common.io.sources.film import VideoFile
from .setup import Answer, Setup

FRAMES, FPS, HEIGHT, WIDTH = 60, 30.0, 720, 1280
TRIED = (("h264", ".mp4"), ("hevc", ".mp4"), ("prores", ".mov"))
MOST_OFF = 12  # levels that a codec may lose


def ask_films(setup: Setup) -> Answer:
    """Write and read a film of 720p by every codec; time both, and compare the last picture.

    A warning names the encoder that stood in for VideoToolbox.
    """
    found = {codec: _try(codec, suffix) for codec, suffix in TRIED}
    from ..common.picture.opencv import cv2  # as in every session

    in_parent = [name for name in ("av", "cv2") if name in sys.modules]
    in_child = run_apart("films", f"{__name__}:modules_of_a_film")
    apart = "av" not in in_parent and in_child == ["av"]
    right = all(isinstance(each, dict) and each.get("ok") for each in found.values())
    return {
        "ok": apart and right,
        "codecs": found,
        "opencv": cv2.__version__,
        "in_this_process": in_parent,
        "in_the_films_process": in_child,
    }


def modules_of_a_film(report: object) -> list[str]:
    """Return which of OpenCV and PyAV the process of a film loads; in a child."""
    from ..common.io.films import decode, encode, finish

    assert decode and encode and finish
    return [name for name in ("av", "cv2") if name in sys.modules]


def _try(codec: str, suffix: str) -> Answer:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = Path(folder) / f"film{suffix}"
        try:
            began = time.perf_counter()
            sink = VideoFileSink(path, FPS, codec=codec)
            for number in range(FRAMES):
                sink.write(_picture(number), 0)
            sink.close()
            written = time.perf_counter()
            source, count, last = VideoFile(path), 0, np.zeros(1)
            while (picture := source.read()) is not None:
                last, count = picture[..., ::-1].astype(int), count + 1
            source.close()
            read = time.perf_counter()
        except SdxsError as error:
            return {"ok": False, "error": str(error)}
        off = int(np.abs(last[HEIGHT // 2, [20, -20]] - _picture(0)[HEIGHT // 2, [20, -20]]).max())
        return {
            "ok": count == FRAMES and off <= MOST_OFF,
            "frames": count,
            "off_levels": off,
            "encoded_per_s": round(FRAMES / (written - began), 1),
            "decoded_per_s": round(FRAMES / (read - written), 1),
            "bytes": path.stat().st_size,
            "said": [str(each.message) for each in said],
        }


def _picture(number: int) -> np.ndarray:
    """Red on the left, green on the right, and a line that moves: uint8 (720, 1280, 3) RGB."""
    made = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    made[:, : WIDTH // 2], made[:, WIDTH // 2 :] = (200, 40, 30), (30, 160, 60)
    made[(7 * number) % (HEIGHT // 3)] = 255
    return made
