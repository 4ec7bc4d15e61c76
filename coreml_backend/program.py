"""Write a checkpoint as an ML Program with the MIL builder, straight from its safetensors files.

`graphs/frame.py` describes the frame: one program for it, or one per stage.

    function   inputs                                                        outputs
    frame      picture, encoder_hidden_states, noise, previous, feedback     image, image_mean, x0
    controlled the same, edges, control_scale                                image, image_mean, x0
    encode     picture                                                       latents
    unet       latents, encoder_hidden_states, noise, previous, feedback     x0
    decode     x0                                                            image, image_mean

A folded noise (`Variant.noise_seed`) is not an input.
"""

import contextlib
import functools
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..common.backend.schedule import seeded_noise
from ..common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ..common.checkpoint.find import Checkpoint
from ..common.checkpoint.manifest import remembered_sha256
from ..common.errors import BackendError, UsageError
from ..common.picture.size import FrameSize, Size
from ..graphs.frame import Frame, frame_of
from ..graphs.weights import Store, Weights
from .ops import Function, MilOps, Program, ct, mb, pass_pipeline, types
from .options import Stage, Variant, refuse_steps

Progress = Callable[[str, float], None]
METADATA_PREFIX = "sdxs."
FORMAT_VERSION = "1"


def _target(variant: Variant) -> ct.target:
    """Return the deployment target of the program: macOS 15 (iOS18) for sdpa, else 14 (iOS17)."""
    return ct.target.iOS18 if variant.attention == "sdpa" else ct.target.iOS17


