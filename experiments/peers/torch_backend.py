"""diffusers in PyTorch behind the Backend protocol: the paper's Phase 1, and bench's peer.

The textbook frame in several forms, from what a user of diffusers writes first to the fastest that
PyTorch offers (`mode`, a setting), with as many frames in flight and in a batch as asked for.
Needs the `parity` extra. Never run in one process with `mlx_sdxs`: its BLAS takes over PyTorch's
as well and halves its speed. On MPS it is float16 with channels last, as Apple's users run it, with
one queue for all frames and an event for each; `compile` is torch.compile's own way there. No Mac
was at hand to try any of it, nor a GPU to try `cudnn_benchmark`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.utils import logging

from ...common.backend import copies, phases
from ...common.backend.description import Description
from ...common.backend.protocol import (
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_frame,
)
from ...common.backend.schedule import OneStep, one_step, seeded_noise
from ...common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ...common.checkpoint.config.vae import TinyVAEConfig
from ...common.checkpoint.find import Checkpoint
from ...common.errors import BackendError, UsageError
from .options import TorchOptions

logging.set_verbosity_error()  # advice on how else to load a model, once for every model

_DTYPES = {
    "auto": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# mode: channels last, the mode of torch.compile ('' is without), replay of a CUDA graph
_AUTOTUNE = "max-autotune-no-cudagraphs"  # its own graphs would share one buffer for all frames
MODES: Mapping[str, tuple[bool, str, bool]] = {
    "eager": (False, "", False),
    "channels_last": (True, "", False),
    "compile": (True, "default", False),
    "max-autotune": (True, _AUTOTUNE, False),
    "graph": (True, "", True),
    "compile+graph": (True, "default", True),
    "max-autotune+graph": (True, _AUTOTUNE, True),
}
_WARM_UP = 3


@dataclass
class TorchFrame:
    """The stages of a frame as functions of tensors on the device."""

    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    step: OneStep
    scaling: float
    dtype: torch.dtype
    memory_format: torch.memory_format
    timestep: torch.Tensor

    def encode(self, frame: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> float32 latents (B, C, H/8, W/8)."""
        image = frame.permute(0, 3, 1, 2).to(self.dtype) / 127.5 - 1
        encoded = self.vae.encode(image.contiguous(memory_format=self.memory_format))
        return (
            encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        ).float() * self.scaling

    def denoise(
        self, latents: torch.Tensor, encoder_hidden_states: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """float32 latents -> x0, float32 of the same shape; one prompt and noise for all."""
        step = self.step
        x_t = step.sqrt_alpha * latents + step.sqrt_one_minus_alpha * step.noise_scale * noise
        prompts = encoder_hidden_states.expand(len(latents), -1, -1)
        eps = self.unet(x_t.to(self.dtype), self.timestep, prompts).sample.float()
        return (x_t - step.sqrt_one_minus_alpha * eps) / step.sqrt_alpha

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """float32 x0 -> uint8 (B, H, W, 3)."""
        image = self.vae.decode((x0 / self.scaling).to(self.dtype)).sample.float()
        levels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return levels.permute(0, 2, 3, 1).contiguous()


class Event(Protocol):
    """What CUDA's and MPS' events have in common: a mark in a queue that can be waited for."""

    def record(self) -> None:
        """Mark what the current queue holds until now."""

    def synchronize(self) -> None:
        """Wait until all of it is done."""


@dataclass
class Slot:
    """A batch on its way: memory of its own, and on CUDA a stream, so that batches overlap.

    host_in, host_out: uint8 (B, H, W, 3), pinned on CUDA. picture: the same on the device. done: on
    a GPU, the end of its work alone: what was launched later is not waited for. render: picture ->
    tensor of the same shape on the device. given, left: frames put in, and not yet collected.
    """

    host_in: torch.Tensor
    host_out: torch.Tensor
    picture: torch.Tensor
    stream: "torch.cuda.Stream | None" = None
    done: Event | None = None
    render: Callable[[], torch.Tensor] = field(default=lambda: torch.empty(0))
    given: int = 0
    left: int = 0
    launched: bool = False

    @contextmanager
    def on_its_stream(self) -> Iterator[None]:
        """Let what is called inside run in this slot's stream, after what was asked before."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield

    def launch(self) -> None:
        """Start computing what was put in; returns before it is done on a GPU."""
        self.launched = True
        with self.on_its_stream():
            self.picture.copy_(self.host_in, non_blocking=True)
            self.host_out.copy_(self.render(), non_blocking=True)
            if self.done is not None:
                self.done.record()

    def wait(self) -> None:
        """Until `host_out` holds the pictures."""
        if self.done is not None:
            self.done.synchronize()


class TorchBackend:
    """Backend on CUDA, MPS or the CPU, whichever there is; float16 on a GPU, float32 on the CPU.

    Setting `mode`: one of MODES, 'channels_last' by default; 'graph' needs CUDA. depth, batch: the
    values in use. A batch is computed when it is full, or when its first frame is collected.
    """

    name = "torch"

    def __init__(self, checkpoint: Checkpoint, options: TorchOptions) -> None:
        checkpoint.check_size(options.size)
        self.mode, self.batch = options.mode, options.batch
        self.depth = options.in_flight()
        self._checkpoint = checkpoint
        self._size = options.size
        self.device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
        self._channels_last, self._compile_mode, self.graphed = MODES[self.mode]
        if self.graphed and self.device != "cuda":
            raise UsageError(
                f"torch: mode {self.mode} needs CUDA; there is only {self.device} here"
            )
        self._cudnn_benchmark = options.cudnn_benchmark
        if self._cudnn_benchmark and self.device != "cuda":
            raise UsageError(f"torch: cudnn_benchmark needs CUDA; there is only {self.device} here")
        self._dtype = _DTYPES[options.dtype] or (
            torch.float32 if self.device == "cpu" else torch.float16
        )
        self._slots: list[Slot] = []
        self._in_flight: deque[tuple[Slot, int, int]] = deque()  # slot, row in it, submitted (ns)

    @torch.inference_mode()
    def load(self) -> None:
        c = self._checkpoint
        if c.control or c.frame.steps > 1:
            raise BackendError(
                "torch: renders one step without a ControlNet; drop --control and --steps to "
                "compare with it"
            )
        if self._cudnn_benchmark:
            torch.backends.cudnn.benchmark = True  # of the process; otherwise it stays as it is
        vae_class = AutoencoderTiny if isinstance(c.vae, TinyVAEConfig) else AutoencoderKL
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        place = {"device": self.device, "dtype": self._dtype, "memory_format": layout}
        self.frame = TorchFrame(
            UNet2DConditionModel.from_pretrained(c.folder / "unet").to(**place).eval(),
            vae_class.from_pretrained(c.folder / c.vae_folder).to(**place).eval(),
            one_step(c.scheduler, c.frame),
            c.vae.scaling_factor,
            self._dtype,
            layout,
            # a tensor: as a number it would be copied to the device in every frame, which no graph
            # can hold
            torch.tensor(c.frame.timestep, device=self.device),
        )
        phases.reached(phases.WEIGHTS)
        self.encoder_hidden_states = torch.zeros(
            1, PROMPT_TOKENS, c.unet.cross_attention_dim, device=self.device, dtype=self._dtype
        )
        self.noise = torch.zeros(
            1, c.vae.latent_channels, *self._size.divided(c.vae.reduction), device=self.device
        )
        # compiled stage by stage: a profile then runs the very functions that the frame consists of
        stages = (self.frame.encode, self.frame.denoise, self.frame.decode)
        self.stages = [
            torch.compile(stage, dynamic=False, mode=self._compile_mode)
            if self._compile_mode
            else stage
            for stage in stages
        ]
        self.set_params(FrameParams())
        # Frames of a batch are collected one by one while the next batches fill up.
        batches = -(-self.depth // self.batch)
        self._slots = [self._slot() for _ in range(batches + (self.batch > 1))]
        blank = np.zeros((*self._size.shape, 3), np.uint8)
        for _ in range(self.batch):
            self.submit(blank)
        for _ in range(self.batch):
            self.collect(blank)

    @property
    def picture(self) -> torch.Tensor:
        """The first slot's memory on the device, uint8 (B, H, W, 3), for a profile."""
        return self._slots[0].picture

    def _slot(self) -> Slot:
        """Make one; on CUDA with a stream and, where the mode says so, a captured graph."""
        shape, cuda = (self.batch, *self._size.shape, 3), self.device == "cuda"
        host_in, host_out = (
            torch.zeros(shape, dtype=torch.uint8, pin_memory=cuda) for _ in range(2)
        )
        slot = Slot(host_in, host_out, host_in.to(self.device, copy=True))
        if cuda:
            slot.stream, slot.done = torch.cuda.Stream(), torch.cuda.Event()
        elif self.device == "mps":
            slot.done = torch.mps.Event()
        encode, denoise, decode = self.stages

        def render() -> torch.Tensor:
            return decode(denoise(encode(slot.picture), self.encoder_hidden_states, self.noise))

        slot.render = self.captured(render, slot.stream) if self.graphed else render
        return slot

    def captured(
        self, render: Callable[[], torch.Tensor], stream: "torch.cuda.Stream | None" = None
    ) -> Callable[[], torch.Tensor]:
        """Warm up and capture a CUDA graph of `render`; return its replay into the same tensor.

        stream: to capture in; a new one by default. cuBLAS has one workspace for a stream, and the
        graphs captured there share it: graphs that run at once need a stream each.
        """
        stream = stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                render()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            rendered = render()

        def replay() -> torch.Tensor:
            graph.replay()
            return rendered

        return replay

    @torch.inference_mode()
    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        check_conditioning(encoder_hidden_states, self._checkpoint.unet.cross_attention_dim)
        self._finish()
        # In place: a captured graph reads this very memory.
        self.encoder_hidden_states.copy_(torch.tensor(encoder_hidden_states))

    @torch.inference_mode()
    def set_params(self, params: FrameParams) -> None:
        if params.feedback:
            raise UsageError("torch: this peer has no latent feedback")
        self._finish()
        vae = self._checkpoint.vae
        noise = seeded_noise(params.seed, *self._size.divided(vae.reduction), vae.latent_channels)
        self.noise.copy_(torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()))

    def _finish(self) -> None:
        """Compute what was submitted, before something changes that it reads."""
        for slot in self._slots:
            if slot.given and not slot.launched:
                slot.launch()
            if slot.launched:
                slot.wait()

    @torch.inference_mode()
    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        check_frame(frame, (*self._size.shape, 3))
        submitted_ns = time.perf_counter_ns()
        if len(self._in_flight) >= self.depth:
            raise BackendError(
                f"torch: {self.depth} of {self.depth} frames are in flight; collect one first"
            )
        slot = self._open_slot()
        np.copyto(slot.host_in[slot.given].numpy(), frame)
        # Into the staging memory, and from there to the device.
        copies.count("backend in", 2 * frame.nbytes)
        self._in_flight.append((slot, slot.given, submitted_ns))
        slot.given += 1
        slot.left += 1
        if slot.given == self.batch:
            slot.launch()

    def _open_slot(self) -> Slot:
        """Return the slot that is being filled, or an empty one.

        Changes of prompt or seed break batches off; where that took every slot, one more is made.
        """
        filling = [slot for slot in self._slots if slot.given and not slot.launched]
        found = filling or [slot for slot in self._slots if not slot.given]
        if not found:
            found = [self._slot()]
            self._slots += found
        return found[0]

    @torch.inference_mode()
    def collect(self, out: np.ndarray) -> StageTimes:
        if not self._in_flight:
            raise BackendError("torch: collect() without a submitted frame")
        slot, row, submitted_ns = self._in_flight.popleft()
        if not slot.launched:  # no more frames came: the rest of the batch is computed for nothing
            slot.launch()
        slot.wait()
        np.copyto(out, slot.host_out[row].numpy())
        copies.count("backend out", 2 * out.nbytes)
        slot.left -= 1
        if not slot.left:
            slot.given, slot.launched = 0, False
        return StageTimes(time.perf_counter_ns() - submitted_ns)

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        elif self.device == "mps":
            torch.mps.synchronize()

    def memory(self) -> MemoryUse:
        if not hasattr(self, "frame"):
            return MemoryUse(0, 0, 0, 0)
        model = sum(p.nbytes for m in (self.frame.unet, self.frame.vae) for p in m.parameters())
        if self.device == "mps":
            return _mps_memory(model)
        if self.device != "cuda":
            return MemoryUse(0, 0, 0, model)
        active, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        return MemoryUse(active, torch.cuda.max_memory_allocated(), reserved - active, model)

    def describe(self) -> Description:
        device = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        facts = (
            ("mode", self.mode),
            ("batch", str(self.batch)),
            ("in flight", str(self.depth)),
            ("threads", str(torch.get_num_threads())),
        )
        if self._cudnn_benchmark:
            facts += (("cudnn benchmark", "on"),)
        return Description(self.name, device, str(self._dtype).removeprefix("torch."), facts)

    def close(self) -> None:
        """Wait for what the device still computes, then drop its memory, also if that failed."""
        try:
            for slot in self._slots:
                if slot.launched:
                    slot.wait()
        finally:
            self._in_flight.clear()
            self._slots = []
            for name in ("stages", "frame"):
                self.__dict__.pop(name, None)


def _mps_memory(model_bytes: int) -> MemoryUse:
    """Return what PyTorch accounts for on MPS.

    It counts no peak: in its place stands what the driver holds for the process, with the pools
    that tensors are taken from and that keep what was once needed.
    """
    active, held = torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
    return MemoryUse(active, held, max(0, held - active), model_bytes)
