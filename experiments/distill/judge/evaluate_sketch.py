"""Judge whether the sketch checkpoint keeps the camera's structure at t = 999.

`python -m sdxs.experiments evaluate-sketch PHOTOS [--model demo-sketch] [--out docs]`
splits PHOTOS as training did, renders every held-out photograph under the ten prompts with MLX,
and compares Canny's edges of what went in with those of what came out (F-score, two pixels of
tolerance). Beside it stand the same checkpoint without control, which is plain SDXS-style
image-to-image; the same with another photograph's edges, which must fail; the demo at its own
timestep; and the teachers. Writes `results/sketch.json`, and `demo/sketch.jpg` of the photographs
in `docs/demo`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....common.checkpoint.find import PACKAGE_FOLDER, find, with_control
from ....common.picture.draw import contact_sheet
from ....common.picture.edges import KINDS, f_score
from ....common.picture.opencv import cv2
from ....common.prompt.syntax import GALLERY
from ....common.settings import setting
from ... import record
from ...options import Options, argument, option
from ..material import photographs, teachers
from ..sketch import edges_of, ink
from .evaluate import DEMO_PICTURES, BackendPainter, nearest, squares

TOLERANCE = 2  # pixels that an edge may be off
SHOWN = ("a pencil sketch", "an oil painting", "neon cyberpunk city", "anime style", "pop art")
Values = dict[str, object]
# Prompt, picture, edges, scale -> picture.
Sketch = Callable[[str, np.ndarray, np.ndarray, float], np.ndarray]
Demo = Callable[[str, np.ndarray], np.ndarray]


def judge(sketch: Sketch, demo: Demo, pictures: Sequence[np.ndarray]) -> Values:
    """Score structure by prompt: F-scores, means, how often the right teacher is nearest."""
    rows: dict[str, dict[str, list[float]]] = {prompt: {} for prompt in GALLERY}
    right = {kind: 0 for kind in (*KINDS, "plain")}
    lines = {kind: [edges_of(picture, kind) for picture in pictures] for kind in KINDS}
    for number, picture in enumerate(pictures):
        wanted, other = lines["canny"][number], (number + 1) % len(pictures)
        rendered = [teachers.render(prompt, picture) for prompt in GALLERY]
        goals = [
            ink(prompt, teacher, wanted) for prompt, teacher in zip(GALLERY, rendered, strict=True)
        ]
        for style, prompt in enumerate(GALLERY):
            made = {
                f"control, {kind} edges": sketch(prompt, picture, lines[kind][number], 1.0)
                for kind in KINDS
            }
            made["plain image-to-image at t = 999"] = sketch(
                prompt, picture, lines["soft"][number], 0.0
            )
            made["control, another picture's edges"] = sketch(
                prompt, picture, lines["soft"][other], 1.0
            )
            made["the demo at t = 500"], made["teacher"] = demo(prompt, picture), rendered[style]
            for kind in KINDS:
                right[kind] += nearest(made[f"control, {kind} edges"], goals) == style
            right["plain"] += nearest(made["plain image-to-image at t = 999"], goals) == style
            for what, image in made.items():
                rows[prompt].setdefault(what, []).append(
                    f_score(edges_of(image, "canny"), wanted, TOLERANCE)
                )
    every = next(iter(rows.values()))
    shares = {kind: round(count / len(pictures) / len(GALLERY), 3) for kind, count in right.items()}
    return {
        "mean F-score": {
            what: round(float(np.mean([rows[p][what] for p in GALLERY])), 3) for what in every
        },
        "worst picture, mean of prompts": {
            what: round(float(np.mean([rows[p][what] for p in GALLERY], axis=0).min()), 3)
            for what in every
        },
        "by prompt": {
            p: {what: round(float(np.mean(found)), 3) for what, found in rows[p].items()}
            for p in GALLERY
        },
        "nearest teacher right": shares,
    }


def sheet(sketch: Sketch, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Draw camera, edges, and five prompts without and with control."""
    rows: list[tuple[str, list[np.ndarray]]] = []
    for picture in pictures:
        edges = edges_of(picture, "soft")
        rows.append(
            (
                "camera | without control",
                [picture, *(sketch(p, picture, edges, 0.0) for p in SHOWN)],
            )
        )
        held = [sketch(p, picture, edges, 1.0) for p in SHOWN]
        rows.append(("edges | with control", [cv2.cvtColor(edges, cv2.COLOR_GRAY2RGB), *held]))
    return contact_sheet(rows)


@dataclass(frozen=True, slots=True)
class EvaluateSketchOptions(Options):
    """Photographs, and the checkpoint to judge."""

    photos: Path = argument("folder of photographs, split as training did")
    model: str = setting("demo-sketch", "a checkpoint, by name or folder")
    out: Path = option(
        PACKAGE_FOLDER / "docs", "folder of results/sketch.json and demo/sketch.jpg", shown="docs"
    )


def run(options: EvaluateSketchOptions) -> None:
    """Judge the checkpoint, write the figures and the sheet."""
    checkpoint = with_control(find(options.model, download=False), "sketch")
    parts, size = photographs.split(options.photos, DEMO_PICTURES), checkpoint.frame.size
    sketch, demo = (
        BackendPainter(checkpoint, size),
        BackendPainter(find("demo", download=False), size),
    )
    values = {
        "size": size,
        "timestep": checkpoint.frame.timestep,
        "tolerance in pixels": TOLERANCE,
        "held-out photographs": len(parts.held_out),
        **judge(sketch, demo, squares(parts.held_out, size)),
    }
    record.write(options.out / "results" / "sketch.json", values, options)
    picture = sheet(sketch, squares(DEMO_PICTURES, size))
    (options.out / "demo").mkdir(exist_ok=True)
    path, quality = str(options.out / "demo" / "sketch.jpg"), [cv2.IMWRITE_JPEG_QUALITY, 88]
    cv2.imwrite(path, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    sketch.close()
    demo.close()
    print(
        json.dumps(
            {
                key: values[key]
                for key in (
                    "mean F-score",
                    "worst picture, mean of prompts",
                    "nearest teacher right",
                )
            }
        )
    )
