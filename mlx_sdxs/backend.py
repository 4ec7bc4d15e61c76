"""The MLX backend: one graph per frame, uint8 in and out, with several frames in flight."""

import os
import threading
import time
from collections import deque
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..common.adapt.fusing import FusedReader
from ..common.backend import copies, phases
from ..common.backend.description import Description
from ..common.backend.protocol import (
    Backend,
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_control,
    check_edges,
    check_frame,
    check_picture,
)
from ..common.backend.schedule import frame_steps, seeded_noise
from ..common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ..common.checkpoint.config.vae import TinyVAEConfig, VAEConfig
from ..common.checkpoint.control import ControlNet
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError, PictureError, UsageError
from ..common.limits import check_address_space, check_threads, shortage
from . import blas, streams
from .adapt.lora import render_of
from .adapt.state import LoraState
from .fast import host_memory as residency
from .fast.conv_table import Table
from .fast.kernels import custom_kernels, use_kernels
from .fast.ops import on_cuda, on_gpu, stepwise
from .fast.products import on_metal, use_products, valid_table
from .frame import Frame
from .lanes import CallersLane, Job, Lane, LaneThread, Render
from .networks.autoencoder_kl import AutoencoderKL
from .networks.controlnet import ControlNetModel
from .networks.layers import load_weights, parameter_bytes
from .networks.taesd import AutoencoderTiny
from .networks.unet import UNet2DConditionModel
from .options import MlxOptions

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# Buffers that MLX keeps for the next frame. With the CPU default of 32 MB every frame faults its
# pages in again (one 256 x 256 convolution: 116 instead of 52 ms). Without a limit Metal's cache
# has grown to 50 GB (mlx-examples#724).
CACHE_LIMIT_BYTES = 4 * 2**30
FRAME_BYTES = 2**30  # of one SDXS frame at 512 in float16 on CUDA (kernel-gpu.json, tries)
MOST_LANES_BY_ITSELF = 4
# For stacks and heaps of threads. MLX and OpenBLAS end the process where they get none: two lanes
# did with 0.6 GB left by `ulimit -v`, and did not with 0.8.
ADDRESSES, ADDRESSES_OF_LANE = 500_000_000, 200_000_000
# Threads that a load starts on a CPU, in this process and in MLX, which aborts where it gets none.
THREADS, THREADS_OF_LANE = 6, 2


