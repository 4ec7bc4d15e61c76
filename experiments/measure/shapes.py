"""Render one camera-like clip in 16:9 and as the centre square, and draw both: `docs/shapes.jpg`.

Run as `python -m sdxs.experiments shapes [--out docs/shapes.jpg]`. The clip is 1280 x 720: a window
that drifts over the photographs of `docs/demo`, as a webcam would deliver it. The commands are
those of a user; the demo checkpoint renders.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...common.checkpoint.find import PACKAGE_FOLDER
from ...common.io.sinks.film import VideoFileSink
from ...common.io.sinks.image import save_image
from ...common.io.sources.film import VideoFile
from ...common.picture.draw import label
from ...common.picture.image import to_frame_rgb
from ...common.picture.opencv import cv2
from ...common.settings import setting
from ..options import Options, option

CAMERA = 1280, 720
WIDE, SQUARE = "640x384", "384"
FRAMES = 8
GAP = 8  # pixels between pictures


@dataclass(frozen=True, slots=True)
class ShapesOptions(Options):
    """What is rendered, and where the picture goes."""

    prompt: str = setting("an oil painting", "prompt of both")
    out: Path = option(PACKAGE_FOLDER / "docs" / "shapes.jpg", "picture to write", metavar="PATH")


def camera_frame(photograph: np.ndarray, progress: float) -> np.ndarray:
    """Cut the camera's picture out of a photograph: uint8 (720, 1280, 3), progress 0 to 1."""
    width, height = CAMERA
    rows, columns = photograph.shape[:2]
    span = min(columns / width, rows / height) * (0.96 - 0.08 * progress)
    matrix = cv2.getRotationMatrix2D((0, 0), 0.0, 1 / span)
    centre = np.array([columns * (0.5 + 0.02 * progress), rows * 0.5])
    matrix[:, 2] = np.array([width / 2, height / 2]) - matrix[:, :2] @ centre
    return cv2.warpAffine(photograph, matrix, CAMERA, flags=cv2.INTER_CUBIC)


def write_clip(path: Path) -> None:
    """Write the clip, 1280 x 720."""
    photograph = cv2.imread(str(PACKAGE_FOLDER / "docs" / "demo" / "coffee.jpg"))[..., ::-1]
    sink = VideoFileSink(path, 10.0)
    for number in range(FRAMES):
        sink.write(camera_frame(np.ascontiguousarray(photograph), number / (FRAMES - 1)), 0)
    sink.close()


def render(clip: Path, size: str, prompt: str, folder: Path) -> np.ndarray:
    """Render the clip as a user would; return its last frame, uint8 (H, W, 3) RGB."""
    out = folder / f"{size}.mkv"
    command = [sys.executable, "-m", "sdxs.cli", "live", "--model", "demo", "--size", size]
    command += ["--source", str(clip), "--headless", "--prompt", prompt, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return last_of(out)


def last_of(path: Path) -> np.ndarray:
    """The last picture of a film, uint8 (H, W, 3) RGB."""
    source, last = VideoFile(path), None
    while (picture := source.read()) is not None:
        last = picture[..., ::-1].copy()
    source.close()
    assert last is not None
    return last


def run(options: ShapesOptions) -> None:
    """Render both and write the picture: the camera, the wide frame, the square one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip(folder / "clip.mp4")
        camera = last_of(folder / "clip.mp4")
        wide, square = (
            render(folder / "clip.mp4", size, options.prompt, folder) for size in (WIDE, SQUARE)
        )
    height = square.shape[0]
    small = np.empty((height, round(height * CAMERA[0] / CAMERA[1]), 3), np.uint8)
    to_frame_rgb(np.ascontiguousarray(camera[..., ::-1]), small, fit="stretch")
    pictures = [
        (small, "camera, 16:9"),
        (wide, f"--size {WIDE}"),
        (square, f"--size {SQUARE}"),
    ]
    for picture, text in pictures:
        label(picture, text)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    row = [part for picture, _ in pictures for part in (picture, gap)][:-1]
    save_image(options.out, np.hstack(row))
