"""The MLX backend: one uint8 -> uint8 graph per frame, several frames in flight."""

import os
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
    check_control,
    check_edges,
    check_frame,
)
from ..common.checkpoint import Checkpoint
from ..common.config import PROMPT_TOKENS, TinyVAEConfig, VAEConfig
from ..common.control import ControlNet
from ..common.errors import BackendError, UsageError
from ..common.schedule import frame_steps, seeded_noise
from . import blas
from .autoencoder_kl import AutoencoderKL
from .controlnet import ControlNetModel
from .frame import Frame
from .lanes import CallersLane, Job, Lane, Render
from .layers import load_weights, parameter_bytes
from .ops import on_gpu, stepwise
from .taesd import AutoencoderTiny
from .unet import UNet2DConditionModel

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# Buffers MLX keeps for the next frame. The CPU default of 32 MB gives pages back to the system
# and faults them in again every frame (one 256x256 convolution 116 -> 52 ms); unbounded, Metal's
# cache has grown to 50 GB (mlx-examples#724).
CACHE_LIMIT_BYTES = 4 * 2**30
_MOST_LANES = 8


class MlxBackend:
    """Backend in MLX on the default device: Metal, CUDA or CPU.

    Its own setting is `lanes`: how many frames are in flight at once, each in a thread of its own if there are several.
    """

    name = "mlx"

    def __init__(self, checkpoint: Checkpoint, options: BackendOptions) -> None:
        """Take what to run; nothing is loaded yet. Raises UsageError for a size, dtype or setting that cannot be."""
        checkpoint.check_size(options.size)
        self.dtype_name = _dtype_name(options.dtype)
        self.depth = _lanes(options.settings)
        self._checkpoint = checkpoint
        self._size = options.size
        self._frame: Frame | None = None
        self._thread = 0
        self._lanes: list[Lane | CallersLane] = []
        self._turn = 0
        self._in_flight: deque[tuple[Job, Lane | CallersLane]] = deque()

    def load(self) -> None:
        checkpoint, dtype = self._checkpoint, _DTYPES[self.dtype_name]
        checkpoint.verify()
        self._thread = threading.get_ident()
        mx.set_cache_limit(CACHE_LIMIT_BYTES)
        unet = UNet2DConditionModel(checkpoint.unet)
        load_weights(unet, checkpoint.unet_weights, dtype)
        vae = load_vae(checkpoint.vae, checkpoint.vae_weights, dtype)
        steps = frame_steps(checkpoint.scheduler, checkpoint.frame)
        controlnet = load_controlnet(checkpoint.control, dtype) if checkpoint.control else None
        frame = Frame(unet, vae, steps, checkpoint.vae.scaling_factor, dtype, controlnet=controlnet)
        frame = frame.fold() if len(steps) == 1 else frame
        models = [model for model in (unet, vae, controlnet) if model is not None]
        mx.eval([model.parameters() for model in models])  # what is lazy belongs to this thread alone
        self._frame, self._last = frame, None
        # A control of scale 0 costs nothing: it is another function.
        self._frames = [frame.without_control(), *([frame] if controlnet else [])]
        self.set_conditioning(np.zeros((1, PROMPT_TOKENS, checkpoint.unet.cross_attention_dim), np.float32))
        if not on_gpu():
            blas.share_among(self.depth)
        # On a GPU compilation fuses the elementwise work; on the CPU it needs a C++ compiler and gains nothing, and what
        # counts there is that no frame waits for another's operations.
        frames = self._frames

        def make() -> list[Render]:
            return [mx.compile(f) if on_gpu() else stepwise()(f) for f in frames]

        self._lanes = [CallersLane(make)] if self.depth == 1 else [Lane(n, make) for n in range(self.depth)]
        blank = np.zeros((self._size, self._size, 3), np.uint8)
        for scale in range(len(frames)):
            self.set_params(FrameParams(control_scale=float(scale)))
            # One after the other. On a GPU each compiles; a CPU's convolutions get their form from the first, once for all.
            for _ in self._lanes if on_gpu() else self._lanes[:1]:
                self.submit(blank, np.zeros(blank.shape[:2], np.uint8))
                self.collect(blank)
        self.set_params(FrameParams())
        self._model_bytes = sum(parameter_bytes(model) for model in models)
        self._last = None  # the warm-up's picture must not shine through

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._loaded_frame()
        check_conditioning(encoder_hidden_states, self._checkpoint.unet.cross_attention_dim)
        states = mx.array(encoder_hidden_states)
        self._prompt = self._frames[0].prompt(states)
        mx.eval(self._prompt)
        self._control_prompt = self._frames[-1].prompt(states)  # evaluated when a frame under control needs it

    def set_params(self, params: FrameParams) -> None:
        self._loaded_frame()
        check_control(params, self._checkpoint.control is not None)
        side = self._size // self._checkpoint.vae.reduction
        self._noise = mx.array(seeded_noise(params.seed, side, side, self._checkpoint.vae.latent_channels))
        self._feedback, self._control_scale, self._text_only = params.feedback, params.control_scale, params.text_only

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._loaded_frame()
        check_frame(frame, (self._size, self._size, 3))
        controlled = self._control_scale > 0
        prompt = self._control_prompt if controlled else self._prompt
        mx.eval(prompt)
        job = Job(
            frame, prompt, self._noise, self._feedback, self._last, time.perf_counter_ns(),
            check_edges(edges, self._size) if controlled else None, self._control_scale, self._text_only,
        )
        lane = self._lanes[self._turn % self.depth]
        lane.submit(job)
        self._turn += 1
        self._last = job
        self._in_flight.append((job, lane))

    def collect(self, out: np.ndarray) -> StageTimes:
        self._loaded_frame()
        if not self._in_flight:
            raise BackendError("mlx: collect() without a submitted frame")
        job, lane = self._in_flight.popleft()
        lane.wait(job)
        if job.rendered is None:  # what MLX raises, for example out of memory
            raise BackendError(_failed(job.error)) from job.error
        np.copyto(out, job.rendered)
        copies.count("backend out", out.nbytes)
        job.picture = job.edges = job.rendered = None
        return StageTimes(time.perf_counter_ns() - job.submitted_ns)

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
            "device": str(mx.device_info().get("device_name", "CPU")) if on_gpu() else "CPU",
            "dtype": self.dtype_name,
            "lanes": str(self.depth),
            "blas": f"{library.origin} ({library.core})" if library else "MLX's own",
        }

    def close(self) -> None:
        """Free the model, also after a load that failed. Ends MLX in the calling thread unless it is the main one."""
        if self._thread != threading.get_ident():
            return
        for lane in self._lanes:
            lane.close()
        self._frame, self._thread, self._lanes = None, 0, []
        self._in_flight.clear()
        for name in ("_frames", "_prompt", "_control_prompt", "_noise", "_last"):
            self.__dict__.pop(name, None)
        mx.clear_cache()
        # A thread that used MLX and ends without this aborted the interpreter at exit in most runs.
        if threading.current_thread() is not threading.main_thread():
            mx.clear_streams()

    def _loaded_frame(self) -> Frame:
        if self._frame is None:
            raise BackendError("mlx: backend is not loaded; call load() first")
        if threading.get_ident() != self._thread:
            raise BackendError("mlx: called from another thread than load(); MLX streams belong to one thread")
        return self._frame


