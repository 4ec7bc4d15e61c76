"""Run a built program on Apple's runtime, with inputs written in place.

A call is asynchronous and releases the GIL. NumPy sees the memory of inputs, state and outputs
without a copy, where the runtime allows that; `Runner.in_place` tells.
"""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
from coreai.runtime import AIModel, InferenceFunction, NDArray, SpecializationOptions

from ..common.backend import copies
from ..common.backend.protocol import FrameParams
from ..common.backend.schedule import seeded_noise
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError, PictureError
from .cache import PROGRAMS, Built
from .options import CoreAIOptions, Unit, has_framework
from .private import view, writable
from .program import STATE, input_dtype, input_shapes

T = TypeVar("T")
SETTLE_S = 0.05  # for Apple's threads to let go of a model before the interpreter ends


class Runner:
    """One function of a program, loaded. Pictures are uint8 (H, W, 3), latents float32."""

    def __init__(
        self, built: Built, checkpoint: Checkpoint, options: CoreAIOptions, unit: Unit
    ) -> None:
        """Open the program and lend its inputs. Raises BackendError for a damaged program."""
        if damage := PROGRAMS.find_damage(built.folder):
            raise BackendError(
                f"coreai: {built.folder}: {damage}, and Core AI would end this process over it; "
                "run `sdxs convert --backend coreai --force`"
            )
        self.checkpoint = checkpoint
        self._loop = asyncio.new_event_loop()
        self._function: InferenceFunction | None = None
        try:
            self._open(built, options, unit)
        except (RuntimeError, KeyError, OSError) as error:
            self.close()
            raise BackendError(
                f"coreai: {built.folder.name} cannot be loaded on {unit} ({error}); run `sdxs "
                "convert --backend coreai --force`, then `sdxs doctor`"
            ) from None
        shapes = input_shapes(checkpoint, options.size, options.control)
        self._given: dict[str, np.ndarray] = {}
        self._arrays: dict[str, NDArray] = {}
        self.in_place = True
        for name, shape in shapes.items():
            self._lend(name, shape)
        self._has_previous = False
        self._params = FrameParams()
        self.set_params(FrameParams())

    def _open(self, built: Built, options: CoreAIOptions, unit: Unit) -> None:
        async def load() -> AIModel:
            if has_framework():
                path = built.source(options.stage)
                return await AIModel.load(path, specialization_options=_wishes(unit))
            return await AIModel.load(built.compiled(options.stage))

        self._model: AIModel | None = self._wait(load())
        self._function = self._model.load_function(options.function)

    def _lend(self, name: str, shape: tuple[int, ...]) -> None:
        """Make an input that keeps its memory, and check that writing into it reaches it."""
        assert self._function is not None
        descriptor = (
            self._function.desc.state_descriptor(name)
            if name == STATE
            else self._function.desc.input_descriptor(name)
        )
        dtype = np.dtype(input_dtype(name))
        array = NDArray.from_descriptor(descriptor)
        try:
            seen = writable(array).view(dtype).reshape(shape)
            seen[...] = 1
            reached = bool((array.numpy() == 1).all())
        except (ValueError, TypeError, BufferError):
            reached = False
        if not reached:
            self.in_place = False
            seen = np.empty(shape, dtype)
        seen[...] = 0
        self._given[name], self._arrays[name] = seen, array

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        """Set encoder_hidden_states, float32 (1, 77, D)."""
        np.copyto(self._given["encoder_hidden_states"], encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        """Set noise, feedback and control scale of the next frames."""
        _, channels, height, width = self._given["noise"].shape
        noise = seeded_noise(params.seed, height, width, channels)
        np.copyto(self._given["noise"], noise.transpose(0, 3, 1, 2))
        if "control_scale" in self._given:
            self._given["control_scale"][0] = params.control_scale
        self._params = params

    def forget(self) -> None:
        """Exclude earlier frames from the feedback of the next one."""
        self._given[STATE][...] = 0  # 0 times NaN would be NaN
        if not self.in_place:
            self._arrays[STATE] = NDArray(self._given[STATE])
        self._has_previous = False

    def run(self, picture: np.ndarray, edges: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Render a frame: 'image' uint8 (H, W, 3), 'x0' float32 (1, C, H/8, W/8), read-only.

        edges: uint8 (H, W), for a program with a ControlNet. Raises BackendError if the call fails,
        PictureError if the result is not finite; then the next frame has no feedback.
        """
        if self._function is None:
            raise BackendError("coreai: the program is closed; load it again")
        given = self._given
        np.copyto(given["picture"], picture)
        copies.count("backend in", picture.nbytes)
        if edges is not None and "edges" in given:
            np.copyto(given["edges"], edges)
        if self._params.text_only:
            self.forget()  # a feedback of 1 replaces the latents by zeros
            given["feedback"][0] = 1.0
        else:
            given["feedback"][0] = self._params.feedback if self._has_previous else 0.0
        if not self.in_place:
            kept = self._arrays[STATE]
            self._arrays = {name: NDArray(each) for name, each in given.items()} | {STATE: kept}
        inputs = {name: each for name, each in self._arrays.items() if name != STATE}
        try:
            made = self._wait(self._function(inputs, {STATE: self._arrays[STATE]}))
        except RuntimeError as error:
            raise BackendError(
                f"coreai: a frame failed ({error}); run `sdxs convert --backend coreai --force`, "
                "then `sdxs doctor`"
            ) from None
        found = {name: view(array) for name, array in made.items()}
        if not (np.isfinite(found["x0"]).all() and np.isfinite(found["image_mean"]).all()):
            self.forget()
            raise PictureError(
                "coreai: the picture is not finite: numbers overflowed, or the weights are damaged;"
                " check the weights with `sdxs weights verify`, or take --dtype float32"
            )
        self._has_previous = True
        return found

    def close(self) -> None:
        """Release the model; a second call does nothing.

        Apple's runtime aborted the interpreter at its end in 2 of 8 processes where a model was
        still alive, and in none where it was released and given a moment.
        """
        if self._loop.is_closed():
            return
        self._given, self._arrays = {}, {}
        self._function = None
        self._model = None
        gc.collect()
        self._wait(asyncio.sleep(SETTLE_S))
        self._loop.close()

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(call)


def _wishes(unit: Unit) -> SpecializationOptions:
    """Return Core AI's options for a preferred unit. macOS 27 only."""
    from coreai.runtime import ComputeUnitKind  # exists with the framework only

    if unit == "cpu":
        return SpecializationOptions.cpu_only()
    if unit == "any":
        return SpecializationOptions.default()
    kind = ComputeUnitKind.gpu() if unit == "gpu" else ComputeUnitKind.neural_engine()
    return SpecializationOptions.from_preferred_compute_unit_kind(kind)
