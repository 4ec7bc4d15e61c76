"""Measure the reduction of a camera's picture: flicker of a panned fence, and time on one core.

Run as `python -m sdxs.experiments averaging [--json PATH] [--rounds 40]`. Four ways, each with the
change to RGB: linear interpolation alone; means of whole pixels, three by three too; the project's
own; and OpenCV's INTER_AREA. Change is the mean difference from frame to frame, in levels of 255;
it ought to be that of the same fence by exact areas. Off is the mean difference from those areas.
Times are of the processor. Exits with 1 if the project's own takes over 2 ms at 1080p.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...common.picture.image import middle, to_frame_rgb
from ...common.picture.opencv import cv2
from ...common.picture.size import FrameSize
from ...common.settings import setting
from .. import record
from ..options import Options, result_file

SEED = 1
MOST_MS = 2.0
PICTURES = (FrameSize(1920, 1080), FrameSize(1280, 720))
FRAMES = (FrameSize(256, 256), FrameSize(320, 320), FrameSize(512, 512), FrameSize(640, 384))
Pictures = Sequence[tuple[np.ndarray, np.ndarray]]
Way = Callable[[np.ndarray, np.ndarray], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A fence as it is described. Lengths are pixels of a picture 1920 wide.

    pitch: from picket to picket. share: of it that is bright. uneven: most that a pitch differs,
    as a share. pan: a frame. dark, bright: levels.
    """

    pitch: float
    share: float = 0.5
    uneven: float = 0.15
    pan: float = 1.37
    dark: float = 20.0
    bright: float = 240.0


KINDS = {
    "bars": Kind(7, 2 / 7, 0.0, 1.0, 0.0, 255.0),  # of the report that linear flickers
    "fine": Kind(4),
    "middle": Kind(7),
    "coarse": Kind(16),
}


@dataclass(frozen=True, slots=True)
class Fence:
    """Where pickets begin and end, and how much is bright until there, in widths of a picture."""

    kind: Kind
    edges: np.ndarray
    bright: np.ndarray

    @classmethod
    def of(cls, kind: Kind) -> "Fence":
        random = np.random.default_rng(SEED)
        uneven = random.uniform(1 - kind.uneven, 1 + kind.uneven, round(2 * 1920 / kind.pitch))
        pitches = kind.pitch / 1920 * uneven
        begins = np.cumsum(pitches) - pitches
        edges = np.stack([begins, begins + kind.share * pitches], axis=1).ravel()
        widths = np.diff(edges) * (np.arange(len(edges) - 1) % 2 == 0)
        return cls(kind, edges, np.concatenate([[0.0], np.cumsum(widths)]))

    def row(self, left: float, right: float, pixels: int) -> np.ndarray:
        """Return a row of the fence, float (pixels,) in levels: the means of exact areas."""
        places = np.linspace(left, right, pixels + 1)
        share: np.ndarray = np.diff(np.interp(places, self.edges, self.bright)) / np.diff(places)
        return self.kind.dark + (self.kind.bright - self.kind.dark) * share


def linear(picture: np.ndarray, out: np.ndarray) -> None:
    """Interpolate between two pixels a side, whatever the factor."""
    _resize(picture, out, cv2.INTER_LINEAR)


def area(picture: np.ndarray, out: np.ndarray) -> None:
    """Average over parts of pixels."""
    _resize(picture, out, cv2.INTER_AREA)


def _resize(picture: np.ndarray, out: np.ndarray, interpolation: int) -> None:
    resized = cv2.resize(picture, out.shape[1::-1], interpolation=interpolation)
    cv2.cvtColor(resized, cv2.COLOR_BGR2RGB, dst=out)