def build(
    checkpoint: Checkpoint, variant: Variant, path: Path, progress: Progress | None = None
) -> None:
    """Write `variant` of `checkpoint` as an .mlpackage at `path`, which must not exist.

    progress: called with the current step and the share done, 0 to 1. Raises UsageError for an
    impossible size, WeightsError for weights outside float16, BackendError if coremltools fails.
    """
    report = progress or (lambda step, done: None)
    checkpoint.check_size(variant.size)
    report("verify", 0.0)
    checkpoint.verify()
    checkpoint.check_values()
    report("build", 0.1)
    program, stores = mil_program(checkpoint, variant)
    inputs = [
        _feature(name, variant, shape) for name, shape in input_shapes(checkpoint, variant).items()
    ]
    main = program.functions["main"]
    # ct.convert keeps the output types of a program
    main.set_output_types([_feature(var.name, variant) for var in main.outputs])
    report("write", 0.4)
    metadata = _metadata(checkpoint, variant, stores)
    with _quiet():
        try:
            model = ct.convert(
                program,
                inputs=inputs,
                convert_to="mlprogram",
                skip_model_load=True,
                minimum_deployment_target=_target(variant),
                compute_precision=ct.precision.FLOAT32,
                pass_pipeline=ct.PassPipeline.CLEANUP,
                package_dir=str(path),
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise BackendError(_why_not_written(path, str(error))) from error
    _write_metadata(path, model.get_spec(), metadata)
    report("done", 1.0)


def _why_not_written(path: Path, error: str) -> str:
    if not any(sign in error for sign in ("FileWriter", "filesystem error", "No space left")):
        return f"coremltools cannot write {path.name}: {error}"
    # coremltools writes weights to the temporary folder first, and reports a full disk as
    # "unknown error"
    visible = next(folder for folder in path.absolute().parents if not folder.name.startswith("."))
    places = dict.fromkeys((visible, Path(tempfile.gettempdir())))
    free = " and ".join(
        f"{place} ({shutil.disk_usage(place).free / 1e6:.0f} MB free)" for place in places
    )
    return (
        f"{path.name}: the disk refused the files of coremltools, which needs room in {free}; free "
        "space, or set $SDXS_WEIGHTS and $TMPDIR to another disk"
    )


def mil_program(checkpoint: Checkpoint, variant: Variant) -> tuple[Program, tuple[Store, ...]]:
    """Return the program before coremltools' passes, and its weight stores.

    Raises UsageError for a 'controlled' stage without a ControlNet, or for more than one step.
    """
    refuse_steps(checkpoint)
    control = checkpoint.control if variant.stage == "controlled" else None
    if variant.stage == "controlled" and control is None:
        raise UsageError(
            f"Core ML stage 'controlled': {checkpoint.name} was opened without a ControlNet; add "
            "--control sketch"
        )
    config = checkpoint.vae
    noise = seeded_noise(
        variant.noise_seed or 0, *variant.size.divided(config.reduction), config.latent_channels
    ).transpose(0, 3, 1, 2)
    with (
        Store(checkpoint.unet_weights, variant.weights, checkpoint.unet_tensors()) as unet,
        Store(checkpoint.vae_weights, variant.weights) as vae,
        Store(control.weights, variant.weights)
        if control
        else contextlib.nullcontext() as control_store,
    ):
        ops = MilOps(variant.attention, blockwise=_target(variant) >= ct.target.iOS18)
        controlled = Weights(control_store, prefix="control_") if control_store else None
        frame = frame_of(ops, checkpoint, Weights(unet), Weights(vae), controlled)
        return _program(
            frame,
            input_shapes(checkpoint, variant),
            variant.stage,
            _target(variant),
            np.ascontiguousarray(noise),
        ), (unet, vae, *([control_store] if control_store else []))


def build_sizes(
    checkpoint: Checkpoint,
    variant: Variant,
    sizes: Sequence[Size],
    path: Path,
    progress: Progress | None = None,
) -> None:
    """Write one .mlpackage with a function `size_<size>` per size and one shared set of weights.

    The first size is the default. Needs macOS 15 with any attention. Raises as `build` does.
    """
    report = progress or (lambda step, done: None)
    several = ct.utils.MultiFunctionDescriptor()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".sizes-") as folder:
        frames = [FrameSize.of(size) for size in sizes]
        for i, size in enumerate(frames):
            single = Path(folder) / f"size_{size}.mlpackage"
            share = functools.partial(_share, report, i / (len(frames) + 1), 1 / (len(frames) + 1))
            build(checkpoint, replace(variant, size=size), single, share)
            several.add_function(str(single), "main", f"size_{size}")
        several.default_function_name = f"size_{frames[0]}"
        merged = Path(folder) / "merged.mlpackage"
        with _quiet():
            try:
                ct.utils.save_multifunction(several, str(merged))
            except (ValueError, RuntimeError) as error:
                raise BackendError(_why_not_written(path, str(error))) from error
        spec = ct.utils.load_spec(str(merged))
        single_metadata = ct.utils.load_spec(str(single)).description.metadata.userDefined
        _write_metadata(
            merged,
            spec,
            dict(single_metadata)
            | {f"{METADATA_PREFIX}sizes": json.dumps([size.json for size in frames])},
        )
        shutil.move(merged, path)
    report("done", 1.0)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that `build` wrote into a package, without the prefix."""
    stored = ct.utils.load_spec(str(path)).description.metadata.userDefined
    return {
        key.removeprefix(METADATA_PREFIX): stored[key]
        for key in stored
        if key.startswith(METADATA_PREFIX)
    }


def input_shapes(checkpoint: Checkpoint, variant: Variant) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every input in order.

    All inputs are float32; `picture` may be an image.
    """
    vae, size = checkpoint.vae, variant.size
    latents: tuple[int, ...] = (1, vae.latent_channels, *size.divided(vae.reduction))
    picture: dict[str, tuple[int, ...]] = {"picture": (1, 3, *size.shape)}
    denoise: dict[str, tuple[int, ...]] = {
        "encoder_hidden_states": (1, PROMPT_TOKENS, checkpoint.unet.cross_attention_dim),
        "noise": latents,
        "previous": latents,
        "feedback": (1,),
    }
    if variant.noise_seed is not None:
        del denoise["noise"]
    control: dict[str, tuple[int, ...]] = {
        "edges": (1, 1, *size.shape),
        "control_scale": (1,),
    }
    stages: dict[Stage, dict[str, tuple[int, ...]]] = {
        "controlled": picture | denoise | control,
        "frame": picture | denoise,
        "encode": picture,
        "unet": {"latents": latents} | denoise,
        "decode": {"x0": latents},
    }
    return stages[variant.stage]


