"""From a folder of photographs to a checkpoint: the stages, their order and their hand-over."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...common.backend.schedule import one_step
from ...common.checkpoint.find import PACKAGE_FOLDER
from ...common.prompt.syntax import GALLERY
from ...common.prompt.tokenizer import ClipTokenizer
from ...mlx_sdxs.networks.layers import load_weights
from ...mlx_sdxs.networks.taesd import AutoencoderTiny
from ...mlx_sdxs.networks.unet import UNet2DConditionModel
from . import architecture, stages
from .conv_gradient import prepare
from .material import phrases
from .material.pairs import PairRequest, make_pairs
from .material.photographs import Split
from .text_model import CLIPTextModel
from .training import LearningPlan, Log, Progress, train

TOKENIZER = PACKAGE_FOLDER / "weights" / "demo" / "tokenizer"
WEIGHTS = "diffusion_pytorch_model.safetensors"
STAGES = ("vae", "text", "unet", "finish", "blend")
WINDOW_MULTIPLE = 32  # pixels: what VAE and UNet together halve


@dataclass(frozen=True, slots=True)
class RecipeSettings:
    """The amounts of a training.

    Batches are `each` per style (or per plane); `seconds` 0 means no clock.

    The clock is shared out as `shares` over VAE, text, UNet, finish and blend; a share of 0 takes
    the steps it takes, and a stage of 0 steps leaves its share to the others. The text encoder
    takes its steps: it trains while the processors are busy with the pairs, and a clock once left
    it one step.
    """

    squares: int = 3000
    seconds: float = 0.0
    steps: tuple[int, ...] = (9000, 800, 6000, 12000, 4000)
    rates: tuple[float, ...] = (2e-3, 2e-3, 1e-3, 6e-4, 3e-4)
    shares: tuple[float, ...] = (0.24, 0.0, 0.12, 0.46, 0.18)
    each: int = 4
    window: int | None = None  # side of what the last stage sees of a picture; None is all of it
    seed: int = 0
    workers: int | None = None  # processes that make pairs; None is one for each processor
    configs: architecture.Configs = field(default_factory=lambda: architecture.DEMO)

    def __post_init__(self) -> None:
        """Raises ValueError for a list that does not name every stage, or a window that is none."""
        if {len(values) for values in (self.steps, self.rates, self.shares)} != {len(STAGES)}:
            raise ValueError(
                f"steps, rates and shares are for {', '.join(STAGES)}: expected {len(STAGES)} of "
                "each"
            )
        size = int(self.configs["frame"]["size"])
        if self.window is not None and (
            self.window % WINDOW_MULTIPLE or not 0 < self.window <= size
        ):
            raise ValueError(
                f"window {self.window}: expected a multiple of {WINDOW_MULTIPLE}, at most {size}"
            )

    def plan(self, index: int) -> LearningPlan:
        """Return a stage's plan; a stage without steps gives its time to the others."""
        shared = sum(share for share, steps in zip(self.shares, self.steps, strict=True) if steps)
        seconds = self.seconds * self.shares[index] / shared if shared else 0.0
        return LearningPlan(
            STAGES[index], self.steps[index], self.rates[index], seconds, self.seed + index
        )


@dataclass(frozen=True, slots=True)
class Networks:
    """What is trained."""

    unet: UNet2DConditionModel
    vae: AutoencoderTiny
    text: CLIPTextModel


def build(configs: architecture.Configs, seed: int) -> Networks:
    """Fresh networks; the UNet's last convolution is 0, so that it starts out changing nothing."""
    mx.random.seed(seed)
    unet = UNet2DConditionModel(architecture.unet_config(configs))
    unet.conv_out.weight = mx.zeros_like(unet.conv_out.weight)
    unet.conv_out.bias = mx.zeros_like(unet.conv_out.bias)
    vae = AutoencoderTiny(architecture.vae_config(configs))
    text = CLIPTextModel(architecture.text_config(configs))
    text.embeddings.token_embedding.weight = 0.02 * mx.random.normal(
        text.embeddings.token_embedding.weight.shape
    )
    text.embeddings.position_embedding.weight = 0.01 * mx.random.normal(
        text.embeddings.position_embedding.weight.shape
    )
    mx.eval(unet.parameters(), vae.parameters(), text.parameters())
    for module in (unet, vae):
        prepare(module)
    return Networks(unet, vae, text)


def token_ids(tokenizer: Path) -> list[np.ndarray]:
    """Ids of every training prompt, int32 (prompts, 77) for each style."""
    clip = ClipTokenizer(tokenizer)
    return [
        np.concatenate([clip.encode(p) for p in phrases.training_prompts(g)]).astype(np.int32)
        for g in GALLERY
    ]


def prompt_states(text: CLIPTextModel, ids: Sequence[np.ndarray]) -> list[mx.array]:
    """Encode every training prompt, (prompts, 77, D) for each style, in half precision."""
    states = [
        mx.concatenate([text(mx.array(rows[i : i + 64])) for i in range(0, len(rows), 64)])
        for rows in ids
    ]
    mx.eval(states)
    return states


