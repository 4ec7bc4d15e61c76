"""Train the demo's sketch checkpoint: a UNet for t = 999 and the ControlNet that guides it.

`python -m sdxs.experiments.distill.sketch PHOTOS OUT` takes the demo's VAE and text encoder as
they are. As with SDXS, the camera enters the UNet at 6.8 % under noise, so structure has to come
from the edges alone. What is learned are the ten teachers with the picture's own edges inked over
softened colours: which side of an edge is the brighter one cannot be known from edges, and a
network that has to guess draws none; a line it can draw. One picture in six is shown without
control, so that the same UNet also stands for plain image-to-image. Stopped while it trains, the
same command goes on; the training set, minutes of work, is made in one go.
"""

import hashlib
import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from rich.console import Console
from rich.progress import Progress
from safetensors.numpy import save_file

from ...common.backend.schedule import OneStep, one_step
from ...common.checkpoint.config.controlnet import ControlNetConfig
from ...common.checkpoint.config.fields import Fields
from ...common.checkpoint.find import Checkpoint, find
from ...common.picture.edges import KINDS, Edges
from ...common.picture.opencv import cv2
from ...common.prompt.syntax import GALLERY
from ...common.settings import setting
from ...mlx_sdxs.backend import load_vae
from ...mlx_sdxs.fast.conv import fold_convolutions
from ...mlx_sdxs.fast.ops import on_gpu, stepwise
from ...mlx_sdxs.networks.controlnet import ControlNetModel
from ...mlx_sdxs.networks.layers import load_weights
from ...mlx_sdxs.networks.taesd import AutoencoderTiny
from ...mlx_sdxs.networks.unet import UNet2DConditionModel
from ..options import Options, argument, call
from . import architecture, recipe
from .conv_gradient import prepare
from .export import tensors, write_json, write_sums
from .judge.evaluate import DEMO_PICTURES
from .losses import picture_loss
from .material import photographs, teachers
from .material.pairs import PairRequest, square
from .progress import Bars, columns
from .text_model import CLIPTextModel
from .training import LearningPlan, Log, train
from .training import Progress as Report

BASE = "demo"
SOFTNESS = 4.0  # sigma of the blur under the ink, pixels
INK_WIDTH, INK_STRENGTH = 0.8, 1.6  # blur of a line one pixel wide, and what it is multiplied by
DARK, BRIGHT = 0.05, 0.95  # inks
# share that the colours keep of their distance from the paper, which is as far from the ink as can
# be
CONTRAST = 0.7
BRIGHT_INK = ("neon cyberpunk city", "dark fantasy")
UNCONTROLLED = 6  # one picture in so many is shown without control
BALLAST = 100.0  # of the channels that keep the last norm's scale from following the noise
PIXELS = 8  # of the picture for one of the latents


