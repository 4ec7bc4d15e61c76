"""The Core ML backend: one ML Program per frame, image in and picture out.

`predict` holds the GIL for its whole length and its inputs are read by another queue shortly after,
so every input array lives, writable and contiguous, as long as the model (coremltools#2827, #2829), and
the command line runs this backend in a process of its own.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np

from ..common import copies
from ..common.backend import (
    BackendOptions,
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_frame,
)
from ..common.checkpoint import Checkpoint
from ..common.config import PROMPT_TOKENS
from ..common.errors import BackendError, UsageError
from ..common.schedule import seeded_noise
from . import cache
from .options import CoreMLOptions

Arrays = dict[str, np.ndarray]
Progress = Callable[[str, float], None]
# Renders a probe frame by other means: picture uint8 (S, S, 3), prompt float32 (1, 77, D), seed of the noise -> picture.
Reference = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


class Model(Protocol):
    """What runs a program: Core ML's compiled model, or the reference interpreter."""

    def predict(self, data: Arrays) -> Arrays:
        """Run the program once."""


class CoreMLBackend:
    """Backend on Core ML (macOS), or on the reference interpreter where that is asked for by name."""

    name = "coreml"
    depth = 1

    def __init__(self, checkpoint: Checkpoint, options: BackendOptions) -> None:
        """Take what to run; nothing is built yet. Raises UsageError for options that cannot be."""
        checkpoint.check_size(options.size)
        self.options = CoreMLOptions.parse(options)
        self._checkpoint = checkpoint
        self._size = options.size
        self._model: Model | None = None
        self._done: deque[tuple[np.ndarray, StageTimes]] = deque()

    def load(self) -> None:
        """Build the program if it is not cached, load it and render a blank frame. Raises SdxsError."""
        refuse_without_runtime(self.options)
        self._checkpoint.verify()
        built = find_or_build(self._checkpoint, self.options)
        self._built = built
        self._model = open_model(built, self.options)
        side = self._size // self._checkpoint.vae.reduction
        latents = (1, self._checkpoint.vae.latent_channels, side, side)
        self._inputs: Arrays = {
            "picture": np.zeros((1, 3, self._size, self._size), np.float32),
            "encoder_hidden_states": np.zeros((1, PROMPT_TOKENS, self._checkpoint.unet.cross_attention_dim), np.float32),
            "noise": np.zeros(latents, np.float32),
            "previous": np.zeros(latents, np.float32),
            "feedback": np.zeros((1,), np.float32),
        }
        self._has_previous = False
        self.set_params(FrameParams())
        blank = np.zeros((self._size, self._size, 3), np.uint8)
        self.submit(blank)
        self.collect(blank)
        self._has_previous = False  # the warm-up's picture must not shine through

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._require_model()
        check_conditioning(encoder_hidden_states, self._checkpoint.unet.cross_attention_dim)
        np.copyto(self._inputs["encoder_hidden_states"], encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        self._require_model()
        _, channels, height, width = self._inputs["noise"].shape
        noise = seeded_noise(params.seed, height, width, channels)
        np.copyto(self._inputs["noise"], noise.transpose(0, 3, 1, 2))
        self._feedback = params.feedback

    def submit(self, frame: np.ndarray) -> None:
        model = self._require_model()
        check_frame(frame, (self._size, self._size, 3))
        submitted_ns = time.perf_counter_ns()
        np.copyto(self._inputs["picture"][0], frame.transpose(2, 0, 1))
        copies.count("backend in", self._inputs["picture"].nbytes)
        self._inputs["feedback"][0] = self._feedback if self._has_previous else 0.0
        try:
            # a fresh dict: `predict` may replace entries of the one it is given
            outputs = model.predict(dict(self._inputs))
        except BackendError:
            raise
        except Exception as error:  # coremltools raises bare RuntimeError and worse
            raise BackendError(f"coreml: prediction failed ({error}); run `sdxs convert --force`, then `sdxs doctor`") from None
        np.copyto(self._inputs["previous"], outputs["x0"].reshape(self._inputs["previous"].shape))
        copies.count("previous x0", self._inputs["previous"].nbytes)
        self._has_previous = True
        total_ns = time.perf_counter_ns() - submitted_ns
        self._done.append((outputs["image"], StageTimes(total_ns, self._bridge_ns(total_ns))))

    def collect(self, out: np.ndarray) -> StageTimes:
        self._require_model()
        if not self._done:
            raise BackendError("coreml: collect() without a submitted frame")
        image, times = self._done.popleft()
        np.copyto(out, image.reshape(3, self._size, self._size).transpose(1, 2, 0), casting="unsafe")
        copies.count("backend out", out.nbytes)
        return times

    def memory(self) -> MemoryUse:
        """Core ML tells nothing of its own memory; the process footprint does. model_bytes is the package."""
        model_bytes = cache.size_bytes(self._built.package) if self._model is not None else 0
        return MemoryUse(0, 0, 0, model_bytes)

    def describe(self) -> dict[str, str]:
        facts = {"backend": self.name, "device": self.options.compute_units, "dtype": self.options.weights}
        if self.options.runtime == "reference":
            facts["device"] = "CPU, NumPy"
            facts["runtime"] = "reference interpreter, NOT Core ML; its times are no speed of Core ML"
        return facts | {"attention": self.options.attention}

    def close(self) -> None:
        if self._model is not None:
            self._model = None
            self._done.clear()

    def _require_model(self) -> Model:
        if self._model is None:
            raise BackendError("coreml: backend is not loaded; call load() first")
        return self._model

    def _bridge_ns(self, total_ns: int) -> int:
        """Time spent outside Core ML itself: copying and Python. 0 where Core ML does not say."""
        proxy = getattr(self._model, "_proxy", None)  # CompiledMLModel has no public accessor as MLModel does (9.0)
        inside = getattr(proxy, "get_last_predict_duration_in_nano_seconds", lambda: None)()
        return max(0, total_ns - int(inside)) if inside else 0


def refuse_without_runtime(options: CoreMLOptions) -> None:
    """Raise UsageError where Core ML itself cannot run."""
    if options.runtime == "coreml" and sys.platform != "darwin":
        raise UsageError(
            "--backend coreml: Core ML needs macOS; use --backend mlx, or --coreml-runtime reference, a slow interpreter "
            "that shows what the program computes"
        )


def find_or_build(
    checkpoint: Checkpoint, options: CoreMLOptions, reference: Reference | None = None,
    progress: Progress | None = None, force: bool = False,
) -> cache.Built:
    """Return the program for `checkpoint`, building it if needed; with `reference`, gate what was built.

    Raises BackendError if the build fails or the gate refuses; then nothing is kept but two pictures.
    """
    from .gate import check
    from .program import build

    variant = options.variant()
    values = {name: str(value) for name, value in asdict(variant).items()}

    def make(path: Path) -> float:
        began = time.perf_counter()
        build(checkpoint, variant, path, progress)
        seconds = time.perf_counter() - began
        if reference is not None:
            check(checkpoint, options, path, reference, cache.cache_folder())
        return seconds

    key = cache.key(checkpoint, values, metadata.version("coremltools"))
    return cache.find_or_build(checkpoint.name, values, key, make, force)


def open_model(built: cache.Built, options: CoreMLOptions) -> Model:
    """Open a built program on the runtime asked for. Raises BackendError."""
    if options.runtime == "reference":
        from .interpreter import Interpreter

        return Interpreter(built.package, round_float16=True)
    import coremltools as ct

    try:
        if not built.compiled.exists():
            # Core ML compiles for the Neural Engine at first load, 20 to 40 s; kept, the next start takes 3.
            ct.models.utils.compile_model(str(built.package), str(built.compiled))
        units = ct.ComputeUnit[options.compute_units.upper()]
        return ct.models.CompiledMLModel(str(built.compiled), units)  # type: ignore[no-any-return]
    except Exception as error:  # coremltools raises bare Exception and RuntimeError
        raise BackendError(
            f"coreml: {built.package} cannot be loaded ({error}); run `sdxs convert --force` and check `sdxs doctor`"
        ) from None
