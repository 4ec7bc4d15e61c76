"""Run a built program on Core ML or on the reference interpreter, with its input arrays.

coremltools' `predict` holds the GIL throughout; PyObjC's calls (`objc_model.py`) do not. Core ML
keeps its inputs after a prediction, see `inputs.py`.
"""

import os
import shutil
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..common.backend import copies
from ..common.backend.protocol import FrameParams
from ..common.backend.schedule import seeded_noise
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError, PictureError, SdxsError, UsageError
from ..common.limits import shortage
from ..common.locks import sweep
from . import cache, inputs
from .objc_model import PyObjCModel, compile_package
from .options import CoreMLOptions, Stage

if TYPE_CHECKING:
    from PIL.Image import Image

    Value = np.ndarray | Image
Progress = Callable[[str, float], None]

TAKES: Mapping[str, str] = MappingProxyType(
    {
        "frame": "picture",
        "controlled": "picture",
        "encode": "picture",
        "unet": "latents",
        "decode": "x0",
    }
)
GIVES: Mapping[str, str] = MappingProxyType(
    {"frame": "image", "controlled": "image", "encode": "latents", "unet": "x0", "decode": "image"}
)


class Model(Protocol):
    """A runtime with a loaded program: Core ML's, by coremltools or PyObjC, or the interpreter."""

    def predict(self, data: "Mapping[str, Value]") -> "Mapping[str, Value]":
        """Run the program once."""


class Runner:
    """One stage of a frame. Pictures are uint8 (H, W, 3) RGB, latents float32 (1, C, H/8, W/8)."""

    def __init__(
        self, stage: Stage, model: Model, checkpoint: Checkpoint, options: CoreMLOptions
    ) -> None:
        """Take the inputs' arrays. Raises UsageError for images as input without Pillow."""
        from .program import input_shapes

        self.stage = stage
        self._model = model
        self._options = options
        self._image = options.input == "image"
        shapes = input_shapes(checkpoint, replace(options.variant(stage), size=options.size))
        self._inputs = {
            name: inputs.lend(shape)
            for name, shape in shapes.items()
            if not (self._image and name == "picture")
        }
        # also without `close`: the arrays are never freed
        self._give_back = weakref.finalize(self, inputs.give_back, list(self._inputs.values()))
        self._has_previous = False
        self._feedback = 0.0
        if self._image and options.runtime == "coreml":
            require_pillow()
        self.set_params(FrameParams(options.noise_seed or 0))

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        """Set encoder_hidden_states, float32 (1, 77, D), if the stage has this input."""
        if "encoder_hidden_states" in self._inputs:
            np.copyto(self._inputs["encoder_hidden_states"], encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        """Set noise, feedback and control scale. Raises BackendError for another folded noise."""
        built_in = self._options.noise_seed
        if built_in is not None and params.seed != built_in:
            raise BackendError(
                f"coreml: the noise of seed {built_in} is built into the program; drop "
                "--fixed-noise for others"
            )
        if "noise" in self._inputs:
            _, channels, height, width = self._inputs["noise"].shape
            np.copyto(
                self._inputs["noise"],
                seeded_noise(params.seed, height, width, channels).transpose(0, 3, 1, 2),
            )
        self._feedback, self._text_only = params.feedback, params.text_only
        if "control_scale" in self._inputs:
            self._inputs["control_scale"][0] = params.control_scale

    def forget(self) -> None:
        """Exclude earlier frames from the feedback of the next one."""
        self._has_previous = False

    def close(self) -> None:
        """Release the model and return the inputs' arrays. The runner cannot be used again."""
        if isinstance(self._model, PyObjCModel):
            self._model.close()
        del self._model
        self._inputs = {}
        self._give_back()

    def run(self, given: np.ndarray, edges: np.ndarray | None = None) -> tuple[np.ndarray, int]:
        """Return the output of the stage for `given`, and the ns outside Core ML (0: unknown).

        edges: uint8 (H, W), for a stage with a ControlNet. Raises BackendError if the prediction
        fails, PictureError if it is not finite; then the next frame has no feedback.
        """
        began = time.perf_counter_ns()
        if "edges" in self._inputs and edges is not None:
            np.copyto(self._inputs["edges"][0, 0], edges)
        data = self._fill(given)
        try:
            outputs = self._model.predict(data)
        except BackendError as error:
            if isinstance(error, PictureError):
                self.forget()
            raise
        except Exception as error:  # coremltools raises bare RuntimeError and worse
            raise shortage(error) or BackendError(
                f"coreml: prediction failed in {self.stage} ({error}); run `sdxs convert --force`, "
                "then `sdxs doctor`"
            ) from None
        if "x0" in outputs:
            self._remember(np.asarray(outputs["x0"]))
        if "image_mean" in outputs and not np.isfinite(np.asarray(outputs["image_mean"])).all():
            self.forget()
            raise PictureError(
                "coreml: the picture is not finite: float16 overflowed in the decoder; try --vae "
                "vae for another one, or --backend mlx --dtype float32"
            )
        made = outputs[GIVES[self.stage]]
        result = self._picture(made) if GIVES[self.stage] == "image" else np.asarray(made)
        return result, self._bridge_ns(time.perf_counter_ns() - began)

    def _fill(self, given: np.ndarray) -> "dict[str, Value]":
        """Return a fresh dict of inputs: `predict` may replace entries of its argument."""
        name = TAKES[self.stage]
        if "feedback" in self._inputs and self._text_only:
            # text only: a feedback of 1 replaces the latents by these zeros
            self._inputs["previous"][:], self._inputs["feedback"][0] = 0.0, 1.0
        elif "feedback" in self._inputs:
            self._inputs["feedback"][0] = self._feedback if self._has_previous else 0.0
        if name == "picture" and self._image:
            return {name: self._as_image(given), **self._inputs}
        np.copyto(
            self._inputs[name], given.transpose(2, 0, 1)[None] if name == "picture" else given
        )
        copies.count("backend in", self._inputs[name].nbytes)
        return dict(self._inputs)

    def _as_image(self, picture: np.ndarray) -> "Value":
        if self._options.runtime != "coreml":
            return picture
        from PIL import Image

        return Image.fromarray(picture)  # the bridge copies its bytes before it returns

    def _remember(self, x0: np.ndarray) -> None:
        # they would give a black picture, and feedback would keep it
        if not np.isfinite(x0).all():
            form = self._options.form(self.stage)
            first = "--attention matmul, which keeps its scores smaller, or " * (form == "sdpa")
            self.forget()
            raise PictureError(
                "coreml: the latents are not finite: float16 overflowed, as it does on every "
                f"compute unit; try {first}--backend mlx --dtype float32"
            )
        if "previous" in self._inputs:
            self._has_previous = True
            fits = x0.shape == self._inputs["previous"].shape and inputs.is_lent(x0)
            if fits and getattr(self._model, "alternates", False):
                self._inputs["previous"] = x0  # the next prediction reads it in place
                return
            np.copyto(self._inputs["previous"], x0.reshape(self._inputs["previous"].shape))
            copies.count("previous x0", x0.nbytes)

    def _picture(self, made: "Value") -> np.ndarray:
        """Convert an image, or float32 (1, 3, H, W) of whole numbers, to uint8 (H, W, 3)."""
        if isinstance(made, np.ndarray):
            if made.dtype == np.uint8:
                return made
            copies.count("to 8 bits", made.size)
            return made[0].transpose(1, 2, 0).astype(np.uint8)
        return np.asarray(made.convert("RGB"))  # Core ML's bridge returns RGBA

    def _bridge_ns(self, total_ns: int) -> int:
        if isinstance(self._model, PyObjCModel):
            return max(0, total_ns - self._model.inside_ns)
        # CompiledMLModel lacks the public accessor of MLModel (coremltools 9.0)
        proxy = getattr(self._model, "_proxy", None)
        inside = getattr(proxy, "get_last_predict_duration_in_nano_seconds", lambda: None)()
        return max(0, total_ns - int(inside)) if inside else 0


def require_pillow() -> None:
    """Raise UsageError if Pillow is missing, which the bridge needs for images."""
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "--input image: coremltools takes images from Pillow only, which is not installed; pip "
            "install pillow, or use --input float32"
        ) from None