def whole_pixels(picture: np.ndarray, out: np.ndarray) -> None:
    """Average over whole pixels, three by three too, then interpolate."""
    times = min(picture.shape[axis] // out.shape[axis] for axis in (0, 1))
    while times > 1:
        step = 2 if times % 2 == 0 else times
        times //= step
        height, width = picture.shape[0] // step, picture.shape[1] // step
        picture = cv2.resize(
            picture[: height * step, : width * step],
            (width, height),
            interpolation=cv2.INTER_AREA,
        )
    linear(picture, out)


WAYS: dict[str, Way] = {
    "linear": linear,
    "whole pixels": whole_pixels,
    "sdxs": to_frame_rgb,
    "INTER_AREA": area,
}


def panned(
    kind: Kind, given: FrameSize, wanted: FrameSize, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of a panned fence, cut to proportions, each with the row that it should become.

    Pictures are uint8 (H, W, 3) views, rows float (width of the frame,).
    """
    fence, made = Fence.of(kind), []
    for number in range(count):
        at = number * kind.pan / 1920
        row = np.rint(fence.row(at, at + 1, given.width)).astype(np.uint8)
        picture = np.ascontiguousarray(
            np.broadcast_to(row[None, :, None], (given.height, given.width, 3))
        )
        shown = middle(picture, wanted)
        left = (given.width - shown.shape[1]) // 2
        ideal = fence.row(
            at + left / given.width, at + (left + shown.shape[1]) / given.width, wanted.width
        )
        made.append((shown, ideal))
    return made


def steadiness(way: Way, pictures: Pictures, wanted: FrameSize) -> dict[str, float]:
    """Levels that one way changes from frame to frame, and is off the ideal."""
    out, rows = np.empty((*wanted.shape, 3), np.uint8), []
    for picture, _ in pictures:
        way(picture, out)
        rows.append(out[wanted.height // 2, :, 0].astype(float))
    ideal = [row for _, row in pictures]
    return {
        "change": float(np.abs(np.diff(rows, axis=0)).mean()),
        "ideal_change": float(np.abs(np.diff(ideal, axis=0)).mean()),
        "off": float(np.abs(np.array(rows) - ideal).mean()),
    }


def times_ms(
    given: FrameSize, wanted: FrameSize, rounds: int, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of the processor of every way, taken in turns: `repeats` in every round."""
    random = np.random.default_rng(SEED)
    noise = random.integers(0, 256, (*given.shape, 3), dtype=np.uint8)
    picture, out = middle(noise, wanted), np.empty((*wanted.shape, 3), np.uint8)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            way(picture, out)  # the first one after another way finds its memory taken
            for _ in range(repeats):
                began = time.thread_time()
                way(picture, out)
                found[name].append(1e3 * (time.thread_time() - began))
    return found


def measure(given: FrameSize, wanted: FrameSize, options: "AveragingOptions") -> dict[str, object]:
    """Flicker and time of every way from one size to another."""
    spent = times_ms(given, wanted, options.rounds, options.repeats)
    fences = {name: panned(kind, given, wanted, options.frames) for name, kind in KINDS.items()}
    ways = {
        name: {
            "ms": {
                "median": statistics.median(spent[name]),
                "min": min(spent[name]),
                "max": max(spent[name]),
                "count": len(spent[name]),
            },
            "fences": {kind: steadiness(way, fence, wanted) for kind, fence in fences.items()},
        }
        for name, way in WAYS.items()
    }
    return {"picture": asdict(given), "frame": asdict(wanted), "ways": ways}


def _show(row: dict[str, object]) -> None:
    given, wanted = row["picture"], row["frame"]
    print(" x ".join(map(str, given.values())), "to", " x ".join(map(str, wanted.values())))  # type: ignore[attr-defined]
    for name, found in row["ways"].items():  # type: ignore[attr-defined]
        spent = found["ms"]
        fences = "; ".join(
            f"{kind}: change {each['change']:.1f} of {each['ideal_change']:.1f}, "
            f"off {each['off']:.1f}"
            for kind, each in found["fences"].items()
        )
        print(
            f"  {name:13} {spent['median']:6.2f} ms ({spent['min']:.2f} to {spent['max']:.2f})"
            f"  {fences}",
            flush=True,
        )


@dataclass(frozen=True, slots=True)
class AveragingOptions(Options):
    """How often, and where the figures go."""

    json: Path | None = result_file()
    rounds: int = setting(40, "times that all ways take their turns", minimum=1)
    repeats: int = setting(5, "pictures that a way reduces in a turn", minimum=1)
    frames: int = setting(24, "frames of the panned fence", minimum=2)


def run(options: AveragingOptions) -> int:
    """Measure every pair of sizes on one core; return 1 if the goal is missed."""
    threads, cores = cv2.getNumThreads(), None
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):  # not on a Mac
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
    try:
        rows = [measure(given, wanted, options) for given in PICTURES for wanted in FRAMES]
    finally:
        cv2.setNumThreads(threads)
        if cores:
            os.sched_setaffinity(0, cores)
    for row in rows:
        _show(row)
    slow = [
        row["frame"]
        for row in rows
        if row["picture"] == asdict(PICTURES[0]) and row["ways"]["sdxs"]["ms"]["median"] > MOST_MS  # type: ignore[index]
    ]
    print(f"over {MOST_MS:g} ms at 1080p: {slow or 'none'}")
    if options.json:
        load = os.getloadavg()[0]
        kinds = {name: asdict(kind) for name, kind in KINDS.items()}
        figures = {
            "most_ms": MOST_MS,
            "fences": kinds,
            "over": slow,
            "load_at_end": load,
            "reductions": rows,
        }
        record.write(options.json, figures, options)
    return 1 if slow else 0