def run(
    split: Split,
    out: Path,
    tokenizer: Path,
    settings: RecipeSettings,
    report: Progress,
    start_from: Path | None = None,
) -> Networks:
    """Make the pairs, train the five stages and return the networks; reuse what `out` holds.

    start_from: a checkpoint of the same architecture whose networks are trained on, instead of
    fresh ones.
    """
    size, configs = int(settings.configs["frame"]["size"]), settings.configs
    made = 0

    def tell(count: int) -> None:
        nonlocal made
        made += count
        report("pairs", made / settings.squares, 0.0)

    request = PairRequest(tuple(str(p) for p in split.train), settings.squares, size, settings.seed)
    networks, log, state = build(configs, settings.seed), Log(out / "log.jsonl"), out / "state"
    if start_from:
        load_weights(networks.unet, start_from / "unet" / WEIGHTS, mx.float32)
        load_weights(networks.vae, start_from / "vae" / WEIGHTS, mx.float32)
        load_weights(networks.text, start_from / "text_encoder" / "model.safetensors", mx.float32)
    ids = token_ids(tokenizer)
    with ThreadPoolExecutor(
        1
    ) as background:  # the text encoder needs no pictures and trains meanwhile
        making = background.submit(make_pairs, request, out / "pairs", tell, settings.workers)
        train_text(networks.text, ids, settings, state, log, report)
        pairs = making.result()
    pictures = stages.Pictures(pairs)
    train_vae(
        networks.vae,
        stages.Anchor.fit(pairs, architecture.vae_config(configs).latent_channels),
        pictures,
        settings,
        state,
        log,
        report,
    )
    states = prompt_states(networks.text, ids)
    painter = stages.Painter(
        networks.unet,
        networks.vae,
        one_step(architecture.scheduler_config(configs), architecture.frame_config(configs)),
    )
    train_unet(painter, pictures, states, settings, state, log, report)
    train_finish(painter, pictures, states, settings, state, log, report)
    train_blend(painter, pictures, states, settings, state, log, report)
    return networks


def train_vae(
    vae: AutoencoderTiny,
    anchor: stages.Anchor,
    pictures: stages.Pictures,
    settings: RecipeSettings,
    state: Path,
    log: Log,
    report: Progress,
) -> None:
    train(
        settings.plan(0),
        vae,
        stages.vae_loss(anchor),
        lambda g: (pictures.mixed(g, settings.each),),
        state,
        log,
        report,
    )


def train_text(
    text: CLIPTextModel,
    ids: Sequence[np.ndarray],
    settings: RecipeSettings,
    state: Path,
    log: Log,
    report: Progress,
) -> None:
    config = architecture.text_config(settings.configs)
    end = config.vocab_size - 1
    batch = stages.text_batch(list(ids), 8 * settings.each, config.vocab_size, end)
    reader = stages.StyleReader(text, config.hidden_size)
    train(settings.plan(1), reader, stages.text_loss(end), batch, state, log, report)


def chosen_states(
    states: Sequence[mx.array], generator: np.random.Generator, each: int
) -> mx.array:
    """A random prompt for every picture of a batch that is ordered by style, (10 each, 77, D)."""
    return mx.concatenate([s[mx.array(generator.integers(0, len(s), each))] for s in states])


def train_unet(
    painter: stages.Painter,
    pictures: stages.Pictures,
    states: Sequence[mx.array],
    settings: RecipeSettings,
    state: Path,
    log: Log,
    report: Progress,
) -> None:
    painter.vae.freeze()

    def batch(generator: np.random.Generator) -> tuple[mx.array, ...]:
        return *pictures.pairs(generator, settings.each), chosen_states(
            states, generator, settings.each
        )

    train(settings.plan(2), painter, stages.latent_loss, batch, state, log, report)
    painter.vae.unfreeze()


def train_finish(
    painter: stages.Painter,
    pictures: stages.Pictures,
    states: Sequence[mx.array],
    settings: RecipeSettings,
    state: Path,
    log: Log,
    report: Progress,
) -> None:
    count, size = stages.STYLES * settings.each, int(settings.configs["frame"]["size"])
    shaken, kept = max(1, count // 4), max(1, count // 4)

    def batch(generator: np.random.Generator) -> tuple[mx.array, ...]:
        pair = pictures.pairs(generator, settings.each)
        prompts = chosen_states(states, generator, settings.each)
        order = mx.array(generator.permutation(count))
        return *pair, prompts, order, *stages.shaking(generator, shaken, size)

    train(settings.plan(3), painter, stages.finish_loss(kept), batch, state, log, report)


def train_blend(
    painter: stages.Painter,
    pictures: stages.Pictures,
    states: Sequence[mx.array],
    settings: RecipeSettings,
    state: Path,
    log: Log,
    report: Progress,
) -> None:
    window = settings.window or int(settings.configs["frame"]["size"])
    shaken = max(1, stages.STYLES * settings.each // 4)
    known = [np.array(s) for s in states]
    painter.vae.freeze()

    def batch(generator: np.random.Generator) -> tuple[mx.array, ...]:
        rows = stages.blend_batch(pictures, known, generator, settings.each, window)
        return *rows, *stages.shaking(generator, shaken, window)

    train(settings.plan(4), painter, stages.blend_loss, batch, state, log, report)
    painter.vae.unfreeze()


def parameters(module: nn.Module) -> int:
    return sum(value.size for _, value in nn.utils.tree_flatten(module.parameters()))
