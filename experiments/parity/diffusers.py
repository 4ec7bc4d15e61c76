"""Prove that our networks compute what diffusers and transformers compute (extra `[parity]`).

`python -m sdxs.experiments diffusers [--tiny-only] [--json PATH]`: every architecture, tiny
and full size, is built by diffusers and transformers from its config, with random weights, saved
by `save_pretrained`, opened like any checkpoint and compared in float32 on the CPU. Exits with 1
if any limit is passed.

The frame's oracle is the textbook form: x_t = sqrt(a) z + sqrt(1-a) n; x0 = (x_t - sqrt(1-a) eps)
/ sqrt(a). It divides by 0.068, so its own rounding in float32 would be read as our error: that
arithmetic is done in float64, around networks in float32 (in float64 as well where `exact`).
"""

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from shutil import copytree, rmtree
from typing import Protocol

import diffusers
import mlx.core as mx
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file as load_torch_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...common.backend.schedule import seeded_noise
from ...common.checkpoint.config.vae import TinyVAEConfig
from ...common.checkpoint.find import PACKAGE_FOLDER, Checkpoint, open_checkpoint
from ...common.checkpoint.torch_import import import_torch, target_of
from ...common.picture.size import FrameSize
from ...common.settings import setting
from ...common.testing.random_checkpoint import Architecture, architecture, tiny
from ...coreai_backend.prepare import coreai_version, obstacle_here
from ...mac_check.fixtures import (
    NAMES,
    PADDINGS,
    PARTS,
    TINY,
    TOKENIZER,
    Arrays,
    Inputs,
    Sizes,
    distances,
    draw_inputs,
    error,
    inputs_of,
    limit,
    make_texts,
    open_parts,
    padded_tokenizer,
    run_frame,
    token_rows,
)
from .. import record
from ..options import Options, result_file
from .control import CONTROL_NAMES, control_rows
from .coreml import MLX_LIMIT_DB, PICTURE_LIMIT_DB, X0_LIMIT, run_program
from .torch_networks import dtype_of, encode, open_unet, open_vae, spread, to_numpy, to_torch

FULL = Sizes(batch=1, latents=(64, 64), picture=(256, 256), frame=512, timesteps=(999,))
# The full VAE needs five times the memory and work of a UNet; its networks are the same at any
# size.
FULL_KL = Sizes(batch=1, latents=(64, 64), picture=(256, 256), frame=256, timesteps=(999,))
WITH_COREML = ("demo", "sdxs-512")
COREAI_SIDE = 256
# Of frames of other shapes: 2.3e-6 was seen at full width (DreamShaper, 96 x 64), where diffusers
# in float32 is 1.3e-6 off diffusers in float64.
SHAPED_LIMIT = 3e-6
_ONE_FILE = "100GB"  # keeps save_pretrained from splitting


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Redraw every parameter, norms and biases too: at 1 and 0 they would hide a swap."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(generator=generator)
            if parameter.ndim > 1:
                parameter /= parameter[0].numel() ** 0.5  # keeps activations near 1 at any depth
            else:
                parameter *= 0.1
                if name.endswith("weight"):
                    parameter += 1  # a norm's gain


def save_checkpoint(folder: Path, configs: Architecture, seed: int) -> Path:
    """Build every network of `configs` with random weights and save it in the diffusers layout."""
    generator = torch.Generator().manual_seed(seed)
    unet = UNet2DConditionModel.from_config(configs["unet"])
    randomise(unet, generator)
    unet.save_pretrained(folder / "unet", max_shard_size=_ONE_FILE)
    del unet
    for name in ("vae", "vae_large"):
        if name in configs:
            kind = (
                AutoencoderTiny
                if configs[name]["_class_name"] == "AutoencoderTiny"
                else AutoencoderKL
            )
            vae = kind.from_config(configs[name])
            randomise(vae, generator)
            if isinstance(vae, AutoencoderTiny):
                spread(
                    vae,
                    60 * torch.randn(1, vae.config.latent_channels, 32, 32, generator=generator),
                )
            vae.save_pretrained(folder / name, max_shard_size=_ONE_FILE)
            del vae
    text_encoder = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    randomise(text_encoder, generator)
    text_encoder.save_pretrained(folder / "text_encoder", max_shard_size=_ONE_FILE)
    EulerDiscreteScheduler.from_config(configs["scheduler"]).save_pretrained(folder / "scheduler")
    # The checkpoints' own vocab.json and merges.txt, which transformers 5 no longer writes.
    copytree(TOKENIZER, folder / "tokenizer")
    return folder


