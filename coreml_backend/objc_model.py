"""Core ML through PyObjC, the second runtime: no bridge of coremltools in between.

PyObjC lets go of Python's lock during every call, so a prediction stops no other thread. Inputs and
results lie in our own memory (`objc_values.py`): Core ML reads and writes them in place. Where it
does not use the memory that it was offered, which it may, the result is copied and counted.

A prediction is asked for asynchronously and its end waited for with a limit: Core ML calls a
completion handler on a queue of its own. What belongs to a prediction that never ended is never
used again, nor is its model. Apple's documentation calls the asynchronous call available from macOS
14; of macOS 14 itself time-outs of large programs were reported, which end here as an error.

Predictions with an MLState (macOS 15) are synchronous, as the asynchronous call needs macOS 26.

Source: Apple's headers MLModel.h, MLModel+MLState.h, MLPredictionOptions.h, MLMultiArray.h, and
PyObjC's metadata of them. Nothing here was run on a Mac yet: `sdxs mac-check` does.
"""

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..common.backend import copies
from ..common.errors import BackendError
from ..common.limits import shortage
from ..common.patience import MOST_STEP_S, Patience
from . import inputs
from .objc_values import (
    Frameworks,
    Pixels,
    dictionary_of,
    frameworks,
    give_back_pixels,
    lend_pixels,
    read,
    read_foreign,
    said,
    text_of,
    wrap,
)

PREDICT_TIMEOUT_S = 120.0  # seconds are usual on a CPU; a hung queue never ends
# MLComputeUnits
UNITS = {"cpu_only": 0, "cpu_and_gpu": 1, "all": 2, "cpu_and_ne": 3}
IMAGE = 4  # MLFeatureTypeImage


class Ending:
    """The end of one prediction, told by Core ML from a thread of its own."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self.result: Any = None
        self.error: Any = None
        self.ended_ns = 0

    def handle(self, result: Any, error: Any) -> None:
        """Take the completion handler's arguments; it must never raise."""
        self.result, self.error = result, error
        self.ended_ns = time.perf_counter_ns()
        self._told.set()

    @property
    def told(self) -> bool:
        return self._told.is_set()

    def wait(self, limit_s: float) -> bool:
        """Wait until it was told, `limit_s` at most; tell whether it was."""
        patience = Patience(limit_s)
        while not self._told.is_set():
            left = patience.left_s()
            if not left:
                return False
            self._told.wait(min(left, MOST_STEP_S))
        return True


