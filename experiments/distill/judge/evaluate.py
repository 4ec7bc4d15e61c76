"""Judge a demo checkpoint on photographs it was not trained on, and write every figure down.

`python -m sdxs.experiments evaluate PHOTOS [--model demo] [--out docs/results]`
splits PHOTOS as training did and writes `demo-quality.json`, `demo-prompts.json` and
`demo-steadiness.json`. Everything is rendered by the MLX backend, as a user would see it.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ....common.backend.protocol import FrameParams
from ....common.checkpoint.find import PACKAGE_FOLDER, Checkpoint, find
from ....common.picture.nearness import ssim
from ....common.picture.temporal import Flicker, psnr
from ....common.prompt.syntax import GALLERY
from ....common.prompt.text_encoder import TextEncoder
from ....common.settings import setting
from ....mlx_sdxs.backend import MlxBackend, load_vae
from ....mlx_sdxs.networks.autoencoder_kl import AutoencoderKL
from ....mlx_sdxs.networks.taesd import AutoencoderTiny
from ....mlx_sdxs.options import MlxOptions
from ... import record
from ...options import Options, argument, option
from ..material import clips, photographs, phrases, teachers

DEMO_PICTURES = tuple(
    PACKAGE_FOLDER / "docs" / "demo" / f"{name}.jpg" for name in ("astronaut", "cat", "coffee")
)
PARTS = ("quality", "prompts", "steadiness")
Render = Callable[[str, np.ndarray], np.ndarray]
Values = dict[str, object]


class BackendPainter:
    """A checkpoint as a function of prompt and picture, and of edges and control scale."""

    def __init__(self, checkpoint: Checkpoint, size: int) -> None:
        self._backend = MlxBackend(checkpoint, MlxOptions(size, dtype="float32"))
        self._backend.load()
        self._encode = functools.cache(TextEncoder(checkpoint).encode)
        self._checkpoint = checkpoint

    @functools.cached_property
    def _vae(self) -> AutoencoderTiny | AutoencoderKL:
        return load_vae(self._checkpoint.vae, self._checkpoint.vae_weights, mx.float32)

    def __call__(
        self, prompt: str, picture: np.ndarray, edges: np.ndarray | None = None, scale: float = 0.0
    ) -> np.ndarray:
        """Render uint8 (S, S, 3), under edges uint8 (S, S) if any."""
        self._backend.set_conditioning(self._encode(prompt))
        self._backend.set_params(FrameParams(control_scale=scale))
        self._backend.submit(picture, edges)
        made = np.empty_like(picture)
        self._backend.collect(made)
        return made

    def close(self) -> None:
        self._backend.close()

    def through_vae(self, picture: np.ndarray) -> np.ndarray:
        """Pass a picture through encoder and decoder alone: the limit of every rendering."""
        image = mx.array(picture[None]).astype(mx.float32) / 127.5 - 1
        made = np.array(self._vae.decode(self._vae.encode(image)))[0]
        return np.clip(np.round((made + 1) * 127.5), 0, 255).astype(np.uint8)


def judge_quality(painter: BackendPainter, pictures: Sequence[np.ndarray]) -> Values:
    """Score every style against its teacher by PSNR and SSIM: rendering, photograph, VAE alone."""
    rows: dict[str, dict[str, list[float]]] = {}
    for prompt in GALLERY:
        found: dict[str, list[float]] = {}
        for picture in pictures:
            wanted = teachers.render(prompt, picture)
            for who, made in (
                ("ours", painter(prompt, picture)),
                ("identity", picture),
                ("vae ceiling", painter.through_vae(wanted)),
            ):
                found.setdefault(f"{who} psnr", []).append(psnr(made, wanted))
                found.setdefault(f"{who} ssim", []).append(ssim(made, wanted))
        rows[prompt] = found
    styles = {
        prompt: {k: round(float(np.mean(v)), 3) for k, v in found.items()}
        for prompt, found in rows.items()
    }
    keys = next(iter(styles.values()))
    return {
        "styles": styles,
        "mean": {k: round(float(np.mean([s[k] for s in styles.values()])), 3) for k in keys},
    }


def nearest(made: np.ndarray, wanted: Sequence[np.ndarray]) -> int:
    """Index of the teacher's picture with the smallest squared error."""
    return int(np.argmin([np.square(made.astype(np.float32) - w).mean() for w in wanted]))