class Oracle(Protocol):
    """One part of a checkpoint as diffusers and transformers compute it, channels last.

    exact: the networks in float64 instead of float32.
    """

    def __call__(self, checkpoint: Checkpoint, inputs: Inputs, exact: bool = False) -> Arrays: ...


def oracle_unet(checkpoint: Checkpoint, inputs: Inputs, exact: bool = False) -> Arrays:
    """Twin of `run_unet`."""
    unet, dtype = open_unet(checkpoint, exact), dtype_of(exact)
    sample, encoder_hidden_states = (
        to_torch(inputs.sample, dtype),
        torch.from_numpy(inputs.encoder_hidden_states).to(dtype),
    )
    return {
        f"unet t={t}": to_numpy(unet(sample, t, encoder_hidden_states).sample)
        for t in inputs.timesteps
    }


def oracle_vae(checkpoint: Checkpoint, inputs: Inputs, exact: bool = False) -> Arrays:
    """Twin of `run_vae`."""
    vae, dtype = open_vae(checkpoint, exact), dtype_of(exact)
    return {
        "encode": to_numpy(encode(vae, to_torch(inputs.picture, dtype))),
        "decode": to_numpy(vae.decode(to_torch(inputs.latents, dtype)).sample),
    }


def oracle_text(checkpoint: Checkpoint, inputs: Inputs, exact: bool = False) -> Arrays:
    """Twin of `run_text`."""
    model = (
        CLIPTextModel.from_pretrained(checkpoint.folder / "text_encoder").eval().to(dtype_of(exact))
    )
    return {"text": model(torch.from_numpy(inputs.ids)).last_hidden_state.numpy()}