def ink(prompt: str, rendering: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Draw edge lines over a softened rendering, bright on the two dark styles, else dark.

    One ink for a style, whatever the picture: which ink a picture would call for cannot be seen in
    its edges.

    rendering: uint8 (S, S, 3). lines: uint8 (S, S), as Canny draws them.
    """
    strength = cv2.GaussianBlur(lines.astype(np.float32) / 255, (0, 0), INK_WIDTH) * INK_STRENGTH
    share = np.clip(strength, 0, 1)[..., None]
    soft = cv2.GaussianBlur(rendering.astype(np.float32) / 255, (0, 0), SOFTNESS) * CONTRAST
    paper, colour = (soft, BRIGHT) if prompt in BRIGHT_INK else (soft + 1 - CONTRAST, DARK)
    return np.clip(np.round(255 * (paper * (1 - share) + colour * share)), 0, 255).astype(np.uint8)


def edges_of(picture: np.ndarray, kind: str) -> np.ndarray:
    """Edges of a single picture, uint8 (S, S)."""
    found = np.empty(picture.shape[:2], np.uint8)
    Edges(kind, picture.shape[0], hysteresis=False).draw(picture, found)
    return found


def pass_through(unet: UNet2DConditionModel, step: OneStep) -> None:
    """Initialise a UNet whose eps removes all of x_t, so that x0 starts near 0.

    silu(h) - silu(-h) = h, so a pair of channels carries a value through the last activation
    unbent. Such pairs in every group of the last norm carry x_t, at the scale at which the last
    resnet's output becomes x0 one to one; two constant channels outweigh them, or the norm's scale
    would follow the noise. Raises ValueError if a group has no room.
    """
    last = unet.up_blocks[-1].resnets[-1]
    width, latents = unet.conv_out.weight.shape[-1], unet.conv_out.weight.shape[0]
    groups = unet.conv_norm_out.num_groups
    wide, each = width // groups, -(-latents // groups)
    if 2 * each + 2 > wide:
        raise ValueError(
            f"{groups} groups of {wide} channels cannot carry {latents} latents and two constants"
        )
    enter, shortcut, bias, leave = (
        np.array(a)
        for a in (
            unet.conv_in.weight,
            last.conv_shortcut.weight,
            last.conv_shortcut.bias,
            unet.conv_out.weight,
        )
    )
    gain = step.ratio
    spread = ((2 * each * gain**2 + 2 * BALLAST**2) / wide) ** 0.5
    leave[:] = 0
    for latent in range(latents):
        first = latent // each * wide + 2 * (latent % each)
        for channel, sign in ((first, 1.0), (first + 1, -1.0)):
            enter[channel] = 0
            enter[channel, 1, 1, latent] = sign * gain
            shortcut[channel] = 0
            shortcut[channel, ..., width + channel] = (
                1  # the skip stands behind the hidden channels
            )
            bias[channel] = 0
            leave[latent, 1, 1, channel] = sign * spread / (gain * step.sqrt_one_minus_alpha)
    for group in range(groups):
        for channel, sign in ((group * wide + 2 * each, 1.0), (group * wide + 2 * each + 1, -1.0)):
            shortcut[channel], bias[channel] = 0, sign * BALLAST
    entry_bias = np.array(unet.conv_in.bias)
    entry_bias[[c for c in range(width) if c % wide < 2 * each]] = 0
    unet.conv_in.weight, unet.conv_in.bias = mx.array(enter), mx.array(entry_bias)
    last.conv_shortcut.weight, last.conv_shortcut.bias = mx.array(shortcut), mx.array(bias)
    last.conv2.weight, last.conv2.bias = (
        mx.zeros_like(last.conv2.weight),
        mx.zeros_like(last.conv2.bias),
    )
    unet.conv_out.weight, unet.conv_out.bias = mx.array(leave), mx.zeros_like(unet.conv_out.bias)


class Sketcher(nn.Module):
    """UNet and ControlNet as one module, the step between two latents fixed."""

    def __init__(
        self, unet: UNet2DConditionModel, controlnet: ControlNetModel, step: OneStep
    ) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet
        self._step = step

    def __call__(
        self, latents: mx.array, noise: mx.array, states: mx.array, edges: mx.array, scale: mx.array
    ) -> mx.array:
        """Return x0 of camera latents (B, h, w, C) with noise, encoder_hidden_states and edges.

        encoder_hidden_states: (B, 77, D). edges: (B, 8h, 8w) in [0, 1].

        scale: of the control, (B, 1, 1, 1).
        """
        step, time = self._step, float(self._step.timestep)
        mixed = step.sqrt_alpha * latents + step.sqrt_one_minus_alpha * noise
        picture = mx.broadcast_to(edges[..., None], (*edges.shape, 3))
        residuals = self.controlnet(mixed, time, states, picture, scale)
        eps = self.unet.conv_out(self.unet.features(mixed, time, states, residuals))
        return latents + step.ratio * (noise - eps)


def build(configs: architecture.Configs, step: OneStep, seed: int) -> Sketcher:
    """Build a UNet that starts at x0 = 0, and a ControlNet as its copy, adding nothing."""
    mx.random.seed(seed)
    unet = UNet2DConditionModel(architecture.unet_config(configs))
    pass_through(unet, step)
    controlnet = ControlNetModel(
        ControlNetConfig.parse(Fields(configs["controlnet"], "controlnet"))
    )
    controlnet.update(
        {key: value for key, value in unet.parameters().items() if key in controlnet}, strict=False
    )
    for conv in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        conv.weight, conv.bias = mx.zeros_like(conv.weight), mx.zeros_like(conv.bias)
    sketcher = Sketcher(unet, controlnet, step)
    for module in (
        unet.conv_in,
        unet.up_blocks[-1].resnets[-1].conv_shortcut,
        unet.conv_norm_out,
        unet.conv_out,
    ):
        module.freeze()  # what carries x_t: an error of a thousandth there is one of 1.5 % in x0
    mx.eval(sketcher.parameters())
    prepare(sketcher)
    return sketcher


# --- training set
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Material:
    """Latents of N squares and of their inked renderings, and their edges of both kinds."""

    camera: np.ndarray  # float16 (N, h, w, C)
    inked: np.ndarray  # float16 (N, 10, h, w, C)
    edges: np.ndarray  # uint8 (N, 2, 8h, 8w), in the order of `edges.KINDS`


def _draw(job: tuple[PairRequest, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make one square, its inked renderings and its edges; runs in a worker.

    Returns uint8 (11, S, S, 3) and (2, S, S).
    """
    request, index = job
    picture = square(request, index)
    edges = {kind: edges_of(picture, kind) for kind in KINDS}
    inked = [ink(prompt, teachers.render(prompt, picture), edges["canny"]) for prompt in GALLERY]
    return np.stack([picture, *inked]), np.stack([edges[kind] for kind in KINDS])


def make_material(request: PairRequest, base: Checkpoint, folder: Path, report: Report) -> Material:
    """Make the training set with the VAE of `base`, or map a finished one from `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    label = folder / "material.json"
    wanted = json.dumps(
        {**asdict(request), "vae": hashlib.sha256(base.vae_weights.read_bytes()).hexdigest()}
    )
    paths = {name: folder / f"{name}.npy" for name in ("camera", "inked", "edges")}
    if not (label.is_file() and label.read_text(encoding="utf-8") == wanted):
        label.unlink(missing_ok=True)
        side = request.size // PIXELS
        every = np.empty(
            (request.count, 1 + len(GALLERY), side, side, base.vae.latent_channels), np.float16
        )
        edges = np.lib.format.open_memmap(
            paths["edges"], "w+", np.uint8, (request.count, len(KINDS), request.size, request.size)
        )
        vae = load_vae(base.vae, base.vae_weights, mx.float32)
        if not on_gpu():
            fold_convolutions(vae)
        with (
            ProcessPoolExecutor(
                None, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)
            ) as pool,
            stepwise(),
        ):
            drawn = pool.map(
                _draw, ((request, index) for index in range(request.count)), chunksize=4
            )
            for index, (pictures, edges[index]) in enumerate(drawn):
                every[index] = np.array(
                    vae.encode(mx.array(pictures).astype(mx.float32) / 127.5 - 1)
                )
                report("material", (index + 1) / request.count, 0.0)
        np.save(paths["camera"], every[:, 0])
        np.save(paths["inked"], every[:, 1:])
        edges.flush()
        label.write_text(wanted, encoding="utf-8")
    return Material(*(np.load(paths[name], mmap_mode="r") for name in ("camera", "inked", "edges")))


def draw_batch(
    material: Material,
    states: list[mx.array],
    generator: np.random.Generator,
    count: int,
    side: int,
) -> tuple[mx.array, ...]:
    """Draw `count` windows of `side` latents for `sketch_loss`; one in `UNCONTROLLED` has scale 0.

    Returns camera, goal and noise (B, side, side, C), prompt states (B, 77, D), edges (B, 8 side,
    8 side) in [0, 1] and the scale of control (B, 1, 1, 1), all float32.
    """
    whole = material.camera.shape[1]
    camera, goal, edges, chosen = [], [], [], []
    for row in range(count):
        index, style = (
            int(generator.integers(len(material.camera))),
            int(generator.integers(len(GALLERY))),
        )
        y, x = (int(v) for v in generator.integers(0, whole - side + 1, 2))
        window = np.s_[y : y + side, x : x + side]
        camera.append(material.camera[index][window])
        goal.append(material.inked[index, style][window])
        # Shifted, or all without control would be of one kind.
        kind = (row + row // UNCONTROLLED) % len(KINDS)
        edges.append(
            material.edges[index, kind][
                PIXELS * y : PIXELS * (y + side), PIXELS * x : PIXELS * (x + side)
            ]
        )
        chosen.append(states[style][int(generator.integers(len(states[style])))])
    shape = (count, side, side, material.camera.shape[-1])
    scale = (np.arange(count) % UNCONTROLLED != UNCONTROLLED - 1).astype(np.float32)
    return (
        mx.array(np.stack(camera)).astype(mx.float32),
        mx.array(np.stack(goal)).astype(mx.float32),
        mx.array(generator.standard_normal(shape, dtype=np.float32)),
        mx.stack(chosen),
        mx.array(np.stack(edges)).astype(mx.float32) / 255,
        mx.array(scale.reshape(-1, 1, 1, 1)),
    )


def sketch_loss(vae: AutoencoderTiny, pictures: float) -> Callable[..., mx.array]:
    """Return the distance to the goal's latents.

    In the last `pictures` of the training also between the decoded pictures.
    """

    def loss(
        sketcher: Sketcher,
        progress: float,
        camera: mx.array,
        goal: mx.array,
        noise: mx.array,
        states: mx.array,
        edges: mx.array,
        scale: mx.array,
    ) -> mx.array:
        x0 = sketcher(camera, noise, states, edges, scale)
        away = mx.abs(x0 - goal).mean()
        total = away + mx.square(x0 - goal).mean()
        if progress > 1 - pictures:
            total = total + 2 * picture_loss((vae.decode(x0) + 1) / 2, (vae.decode(goal) + 1) / 2)
        return mx.stack([total, away / mx.abs(goal).mean()])

    return loss


# --- the run
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SketchSettings:
    """The amounts of the training.

    `seconds` 0 means no clock; `pictures` is the share trained through the decoder.
    """

    squares: int = 1200
    steps: int = 8000
    seconds: float = 0.0
    rate: float = 1e-3
    batch: int = 12
    side: int = 16  # of the windows, in latents
    pictures: float = 0.3
    seed: int = 0


def train_sketch(
    split: photographs.Split,
    out: Path,
    base: Checkpoint,
    configs: architecture.Configs,
    settings: SketchSettings,
    report: Report,
) -> Sketcher:
    """Make the material, train, return the networks. Whatever `out` already holds is used."""
    request = PairRequest(
        tuple(str(p) for p in split.train),
        settings.squares,
        int(configs["frame"]["size"]),
        settings.seed,
    )
    material = make_material(request, base, out / "material", report)
    text = CLIPTextModel(architecture.text_config(configs))
    load_weights(text, base.folder / "text_encoder" / "model.safetensors", mx.float32)
    states = recipe.prompt_states(text, recipe.token_ids(recipe.TOKENIZER))
    step = one_step(architecture.scheduler_config(configs), architecture.frame_config(configs))
    sketcher = build(configs, step, settings.seed)
    vae = load_vae(base.vae, base.vae_weights, mx.float32)
    prepare(vae)
    vae.freeze()
    plan = LearningPlan("sketch", settings.steps, settings.rate, settings.seconds, settings.seed)

    def batch(generator: np.random.Generator) -> tuple[mx.array, ...]:
        return draw_batch(material, states, generator, settings.batch, settings.side)

    train(
        plan,
        sketcher,
        sketch_loss(vae, settings.pictures),
        batch,
        out / "state",
        Log(out / "log.jsonl"),
        report,
    )
    return sketcher


def write(
    sketcher: Sketcher, configs: architecture.Configs, base: Checkpoint, folder: Path
) -> Path:
    """Write the checkpoint: its own UNet, ControlNet and step, everything else as `base` has it."""
    for part in ("text_encoder", "tokenizer", "scheduler", "vae"):
        shutil.copytree(base.folder / part, folder / part, dirs_exist_ok=True)
    shutil.copy(base.folder / "model_index.json", folder / "model_index.json")
    for name, module in (("unet", sketcher.unet), ("controlnet", sketcher.controlnet)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors(module), folder / name / recipe.WEIGHTS, {"format": "pt"})
        write_json(folder / name / "config.json", configs[name])
    write_json(folder / "sdxs.json", dict(configs["frame"]))
    write_sums(folder)
    return folder


DEFAULTS = SketchSettings()


@dataclass(frozen=True, slots=True)
class SketchOptions(Options):
    """Photographs, and how much of everything."""

    photos: Path = argument("folder of photographs")
    out: Path = argument("folder of material, state, log and checkpoint")
    squares: int = setting(DEFAULTS.squares, "squares to cut from the photographs", minimum=1)
    steps: int = setting(DEFAULTS.steps, "training steps", minimum=0)
    seconds: float = setting(
        DEFAULTS.seconds,
        "stop by the clock; material is not counted",
        minimum=0,
        unit="s",
        shown="no limit",
    )
    batch: int = setting(
        DEFAULTS.batch,
        "pictures in a batch, of which one comes without control",
        minimum=UNCONTROLLED,
    )
    pictures: float = setting(
        DEFAULTS.pictures, "share trained through the decoder", minimum=0, maximum=1
    )
    seed: int = setting(DEFAULTS.seed, "seed of everything random", minimum=0)


def run(options: SketchOptions) -> None:
    """Train the checkpoint, or go on with it."""
    console = Console()
    split = photographs.split(options.photos, DEMO_PICTURES)
    base = find(BASE, download=False)
    settings = SketchSettings(
        options.squares,
        options.steps,
        options.seconds,
        batch=options.batch,
        pictures=options.pictures,
        seed=options.seed,
    )
    with Progress(*columns(), console=console, disable=not console.is_terminal) as progress:
        sketcher = train_sketch(
            split, options.out, base, architecture.SKETCH, settings, Bars(progress)
        )
    console.print(
        f"checkpoint in {write(sketcher, architecture.SKETCH, base, options.out / 'checkpoint')}"
    )


if __name__ == "__main__":
    sys.exit(call(run, sys.argv[1:], "python -m sdxs.experiments.distill.sketch", __doc__ or ""))
