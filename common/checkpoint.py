"""Find, open and verify a checkpoint: a folder in the diffusers layout.

Looked for in this order: a path, the weights folder, the hub's cache on this machine, the hub.
Only json, text and safetensors files are ever read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from .config import (
    CLIPTextConfig, FrameConfig, SchedulerConfig, TinyVAEConfig, UNetConfig, VAEConfig, read_vae_config,
)
from .errors import ConfigError, UsageError, WeightsError
from .layout import text_encoder_layout, unet_layout, vae_layout
from .manifest import verify_hashes
from .registry import ENTRIES, Entry, entry
from .tensors import check_layout, read_header

PACKAGE_FOLDER = Path(__file__).resolve().parent.parent
TEXT_PREFIX = "text_model."  # transformers before version 5 wrote it


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk, its configs read and found to fit each other; tensors are not loaded."""

    name: str
    folder: Path
    origin: str
    vae_folder: str
    unet: UNetConfig
    vae: VAEConfig
    text_encoder: CLIPTextConfig
    scheduler: SchedulerConfig
    frame: FrameConfig

    @property
    def unet_weights(self) -> Path:
        return self.folder / "unet" / "diffusion_pytorch_model.safetensors"

    @property
    def vae_weights(self) -> Path:
        return self.folder / self.vae_folder / "diffusion_pytorch_model.safetensors"

    @property
    def text_encoder_weights(self) -> Path:
        return self.folder / "text_encoder" / "model.safetensors"

    @property
    def size_multiple(self) -> int:
        """A frame's side must be a multiple of this many pixels."""
        return self.vae.reduction * self.unet.reduction

    def check_size(self, size: int) -> None:
        """Raise UsageError unless the networks can take a frame of `size` pixels a side."""
        multiple = self.size_multiple
        if size < multiple or size % multiple:
            nearest = max(multiple, round(size / multiple) * multiple)
            raise UsageError(f"--size {size}: {self.name} needs a multiple of {multiple}; the nearest is {nearest}")

    def verify(self) -> None:
        """Check names, shapes and dtypes of every tensor, then recorded hashes. Raises WeightsError."""
        check_layout(self.unet_weights, unet_layout(self.unet))
        check_layout(self.vae_weights, vae_layout(self.vae))
        check_layout(
            self.text_encoder_weights, text_encoder_layout(self.text_encoder), ("F32", "F16"),
            ignored=("embeddings.position_ids",), prefix=self.text_prefix(),
        )
        verify_hashes(self.folder, weights_folder() / "manifest.json")

    def text_prefix(self) -> str:
        """What the text encoder's file puts before every tensor name: `text_model.` or nothing."""
        return TEXT_PREFIX if any(k.startswith(TEXT_PREFIX) for k in read_header(self.text_encoder_weights)) else ""


def open_checkpoint(folder: Path, name: str = "", origin: str = "path", vae_folder: str = "vae") -> Checkpoint:
    """Read a folder's configs and check that its parts fit together. Raises ConfigError."""
    scheduler = SchedulerConfig.read(folder / "scheduler" / "scheduler_config.json")
    checkpoint = Checkpoint(
        name=name or folder.name,
        folder=folder,
        origin=origin,
        vae_folder=vae_folder,
        unet=UNetConfig.read(folder / "unet" / "config.json"),
        vae=read_vae_config(folder / vae_folder / "config.json"),
        text_encoder=CLIPTextConfig.read(folder / "text_encoder" / "config.json"),
        scheduler=scheduler,
        frame=FrameConfig.read(folder / "sdxs.json", scheduler.num_train_timesteps),
    )
    _check_fit(checkpoint)
    return checkpoint


def _check_fit(c: Checkpoint) -> None:
    for what, left, right in (
        ("unet cross_attention_dim and text encoder hidden_size", c.unet.cross_attention_dim, c.text_encoder.hidden_size),
        ("unet in_channels and vae latent_channels", c.unet.in_channels, c.vae.latent_channels),
        ("unet out_channels and vae latent_channels", c.unet.out_channels, c.vae.latent_channels),
    ):
        if left != right:
            raise ConfigError(f"{c.folder}: {what} differ ({left}, {right}); these parts are of different checkpoints")


def weights_folder() -> Path:
    """Where checkpoints are kept and written: $SDXS_WEIGHTS, a source checkout's weights/, or the user's cache."""
    if os.environ.get("SDXS_WEIGHTS"):
        return Path(os.environ["SDXS_WEIGHTS"])
    if (PACKAGE_FOLDER / "pyproject.toml").is_file():
        return PACKAGE_FOLDER / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sdxs" / "weights"


def local_folder(known: Entry, vae_folder: str = "vae") -> tuple[Path, str] | None:
    """Return (folder, origin) of a known checkpoint on this machine, or None."""
    for base in (weights_folder(), PACKAGE_FOLDER / "weights"):
        if (base / known.name / "unet" / "config.json").is_file():
            return base / known.name, "weights"
    if not known.repo or not known.revision:
        return None
    from .hub import cached_folder

    cached = cached_folder(known, vae_folder)
    return (cached, "hub cache") if cached else None


def find(model: str, vae_folder: str = "vae", download: bool = True) -> Checkpoint:
    """Open a checkpoint by path or known name, pulling it from the hub if it is nowhere here.

    Raises UsageError (no such model), WeightsError (not here and not to be had), ConfigError.
    """
    path = Path(model).expanduser()
    if model not in ENTRIES and (path.is_dir() or len(path.parts) > 1 or model.startswith(("~", "."))):
        if not (path / "unet" / "config.json").is_file():
            raise UsageError(
                f"--model {model}: no checkpoint there; expected a folder in the diffusers layout "
                "(unet/, vae/, text_encoder/, tokenizer/, scheduler/), or a name from `sdxs weights list`"
            )
        return open_checkpoint(path, vae_folder=vae_folder)
    known = entry(model)
    here = local_folder(known, vae_folder)
    if here is None:
        if known.pickle_only:
            raise WeightsError(f"{model} cannot be pulled: {known.pickle_only}")
        if not download or not known.repo:
            raise WeightsError(f"{model} is not on this machine; run `sdxs weights pull {model}`")
        from .hub import pull

        here = pull(known, weights_folder(), vae_folder), "hub"
    folder, origin = here
    return open_checkpoint(folder, known.name, origin, vae_folder)