def oracle_frame(
    checkpoint: Checkpoint,
    inputs: Inputs,
    exact: bool = False,
    change: Callable[[torch.nn.Module, torch.nn.Module], None] = lambda unet, text_encoder: None,
) -> Arrays:
    """Twin of `run_frame`; also x0 by EulerDiscreteScheduler's own step, where it reaches.

    change: called with UNet and text encoder before they are used.
    """
    dtype, t = dtype_of(exact), checkpoint.frame.timestep
    text_encoder = (
        CLIPTextModel.from_pretrained(checkpoint.folder / "text_encoder").eval().to(dtype)
    )
    ids = clip_ids([inputs.prompt], checkpoint.folder / "tokenizer")
    unet, vae = open_unet(checkpoint, exact), open_vae(checkpoint, exact)
    change(unet, text_encoder)
    unet.to(dtype)
    encoder_hidden_states = text_encoder(torch.from_numpy(ids)).last_hidden_state
    scheduler = EulerDiscreteScheduler.from_pretrained(checkpoint.folder / "scheduler")
    alpha = scheduler.alphas_cumprod[t].double()
    size, config = FrameSize.of_picture(inputs.frame), checkpoint.vae
    noise = to_torch(
        seeded_noise(inputs.seed, *size.divided(config.reduction), config.latent_channels),
        torch.float64,
    )
    noise = noise * checkpoint.frame.noise_scale

    image = to_torch(inputs.frame[None], torch.float64) / 127.5 - 1
    z = encode(vae, image.to(dtype)).double() * vae.config.scaling_factor
    x_t = alpha.sqrt() * z + (1 - alpha).sqrt() * noise
    eps = unet(x_t.to(dtype), t, encoder_hidden_states).sample
    x0 = (x_t - (1 - alpha).sqrt() * eps.double()) / alpha.sqrt()
    outputs = {"z": to_numpy(z), "x0": to_numpy(x0)}

    scheduler.set_timesteps(1)
    last = scheduler.timesteps[0]
    if int(last) == t and checkpoint.frame.noise_scale == 1:
        noised = scheduler.add_noise(z.float(), noise.float(), scheduler.timesteps)
        eps = unet(
            scheduler.scale_model_input(noised, last).to(dtype), t, encoder_hidden_states
        ).sample
        outputs["x0 by EulerDiscreteScheduler"] = to_numpy(
            scheduler.step(eps.float(), last, noised).prev_sample
        )

    decoded = vae.decode((x0 / vae.config.scaling_factor).to(dtype)).sample.double()
    levels = ((decoded[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return outputs | {"picture": to_numpy(levels[None])[0]}


def spread_frame(folder: Path, sizes: Sizes, seed: int) -> None:
    """Rescale TAESD's decoder for this frame's x0: other latents give other brightness."""
    checkpoint = open_checkpoint(folder)
    if isinstance(checkpoint.vae, TinyVAEConfig):
        x0 = ORACLE["frame"](checkpoint, draw_inputs(checkpoint, sizes, seed))["x0"]
        vae = AutoencoderTiny.from_pretrained(folder / "vae").eval()
        spread(vae, to_torch(x0, torch.float32))
        vae.save_pretrained(folder / "vae", max_shard_size=_ONE_FILE)


ORACLE: dict[str, Oracle] = {
    part: torch.no_grad()(run)
    for part, run in {
        "text": oracle_text,
        "vae": oracle_vae,
        "unet": oracle_unet,
        "frame": oracle_frame,
    }.items()
}


def clip_ids(texts: Iterable[str], folder: Path) -> np.ndarray:
    """CLIPTokenizer's ids, int64 (N, 77), padded and cut as diffusers' pipelines ask for."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    rows = tokenizer(list(texts), padding="max_length", max_length=77, truncation=True).input_ids
    return np.array(rows, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ParityCheck:
    """One figure and its limit; `note` qualifies it."""

    name: str
    what: str
    error: float
    limit: float
    seconds: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # False for nan


def check_folder(name: str, folder: Path, sizes: Sizes, seed: int) -> Iterator[ParityCheck]:
    """Compare every part of a checkpoint, one at a time so that only one is in memory."""
    for label, (part, checkpoint) in open_parts(folder).items():
        started = time.perf_counter()
        inputs = inputs_of(label, draw_inputs(checkpoint, sizes, seed))
        oracle = ORACLE[part](checkpoint, inputs)
        gc.collect()
        ours = PARTS[part](checkpoint, inputs)
        gc.collect()
        mx.clear_cache()
        for what, expected in oracle.items():
            found = error(what, ours[what.split(" by ")[0]], expected)
            note = (
                f"{np.isin(expected, (0, 255)).mean():.0%} of values at 0 or 255"
                if what == "picture"
                else ""
            )
            if what == "x0":
                note = f"largest {np.abs(expected).max():.1f}"
            named = f"{label} {what}" if part == "vae" or label != part else what
            yield ParityCheck(name, named, found, limit(what), time.perf_counter() - started, note)
        if part == "frame" and name.startswith(WITH_COREML):
            yield from check_coreml(name, checkpoint, inputs, oracle, ours)
            yield from check_coreai(name, checkpoint, inputs)


def check_coreml(
    name: str, checkpoint: Checkpoint, inputs: Inputs, oracle: Arrays, mlx: Arrays
) -> Iterator[ParityCheck]:
    """Compare the interpreted Core ML program with diffusers and the MLX backend.

    Pictures are compared by the root mean square of their difference, as a share of 255; the note
    has it in dB.
    """
    started = time.perf_counter()
    made = run_program(checkpoint, inputs)
    seconds, size = time.perf_counter() - started, FrameSize.of_picture(inputs.frame)
    shape = "" if size.square else f" {size}"
    relative, quality = distances(made, oracle)
    _, against_mlx = distances(made, mlx)
    yield ParityCheck(
        name,
        f"Core ML program x0{shape}",
        relative,
        X0_LIMIT,
        seconds,
        f"relative L2, {size.words}, interpreter in float16",
    )
    for what, found, least in (
        ("diffusers", quality, PICTURE_LIMIT_DB),
        ("MLX", against_mlx, MLX_LIMIT_DB),
    ):
        note = f"{found:.1f} dB, {size.words}"
        yield ParityCheck(
            name,
            f"Core ML picture{shape} to {what}",
            10 ** (-found / 20),
            10 ** (-least / 20),
            seconds,
            note,
        )


def check_coreai(name: str, checkpoint: Checkpoint, inputs: Inputs) -> Iterator[ParityCheck]:
    """Compare the Core AI program on Apple's CPU runtime with diffusers, in both precisions.

    diffusers computes in float64: in float32 its own error is as large as what is looked for.
    A frame over 256 x 256 is compared at that size, where it takes two minutes and not twenty.
    """
    if obstacle := obstacle_here() or ("" if coreai_version() else "coreai-core is not installed"):
        print(f"{name}: no Core AI here: {obstacle}")
        return
    from .coreai import LIMITS
    from .coreai import run_program as run_coreai

    if inputs.frame.shape[0] > COREAI_SIDE:
        sizes = replace(FULL, frame=COREAI_SIDE)
        inputs = inputs_of("frame", draw_inputs(checkpoint, sizes, inputs.seed))
    oracle = ORACLE["frame"](checkpoint, inputs, exact=True)
    gc.collect()
    size = FrameSize.of_picture(inputs.frame)
    shape = "" if size.square else f" {size}"
    for dtype, (most, least) in LIMITS.items():
        if dtype == "float32" and not size.square:
            most = SHAPED_LIMIT
        started = time.perf_counter()
        relative, quality = distances(run_coreai(checkpoint, inputs, dtype=dtype), oracle)
        seconds = time.perf_counter() - started
        note = f"relative L2, {size.words}, Apple's CPU runtime"
        yield ParityCheck(name, f"Core AI {dtype} x0{shape}", relative, most, seconds, note)
        yield ParityCheck(
            name,
            f"Core AI {dtype} picture{shape}",
            10 ** (-quality / 20),
            10 ** (-least / 20),
            seconds,
            f"{quality:.1f} dB, {size.words}",
        )


def check_tokenizer() -> Iterator[ParityCheck]:
    """Compare the ids of 3,000 texts: the share of texts with any other id must be 0."""
    texts = make_texts(3000, json.loads((TOKENIZER / "vocab.json").read_text(encoding="utf-8")))
    for mark in PADDINGS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as temporary:
            folder = padded_tokenizer(Path(temporary), mark)
            unequal = (token_rows(texts, folder) != clip_ids(texts, folder)).any(axis=1)
        share, seconds = float(unequal.mean()), time.perf_counter() - started
        yield ParityCheck(
            "tokenizer", f"padded with {mark}", share, 0.0, seconds, f"{len(texts)} texts"
        )


@torch.no_grad()
def check_pipeline() -> Iterator[ParityCheck]:
    """Open the demo as diffusers' StableDiffusionPipeline; take the frame's step with it."""
    started = time.perf_counter()
    checkpoint = open_checkpoint(PACKAGE_FOLDER / "weights" / "demo")
    inputs, t = draw_inputs(checkpoint, TINY, seed=31), checkpoint.frame.timestep
    pipeline = StableDiffusionPipeline.from_pretrained(checkpoint.folder, dtype=torch.float32)
    encoder_hidden_states, _ = pipeline.encode_prompt(inputs.prompt, "cpu", 1, False)
    alpha = pipeline.scheduler.alphas_cumprod[t]
    z = pipeline.vae.encode(to_torch(inputs.frame[None], torch.float32) / 127.5 - 1).latents
    x_t = alpha.sqrt() * z  # the demo is trained without noise
    x0 = (
        x_t - (1 - alpha).sqrt() * pipeline.unet(x_t, t, encoder_hidden_states).sample
    ) / alpha.sqrt()
    picture = (
        ((pipeline.vae.decode(x0).sample[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    )
    found = error("picture", run_frame(checkpoint, inputs)["picture"], to_numpy(picture[None])[0])
    yield ParityCheck(
        "demo",
        "StableDiffusionPipeline's parts",
        found,
        limit("picture"),
        time.perf_counter() - started,
    )


def run_checks(tiny_only: bool, only: str = "") -> Iterator[ParityCheck]:
    """Run everything: tokenizer, demo, five tiny architectures, and unless `tiny_only` full size.

    only: leave out whatever is not named so from the start.
    """
    if "tokenizer".startswith(only):
        yield from check_tokenizer()
    if "weights import".startswith(only):
        yield from check_import()
    if "demo".startswith(only):
        yield from check_folder("demo", PACKAGE_FOLDER / "weights" / "demo", TINY, seed=30)
    yield from check_pipeline()
    for size in ("tiny",) if tiny_only else ("tiny", "full"):
        for seed, name in enumerate(NAMES):
            if not f"{name} {size}".startswith(only):
                continue
            configs = architecture(name)
            full = FULL if configs["vae"]["_class_name"] == "AutoencoderTiny" else FULL_KL
            with tempfile.TemporaryDirectory() as temporary:
                folder = save_checkpoint(
                    Path(temporary) / name, tiny(configs) if size == "tiny" else configs, seed
                )
                sizes = TINY if size == "tiny" else full
                spread_frame(folder, sizes, seed + 40)
                yield from check_folder(f"{name} {size}", folder, sizes, seed + 40)
                rmtree(folder)
        for seed, name in enumerate(CONTROL_NAMES):
            if f"control of {name} {size}".startswith(only) and (
                size == "tiny" or name.startswith("sdxs")
            ):
                yield from check_control(name, size == "full", seed + 60)


def check_import() -> Iterator[ParityCheck]:
    """Count tensors that `sdxs weights import` reads differently from torch, in both formats."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(6, 8, generator=generator)
    state = {
        "float32": base,
        "float16": base.half(),
        "bfloat16": base.bfloat16(),
        "turned": base.T,
        "row": base[2],
        "whole": torch.arange(5),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    for zipped in (True, False):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary) / "model.bin"
            torch.save(state, source, _use_new_zipfile_serialization=zipped)
            done = import_torch(source, target_of(source), Path(temporary) / "manifest.json")
            found = load_torch_file(done.path)
        unequal = [
            name for name, tensor in state.items() if not torch.equal(found[name], tensor.detach())
        ]
        yield ParityCheck(
            "weights import",
            f"torch.save, {'zip' if zipped else 'legacy'}",
            len(unequal) / len(state),
            0.0,
            time.perf_counter() - started,
            f"{len(state)} tensors",
        )


def check_control(name: str, full: bool, seed: int) -> Iterator[ParityCheck]:
    """The ControlNet of an architecture, and a frame under its control."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        for what, found, admitted in control_rows(Path(temporary), name, full, seed):
            yield ParityCheck(
                f"control of {name} {'full' if full else 'tiny'}",
                what,
                found,
                admitted,
                time.perf_counter() - started,
            )
            started = time.perf_counter()
    mx.clear_cache()


def hush() -> None:
    """Keep diffusers and transformers from writing between the figures."""
    for library in (diffusers, transformers):
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class DiffusersOptions(Options):
    """Which checks."""

    only: str = setting("", "checks whose name starts so: sdxs-512-0.9, control", shown="all")
    tiny_only: bool = setting(False, "leave the full-size networks out")
    json: Path | None = result_file()


def run(options: DiffusersOptions) -> int:
    """Run, show and judge; return 1 if a check passes its limit."""
    hush()
    started, console = time.perf_counter(), Console(width=120)
    checks: list[ParityCheck] = []
    for check in run_checks(options.tiny_only, options.only):
        checks.append(check)
        verdict = "ok" if check.passed else "FAILED"
        console.print(
            f"{check.name:27} {check.what:32} {check.error:9.2e} {verdict}", highlight=False
        )
    table = Table(
        "checkpoint",
        "what",
        "error",
        "limit",
        "s",
        "note",
        "verdict",
        title="diffusers and transformers",
    )
    for c in checks:
        verdict = "[green]ok[/]" if c.passed else "[red]FAILED[/]"
        table.add_row(
            c.name, c.what, f"{c.error:.2e}", f"{c.limit:.0e}", f"{c.seconds:.1f}", c.note, verdict
        )
    console.print(table)
    failed, seconds = [c for c in checks if not c.passed], time.perf_counter() - started
    console.print(
        f"{len(checks) - len(failed)} of {len(checks)} within their limits, {seconds:.0f} s"
    )
    if options.json:
        results = [asdict(c) | {"passed": c.passed} for c in checks]
        figures = {
            "device": str(mx.default_device()),
            # of the oracle, beside those that every result file names
            "oracle_versions": {name: version(name) for name in ("transformers", "tokenizers")},
            "seconds": round(seconds, 1),
            "checks": results,
        }
        record.write(options.json, figures, options)
    return 1 if failed else 0
