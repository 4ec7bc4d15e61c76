"""diffusers in PyTorch behind the Backend protocol: the paper's Phase 1, and the peer to be measured against.

The textbook frame, eager, as a user of diffusers would write it. Needs the `parity` extra. Never
run in one process with `mlx_sdxs`: its BLAS takes over PyTorch's as well and halves its speed.
"""

import time
from collections import deque

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from ..common.backend import (
    BackendOptions,
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_frame,
)
from ..common.checkpoint import Checkpoint
from ..common.config import TinyVAEConfig
from ..common.errors import BackendError
from ..common.schedule import one_step, seeded_noise

_DTYPES = {"auto": None, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TorchBackend:
    """Backend on CUDA, MPS or the CPU, whichever there is; float16 on a GPU, float32 on the CPU."""

    name = "torch"
    depth = 1

    def __init__(self, checkpoint: Checkpoint, options: BackendOptions) -> None:
        checkpoint.check_size(options.size)
        self._checkpoint = checkpoint
        self._size = options.size
        self._device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        self._dtype = _DTYPES[options.dtype] or (torch.float32 if self._device == "cpu" else torch.float16)
        self._in_flight: deque[tuple[torch.Tensor, int]] = deque()

    def load(self) -> None:
        c = self._checkpoint
        if c.control or c.frame.steps > 1:
            raise BackendError("torch: renders one step without a ControlNet; drop --control and --steps to compare with it")
        vae_class = AutoencoderTiny if isinstance(c.vae, TinyVAEConfig) else AutoencoderKL
        place = {"device": self._device, "dtype": self._dtype, "memory_format": torch.channels_last}
        self._unet = UNet2DConditionModel.from_pretrained(c.folder / "unet").to(**place).eval()
        self._vae = vae_class.from_pretrained(c.folder / c.vae_folder).to(**place).eval()
        self._step = one_step(c.scheduler, c.frame)
        self._states = torch.zeros(1, 77, c.unet.cross_attention_dim, device=self._device, dtype=self._dtype)
        self.set_params(FrameParams())
        blank = np.zeros((self._size, self._size, 3), np.uint8)
        self.submit(blank)
        self.collect(blank)

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        check_conditioning(encoder_hidden_states, self._checkpoint.unet.cross_attention_dim)
        self._states = torch.tensor(encoder_hidden_states, device=self._device, dtype=self._dtype)

    def set_params(self, params: FrameParams) -> None:
        side = self._size // self._checkpoint.vae.reduction
        noise = seeded_noise(params.seed, side, side, self._checkpoint.vae.latent_channels)
        self._noise = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()).to(self._device)

    @torch.inference_mode()
    def submit(self, frame: np.ndarray) -> None:
        check_frame(frame, (self._size, self._size, 3))
        submitted_ns = time.perf_counter_ns()
        step, scaling = self._step, self._checkpoint.vae.scaling_factor
        image = torch.from_numpy(frame).to(self._device).permute(2, 0, 1)[None].to(self._dtype) / 127.5 - 1
        encoded = self._vae.encode(image.contiguous(memory_format=torch.channels_last))
        z = (encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()).float() * scaling
        noise = step.noise_scale * self._noise
        x_t = step.sqrt_alpha * z + step.sqrt_one_minus_alpha * noise
        eps = self._unet(x_t.to(self._dtype), step.timestep, self._states).sample.float()
        x0 = (x_t - step.sqrt_one_minus_alpha * eps) / step.sqrt_alpha
        decoded = self._vae.decode((x0 / scaling).to(self._dtype)).sample.float()
        picture = ((decoded[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        self._in_flight.append((picture, submitted_ns))

    def collect(self, out: np.ndarray) -> StageTimes:
        if not self._in_flight:
            raise BackendError("torch: collect() without a submitted frame")
        picture, submitted_ns = self._in_flight.popleft()
        np.copyto(out, picture.cpu().numpy())
        return StageTimes(time.perf_counter_ns() - submitted_ns)

    def memory(self) -> MemoryUse:
        model = sum(p.nbytes for m in (self._unet, self._vae) for p in m.parameters())
        if self._device != "cuda":
            return MemoryUse(0, 0, 0, model)
        active, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        return MemoryUse(active, torch.cuda.max_memory_allocated(), reserved - active, model)

    def describe(self) -> dict[str, str]:
        dtype = str(self._dtype).removeprefix("torch.")
        return {"backend": self.name, "device": self._device, "dtype": dtype, "threads": str(torch.get_num_threads())}

    def close(self) -> None:
        self._in_flight.clear()
        self.__dict__.pop("_unet", None)
        self.__dict__.pop("_vae", None)