def load_vae(config: VAEConfig, path: Path, dtype: mx.Dtype) -> AutoencoderTiny | AutoencoderKL:
    """Build and load whichever VAE the config describes."""
    vae = AutoencoderTiny(config) if isinstance(config, TinyVAEConfig) else AutoencoderKL(config)
    load_weights(vae, path, dtype)
    return vae


def load_controlnet(control: ControlNet, dtype: mx.Dtype) -> ControlNetModel:
    """Build and load a ControlNet."""
    model = ControlNetModel(control.config)
    load_weights(model, control.weights, dtype)
    return model


def _failed(error: Exception | None) -> str:
    return f"mlx: a frame failed ({error}); try a smaller --size, or close what else uses the GPU"


def _lanes(settings: tuple[tuple[str, str], ...]) -> int:
    """How many frames are in flight: as asked, else one for each of a CPU's cores up to four, and one on a GPU."""
    for name, value in settings:
        if name != "lanes":
            raise UsageError(f"mlx: unknown setting {name!r}; known is lanes")
        if not value.isdecimal() or not 1 <= int(value) <= _MOST_LANES:
            raise UsageError(f"--lanes {value}: expected a whole number from 1 to {_MOST_LANES}")
        return int(value)
    return 1 if on_gpu() else min(4, os.cpu_count() or 1)


def _dtype_name(requested: str) -> str:
    if requested == "auto":
        return "float16" if on_gpu() else "float32"
    if requested not in _DTYPES:
        raise UsageError(f"--dtype {requested}: expected auto, {', '.join(_DTYPES)}")
    if requested != "float32" and not on_gpu():
        raise UsageError(
            f"--dtype {requested}: MLX computes half precision on a CPU 30 to 40 times slower than float32; "
            "use --dtype float32, or a machine with a GPU"
        )
    return requested
