"""Compare the ControlNet, and a frame under its control, with diffusers.

`tests/test_controlnet.py` uses what is above the line without torch, against
`tests/fixtures/control.safetensors`; `make parity` runs what is below it, full size too, against
live diffusers and its ControlNet pipeline.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...common.backend.schedule import frame_steps, seeded_noise
from ...common.checkpoint.config.vae import TinyVAEConfig
from ...common.checkpoint.find import Checkpoint, open_checkpoint, with_control
from ...common.picture.size import FrameSize, Size
from ...common.testing.random_checkpoint import (
    Architecture,
    architecture,
    control_config,
    tiny,
    write_checkpoint,
    write_control,
)
from ...coreml_backend.options import Variant
from ...mac_check.fixtures import (
    FIXTURES,
    NETWORK_LIMIT,
    SHAPES,
    X0_LIMIT,
    Arrays,
    distances,
    error,
)
from ...mlx_sdxs.backend import load_controlnet, load_vae
from ...mlx_sdxs.frame import Frame
from ...mlx_sdxs.networks.layers import load_weights
from ...mlx_sdxs.networks.unet import UNet2DConditionModel
from .coreml import PICTURE_LIMIT_DB, predict
from .coreml import X0_LIMIT as PROGRAM_X0_LIMIT

# The sketch ControlNet's layout; 12 residuals, as Stable Diffusion's.
CONTROL_NAMES = (
    "sdxs-512-dreamshaper",
    "sd-turbo",
)
CONTROL_FIXTURES = FIXTURES / "control.safetensors"
SCALE = 0.8


@dataclass(frozen=True, slots=True)
class ControlInputs:
    """What one controlled frame is fed; channels last."""

    picture: np.ndarray  # uint8 (H, W, 3)
    edges: np.ndarray  # uint8 (H, W)
    encoder_hidden_states: np.ndarray  # float32 (1, 77, D)
    noise: np.ndarray  # float32 (1, H/8, W/8, C)


def draw_control_inputs(checkpoint: Checkpoint, size: Size, seed: int) -> ControlInputs:
    """The same seed gives the same inputs."""
    generator = np.random.Generator(np.random.PCG64(seed))
    frame, vae = FrameSize.of(size), checkpoint.vae
    return ControlInputs(
        picture=generator.integers(0, 256, (*frame.shape, 3), dtype=np.uint8),
        edges=(255 * (generator.random(frame.shape) < 0.1)).astype(np.uint8),
        encoder_hidden_states=generator.standard_normal(
            (1, 77, checkpoint.unet.cross_attention_dim), dtype=np.float32
        ),
        noise=seeded_noise(seed, *frame.divided(vae.reduction), vae.latent_channels),
    )


def write_controlled(folder: Path, name: str, configs: Architecture, seed: int) -> Checkpoint:
    """A random checkpoint with a random ControlNet of its own."""
    write_checkpoint(folder / name, configs, seed)
    write_control(folder / name / "controlnet", control_config(configs["unet"]), seed + 1)
    return with_control(open_checkpoint(folder / name, name=name), "sketch")


def tiny_controlled(folder: Path, name: str) -> Checkpoint:
    """The one that the fixtures belong to."""
    return write_controlled(
        folder, name, tiny(architecture(name)), seed=10 + CONTROL_NAMES.index(name)
    )


def run_control(checkpoint: Checkpoint, inputs: ControlInputs) -> Arrays:
    """Our residuals, and x0 of a frame under control and of the same frame without; NHWC."""
    assert checkpoint.control is not None
    controlnet = load_controlnet(checkpoint.control, mx.float32)
    unet = UNet2DConditionModel(checkpoint.unet)
    load_weights(unet, checkpoint.unet_weights, mx.float32)
    vae = load_vae(checkpoint.vae, checkpoint.vae_weights, mx.float32)
    steps = frame_steps(checkpoint.scheduler, checkpoint.frame)
    noise, encoder_hidden_states, edges = (
        mx.array(inputs.noise),
        mx.array(inputs.encoder_hidden_states),
        mx.array(inputs.edges),
    )
    condition = mx.repeat(edges.astype(mx.float32)[None, ..., None] / 255, 3, axis=-1)
    residuals = controlnet(
        noise, float(steps[0].timestep), encoder_hidden_states, condition, mx.array(SCALE)
    )
    found = {
        f"residual {i}": np.array(residual)
        for i, residual in enumerate([*residuals.skips, residuals.middle])
    }
    frame = Frame(
        unet, vae, steps, checkpoint.vae.scaling_factor, mx.float32, controlnet=controlnet
    ).fold()
    z = frame.encode(mx.array(inputs.picture))
    found["x0 controlled"] = np.array(
        frame.denoise(z, frame.prompt(encoder_hidden_states), noise, edges, mx.array(SCALE))
    )
    free = frame.without_control()
    found["x0 free"] = np.array(free.denoise(z, free.prompt(encoder_hidden_states), noise))
    return found


def run_control_program(
    checkpoint: Checkpoint, inputs: ControlInputs, scale: float, attention: str = "sdpa"
) -> Arrays:
    """Render one frame with the whole-frame ML Program under control, as `coreml.predict` does."""
    latents = np.ascontiguousarray(inputs.noise.transpose(0, 3, 1, 2))
    return predict(
        checkpoint,
        Variant(FrameSize.of_picture(inputs.picture), attention, "float32", stage="controlled"),
        {
            "picture": inputs.picture.transpose(2, 0, 1)[None].astype(np.float32),
            "encoder_hidden_states": inputs.encoder_hidden_states,
            "noise": latents,
            "previous": np.zeros_like(latents),
            "feedback": np.zeros(1, np.float32),
            "edges": inputs.edges[None, None].astype(np.float32),
            "control_scale": np.array([scale], np.float32),
        },
    )


# Below: torch and diffusers, imported where they are used.


def oracle_control(checkpoint: Checkpoint, inputs: ControlInputs, exact: bool = False) -> Arrays:
    """Twin of `run_control`, by diffusers; networks in float64 if `exact`, arithmetic always."""
    import torch

    from .torch_networks import (
        dtype_of,
        encode,
        open_controlnet,
        open_unet,
        open_vae,
        to_numpy,
        to_torch,
    )

    assert checkpoint.control is not None
    with torch.no_grad():
        dtype, (step,) = dtype_of(exact), frame_steps(checkpoint.scheduler, checkpoint.frame)
        controlnet = open_controlnet(checkpoint, exact)
        unet, vae = open_unet(checkpoint, exact), open_vae(checkpoint, exact)
        noise, encoder_hidden_states = (
            to_torch(inputs.noise, torch.float64),
            torch.from_numpy(inputs.encoder_hidden_states).to(dtype),
        )
        condition = torch.from_numpy(inputs.edges).to(dtype)[None, None].repeat(1, 3, 1, 1) / 255

        def control(sample: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
            return controlnet(
                sample.to(dtype),
                step.timestep,
                encoder_hidden_states,
                condition,
                SCALE,
                return_dict=False,
            )

        skips, middle = control(noise)
        found = {f"residual {i}": to_numpy(residual) for i, residual in enumerate([*skips, middle])}
        z = encode(
            vae, (to_torch(inputs.picture[None], torch.float64) / 127.5 - 1).to(dtype)
        ).double()
        z = z * checkpoint.vae.scaling_factor
        x_t = step.sqrt_alpha * z + step.sqrt_one_minus_alpha * noise
        for name, (skips, middle) in (("x0 controlled", control(x_t)), ("x0 free", (None, None))):
            eps = unet(
                x_t.to(dtype),
                step.timestep,
                encoder_hidden_states,
                down_block_additional_residuals=skips,
                mid_block_additional_residual=middle,
            ).sample
            found[name] = to_numpy(
                (x_t - step.sqrt_one_minus_alpha * eps.double()) / step.sqrt_alpha
            )
        return found


def oracle_pipeline(checkpoint: Checkpoint, inputs: ControlInputs) -> np.ndarray:
    """Compute x0 of a controlled frame by StableDiffusionControlNetImg2ImgPipeline, in float32."""
    import torch
    from diffusers import (
        ControlNetModel,
        EulerDiscreteScheduler,
        StableDiffusionControlNetImg2ImgPipeline,
    )
    from diffusers.pipelines.controlnet import pipeline_controlnet_img2img as module
    from PIL import Image

    from .torch_networks import open_unet, open_vae, to_numpy, to_torch

    assert checkpoint.control is not None
    pipeline = StableDiffusionControlNetImg2ImgPipeline(
        vae=open_vae(checkpoint, False),
        text_encoder=None,
        tokenizer=None,
        unet=open_unet(checkpoint, False),
        controlnet=ControlNetModel.from_pretrained(checkpoint.control.folder).eval(),
        scheduler=EulerDiscreteScheduler.from_pretrained(checkpoint.folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn, module.randn_tensor = (
        module.randn_tensor,
        lambda *_, **__: to_torch(inputs.noise, torch.float32),
    )
    try:
        latents = pipeline(
            image=Image.fromarray(inputs.picture),
            control_image=Image.fromarray(inputs.edges).convert("RGB"),
            prompt_embeds=torch.from_numpy(inputs.encoder_hidden_states),
            strength=1.0,
            num_inference_steps=1,
            guidance_scale=1.0,
            controlnet_conditioning_scale=SCALE,
            output_type="latent",
        ).images
    finally:
        module.randn_tensor = drawn
    return to_numpy(latents)


def spread_decoder(checkpoint: Checkpoint, x0: np.ndarray) -> np.ndarray:
    """Rescale TAESD's decoder so that such an x0 fills [0, 1], and decode it: uint8 (H, W, 3)."""
    import torch
    from diffusers import AutoencoderTiny

    from .torch_networks import spread, to_numpy, to_torch

    vae = AutoencoderTiny.from_pretrained(checkpoint.vae_weights.parent).eval()
    latents = to_torch(x0, torch.float32)
    spread(vae, latents)
    vae.save_pretrained(checkpoint.vae_weights.parent)
    with torch.no_grad():
        image = vae.decode(latents / checkpoint.vae.scaling_factor).sample
    return np.ascontiguousarray(to_numpy((image / 2 + 0.5).clamp(0, 1).mul(255).round())[0]).astype(
        np.uint8
    )