def judge_prompts(painter: Render, pictures: Sequence[np.ndarray], each: int = 4) -> Values:
    """Find each rendering's nearest teacher, for known, held-out and shuffled prompts.

    Canonical prompts are rendered on every picture, the others on `each` pictures, taken in turn.
    """
    wanted = [
        [teachers.render(prompt, picture).astype(np.float32) for prompt in GALLERY]
        for picture in pictures
    ]
    result: Values = {}
    turn = 0
    for kind in ("canonical", "held-out templates", "held-out phrases"):
        confusion = np.zeros((len(GALLERY), len(GALLERY)), int)
        misread: dict[str, list[str]] = {}
        for style, prompt in enumerate(GALLERY):
            for text in phrases.held_out_prompts(prompt)[kind]:
                chosen = range(len(pictures)) if kind == "canonical" else range(turn, turn + each)
                turn += each
                for k in (c % len(pictures) for c in chosen):
                    said = nearest(painter(text, pictures[k]), wanted[k])
                    confusion[style, said] += 1
                    if said != style:
                        misread.setdefault(text, []).append(GALLERY[said])
        right = float(np.trace(confusion) / confusion.sum())
        shifted = float(np.trace(np.roll(confusion, -1, axis=1)) / confusion.sum())
        result[kind] = {
            "accuracy": round(right, 4),
            "renderings": int(confusion.sum()),
            "confusion": confusion.tolist(),
            "per style": {
                p: round(float(confusion[i, i] / confusion[i].sum()), 3)
                for i, p in enumerate(GALLERY)
            },
            # the control: every prompt is taken to mean the next style; the same measure must then
            # fail
            "accuracy with shuffled prompts": round(shifted, 4),
            "misread": {text: sorted(set(styles)) for text, styles in misread.items()},
        }
    return {
        "styles": list(GALLERY),
        **result,
        "never trained": judge_unknown(painter, pictures[:each], wanted[:each]),
    }


def judge_unknown(
    painter: Render, pictures: Sequence[np.ndarray], wanted: Sequence[Sequence[np.ndarray]]
) -> Values:
    """Render prompts outside the training: the nearest style of each, and its distance in dB."""
    found: Values = {}
    for text in phrases.NEVER_TRAINED:
        styles: dict[str, int] = {}
        near, same = [], []
        for picture, goals in zip(pictures, wanted, strict=True):
            made = painter(text, picture)
            style = nearest(made, goals)
            styles[GALLERY[style]] = styles.get(GALLERY[style], 0) + 1
            near.append(psnr(made, goals[style]))
            same.append(psnr(made, picture))
        found[text] = {
            "renders as": styles,
            "psnr to that teacher": round(float(np.mean(near)), 2),
            "psnr to the photograph": round(float(np.mean(same)), 2),
        }
    return found


def flicker(
    frames: Iterator[np.ndarray | None], render: Callable[[np.ndarray], np.ndarray]
) -> Flicker:
    """Measure a clip as the live loop does; None in the frames is a cut."""
    meter = Flicker()
    for frame in frames:
        if frame is None:
            meter.restart()
        else:
            meter.add(frame, render(frame))
    return meter


def judge_steadiness(painter: BackendPainter, size: int) -> Values:
    """Output flicker over input flicker, by clip and style, beside the teacher's own."""
    result: Values = {}
    for name, make in clips.CLIPS.items():
        styles: Values = {}
        ratios, teacher_ratios, levels = [], [], 0.0
        for prompt in GALLERY:
            ours = flicker(make(size), lambda frame, p=prompt: painter(p, frame))
            teacher = flicker(make(size), lambda frame, p=prompt: teachers.render(p, frame))
            ratios.append(ours.ratio or 0.0)
            teacher_ratios.append(teacher.ratio or 0.0)
            levels = ours.input_levels
            styles[prompt] = {
                "output over input": round(ratios[-1], 3),
                "teacher over input": round(teacher_ratios[-1], 3),
            }
        result[name] = {
            "what": (make.__doc__ or "").split("\n")[0],
            "input levels": round(levels, 3),
            "mean output over input": round(float(np.mean(ratios)), 3),
            "worst": round(max(ratios), 3),
            "mean teacher over input": round(float(np.mean(teacher_ratios)), 3),
            "styles": styles,
        }
    return result


def squares(paths: Sequence[Path], size: int) -> list[np.ndarray]:
    """The centre squares of photographs."""
    return [photographs.centre_square(photographs.read(path), size) for path in paths]


@dataclass(frozen=True, slots=True)
class EvaluateOptions(Options):
    """Photographs, and which checkpoint is judged by which figures."""

    photos: Path = argument("folder of photographs, split as training did")
    model: str = setting("demo", "a checkpoint, by name or folder")
    out: Path = option(
        PACKAGE_FOLDER / "docs" / "results", "folder of the results", shown="docs/results"
    )
    only: tuple[str, ...] = option(
        (), "figures to make", str, count="*", choices=PARTS, shown="all"
    )


def run(options: EvaluateOptions) -> None:
    """Judge the checkpoint and write a file for each part."""
    checkpoint = find(options.model, download=False)
    size = checkpoint.frame.size
    parts_of = photographs.split(options.photos, DEMO_PICTURES)
    painter, pictures = BackendPainter(checkpoint, size), squares(parts_of.held_out, size)
    parts: dict[str, Callable[[], Values]] = {
        "quality": lambda: judge_quality(painter, pictures),
        "prompts": lambda: judge_prompts(painter, pictures),
        "steadiness": lambda: judge_steadiness(painter, size),
    }
    for name in options.only or PARTS:
        values = {
            "size": size,
            "held-out photographs": len(pictures),
            "photographs trained on": len(parts_of.train),
            **parts[name](),
        }
        record.write(options.out / f"demo-{name}.json", values, options)
        print(
            json.dumps(values.get("mean") or {k: v for k, v in values.items() if k != "styles"})[
                :4000
            ],
            flush=True,
        )