def _program(
    frame: Frame,
    shapes: dict[str, tuple[int, ...]],
    stage: Stage,
    target: ct.target,
    noise: np.ndarray,
) -> Program:
    """Build a program of one function, `main`.

    noise: float32 (1, C, H/8, W/8), folded into a program without a noise input.
    """
    placeholders = {
        name: mb.placeholder(shape=shape, dtype=types.fp32) for name, shape in shapes.items()
    }
    with Function(placeholders, opset_version=target) as function:
        given = function.inputs
        if stage == "decode":
            outputs = [*frame.decode(given["x0"])]
        else:
            latents = frame.encode(given["picture"]) if "picture" in given else given["latents"]
            outputs = [latents]
        if stage in ("frame", "controlled", "unet"):
            encoder_hidden_states, previous, feedback = (
                given[n] for n in ("encoder_hidden_states", "previous", "feedback")
            )
            control = [given[name] for name in ("edges", "control_scale") if name in given]
            x0 = frame.denoise(
                latents,
                encoder_hidden_states,
                given.get("noise", noise),
                previous,
                feedback,
                *control,
            )
            outputs = [x0] if stage == "unet" else [*frame.decode(x0), x0]
        function.set_outputs(outputs)
    program = Program()
    program.add_function("main", function)
    return program


def _feature(
    name: str, variant: Variant, shape: tuple[int, ...] | None = None
) -> ct.TensorType | ct.ImageType:
    if name in ("picture", "image") and variant.input == "image":
        return ct.ImageType(name=name, shape=shape, color_layout=ct.colorlayout.RGB)
    return ct.TensorType(name=name, shape=shape, dtype=np.float32)


def _metadata(
    checkpoint: Checkpoint, variant: Variant, stores: tuple[Store, ...]
) -> dict[str, str]:
    """Return the inputs of a build, and the relative error of compressed weights."""
    values = {
        "version": FORMAT_VERSION,
        "coremltools": ct.__version__,
        "checkpoint": checkpoint.name,
        "unet_sha256": remembered_sha256(checkpoint.unet_weights),
        "vae_sha256": remembered_sha256(checkpoint.vae_weights),
        "variant": json.dumps(asdict(variant) | {"size": variant.size.json}),
    }
    if checkpoint.control and variant.stage == "controlled":
        values["control_sha256"] = remembered_sha256(checkpoint.control.weights)
    error, energy = sum(s.error for s in stores), sum(s.energy for s in stores)
    if energy:
        values["weights_relative_error"] = f"{(error / energy) ** 0.5:.3g}"
    return {METADATA_PREFIX + key: value for key, value in values.items()}


def _write_metadata(path: Path, spec: ct.proto.Model_pb2.Model, metadata: dict[str, str]) -> None:
    """Replace the specification of a package by `spec` with `metadata`; keep its weights."""
    for key, value in metadata.items():
        spec.description.metadata.userDefined[key] = value
    (file,) = path.glob("Data/com.apple.CoreML/*.mlmodel")
    file.write_bytes(spec.SerializeToString())


def _share(report: Progress, start: float, share: float, step: str, done: float) -> None:
    report(step, start + share * done)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence coremltools' progress bars and its warnings of unclosed temporary folders."""
    bars = pass_pipeline.tqdm
    pass_pipeline.tqdm = lambda passes, **_: passes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        pass_pipeline.tqdm = bars
