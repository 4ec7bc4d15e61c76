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
from .cache import Built
from .options import CoreAIOptions, Unit, has_framework
from .private import view, writable
from .program import STATE, input_dtype, input_shapes

T = TypeVar("T")
SETTLE_S = 0.05  # for Apple's threads to let go of a model before the interpreter ends


class Runner:
    """One function of a program, loaded. Pictures are uint8 (H, W, 3), latents float32.

    arrays: inputs and state, as Core AI has them. in_place: whether NumPy writes into their memory.
    """

    def __init__(
        self, built: Built, checkpoint: Checkpoint, options: CoreAIOptions, unit: Unit
    ) -> None:
        """Open the program and make its inputs. Raises BackendError if Core AI refuses it.

        built: as `find_or_build` returns it, its files compared with their hashes. Core AI ends
        the process over a file that is cut off.
        """
        self._loop = asyncio.new_event_loop()
        self._model: AIModel | None = None
        self._function: InferenceFunction | None = None
        self._given: dict[str, np.ndarray] = {}
        self.arrays: dict[str, NDArray] = {}
        self._stale: set[str] = set()  # inputs that changed since the last frame
        self.in_place = True
        try:
            self._open(built, options, unit)
            for name, shape in input_shapes(checkpoint, options.size, options.control).items():
                self._make_input(name, shape)
        except (RuntimeError, KeyError, OSError) as error:
            self.close()
            raise BackendError(
                f"coreai: {built.folder.name} cannot be loaded on {unit} ({error}); run `sdxs "
                "convert --backend coreai --force`, then `sdxs doctor`"
            ) from None
        self.forget()
        self._params = FrameParams()
        self.set_params(FrameParams())

    def _open(self, built: Built, options: CoreAIOptions, unit: Unit) -> None:
        async def load() -> AIModel:
            if has_framework():
                path = built.source(options.stage)
                return await AIModel.load(path, specialization_options=_wishes(unit))
            return await AIModel.load(built.compiled(options.stage))

        self._model = self._wait(load())
        self._function = self._model.load_function(options.function)

    def _make_input(self, name: str, shape: tuple[int, ...]) -> None:
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
        self._given[name], self.arrays[name] = seen, array
        self._stale.add(name)

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        """Set encoder_hidden_states, float32 (1, 77, D)."""
        self._put("encoder_hidden_states", encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        """Set noise, feedback and control scale of the next frames."""
        _, channels, height, width = self._given["noise"].shape
        noise = seeded_noise(params.seed, height, width, channels)
        self._put("noise", noise.transpose(0, 3, 1, 2))
        if "control_scale" in self._given:
            self._put("control_scale", np.float32(params.control_scale))
        self._params = params

    def forget(self) -> None:
        """Exclude earlier frames from the feedback of the next one."""
        self._put(STATE, np.float32(0))  # a feedback of 0 times NaN would be NaN
        self._has_previous = False

    def _put(self, name: str, values: np.ndarray | np.floating) -> None:
        np.copyto(self._given[name], values)
        self._stale.add(name)

    def run(self, picture: np.ndarray, edges: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Render a frame: 'image' uint8 (H, W, 3), 'x0' float32 (1, C, H/8, W/8), read-only.

        edges: uint8 (H, W), for a program with a ControlNet. Raises BackendError if the call fails,
        PictureError if the result is not finite: then `forget` it.
        """
        self._require()
        self._put("picture", picture)
        copies.count("backend in", picture.nbytes)
        if edges is not None and "edges" in self._given:
            self._put("edges", edges)
        feedback = self._params.feedback if self._has_previous else 0.0
        if self._params.text_only:
            self.forget()
            feedback = 1.0  # replaces the latents by these zeros
        self._put("feedback", np.float32(feedback))
        found = {name: view(array) for name, array in self.call().items()}
        if not (np.isfinite(found["x0"]).all() and np.isfinite(found["image_mean"]).all()):
            raise PictureError(
                "coreai: the picture is not finite: numbers overflowed, or the weights are damaged;"
                " check the weights with `sdxs weights verify`, or take --dtype float32"
            )
        self._has_previous = True
        return found

    def call(self) -> dict[str, NDArray]:
        """Run the program on its inputs as they are; return its outputs. Raises BackendError."""
        function = self._require()
        if not self.in_place:
            for name in self._stale:
                self.arrays[name] = NDArray(self._given[name])
        self._stale.clear()
        inputs = {name: each for name, each in self.arrays.items() if name != STATE}
        try:
            return self._wait(function(inputs, {STATE: self.arrays[STATE]}))
        except RuntimeError as error:
            raise BackendError(
                f"coreai: a frame failed ({error}); run `sdxs convert --backend coreai --force`, "
                "then `sdxs doctor`"
            ) from None

    def close(self) -> None:
        """Release the model; a second call does nothing.

        Apple's runtime aborted the interpreter at its end in 2 of 8 processes where a model was
        still alive, and in none where it was released and given a moment.
        """
        if self._loop.is_closed():
            return
        self._given, self.arrays = {}, {}
        self._function = None
        self._model = None
        gc.collect()
        self._wait(asyncio.sleep(SETTLE_S))
        self._loop.close()

    def _require(self) -> InferenceFunction:
        if self._function is None:
            raise BackendError("coreai: the program is closed; load it again")
        return self._function

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