def control_rows(
    folder: Path, name: str, full: bool, seed: int
) -> Iterator[tuple[str, float, float]]:
    """(what, error, limit) of one architecture."""
    configs = architecture(name)
    checkpoint = write_controlled(folder, name, configs if full else tiny(configs), seed)
    small = configs["vae"]["_class_name"] != "AutoencoderTiny"
    size = FrameSize.of((256 if small else 512) if full else 128)
    yield from _control_rows(checkpoint, draw_control_inputs(checkpoint, size, seed))
    if not full:
        shape = SHAPES[checkpoint.size_multiple][0]
        yield from _control_rows(checkpoint, draw_control_inputs(checkpoint, shape, seed))


def _control_rows(
    checkpoint: Checkpoint, inputs: ControlInputs
) -> Iterator[tuple[str, float, float]]:
    """(what, error, limit) of one frame."""
    size = FrameSize.of_picture(inputs.picture)
    shape = "" if size.square else f", {size}"
    oracle = oracle_control(checkpoint, inputs)
    # The pipeline samples from the full VAE's distribution, at random; TAESD has none.
    piped = (
        oracle_pipeline(checkpoint, inputs) if isinstance(checkpoint.vae, TinyVAEConfig) else None
    )
    ours = run_control(checkpoint, inputs)
    residuals = [
        error(what, ours[what], oracle[what]) for what in oracle if what.startswith("residual")
    ]
    yield f"controlnet, {len(residuals)} residuals{shape}", max(residuals), NETWORK_LIMIT
    for what in ("x0 controlled", "x0 free"):
        yield what + shape, error(what, ours[what], oracle[what]), X0_LIMIT
    if piped is not None:
        yield (
            f"x0 controlled, by the ControlNet pipeline{shape}",
            error("x0", ours["x0 controlled"], piped),
            X0_LIMIT,
        )
        wanted = {
            "x0": oracle["x0 controlled"],
            "picture": spread_decoder(checkpoint, oracle["x0 controlled"]),
        }
        relative, quality = distances(run_control_program(checkpoint, inputs, SCALE), wanted)
        yield f"Core ML program x0, {size.words}, relative L2", relative, PROGRAM_X0_LIMIT
        least = 10 ** (-PICTURE_LIMIT_DB / 20)
        yield (
            f"Core ML picture to diffusers, {size.words}, {quality:.1f} dB",
            10 ** (-quality / 20),
            least,
        )


def write_control_fixtures(folder: Path) -> None:
    """Write what the tests compare with, computed in float64."""
    from safetensors.numpy import save_file

    stored: Arrays = {}
    for name in CONTROL_NAMES:
        checkpoint = tiny_controlled(folder, name)
        for size in (None, SHAPES[checkpoint.size_multiple][0]):
            inputs = draw_control_inputs(checkpoint, size or 64, seed=7)
            key = f"{name} {size}" if size else name
            for what, array in oracle_control(checkpoint, inputs, exact=True).items():
                stored[f"{key}/{what}"] = np.ascontiguousarray(array.astype(np.float32))
    save_file(stored, CONTROL_FIXTURES)
