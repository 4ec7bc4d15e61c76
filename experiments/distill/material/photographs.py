"""A folder of photographs as training material: scenes kept apart, squares cut, some drawn.

Photographs of one scene must not stand on both sides of the split (`aloeL` and `aloeR` did once),
so pictures are grouped first, by name and by likeness, and whole groups are held out.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....common.errors import UsageError
from ....common.picture.opencv import cv2

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
HELD_OUT_SHARE = 0.1
LIKENESS = 0.90  # correlation of two 16 x 16 thumbnails from which on they show one scene
# three digits and more number a collection, not the views of a scene
_TAIL = r"[-_ ]*((?<!\d)\d{1,2}|left|right)$"


@dataclass(frozen=True, slots=True)
class Split:
    """Files to train on and files to test on, sorted; no scene is on both sides."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


def read(path: Path) -> np.ndarray:
    """Read a photograph upright (EXIF is honoured), uint8 (H, W, 3) RGB. Raises UsageError."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)  # applies the EXIF orientation
    if picture is None:
        raise UsageError(
            f"{path}: not a readable picture; remove it from the folder or convert it to JPEG"
        )
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def list_photographs(folder: Path) -> list[Path]:
    """Every picture directly in `folder`, sorted. Raises UsageError if there is none."""
    files = (
        sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if folder.is_dir()
        else []
    )
    if not files:
        raise UsageError(
            f"{folder}: no photographs there; expected a folder of {', '.join(SUFFIXES)} files"
        )
    return files


def originals(folder: Path) -> dict[str, str]:
    """Map file names to their original names, from a `manifest.json` beside the pictures."""
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    return {
        row["file"]: row["original"]
        for row in json.loads(path.read_text(encoding="utf-8"))
        if row.get("original")
    }


def stem(name: str) -> str:
    """Reduce a file name to its telling part: no suffix, small numbers, left or right.

    `aloeL.jpg` and `aloeR.jpg` share 'aloe', `view1.png` and `view_12.png` 'view'; `0001.jpg` has
    none.
    """
    text = re.sub(r"(?<=[a-z])[LR]$", "", Path(name).stem).lower()
    while (shorter := re.sub(_TAIL, "", text)) != text:
        text = shorter
    return text if len(re.sub(r"[^a-z]", "", text)) >= 3 else ""


def describe(picture: np.ndarray) -> np.ndarray:
    """A thumbnail with mean 0 and length 1: the dot product of two is their likeness."""
    small = cv2.resize(picture, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / (np.linalg.norm(small) + 1e-6)


def group_scenes(stems: Sequence[str], descriptors: np.ndarray) -> list[int]:
    """Give every picture a group number: equal stems and alike pictures share one."""
    parent = list(range(len(stems)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    alike = descriptors @ descriptors.T >= LIKENESS
    first_of: dict[str, int] = {}
    for i, name in enumerate(stems):
        links = [int(j) for j in np.flatnonzero(alike[i][:i])]
        if name:
            links.append(first_of.setdefault(name, i))
        for j in links:
            parent[root(i)] = root(j)
    return [root(i) for i in range(len(stems))]


def split(folder: Path, reserved: Sequence[Path] = (), share: float = HELD_OUT_SHARE) -> Split:
    """Split a folder by scene, about `share` held out.

    Scenes of `reserved` pictures are never trained on.
    """
    files, names = list_photographs(folder), originals(folder)
    every = [*files, *reserved]
    stems = [_prefix(names.get(p.name, p.name), p.name) for p in files] + [""] * len(reserved)
    groups = group_scenes(stems, np.stack([describe(read(p)) for p in every]))
    members: dict[int, list[Path]] = {}
    for path, group in zip(files, groups, strict=False):
        members.setdefault(group, []).append(path)
    taken = set(groups[len(files) :]) & set(members)
    held = sum(len(members[group]) for group in taken)
    for group in sorted(
        members, key=lambda g: hashlib.sha256(members[g][0].name.encode()).hexdigest()
    ):
        if (
            held < share * len(files)
            and group not in taken
            and len(members[group]) <= max(1, share * len(files) / 2)
        ):
            taken.add(group)
            held += len(members[group])
    return Split(
        tuple(p for group, paths in members.items() if group not in taken for p in paths),
        tuple(sorted(p for group in taken for p in members[group])),
    )


def _prefix(original: str, name: str) -> str:
    """Return the stem with the picture's origin, the part of its file name before '_'."""
    text = stem(original)
    return f"{name.partition('_')[0]}/{text}" if text and original != name else text


def centre_square(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle of a photograph, uint8 (size, size, 3): what a camera would show."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized(picture[top : top + side, left : left + side], size)


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    shrinks = picture.shape[0] >= size
    return cv2.resize(
        picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def random_square(picture: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Cut a square of at least half the short side; mirror it by chance and vary its light."""
    height, width = picture.shape[:2]
    side = int(min(height, width) * generator.uniform(0.5, 1.0))
    top, left = (
        int(generator.integers(height - side + 1)),
        int(generator.integers(width - side + 1)),
    )
    square = resized(picture[top : top + side, left : left + side], size)
    if generator.random() < 0.5:
        square = square[:, ::-1]
    light = (square.astype(np.float32) / 255) ** generator.uniform(0.75, 1.35) * generator.uniform(
        0.75, 1.2
    )
    light *= generator.uniform(0.9, 1.1, 3).astype(np.float32)
    grey = light.mean(axis=-1, keepdims=True)
    light = grey + (light - grey) * generator.uniform(0.6, 1.3)
    return np.clip(np.round(light * 255), 0, 255).astype(np.uint8)


def drawn_picture(size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a procedural picture of ellipses, polygons and lines: uint8 (size, size, 3)."""
    corners = generator.integers(0, 256, (2, 2, 3)).astype(np.float32)
    canvas = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    for _ in range(int(generator.integers(4, 14))):
        colour = tuple(float(c) for c in generator.integers(0, 256, 3))
        x, y, a, b = (int(v) for v in generator.integers(0, size, 4))
        kind = generator.random()
        if kind < 0.4:
            axes = (a // 4 + 4, b // 4 + 4)
            cv2.ellipse(
                canvas,
                (x, y),
                axes,
                float(generator.uniform(0, 180)),
                0,
                360,
                colour,
                -1,
                cv2.LINE_AA,
            )
        elif kind < 0.75:
            points = (np.array([x, y]) + generator.integers(-size // 4, size // 4, (4, 2))).astype(
                np.int32
            )
            cv2.fillConvexPoly(canvas, cv2.convexHull(points), colour, cv2.LINE_AA)
        else:
            cv2.line(canvas, (x, y), (a, b), colour, int(generator.integers(1, 7)), cv2.LINE_AA)
    canvas = cv2.GaussianBlur(canvas, (0, 0), float(generator.uniform(0.5, 1.5)))
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)
