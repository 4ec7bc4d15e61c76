"""Repeat the paper's Phase 10, small: why its distillation went blank, and ours does not.

`python -m sdxs.experiments phase10-distillation PHOTOS WORK` trains one and the same network
(same parameters, same number of steps, same batch) by three recipes and three seeds, and judges
all on held-out photographs:

- edges: L1 on synthetic edges, as the paper describes it. Input are the edges of drawn pictures,
wanted is the
  teacher's rendering of the picture; a photograph's edges go in afterwards.
- photographs: L1 on photographs, everything trained at once from nothing.
- ours: VAE first, text encoder second, UNet on latents, then the picture loss.

At toy size, so that a CPU does it in minutes; finished runs in WORK are kept. Figures compare
recipes, not the demo.
"""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...common.backend.schedule import one_step
from ...common.picture.nearness import luma, ssim
from ...common.picture.opencv import cv2
from ...common.picture.temporal import psnr
from ...common.prompt.syntax import GALLERY
from ...common.settings import setting
from .. import record
from ..distill import architecture, recipe, stages
from ..distill.judge.evaluate import DEMO_PICTURES, nearest
from ..distill.material import photographs, teachers
from ..distill.material.pairs import PairRequest, make_pairs
from ..distill.text_model import CLIPTextModel
from ..distill.training import LearningPlan, Log, train
from ..options import Options, argument, option, result_file

SIZE = 64
STEPS = 240
SQUARES = 300
RATE = 2e-3
RECIPES = ("edges", "photographs", "ours")
SEEDS = (0, 1, 2)
SHOWN = ("a pencil sketch", "pop art")
Values = dict[str, object]


def configs() -> architecture.Configs:
    """The demo's structure at a width that a CPU trains in a minute."""
    small = copy.deepcopy(architecture.DEMO)
    small["unet"] |= {
        "block_out_channels": [24, 32, 48],
        "in_channels": 8,
        "out_channels": 8,
        "norm_num_groups": 8,
    }
    small["vae"] |= {
        key: [8] * 4
        for key in (
            "block_out_channels",
            "decoder_block_out_channels",
            "encoder_block_out_channels",
        )
    }
    small["vae"] |= {
        "latent_channels": 8,
        "num_decoder_blocks": [2, 1, 0, 0],
        "num_encoder_blocks": [0, 0, 0, 2],
    }
    small["frame"] |= {"size": SIZE}
    return small


class Whole(nn.Module):
    """All three networks at once: picture and prompt in, picture out."""

    def __init__(self, painter: stages.Painter, text: CLIPTextModel) -> None:
        super().__init__()
        self.painter, self.text = painter, text


def l1_loss(
    whole: Whole, progress: float, inputs: mx.array, wanted: mx.array, ids: mx.array
) -> mx.array:
    made = whole.painter(stages.unit(inputs), whole.text(ids))
    return mx.abs(made - stages.unit(wanted)).mean()[None]


def edges_of(picture: np.ndarray) -> np.ndarray:
    """Canny edges, white on black, as uint8 (S, S, 3)."""
    return np.repeat(
        cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 60, 140)[..., None], 3, axis=-1
    )


def material(name: str, split: photographs.Split, work: Path) -> np.ndarray:
    """Return a recipe's training pairs, (N, 11, S, S, 3), equal for all seeds.

    For `edges` the first plane holds edges.
    """
    drawn = 1.0 if name == "edges" else 0.1
    request = PairRequest(tuple(str(p) for p in split.train), SQUARES, SIZE, 0, drawn)
    pairs = make_pairs(request, work / ("drawn" if drawn == 1 else "pairs"), lambda count: None)
    if name != "edges":
        return pairs
    copied = np.array(pairs)
    copied[:, 0] = [edges_of(picture) for picture in pairs[:, 0]]
    return copied


def recipe_settings(steps: int, seed: int) -> recipe.RecipeSettings:
    """Return settings with as many steps in all, over every stage but the last."""
    shares = (0.35, 0.1, 0.2, 0.35, 0.0)
    return recipe.RecipeSettings(
        squares=SQUARES,
        steps=tuple(round(share * steps) for share in shares),
        each=1,
        seed=seed,
        rates=(RATE,) * len(shares),
        configs=configs(),
    )


def train_run(
    name: str, seed: int, split: photographs.Split, work: Path, steps: int, tokenizer: Path
) -> Whole:
    """Train one recipe with one seed; what `work` already holds is loaded."""
    setup, folder = configs(), work / f"{name}-{seed}"
    networks = recipe.build(setup, seed)
    step = one_step(architecture.scheduler_config(setup), architecture.frame_config(setup))
    painter = stages.Painter(networks.unet, networks.vae, step)
    whole, pairs, log = (
        Whole(painter, networks.text),
        material(name, split, work),
        Log(folder / "log.jsonl"),
    )
    pictures, ids = stages.Pictures(pairs), recipe.token_ids(tokenizer)

    def silent(stage: str, done: float, loss: float) -> None:
        pass

    if name == "ours":
        settings = recipe_settings(steps, seed)
        anchor = stages.Anchor.fit(pairs, architecture.vae_config(setup).latent_channels)
        recipe.train_text(networks.text, ids, settings, folder, log, silent)
        recipe.train_vae(networks.vae, anchor, pictures, settings, folder, log, silent)
        states = recipe.prompt_states(networks.text, ids)
        recipe.train_unet(painter, pictures, states, settings, folder, log, silent)
        recipe.train_finish(painter, pictures, states, settings, folder, log, silent)
        return whole

    def batch(generator: np.random.Generator) -> tuple[mx.array, ...]:
        rows = [style[generator.integers(0, len(style), 1)] for style in ids]
        return *pictures.pairs(generator, 1), mx.array(np.concatenate(rows))

    train(LearningPlan("all", steps, RATE, seed=seed), whole, l1_loss, batch, folder, log, silent)
    return whole