def open_runner(
    built: cache.Built,
    stage: Stage,
    checkpoint: Checkpoint,
    options: CoreMLOptions,
    progress: Progress | None = None,
) -> Runner:
    """Load one program on the chosen runtime.

    progress: called before slow steps. Raises BackendError.
    """
    model = (
        _open_reference(built, stage, options)
        if options.runtime == "reference"
        else _open_coreml(built, stage, options, progress or (lambda step, done: None))
    )
    return Runner(stage, model, checkpoint, options)


def _open_reference(built: cache.Built, stage: Stage, options: CoreMLOptions) -> Model:
    from .interpreter.interpreter import Interpreter

    return Interpreter(built.package(stage), options.function, round_float16=True)


def _open_coreml(
    built: cache.Built, stage: Stage, options: CoreMLOptions, report: Progress
) -> Model:
    package, compiled, units = built.package(stage), built.compiled(stage), options.units(stage)
    straight = options.runtime == "pyobjc"
    try:
        if not compiled.exists():
            report(f"Core ML compiles {stage}", 0.0)
            _compile(package, compiled, compile_package if straight else _by_bridge)
        if not built.was_loaded(stage, units, options.function):
            report(
                f"Core ML prepares {stage} for {units}; a first load takes half a minute to "
                "several minutes",
                0.5,
            )
        model = (PyObjCModel if straight else _bridged)(compiled, units, options.function)
        built.mark_loaded(stage, units, options.function)
    except SdxsError:
        raise
    except OSError as error:
        raise BackendError(cache.disk_message(compiled, error)) from None
    except Exception as error:  # coremltools raises bare Exception and RuntimeError
        raise shortage(error) or BackendError(
            f"coreml: {package} cannot be loaded ({error}); run `sdxs convert --force` and check "
            "`sdxs doctor`"
        ) from None
    return model


def _bridged(compiled: Path, units: str, function: str | None) -> Model:
    import coremltools as ct

    model: Model = ct.models.CompiledMLModel(str(compiled), ct.ComputeUnit[units.upper()], function)
    return model


def _by_bridge(package: Path, destination: Path) -> None:
    import coremltools as ct

    ct.models.utils.compile_model(str(package), str(destination))


def _compile(package: Path, compiled: Path, compiler: Callable[[Path, Path], None]) -> None:
    """Compile a package under a name of this process, then rename it: a kill leaves no half."""
    sweep(compiled.parent, cache.PARTIAL)
    partial = compiled.with_name(f"{cache.PARTIAL}{os.getpid()}-{compiled.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        compiler(package, partial)
        # if another process was faster, its program is as good
        with suppress(OSError):
            partial.rename(compiled)
        if not compiled.exists():
            partial.rename(compiled)  # raises what was in the way
    finally:
        shutil.rmtree(partial, ignore_errors=True)
