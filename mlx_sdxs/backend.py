"""The MLX backend: one uint8 -> uint8 graph per frame, evaluated asynchronously."""

import threading
import time
from collections import deque
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..common import copies
from ..common.backend import (
    BackendOptions,
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_frame,
    check_settings,
)
from ..common.checkpoint import Checkpoint
from ..common.config import TinyVAEConfig, VAEConfig
from ..common.errors import BackendError, UsageError
from ..common.schedule import one_step, seeded_noise
from . import blas
from .autoencoder_kl import AutoencoderKL
from .frame import Frame
from .layers import load_weights, parameter_bytes
from .taesd import AutoencoderTiny
from .unet import UNet2DConditionModel

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# Buffers MLX keeps for the next frame. The CPU default of 32 MB gives pages back to the system
# and faults them in again every frame (one 256x256 convolution 116 -> 52 ms); unbounded, Metal's
# cache has grown to 50 GB (mlx-examples#724).
_CACHE_LIMIT_BYTES = 4 * 2**30
_PROMPT_TOKENS = 77


class MlxBackend:
    """Backend in MLX on the default device: Metal, CUDA or CPU."""

    name = "mlx"
    depth = 1

    def __init__(self, checkpoint: Checkpoint, options: BackendOptions) -> None:
        """Take what to run; nothing is loaded yet. Raises UsageError for a size or dtype that cannot be."""
        checkpoint.check_size(options.size)
        check_settings(self.name, options)
        self.dtype_name = _dtype_name(options.dtype)
        self._checkpoint = checkpoint
        self._size = options.size
        self._frame: Frame | None = None
        self._thread = 0
        self._in_flight: deque[tuple[mx.array, int]] = deque()

    def load(self) -> None:
        checkpoint, dtype = self._checkpoint, _DTYPES[self.dtype_name]
        checkpoint.verify()
        self._thread = threading.get_ident()
        mx.set_cache_limit(_CACHE_LIMIT_BYTES)
        unet = UNet2DConditionModel(checkpoint.unet)
        load_weights(unet, checkpoint.unet_weights, dtype)
        vae = load_vae(checkpoint.vae, checkpoint.vae_weights, dtype)
        self._model_bytes = parameter_bytes(unet) + parameter_bytes(vae)
        step = one_step(checkpoint.scheduler, checkpoint.frame)
        self._frame = Frame(unet, vae, step, checkpoint.vae.scaling_factor, dtype)
        # On a GPU compilation fuses the elementwise work; on the CPU it needs a C++ compiler and gains nothing.
        self._run = mx.compile(self._frame) if _on_gpu() else self._frame
        self._states = mx.zeros((1, _PROMPT_TOKENS, checkpoint.unet.cross_attention_dim))
        self._previous: mx.array | None = None
        self.set_params(FrameParams())
        blank = np.zeros((self._size, self._size, 3), np.uint8)
        self.submit(blank)
        self.collect(blank)
        self._previous = None  # the warm-up's picture must not shine through

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._check_thread()
        check_conditioning(encoder_hidden_states, self._checkpoint.unet.cross_attention_dim)
        self._states = mx.array(encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        self._check_thread()
        side = self._size // self._checkpoint.vae.reduction
        self._noise = mx.array(seeded_noise(params.seed, side, side, self._checkpoint.vae.latent_channels))
        self._feedback = mx.array(params.feedback, dtype=mx.float32)

    def submit(self, frame: np.ndarray) -> None:
        self._check_thread()
        check_frame(frame, (self._size, self._size, 3))
        submitted_ns = time.perf_counter_ns()
        feedback = self._feedback if self._previous is not None else mx.array(0.0)
        previous = self._previous if self._previous is not None else mx.zeros_like(self._noise)
        try:
            picture, x0 = self._run(mx.array(frame), self._states, self._noise, previous, feedback)
            mx.async_eval(picture, x0)
            copies.count("backend in", frame.nbytes)
        except (RuntimeError, ValueError) as error:  # what MLX raises, for example out of memory
            raise BackendError(_failed(error)) from None
        self._previous = x0
        self._in_flight.append((picture, submitted_ns))

    def collect(self, out: np.ndarray) -> StageTimes:
        self._check_thread()
        if not self._in_flight:
            raise BackendError("mlx: collect() without a submitted frame")
        picture, submitted_ns = self._in_flight.popleft()
        try:
            mx.eval(picture)  # releases the GIL while it waits
        except RuntimeError as error:
            raise BackendError(_failed(error)) from None
        np.copyto(out, np.asarray(picture))
        copies.count("backend out", out.nbytes)
        return StageTimes(time.perf_counter_ns() - submitted_ns)

    def memory(self) -> MemoryUse:
        return MemoryUse(
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
            cache_bytes=mx.get_cache_memory(),
            model_bytes=self._model_bytes if self._frame else 0,
        )

    def describe(self) -> dict[str, str]:
        library = blas.loaded()
        return {
            "backend": self.name,
            "device": str(mx.device_info().get("device_name", "CPU")) if _on_gpu() else "CPU",
            "dtype": self.dtype_name,
            "blas": f"{library.origin} ({library.core})" if library else "MLX's own",
        }

    def close(self) -> None:
        """Free the model, also after a load that failed. Ends MLX in the calling thread unless it is the main one."""
        if self._thread != threading.get_ident():
            return
        self._frame, self._thread = None, 0
        self._in_flight.clear()
        for name in ("_run", "_states", "_noise", "_previous"):
            self.__dict__.pop(name, None)
        mx.clear_cache()
        # A thread that used MLX and ends without this aborted the interpreter at exit in most runs.
        if threading.current_thread() is not threading.main_thread():
            mx.clear_streams()

    def _check_thread(self) -> None:
        if self._frame is None:
            raise BackendError("mlx: backend is not loaded; call load() first")
        if threading.get_ident() != self._thread:
            raise BackendError("mlx: called from another thread than load(); MLX streams belong to one thread")


def load_vae(config: VAEConfig, path: Path, dtype: mx.Dtype) -> AutoencoderTiny | AutoencoderKL:
    """Build and load whichever VAE the config describes."""
    vae = AutoencoderTiny(config) if isinstance(config, TinyVAEConfig) else AutoencoderKL(config)
    load_weights(vae, path, dtype)
    return vae


def _failed(error: Exception) -> str:
    return f"mlx: a frame failed ({error}); try a smaller --size, or close what else uses the GPU"


def _on_gpu() -> bool:
    return bool(mx.default_device().type == mx.DeviceType.gpu)


def _dtype_name(requested: str) -> str:
    if requested == "auto":
        return "float16" if _on_gpu() else "float32"
    if requested not in _DTYPES:
        raise UsageError(f"--dtype {requested}: expected auto, {', '.join(_DTYPES)}")
    if requested != "float32" and not _on_gpu():
        raise UsageError(
            f"--dtype {requested}: MLX computes half precision on a CPU 30 to 40 times slower than float32; "
            "use --dtype float32, or a machine with a GPU"
        )
    return requested