def renderer(name: str, whole: Whole, tokenizer: Path) -> Callable[[str, np.ndarray], np.ndarray]:
    """The trained networks as a function of a gallery prompt and a picture."""
    clip = recipe.ClipTokenizer(tokenizer)
    states = {
        prompt: whole.text(mx.array(clip.encode(prompt).astype(np.int32))) for prompt in GALLERY
    }

    def render(prompt: str, picture: np.ndarray) -> np.ndarray:
        seen = edges_of(picture) if name == "edges" else picture
        made = np.array(whole.painter(stages.unit(mx.array(seen[None])), states[prompt]))[0]
        return np.clip(np.round(made * 255), 0, 255).astype(np.uint8)

    return render


def judge(
    render: Callable[[str, np.ndarray], np.ndarray], pictures: Sequence[np.ndarray]
) -> Values:
    """Average over pictures and styles.

    `contrast` is the spread of brightness over the teacher's: 0 is a blank sheet.
    """
    rows = []
    for picture in pictures:
        wanted = [teachers.render(prompt, picture) for prompt in GALLERY]
        for style, prompt in enumerate(GALLERY):
            made = render(prompt, picture)
            spread = (
                luma(made.astype(np.float32)).std() / luma(wanted[style].astype(np.float32)).std()
            )
            right = nearest(made, [w.astype(np.float32) for w in wanted]) == style
            rows.append(
                (psnr(made, wanted[style]), ssim(made, wanted[style]), float(right), float(spread))
            )
    return dict(
        zip(
            ("psnr", "ssim", "style accuracy", "contrast"),
            np.mean(rows, axis=0).round(4).tolist(),
            strict=True,
        )
    )


def picture_of(
    renders: dict[str, Callable[[str, np.ndarray], np.ndarray]], size: int
) -> np.ndarray:
    """Draw photograph, teacher and recipes as rows, photographs in two styles as columns."""
    stills = [photographs.centre_square(photographs.read(p), size) for p in DEMO_PICTURES]
    rows = [[still for _ in SHOWN for still in stills]]
    for render in (teachers.render, *renders.values()):
        rows.append([render(prompt, still) for prompt in SHOWN for still in stills])
    return cv2.resize(
        np.vstack([np.hstack(row) for row in rows]),
        None,
        fx=2,
        fy=2,
        interpolation=cv2.INTER_NEAREST,
    )


@dataclass(frozen=True, slots=True)
class Phase10Options(Options):
    """Photographs, and how long each recipe is trained."""

    photos: Path = argument("folder of photographs")
    work: Path = argument("folder of the runs; finished ones are kept")
    steps: int = setting(STEPS, "training steps of each run", minimum=1)
    json: Path | None = result_file()
    picture: Path | None = option(None, "write a sheet of pictures to this file", use="written")


def run(options: Phase10Options) -> None:
    """Train by every recipe and seed, and judge all of them."""
    tokenizer = recipe.TOKENIZER
    parts = photographs.split(options.photos, DEMO_PICTURES)
    pictures = [photographs.centre_square(photographs.read(path), SIZE) for path in parts.held_out]
    results: dict[str, list[Values]] = {}
    shown: dict[str, Callable[[str, np.ndarray], np.ndarray]] = {}
    for seed in SEEDS:
        for name in RECIPES:
            whole = train_run(name, seed, parts, options.work, options.steps, tokenizer)
            render = renderer(name, whole, tokenizer)
            shown.setdefault(name, render)
            results.setdefault(name, []).append({"seed": seed, **judge(render, pictures)})
            print(name, results[name][-1], flush=True)
    doing_nothing = judge(lambda prompt, picture: picture, pictures)
    summary = {
        "size": SIZE,
        "steps": options.steps,
        "batch": len(GALLERY),
        "held-out photographs": len(pictures),
        "parameters": recipe.parameters(whole),
        "doing nothing": doing_nothing,
        "runs": results,
        "mean": {
            name: {k: round(float(np.mean([r[k] for r in runs])), 3) for k in doing_nothing}
            for name, runs in results.items()
        },
    }
    print(json.dumps(summary["mean"], indent=1))
    if options.json:
        record.write(options.json, summary, options)
    if options.picture:
        sheet = cv2.cvtColor(picture_of(shown, SIZE), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(options.picture), sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])
