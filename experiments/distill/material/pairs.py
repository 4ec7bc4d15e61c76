"""The training set on disk: squares of photographs and their ten renderings, as one array of uint8.

`pairs.npy` is (N, 11, S, S, 3) RGB: the square first, then the renderings in the gallery's order.
It is made by worker processes straight into the file; a finished one is found again.
"""

import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ....common.picture.opencv import cv2
from ....common.prompt.syntax import GALLERY
from . import photographs, teachers

DRAWN_SHARE = 0.1  # of the squares are procedural; at most 0.15 did no harm
PLANES = 1 + len(GALLERY)


@dataclass(frozen=True, slots=True)
class PairRequest:
    """What pairs to make. `drawn` is the share of procedural pictures."""

    files: tuple[str, ...]
    count: int
    size: int
    seed: int
    drawn: float = DRAWN_SHARE


def square(request: PairRequest, index: int) -> np.ndarray:
    """Square number `index` of a request, the same every time: uint8 (size, size, 3)."""
    generator = np.random.Generator(np.random.PCG64([request.seed, index]))
    if generator.random() < request.drawn:
        return photographs.drawn_picture(request.size, generator)
    picture = photographs.read(Path(request.files[index % len(request.files)]))
    return photographs.random_square(picture, request.size, generator)


def _fill(job: tuple[PairRequest, Path, int, int]) -> int:
    """Make squares `start` to `stop` and write them into the file. Runs in a worker."""
    request, path, start, stop = job
    out = np.lib.format.open_memmap(path, mode="r+")
    for index in range(start, stop):
        picture = square(request, index)
        out[index, 0] = picture
        for plane, prompt in enumerate(GALLERY, start=1):
            out[index, plane] = teachers.render(prompt, picture)
    return stop - start


def make_pairs(
    request: PairRequest, folder: Path, done: Callable[[int], None], workers: int | None = None
) -> np.ndarray:
    """Map the pairs, uint8 (N, 11, S, S, 3), from `folder`, making them first if needed.

    done: told how many more squares are ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, label = folder / "pairs.npy", folder / "pairs.json"
    wanted = json.loads(json.dumps(asdict(request)))
    if label.is_file() and json.loads(label.read_text(encoding="utf-8")) == wanted:
        done(request.count)
        return np.load(path, mmap_mode="r")
    label.unlink(missing_ok=True)
    shape = (request.count, PLANES, request.size, request.size, 3)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    jobs = [
        (request, path, start, min(start + 8, request.count))
        for start in range(0, request.count, 8)
    ]
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        for job in jobs:
            done(_fill(job))
    else:
        # spawn: a fork of a process that holds MLX or OpenCV threads can hang
        with ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)
        ) as pool:
            for count in pool.map(_fill, jobs):
                done(count)
    label.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    return np.load(path, mmap_mode="r")
