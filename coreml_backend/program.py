"""Write a checkpoint as an ML Program with the MIL builder, straight from its safetensors files.

The twin of `mlx_sdxs/frame.py`: one program per frame, or one per stage. Networks are float16;
mixing, x0 and pictures are float32, with casts between. In the form of the Neural Engine
('split_einsum'), pictures are float16 as well.

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..common.backend.schedule import OneStep, one_step, seeded_noise
from ..common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ..common.checkpoint.config.vae import TinyVAEConfig
from ..common.checkpoint.find import Checkpoint
from ..common.checkpoint.manifest import remembered_sha256
from ..common.errors import BackendError, UsageError
from ..common.picture.size import FrameSize, Size
from .networks import ops
from .networks.autoencoder_kl import AutoencoderKL
from .networks.controlnet import ControlNetModel
from .networks.ops import (
    Function,
    Program,
    Var,
    affine,
    ct,
    mb,
    pass_pipeline,
    types,
)
from .networks.taesd import AutoencoderTiny
from .networks.unet import UNet2DConditionModel
from .networks.weights import Store, Weights
from .options import AttentionForm, Stage, Variant, refuse_steps

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
    config, blockwise = checkpoint.vae, _target(variant) >= ct.target.iOS18
    noise = seeded_noise(
        variant.noise_seed or 0, *variant.size.divided(config.reduction), config.latent_channels
    ).transpose(0, 3, 1, 2)
    with (
        Store(checkpoint.unet_weights, variant.weights, blockwise) as unet,
        Store(checkpoint.vae_weights, variant.weights, blockwise) as vae,
        Store(control.weights, variant.weights, blockwise)
        if control
        else contextlib.nullcontext() as control_store,
    ):
        frame, shapes = (
            _frame(checkpoint, variant.attention, Weights(unet), Weights(vae)),
            input_shapes(checkpoint, variant),
        )
        stores: tuple[Store, ...] = (unet, vae)
        if control and control_store:
            stores = (*stores, control_store)
            network = ControlNetModel(
                control.config, Weights(control_store, prefix="control_"), variant.attention
            )
            frame = replace(frame, controlnet=network)
        return _program(
            frame, shapes, variant.stage, _target(variant), np.ascontiguousarray(noise)
        ), stores


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


@dataclass(frozen=True)
class Frame:
    """One diffusion step between two pictures as MIL operations; twin of `mlx_sdxs.frame.Frame`.

    half_pictures: encode and decode without a float32 operation, which the Neural Engine leaves to
    the CPU; whole numbers up to 255 are exact in float16.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    step: OneStep
    scaling_factor: float
    half_pictures: bool = False
    controlnet: ControlNetModel | None = None

    def encode(self, picture: Var) -> Var:
        """Encode float32 (1, 3, H, W) in 0..255 to scaled latents, float32 (1, C, H/8, W/8)."""
        if self.half_pictures:
            latents = self.vae.encode(affine(x=_to16(picture), scale=1 / 127.5, offset=-1))
            return _to32(affine(x=latents, scale=self.scaling_factor), name="latents")
        image = _to16(affine(x=picture, scale=1 / 127.5, offset=-1))
        return mb.mul(
            x=_to32(self.vae.encode(image)), y=np.float32(self.scaling_factor), name="latents"
        )

    def denoise(
        self,
        latents: Var,
        encoder_hidden_states: Var,
        noise: Var | np.ndarray,
        previous: Var,
        feedback: Var,
        edges: Var | None = None,
        scale: Var | None = None,
    ) -> Var:
        """Denoise latents (1, C, H/8, W/8) to x0 of the same shape, both float32.

        previous: x0 of the last frame. feedback: share of `previous` in the latents, (1,). edges:
        input of the ControlNet, float32 (1, 1, H, W) in 0..255. scale: control scale, (1,).
        """
        step = self.step
        latents = mb.add(x=latents, y=mb.mul(x=feedback, y=mb.sub(x=previous, y=latents)))
        noise = mb.mul(x=noise, y=np.float32(step.noise_scale))
        sample = mb.add(
            x=affine(x=latents, scale=step.sqrt_alpha),
            y=affine(x=noise, scale=step.sqrt_one_minus_alpha),
        )
        sample, encoder_hidden_states, timestep = (
            _to16(sample),
            _to16(encoder_hidden_states),
            float(step.timestep),
        )
        residuals = None
        if self.controlnet:
            condition = _to16(affine(x=edges, scale=1 / 255))
            residuals = self.controlnet(
                sample, timestep, encoder_hidden_states, condition, _to16(scale)
            )
        features = self.unet.features(sample, timestep, encoder_hidden_states, residuals)
        difference = _to32(self._noise_minus_eps(features, _to16(noise)))
        return mb.add(x=latents, y=affine(x=difference, scale=step.ratio), name="x0")

    def decode(self, x0: Var) -> tuple[Var, Var]:
        """Decode x0, float32 (1, C, H/8, W/8), to the picture and its mean.

        Returns float32 (1, 3, H, W), whole numbers in 0..255, and float32 (1, 1, 1, 1), the mean
        before they are clipped, in about [-1, 1]: not finite if float16 overflowed.
        """
        scale = 1 / self.scaling_factor
        if self.half_pictures:
            image = self.vae.decode(affine(x=_to16(x0), scale=scale))
        else:
            image = _to32(self.vae.decode(_to16(affine(x=x0, scale=scale))))
        dtype = np.float16 if self.half_pictures else np.float32
        levels = mb.round(x=affine(x=affine(x=image, offset=1), scale=127.5))
        named = [{}, {}] if self.half_pictures else [{"name": "image"}, {"name": "image_mean"}]
        levels = mb.clip(x=levels, alpha=dtype(0), beta=dtype(255), **named[0])
        # a maximum may drop NaN; axis by axis, no sum leaves float16
        rows = mb.reduce_mean(x=image, axes=[3], keep_dims=True)
        channels = mb.reduce_mean(x=rows, axes=[2], keep_dims=True)
        mean = mb.reduce_mean(x=channels, axes=[1], keep_dims=True, **named[1])
        if self.half_pictures:
            return _to32(levels, name="image"), _to32(mean, name="image_mean")
        return levels, mean

    def _noise_minus_eps(self, features: Var, noise: Var) -> Var:
        # One convolution over [features, n] with weights [-W | identity] subtracts in the
        # accumulator; see mlx_sdxs/frame.py. Compression would make the identity inexact.
        layer = self.unet.weights["conv_out"]
        kernel = layer.float32("weight")
        identity = np.zeros((kernel.shape[0], kernel.shape[0], 3, 3), np.float32)
        identity[:, :, 1, 1] = np.eye(kernel.shape[0])
        return ops.convolve(
            x=mb.concat(values=[features, noise], axis=1),
            kernel=ops.half(np.concatenate([-kernel, identity], axis=1), layer.name),
            bias=-layer.float32("bias"),
            pad=(1, 1, 1, 1),
            name=layer.label,
        )


def _to16(x: Var) -> Var:
    return mb.cast(x=x, dtype="fp16")


def _to32(x: Var, **named: str) -> Var:
    return mb.cast(x=x, dtype="fp32", **named)


def _frame(checkpoint: Checkpoint, form: AttentionForm, unet: Weights, vae: Weights) -> Frame:
    config = checkpoint.vae
    return Frame(
        unet=UNet2DConditionModel(checkpoint.unet, unet, form),
        vae=AutoencoderTiny(config, vae)
        if isinstance(config, TinyVAEConfig)
        else AutoencoderKL(config, vae, form),
        step=one_step(checkpoint.scheduler, checkpoint.frame),
        scaling_factor=config.scaling_factor,
        half_pictures=form == "split_einsum",
    )


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