class MlxBackend:
    """Backend in MLX on the default device: Metal, CUDA or CPU.

    lanes, batch, depth: the values in use, with the defaults of `MlxOptions` resolved.
    """

    name = "mlx"

    def __init__(self, checkpoint: Checkpoint, options: MlxOptions) -> None:
        """Check the options and resolve their defaults; load nothing yet.

        Raises UsageError for a size, dtype or setting that is impossible here.
        """
        self.dtype_name = _dtype_name(options.dtype)
        checkpoint.check_size(options.size, _DTYPES[self.dtype_name].size)
        self.options = options
        self.batch = options.batch
        self.lanes = options.lanes or (
            1 if on_gpu() else min(MOST_LANES_BY_ITSELF, os.cpu_count() or 1)
        )
        self.depth = options.in_flight_on(self.lanes)
        self._checkpoint = checkpoint
        self._size = options.size
        self._refuse_what_cannot_be()
        self._frame: Frame | None = None
        self._table: Table | None = None
        self._thread = 0
        self._lanes: list[Lane] = []
        self._turn = 0
        self._last: Job | None = None
        self._in_flight: deque[tuple[Job, Lane]] = deque()
        self._loras: LoraState | None = None

    def load(self) -> None:
        checkpoint, dtype = self._checkpoint, _DTYPES[self.dtype_name]
        self.close()
        checkpoint.verify()
        check_address_space("mlx", ADDRESSES + self.lanes * ADDRESSES_OF_LANE)
        check_threads("mlx", THREADS + self.lanes * THREADS_OF_LANE)
        self._thread = threading.get_ident()
        streams.borrow()
        mx.set_cache_limit(self._cache_limit())
        unet = UNet2DConditionModel(checkpoint.unet)
        load_weights(unet, checkpoint.unet_weights, dtype, fused_unet(checkpoint))
        vae = load_vae(checkpoint.vae, checkpoint.vae_weights, dtype)
        steps = frame_steps(checkpoint.scheduler, checkpoint.frame)
        controlnet = load_controlnet(checkpoint.control, dtype) if checkpoint.control else None
        frame = Frame(unet, vae, steps, checkpoint.vae.scaling_factor, dtype, controlnet=controlnet)
        frame = frame.fold(self._folded()) if len(steps) == 1 else frame
        if self._kernels():
            # After folding, because the kernel takes over the biases. Not in the full VAE: its
            # groups are large and were never timed.
            for network in frame.networks:
                use_kernels(network)
        models = [model for model in (unet, vae, controlnet) if model is not None]
        self._table = valid_table() if on_metal() else None
        if self._table:
            for model in models:
                use_products(model, self._table.form)
        # evaluate: a lazy array belongs to this thread alone
        mx.eval([model.parameters() for model in models])
        phases.reached(phases.WEIGHTS)
        self._frame, self._last = frame, None
        # control scale 0 uses a function without the ControlNet, at no cost
        self._frames = [frame.without_control(), *([frame] if controlnet else [])]
        self._loras = LoraState(checkpoint, self._frames, dtype) if checkpoint.loras else None
        self.set_conditioning(
            np.zeros((1, PROMPT_TOKENS, checkpoint.unet.cross_attention_dim), np.float32)
        )
        if not on_gpu():
            blas.share_among(self.lanes)
        # On a GPU, compilation fuses elementwise operations. On a CPU it needs a C++ compiler and
        # gains nothing; there `stepwise` keeps a frame from waiting for another's operations.
        frames, changes = self._frames, self._loras is not None

        def make() -> list[Render]:
            if changes:
                return [render_of(frames, number) for number in range(len(frames))]
            return [mx.compile(f) if on_gpu() else stepwise()(f) for f in frames]

        keep = self._keeps_pictures()
        self._lanes = (
            [CallersLane(make, keep)]
            if self._is_callers
            else [LaneThread(n, make, self.batch, keep) for n in range(self.lanes)]
        )
        self._model_bytes = sum(parameter_bytes(model) for model in models)
        for scale in range(len(frames)):
            self.set_params(FrameParams(control_scale=float(scale)))
            # One lane at a time. On a GPU every lane compiles; on a CPU the first lane decides the
            # form of the convolutions for all.
            for lane in self._lanes if on_gpu() else self._lanes[:1]:
                self._warm_up(lane)
        self.set_params(FrameParams())

    def _warm_up(self, lane: Lane) -> None:
        """Warm up a lane with one batch of every size."""
        blank = np.zeros((*self._size.shape, 3), np.uint8)
        for power in range(self.batch.bit_length()):
            jobs = [
                self._job(blank, np.zeros(blank.shape[:2], np.uint8)) for _ in range(1 << power)
            ]
            lane.submit(*jobs)
            self._in_flight.extend((job, lane) for job in jobs)
            for _ in jobs:
                self.collect(blank)

    def _refuse_what_cannot_be(self) -> None:
        """Raise UsageError for settings that the machine or the checkpoint cannot support."""
        try:
            self._kernels()
        except ValueError as error:
            raise UsageError(f"mlx: kernels={self.options.kernels}: {error}") from None
        steps = self._checkpoint.frame.steps
        if self.options.attention == "folded" and steps > 1:
            raise UsageError(
                f"mlx: attention=folded goes with one step, not with {steps}; use attention=fused "
                "or --steps 1"
            )
        if self.options.pictures == "host" and not on_cuda():
            raise UsageError("mlx: pictures=host: only CUDA has managed memory; use pictures=auto")

    @property
    def _is_callers(self) -> bool:
        """Tell whether the calling thread is the only lane."""
        return self.lanes == self.batch == 1

    def _kernels(self) -> bool:
        return custom_kernels(self.options.kernels)

    def _folded(self) -> bool:
        wanted, steps = self.options.attention, self._checkpoint.frame.steps
        return wanted == "folded" or (wanted == "auto" and on_cuda() and steps == self.batch == 1)

    def _keeps_pictures(self) -> bool:
        """Tell whether pictures stay in host memory; by default on CUDA with lane threads.

        In the caller's lane it gained nothing on an H200, and at times cost time (levers-gpu.json).
        """
        wanted = self.options.pictures
        return wanted == "host" or (wanted == "auto" and on_cuda() and not self._is_callers)

    def _cache_limit(self) -> int:
        """Return how many bytes of buffers MLX keeps for later frames.

        The host runs ahead of a GPU, so a batch there uses all its buffers at once. The limit
        covers them, or else every frame allocates again; at most half the GPU's memory, if known.
        """
        if not on_gpu() or self.batch == 1:
            return CACHE_LIMIT_BYTES
        frame = (
            FRAME_BYTES * self._size.pixels / 512**2 * (2 if self.dtype_name == "float32" else 1)
        )
        info = mx.device_info()  # Metal and CUDA have different keys
        memory = int(info.get("memory_size", 0) or info.get("total_memory", 0))
        wanted = max(CACHE_LIMIT_BYTES, int(self.lanes * self.batch * frame))
        return min(wanted, memory // 2) if memory else wanted

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._loaded_frame()
        check_conditioning(encoder_hidden_states, self._checkpoint.unet.cross_attention_dim)
        self._hidden_states = mx.array(encoder_hidden_states)
        self._prepare_prompt()

    def _prepare_prompt(self) -> None:
        frames = self._loras.fused.frames if self._loras else self._frames
        self._encoder_hidden_states = frames[0].prompt(self._hidden_states)
        mx.eval(self._encoder_hidden_states)
        # evaluated with the first frame under control
        self._control_hidden_states = frames[-1].prompt(self._hidden_states)

    def set_params(self, params: FrameParams) -> None:
        self._loaded_frame()
        check_control(params, self._checkpoint.control is not None)
        if self._loras and self._loras.ask(params):
            self._prepare_prompt()
        vae = self._checkpoint.vae
        self._noise = mx.array(
            seeded_noise(params.seed, *self._size.divided(vae.reduction), vae.latent_channels)
        )
        self._feedback, self._control_scale, self._text_only = (
            params.feedback,
            params.control_scale,
            params.text_only,
        )

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._loaded_frame()
        check_frame(frame, (*self._size.shape, 3))
        if self._loras and self._loras.take():
            self._prepare_prompt()
        job = self._job(frame, edges)
        # consecutive frames go to the same lane, which may batch them
        lane = self._lanes[self._turn // self.batch % len(self._lanes)]
        lane.submit(job)
        self._turn += 1
        self._last = job
        self._in_flight.append((job, lane))

    def _job(self, frame: np.ndarray, edges: np.ndarray | None) -> Job:
        controlled = self._control_scale > 0
        encoder_hidden_states = (
            self._control_hidden_states if controlled else self._encoder_hidden_states
        )
        mx.eval(encoder_hidden_states)
        job = Job(
            frame,
            encoder_hidden_states,
            self._noise,
            self._feedback,
            self._last,
            time.perf_counter_ns(),
            check_edges(edges, self._size.shape) if controlled else None,
            self._control_scale,
            self._text_only,
        )
        if self._loras:
            job.fused, job.behind = self._loras.fused, self._loras.behind
        return job

    def collect(self, out: np.ndarray) -> StageTimes:
        self._loaded_frame()
        if not self._in_flight:
            raise BackendError("mlx: collect() without a submitted frame")
        job, lane = self._in_flight.popleft()
        lane.wait(job)
        if job.rendered is None:  # MLX raised, for example out of memory
            raise BackendError(_failed(job.error)) from job.error
        given = None if job.text_only else job.picture
        try:
            check_picture("mlx", job.rendered, given, job.finite, self._remedy())
        except PictureError:
            job.x0 = None  # no later frame mixes it in
            raise
        finally:
            np.copyto(out, job.rendered)
            copies.count("backend out", out.nbytes)
            job.let_go()
        return StageTimes(time.perf_counter_ns() - job.submitted_ns, behind=job.behind)

    def _remedy(self) -> str:
        exact = " or take --dtype float32" if self.dtype_name != "float32" else ""
        return f"check the weights with `sdxs weights verify`{exact}"

    def memory(self) -> MemoryUse:
        return MemoryUse(
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
            cache_bytes=mx.get_cache_memory(),
            model_bytes=self._model_bytes if self._frame else 0,
        )

    def describe(self) -> Description:
        library = blas.loaded()
        return Description(
            self.name,
            str(mx.device_info().get("device_name", "CPU")) if on_gpu() else "CPU",
            self.dtype_name,
            (
                ("lanes", str(self.lanes)),
                ("batch", str(self.batch)),
                ("in flight", str(self.depth)),
                ("kernels", "group norm" if self._kernels() else "MLX's own"),
                ("attention", "folded" if self._folded() else "fused"),
                (
                    "pictures",
                    "in the host's memory" if self._keeps_pictures() else "as MLX has them",
                ),
                ("blas", f"{library.origin} ({library.core})" if library else "MLX's own"),
                *self._products(),
            ),
        )

    def _products(self) -> tuple[tuple[str, str], ...]:
        """Return what a table changes, nothing without one."""
        if not self._table:
            return ()
        return (("convolutions", f"{self._table.as_products} shapes as products"),)

    def close(self) -> None:
        """Free the model, also after a failed load.

        Clears MLX's streams of the calling thread, except in the main thread.
        """
        if self._thread != threading.get_ident():
            return
        for lane in self._lanes if not streams.is_fork() else []:
            lane.close()
        self._forget()
        streams.give_back()

    def __del__(self) -> None:
        """Free a loaded model that nobody closed; its lanes end by themselves."""
        if self.__dict__.get("_thread"):
            owner = self._thread
            self._forget()
            if owner == threading.get_ident():
                streams.give_back()

    def _forget(self) -> None:
        if self._loras and not streams.is_fork():
            self._loras.close()
        self._loras = None
        self._frame, self._thread, self._lanes = None, 0, []
        self._in_flight.clear()
        self._last = None
        for name in (
            "_frames",
            "_encoder_hidden_states",
            "_control_hidden_states",
            "_noise",
            "_hidden_states",
        ):
            self.__dict__.pop(name, None)
        if not streams.is_fork():
            mx.clear_cache()
            residency.forget()

    def _loaded_frame(self) -> Frame:
        if self._frame is None:
            raise BackendError("mlx: backend is not loaded; call load() first")
        streams.check_fork()
        if threading.get_ident() != self._thread:
            raise BackendError(
                "mlx: called from another thread than load(); MLX streams belong to one thread; "
                "use the thread of load()"
            )
        return self._frame


def fused_unet(checkpoint: Checkpoint) -> FusedReader | None:
    """Open the tensors of the UNet that LoRAs change; None without any. Raises WeightsError."""
    adapters = checkpoint.adapters()
    return adapters.reader(checkpoint.unet_weights, "unet") if adapters else None


def load_vae(config: VAEConfig, path: Path, dtype: mx.Dtype) -> AutoencoderTiny | AutoencoderKL:
    """Build the VAE of the config and load its weights; raises WeightsError."""
    vae = AutoencoderTiny(config) if isinstance(config, TinyVAEConfig) else AutoencoderKL(config)
    load_weights(vae, path, dtype)
    return vae


def load_controlnet(control: ControlNet, dtype: mx.Dtype) -> ControlNetModel:
    """Build a ControlNet and load its weights; raises WeightsError."""
    model = ControlNetModel(control.config)
    load_weights(model, control.weights, dtype)
    return model


def _failed(error: BaseException | None) -> str:
    if error is not None and (ours := shortage(error)):
        return f"mlx: {ours}"
    return f"mlx: a frame failed ({error}); try a smaller --size, or close what else uses the GPU"


def _dtype_name(requested: str) -> str:
    """Resolve the dtype. Raises UsageError for half precision on a CPU, which is far too slow."""
    if requested == "auto":
        return "float16" if on_gpu() else "float32"
    if requested != "float32" and not on_gpu():
        raise UsageError(
            f"--dtype {requested}: MLX computes half precision on a CPU 30 to 40 times slower than "
            "float32; use --dtype float32, or a machine with a GPU"
        )
    return requested


_KEPT: type[Backend] = MlxBackend  # mypy holds it to the protocol
