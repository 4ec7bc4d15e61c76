"""diffusers in PyTorch behind the Backend protocol: the paper's Phase 1, and bench's peer.

The textbook frame in five forms, from what a user of diffusers writes first to the fastest that
PyTorch offers (`mode`, a setting). Needs the `parity` extra. Never run in one process with
`mlx_sdxs`: its BLAS takes over PyTorch's as well and halves its speed.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

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
# mode: channels last, torch.compile, replay of a CUDA graph
MODES = {
    "eager": (False, False, False),
    "channels_last": (True, False, False),
    "compile": (True, True, False),
    "graph": (True, False, True),
    "compile+graph": (True, True, True),
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
        """uint8 (H, W, 3) -> float32 latents (1, C, H/8, W/8)."""
        image = frame.permute(2, 0, 1)[None].to(self.dtype) / 127.5 - 1
        encoded = self.vae.encode(image.contiguous(memory_format=self.memory_format))
        return (
            encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        ).float() * self.scaling

    def denoise(
        self, latents: torch.Tensor, encoder_hidden_states: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """float32 latents -> x0, float32 of the same shape."""
        step = self.step
        x_t = step.sqrt_alpha * latents + step.sqrt_one_minus_alpha * step.noise_scale * noise
        eps = self.unet(x_t.to(self.dtype), self.timestep, encoder_hidden_states).sample.float()
        return (x_t - step.sqrt_one_minus_alpha * eps) / step.sqrt_alpha

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """float32 x0 -> uint8 (H, W, 3)."""
        image = self.vae.decode((x0 / self.scaling).to(self.dtype)).sample.float()
        return (
            ((image[0] + 1) * 127.5)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
            .permute(1, 2, 0)
            .contiguous()
        )


class TorchBackend:
    """Backend on CUDA, MPS or the CPU, whichever there is; float16 on a GPU, float32 on the CPU.

    Setting `mode`: one of MODES, 'channels_last' by default; 'graph' needs CUDA.
    """

    name = "torch"
    depth = 1

    def __init__(self, checkpoint: Checkpoint, options: TorchOptions) -> None:
        checkpoint.check_size(options.size)
        self.mode = options.mode
        self._checkpoint = checkpoint
        self._size = options.size
        self.device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
        self._channels_last, self._compiled, self.graphed = MODES[self.mode]
        if self.graphed and self.device != "cuda":
            raise UsageError(
                f"torch: mode {self.mode} needs CUDA; there is only {self.device} here"
            )
        self._dtype = _DTYPES[options.dtype] or (
            torch.float32 if self.device == "cpu" else torch.float16
        )
        self._in_flight: deque[int] = deque()

    @torch.inference_mode()
    def load(self) -> None:
        c = self._checkpoint
        if c.control or c.frame.steps > 1:
            raise BackendError(
                "torch: renders one step without a ControlNet; drop --control and --steps to "
                "compare with it"
            )
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
        pinned = self.device == "cuda"
        self._host_in = torch.zeros(*self._size.shape, 3, dtype=torch.uint8, pin_memory=pinned)
        self._host_out = torch.zeros(*self._size.shape, 3, dtype=torch.uint8, pin_memory=pinned)
        self.picture = self._host_in.to(self.device, copy=True)
        self.set_params(FrameParams())
        # compiled stage by stage: a profile then runs the very functions that the frame consists of
        stages = (self.frame.encode, self.frame.denoise, self.frame.decode)
        self.stages = (
            [torch.compile(stage, dynamic=False) for stage in stages]
            if self._compiled
            else list(stages)
        )
        self._render = self._prepared()
        blank = np.zeros((*self._size.shape, 3), np.uint8)
        self.submit(blank)
        self.collect(blank)

    def _prepared(self) -> Callable[[], torch.Tensor]:
        """The frame from buffer to buffer; as a graph, warmed up and captured."""
        encode, denoise, decode = self.stages

        def render() -> torch.Tensor:
            return decode(denoise(encode(self.picture), self.encoder_hidden_states, self.noise))

        return self.captured(render) if self.graphed else render

    def captured(self, render: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Warm up and capture a CUDA graph of `render`; return its replay into the same tensor."""
        aside = torch.cuda.Stream()
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                render()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            rendered = render()

        def replay() -> torch.Tensor:
            graph.replay()
            return rendered

        return replay

    @torch.inference_mode()
    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        check_conditioning(encoder_hidden_states, self._checkpoint.unet.cross_attention_dim)
        # In place: a captured graph reads this very memory.
        self.encoder_hidden_states.copy_(torch.tensor(encoder_hidden_states))

    @torch.inference_mode()
    def set_params(self, params: FrameParams) -> None:
        if params.feedback:
            raise UsageError("torch: this peer has no latent feedback")
        vae = self._checkpoint.vae
        noise = seeded_noise(params.seed, *self._size.divided(vae.reduction), vae.latent_channels)
        self.noise.copy_(torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()))

    @torch.inference_mode()
    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        check_frame(frame, (*self._size.shape, 3))
        submitted_ns = time.perf_counter_ns()
        if self._in_flight:
            raise BackendError("torch: a frame is in flight already; collect it first")
        np.copyto(self._host_in.numpy(), frame)
        # Into the staging memory, and from there to the device.
        copies.count("backend in", 2 * frame.nbytes)
        self.picture.copy_(self._host_in, non_blocking=True)
        self._host_out.copy_(self._render(), non_blocking=True)
        self._in_flight.append(submitted_ns)

    def collect(self, out: np.ndarray) -> StageTimes:
        if not self._in_flight:
            raise BackendError("torch: collect() without a submitted frame")
        submitted_ns = self._in_flight.popleft()
        self.wait()
        np.copyto(out, self._host_out.numpy())
        copies.count("backend out", 2 * out.nbytes)
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
        if self.device != "cuda":
            return MemoryUse(0, 0, 0, model)
        active, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        return MemoryUse(active, torch.cuda.max_memory_allocated(), reserved - active, model)

    def describe(self) -> Description:
        device = torch.cuda.get_device_name() if self.device == "cuda" else self.device
        facts = (("mode", self.mode), ("threads", str(torch.get_num_threads())))
        return Description(self.name, device, str(self._dtype).removeprefix("torch."), facts)

    def close(self) -> None:
        self._in_flight.clear()
        for name in ("_render", "stages", "frame"):
            self.__dict__.pop(name, None)
