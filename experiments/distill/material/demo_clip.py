"""Make `docs/demo/clip.mp4`, the input of `make demo`: a hand-held look at three photographs.

Run as `python -m sdxs.experiments demo-clip`. The window drifts, turns a little
and zooms, so that the clip has what a camera has and a still has not: motion at every pixel.
"""

from dataclasses import dataclass

import numpy as np

from ....common.checkpoint.find import PACKAGE_FOLDER
from ....common.io.sinks.film import VideoFileSink
from ....common.picture.opencv import cv2
from ...options import Options

FOLDER = PACKAGE_FOLDER / "docs" / "demo"
PHOTOGRAPHS = ("astronaut", "cat", "coffee")
FRAMES_EACH = 20
WIDTH, HEIGHT, FPS = 320, 256, 20.0


def window(photograph: np.ndarray, progress: float) -> np.ndarray:
    """Cut the window at `progress` (0 to 1) out of a photograph: (256, 320, 3)."""
    height, width = photograph.shape[:2]
    span = min(width / WIDTH, height / HEIGHT) * (
        1.0 - 0.2 * progress
    )  # source pixels per window pixel
    sway = np.sin(progress * np.pi * 2)
    centre = (width * (0.5 + 0.04 * sway), height * (0.5 - 0.06 * (1 - progress)))
    matrix = cv2.getRotationMatrix2D((0, 0), 2.5 * sway, 1 / span)
    matrix[:, 2] = np.array([WIDTH / 2, HEIGHT / 2]) - matrix[:, :2] @ np.array(centre)
    return cv2.warpAffine(
        photograph, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
    )


@dataclass(frozen=True, slots=True)
class DemoClipOptions(Options):
    """None: the clip is always the same."""


def run(options: DemoClipOptions) -> None:
    """Write the clip."""
    sink = VideoFileSink(FOLDER / "clip.mp4", FPS)
    for name in PHOTOGRAPHS:
        photograph = cv2.cvtColor(cv2.imread(str(FOLDER / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
        for i in range(FRAMES_EACH):
            sink.write(window(photograph, i / (FRAMES_EACH - 1)), 0)
    sink.close()