class PyObjCState:
    """An MLState. Predictions that share one must follow each other."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.busy = threading.Lock()


class PyObjCModel:
    """A loaded program. Called from one thread at a time.

    alternates: a result may be an input of later predictions and stays as it is meanwhile; any
    other is written over by one of the next two. inside_ns: from the last call to its completion
    handler, which waits for Python's lock; so it holds a little of the bridge.
    """

    alternates = True

    def __init__(
        self,
        compiled: Path,
        units: str,
        function: str | None = None,
        timeout_s: float = PREDICT_TIMEOUT_S,
    ) -> None:
        """Load a compiled program (.mlmodelc). Raises BackendError, UsageError without PyObjC."""
        self._timeout_s, self.inside_ns = timeout_s, 0
        self._tools = frameworks()
        with self._tools.objc.autorelease_pool():
            self._model = _load(self._tools, compiled, units, function)
            description = self._model.modelDescription()
            given, made = (
                {str(name): each[name] for name in each}
                for each in (
                    description.inputDescriptionsByName(),
                    description.outputDescriptionsByName(),
                )
            )
            if any(int(each.type()) == IMAGE for each in (*given.values(), *made.values())):
                self._tools = frameworks(images=True)
            self._pictures = {
                name: lend_pixels(self._tools, *_sides(each))
                for name, each in given.items()
                if int(each.type()) == IMAGE
            }
            self._images = {
                n: _sides(each) for n, each in made.items() if int(each.type()) == IMAGE
            }
            self._outputs = tuple(made)
            self._options = [self._tools.coreml.MLPredictionOptions.alloc().init()]
        self._wrapped: dict[int, Any] = {}  # MLMultiArrays by the id of their array
        self._providers: dict[tuple[tuple[str, int], ...], Any] = {}
        # memory for results, twice; empty before the first result tells their shapes
        self._backings: list[dict[str, np.ndarray | Pixels]] = []
        self._turn = 0
        self._stuck = False

    def make_state(self) -> PyObjCState:
        """Return a state, zeros as Core ML makes it; of a program without states, an empty one."""
        self._refuse()
        with self._tools.objc.autorelease_pool():
            return PyObjCState(self._model.newState())

    def predict(
        self, data: Mapping[str, Any], state: PyObjCState | None = None
    ) -> dict[str, np.ndarray]:
        """Run the program once.

        data: arrays of `inputs.lend` by name; images as uint8 (H, W, 3) RGB. Returns arrays that
        one of the next two predictions writes over; images as uint8 (H, W, 3) RGB. Raises
        BackendError, also after the limit of time; then the model cannot be used again.
        """
        self._refuse()
        with self._tools.objc.autorelease_pool():
            provider = self._provider(data)
            self._take_turn(data)
            options = self._options[self._turn % len(self._options)]
            began = time.perf_counter_ns()
            ending = Ending()
            try:
                self._ask(provider, options, state, ending)
            finally:
                if not ending.told:
                    self._lose(data)
            self.inside_ns = ending.ended_ns - began
            if ending.result is None:
                text = said(ending.error)
                raise shortage(RuntimeError(text)) or BackendError(
                    f"coreml: Core ML refused a prediction ({text}); run `sdxs convert --force`, "
                    "then `sdxs doctor`"
                )
            return self._results(ending.result)

    def close(self) -> None:
        """Let go of the program, and give its memory back unless a prediction never ended."""
        self._model = None
        self._providers.clear()
        self._wrapped.clear()
        self._options = []
        used = [each for backing in self._backings for each in backing.values()]
        self._backings = []
        if not self._stuck:
            inputs.give_back(each for each in used if isinstance(each, np.ndarray))
            pixels = [each for each in used if isinstance(each, Pixels)]
            give_back_pixels([*pixels, *self._pictures.values()])
        self._pictures = {}

    def _refuse(self) -> None:
        if self._stuck:
            raise BackendError(
                "coreml: an earlier prediction never ended, so its memory may still be written; "
                "load the backend again"
            )
        if self._model is None:
            raise BackendError("coreml: the program is closed; load the backend again")

    def _ask(self, provider: Any, options: Any, state: PyObjCState | None, ending: Ending) -> None:
        """Predict and wait for the end. Raises BackendError after the limit of time."""
        if state is None:
            self._model.predictionFromFeatures_options_completionHandler_(
                provider, options, ending.handle
            )
            if not ending.wait(self._timeout_s):
                raise BackendError(
                    f"coreml: a prediction did not end within {self._timeout_s:g} s; use "
                    "--coreml-runtime coreml or another of --compute-units"
                )
            return
        if not state.busy.acquire(blocking=False):
            ending.handle(None, None)
            raise BackendError("coreml: two predictions with one state; wait for the first")
        try:
            ending.handle(
                *self._model.predictionFromFeatures_usingState_options_error_(
                    provider, state.state, options, None
                )
            )
        finally:
            state.busy.release()

    def _take_turn(self, data: Mapping[str, Any]) -> None:
        """Offer the memory that is not read now; after a failed frame an old result may still be.

        Raises BackendError if both halves are inputs.
        """
        self._turn += 1
        given = {id(value) for value in data.values()}
        taken = [not given.isdisjoint(map(id, each.values())) for each in self._backings]
        if taken and all(taken):
            raise BackendError("coreml: two results are inputs, so no memory is left for others")
        if taken and taken[self._turn % len(taken)]:
            self._turn += 1

    def _lose(self, data: Mapping[str, Any]) -> None:
        """Never use again what a prediction without an end may still read or write."""
        self._stuck = True
        used = [*data.values(), *(each for one in self._backings for each in one.values())]
        inputs.lose(each for each in used if isinstance(each, np.ndarray))

    def _provider(self, data: Mapping[str, Any]) -> Any:
        """Return the inputs as Core ML takes them, made once for the same arrays."""
        key = tuple(
            (name, 0 if name in self._pictures else id(value)) for name, value in data.items()
        )
        for name in self._pictures.keys() & data.keys():
            self._pictures[name].write(data[name])
            copies.count("pixels in", data[name].nbytes)
        if key not in self._providers:
            feature = self._tools.coreml.MLFeatureValue
            values = {
                name: feature.featureValueWithPixelBuffer_(self._pictures[name].buffer)
                if name in self._pictures
                else feature.featureValueWithMultiArray_(self._wrap(value))
                for name, value in data.items()
            }
            made = self._tools.coreml.MLDictionaryFeatureProvider.alloc()
            provider, error = made.initWithDictionary_error_(
                dictionary_of(self._tools, values), None
            )
            if provider is None:
                raise BackendError(f"coreml: Core ML refused the inputs ({said(error)})")
            self._providers[key] = provider
        return self._providers[key]

    def _wrap(self, array: np.ndarray) -> Any:
        if id(array) not in self._wrapped:
            self._wrapped[id(array)] = wrap(self._tools, array)
        return self._wrapped[id(array)]

    def _results(self, provider: Any) -> dict[str, np.ndarray]:
        """Return the results from the memory that they were offered, or copy them there."""
        if not self._backings:
            self._back(provider)
        backings = self._backings[self._turn % len(self._backings)]
        found: dict[str, np.ndarray] = {}
        for name in self._outputs:
            value, backing = provider.featureValueForName_(name), backings[name]
            if isinstance(backing, Pixels):
                buffer = value.imageBufferValue()
                ours = buffer is backing.buffer
                found[name] = backing.read() if ours else read_foreign(self._tools, buffer)
                copies.count("pixels out" if ours else "another backing", found[name].nbytes)
                continue
            multi = value.multiArrayValue()
            if multi is not self._wrapped[id(backing)]:
                np.copyto(backing, read(multi))
                copies.count("another backing", backing.nbytes)
            found[name] = backing
        return found

    def _back(self, provider: Any) -> None:
        """Make memory for results of the shapes of these, and offer it from now on."""
        for _ in range(2):
            backings: dict[str, np.ndarray | Pixels] = {}
            for name in self._outputs:
                if name in self._images:
                    backings[name] = lend_pixels(self._tools, *self._images[name])
                else:
                    like = read(provider.featureValueForName_(name).multiArrayValue())
                    backings[name] = inputs.lend(like.shape, like.dtype.name)
            self._backings.append(backings)
        self._options = [self._offer(backings) for backings in self._backings]

    def _offer(self, backings: Mapping[str, np.ndarray | Pixels]) -> Any:
        options = self._tools.coreml.MLPredictionOptions.alloc().init()
        offered = {
            name: each.buffer if isinstance(each, Pixels) else self._wrap(each)
            for name, each in backings.items()
        }
        options.setOutputBackings_(dictionary_of(self._tools, offered))
        return options


def _load(tools: Frameworks, compiled: Path, units: str, function: str | None) -> Any:
    configuration = tools.coreml.MLModelConfiguration.alloc().init()
    configuration.setComputeUnits_(UNITS[units])
    if function is not None:
        configuration.setFunctionName_(text_of(tools, function))
    url = tools.foundation.NSURL.fileURLWithPath_(str(compiled))
    model, error = tools.coreml.MLModel.modelWithContentsOfURL_configuration_error_(
        url, configuration, None
    )
    if model is None:
        raise BackendError(
            f"coreml: {compiled} cannot be loaded ({said(error)}); run `sdxs convert --force` and "
            "check `sdxs doctor`"
        )
    return model


def _sides(description: Any) -> tuple[int, int]:
    constraint = description.imageConstraint()
    return int(constraint.pixelsHigh()), int(constraint.pixelsWide())


def compile_package(package: Path, destination: Path) -> None:
    """Compile a package without the bridge; the result is moved to `destination`.

    Raises BackendError, OSError.
    """
    tools = frameworks()
    with tools.objc.autorelease_pool():
        url = tools.foundation.NSURL.fileURLWithPath_(str(package))
        made, error = tools.coreml.MLModel.compileModelAtURL_error_(url, None)
        if made is None:
            raise BackendError(
                f"coreml: {package} cannot be compiled ({said(error)}); run `sdxs convert --force`"
            )
        shutil.move(str(made.path()), destination)
