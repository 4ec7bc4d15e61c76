"""Write a checkpoint as a Core AI program, straight from its safetensors files.

`graphs/frame.py` describes the frame. A program has a function for each size, which share their
weights by content. Pictures are uint8 (H, W, 3), the rest is float32:

    inputs   picture, encoder_hidden_states, noise, feedback [, edges, control_scale]
    state    previous, the x0 of the last frame, which the program replaces by its own
    outputs  image, image_mean, x0
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import coreai.authoring as authoring
import numpy as np
from coreai.authoring import AIProgram, Module, TensorType, Value
from coreai.runtime import AIModelAssetMetadata

from ..common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ..common.checkpoint.find import Checkpoint
from ..common.checkpoint.manifest import remembered_sha256
from ..common.errors import BackendError, UsageError
from ..common.picture.size import FrameSize
from ..graphs.frame import Frame, frame_of
from ..graphs.weights import Store, Weights
from .ops import CoreAIOps, Tensor
from .options import Variant, function_of, refuse_steps
from .private import graph, make_state

Progress = Callable[[str, float], None]
STATE = "previous"
FORMAT_VERSION = "1"


def build(
    checkpoint: Checkpoint, variant: Variant, path: Path, progress: Progress | None = None
) -> float:
    """Write `variant` of `checkpoint` as an .aimodel at `path`, which must not exist.

    progress: called with the current step and the share done, 0 to 1. Returns the relative error of
    compressed weights. Raises UsageError for an impossible size, WeightsError for weights outside
    float16, BackendError if Core AI's compiler refuses the program.
    """
    report = progress or (lambda step, done: None)
    for size in variant.sizes:
        checkpoint.check_size(size)
    report("verify", 0.0)
    checkpoint.verify()
    checkpoint.check_values()
    report("build", 0.1)
    program, error = author(checkpoint, variant)
    report("write", 0.6)
    try:
        program.save_asset(path, _metadata(checkpoint, variant, error))
    except (RuntimeError, ValueError) as refused:
        raise BackendError(f"Core AI cannot write {path.name}: {refused}") from refused
    report("done", 1.0)
    return error


def author(
    checkpoint: Checkpoint, variant: Variant, kind: type[CoreAIOps] = CoreAIOps
) -> tuple[AIProgram, float]:
    """Return the program, and the relative error of its compressed weights.

    kind: its operations. Raises UsageError for a 'controlled' stage without a ControlNet, or for
    more than one step.
    """
    refuse_steps(checkpoint)
    control = checkpoint.control if variant.stage == "controlled" else None
    if variant.stage == "controlled" and control is None:
        raise UsageError(
            f"Core AI stage 'controlled': {checkpoint.name} was opened without a ControlNet; add "
            "--control sketch"
        )
    module = Module.create()
    with (
        Store(checkpoint.unet_weights, variant.weights, checkpoint.unet_tensors()) as unet,
        Store(checkpoint.vae_weights, variant.weights) as vae,
        Store(control.weights, variant.weights)
        if control
        else contextlib.nullcontext() as control_store,
    ):
        stores = [unet, vae, *([control_store] if control_store else [])]
        controlled = Weights(control_store, prefix="control_") if control_store else None
        try:
            with module:
                ops = kind(variant.attention, variant.numpy_dtype)
                frame = frame_of(ops, checkpoint, Weights(unet), Weights(vae), controlled)
                for size in variant.sizes:
                    _add_function(frame, checkpoint, size, controlled is not None)
        except (RuntimeError, ValueError, TypeError) as refused:
            raise BackendError(
                f"Core AI's compiler refuses the program of {checkpoint.name}: {refused}; use "
                "another --attention, or --backend mlx"
            ) from refused
        error, energy = sum(s.error for s in stores), sum(s.energy for s in stores)
    return AIProgram(module), (error / energy) ** 0.5 if energy else 0.0


def input_shapes(
    checkpoint: Checkpoint, size: FrameSize, controlled: bool
) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every input, and of the state, in order."""
    vae = checkpoint.vae
    latents = (1, vae.latent_channels, *size.divided(vae.reduction))
    shapes: dict[str, tuple[int, ...]] = {
        "picture": (*size.shape, 3),
        "encoder_hidden_states": (1, PROMPT_TOKENS, checkpoint.unet.cross_attention_dim),
        "noise": latents,
        STATE: latents,
        "feedback": (1,),
    }
    return shapes | ({"edges": size.shape, "control_scale": (1,)} if controlled else {})


def input_dtype(name: str) -> type[np.generic]:
    return np.uint8 if name in ("picture", "edges") else np.float32


def _add_function(frame: Frame, checkpoint: Checkpoint, size: FrameSize, controlled: bool) -> None:
    """Add the function of one size to the current module."""
    shapes = input_shapes(checkpoint, size, controlled)
    inputs = {name: TensorType(shape, input_dtype(name)) for name, shape in shapes.items()}
    latents = TensorType(shapes[STATE], np.float32)
    outputs = {
        "image": TensorType(shapes["picture"], np.uint8),
        "image_mean": TensorType((1, 1, 1, 1), np.float32),
        "x0": latents,
        STATE: latents,
    }

    def body(*values: Value) -> tuple[Value, ...]:
        given = dict(zip(inputs, values, strict=True))
        control = []
        if controlled:
            edges = authoring.cast(given["edges"], np.float32)
            drawn = authoring.reshape(edges, np.array((1, 1, *size.shape), np.uint32))
            control = [Tensor(drawn), Tensor(given["control_scale"])]
        x0 = frame.denoise(
            frame.encode(Tensor(_to_planes(given["picture"], size))),
            Tensor(given["encoder_hidden_states"]),
            Tensor(given["noise"]),
            Tensor(given[STATE]),
            Tensor(given["feedback"]),
            *control,
        )
        image, mean = frame.decode(x0)
        return _to_pixels(image.value, size), mean.value, x0.value, x0.value

    make_state(graph(function_of(size), inputs, outputs, body), STATE)


def _to_planes(picture: Value, size: FrameSize) -> Value:
    """Convert uint8 (H, W, 3) to float32 (1, 3, H, W)."""
    rows = authoring.reshape(
        authoring.cast(picture, np.float32), np.array((1, *size.shape, 3), np.uint32)
    )
    return authoring.transpose(rows, np.array((0, 3, 1, 2), np.uint32))


def _to_pixels(image: Value, size: FrameSize) -> Value:
    """Convert whole numbers, float32 (1, 3, H, W), to uint8 (H, W, 3)."""
    rows = authoring.transpose(authoring.cast(image, np.uint8), np.array((0, 2, 3, 1), np.uint32))
    return authoring.reshape(rows, np.array((*size.shape, 3), np.uint32))


def _metadata(checkpoint: Checkpoint, variant: Variant, error: float) -> AIModelAssetMetadata:
    """Return the inputs of a build; the bytes of a program differ from process to process."""
    values = {
        "version": FORMAT_VERSION,
        "checkpoint": checkpoint.name,
        "unet_sha256": remembered_sha256(checkpoint.unet_weights),
        "vae_sha256": remembered_sha256(checkpoint.vae_weights),
        "variant": json.dumps(asdict(variant) | {"sizes": [s.json for s in variant.sizes]}),
    }
    if checkpoint.control and variant.stage == "controlled":
        values["control_sha256"] = remembered_sha256(checkpoint.control.weights)
    if error:
        values["weights_relative_error"] = f"{error:.3g}"
    metadata = AIModelAssetMetadata()
    for key, value in values.items():
        metadata.set_custom(f"sdxs.{key}", value)
    return metadata
