"""Find, open and verify a checkpoint: a folder in the diffusers layout.

Search order: a path, the weights folder, the hub's cache on this machine, the hub. Only json, text
and safetensors files are read.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapt.fusing import Tensors
from ..adapt.loras import Adapters, Lora, open_tensors
from ..adapt.names import Network
from ..errors import ConfigError, UsageError, WeightsError
from ..files import expanded, user_cache
from ..picture.size import FrameSize, Size
from .config.frame import FrameConfig
from .config.scheduler import SchedulerConfig
from .config.text_encoder import CLIPTextConfig
from .config.unet import UNetConfig
from .config.vae import VAEConfig, read_vae_config
from .control import ControlNet
from .frame_sizes import check_memory, check_multiple
from .layout import Layout, text_encoder_layout, unet_layout, vae_layout
from .manifest import SUMS, verify_hashes
from .registry import ENTRIES, Entry, entry
from .tensor_reader import check_values
from .tensors import check_layout, read_header
from .weights_file import weights_file
from .whereabouts import no_checkpoint

PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
TEXT_PREFIX = "text_model."  # written by transformers before version 5
HUB_CACHE = "hub cache"
VAE_FOLDERS = ("vae", "vae_large")  # in the known checkpoints


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Hold a checkpoint's folder and its matching configs; tensors are not loaded.

    origin: place where it was found: "path", "weights", "hub cache" or "hub".
    loras: what changes its tensors; read the UNet's by `unet_tensors`.
    """

    name: str
    folder: Path
    origin: str
    vae_folder: str
    unet: UNetConfig
    vae: VAEConfig
    text_encoder: CLIPTextConfig
    scheduler: SchedulerConfig
    frame: FrameConfig
    control: ControlNet | None = None
    loras: tuple[Lora, ...] = ()

    def adapters(self) -> Adapters | None:
        """Open the LoRAs that have a weight; None without any. Raises WeightsError."""
        if not self.loras:
            return None
        layouts: dict[Network, Layout] = {
            "unet": unet_layout(self.unet),
            "text_encoder": text_encoder_layout(self.text_encoder),
        }
        return Adapters(self.loras, layouts)

    def unet_tensors(self) -> Tensors:
        """Open the tensors of the UNet, with the LoRAs in them. Raises WeightsError."""
        return open_tensors(self.unet_weights, self.adapters(), "unet")

    @property
    def unet_weights(self) -> Path:
        return weights_file(self.folder / "unet", "diffusion_pytorch_model")

    @property
    def vae_weights(self) -> Path:
        return weights_file(self.folder / self.vae_folder, "diffusion_pytorch_model")

    @property
    def text_encoder_weights(self) -> Path:
        return weights_file(self.folder / "text_encoder", "model")

    @property
    def size_multiple(self) -> int:
        """The divisor of both sides of a valid frame, in pixels."""
        return self.vae.reduction * self.unet.reduction

    def at(self, strength: float | None, steps: int | None) -> "Checkpoint":
        """Return the checkpoint with `--strength` and `--steps` applied.

        Raises UsageError for a value that the checkpoint does not support.
        """
        return replace(
            self,
            frame=self.frame.at(strength, steps, self.scheduler.num_train_timesteps, self.name),
        )

    def check_size(self, size: Size, value_bytes: int = 2) -> None:
        """Raise UsageError unless the networks accept a frame of this size and memory can hold it.

        value_bytes: of one number in the networks.
        """
        check_multiple(self.name, FrameSize.of(size), self.size_multiple)
        check_memory(self.name, self.unet, self.vae, FrameSize.of(size), value_bytes)

    def verify(self) -> None:
        """Check the name, shape and dtype of every tensor, then hashes. Raises WeightsError.

        A file is hashed once. Later checks compare its size and time with manifest.json.
        """
        check_layout(self.unet_weights, unet_layout(self.unet))
        check_layout(self.vae_weights, vae_layout(self.vae))
        self.check_text_encoder(say=True)
        manifest = weights_folder() / "manifest.json"
        if self.origin == HUB_CACHE:
            from .hub import record_cached

            record_cached(entry(self.name), self.folder, manifest, self.vae_folder)
        verify_hashes(self.folder, manifest)
        if self.control:
            self.control.verify(manifest)

    def check_text_encoder(self, say: bool = False) -> None:
        """Check the name, shape and dtype of the text encoder's tensors. Raises WeightsError.

        say: warn of tensors that are left out.
        """
        layout = text_encoder_layout(self.text_encoder)
        check_layout(self.text_encoder_weights, layout, prefix=self.text_prefix(), say=say)

    def check_values(self) -> None:
        """Look at every value of a checkpoint that `verify` admits: reads all of its weights.

        Raises WeightsError for a tensor with NaN or infinities, or a weight of zeros only.
        """
        prefix = self.text_prefix()
        check_values(self.unet_weights, unet_layout(self.unet))
        check_values(self.vae_weights, vae_layout(self.vae))
        check_values(
            self.text_encoder_weights,
            [prefix + name for name in text_encoder_layout(self.text_encoder)],
        )
        if self.control:
            self.control.check_values()

    def text_prefix(self) -> str:
        """Return the prefix of the tensor names in the text encoder's file: `text_model.` or ''."""
        return (
            TEXT_PREFIX
            if any(k.startswith(TEXT_PREFIX) for k in read_header(self.text_encoder_weights))
            else ""
        )


def open_checkpoint(
    folder: Path, name: str = "", origin: str = "path", vae_folder: str = "vae"
) -> Checkpoint:
    """Read a folder's configs and check that its parts fit together. Raises ConfigError."""
    scheduler = SchedulerConfig.read(folder / "scheduler" / "scheduler_config.json")
    checkpoint = Checkpoint(
        name=name or folder.resolve().name,
        folder=folder,
        origin=origin,
        vae_folder=vae_folder,
        unet=UNetConfig.read(folder / "unet" / "config.json"),
        vae=read_vae_config(folder / vae_folder / "config.json"),
        text_encoder=CLIPTextConfig.read(folder / "text_encoder" / "config.json"),
        scheduler=scheduler,
        frame=FrameConfig.read(
            folder / "sdxs.json",
            scheduler.num_train_timesteps,
            dict(ENTRIES[name].frame) if name in ENTRIES else {},
        ),
    )
    _check_fit(checkpoint)
    return checkpoint


def _check_fit(c: Checkpoint) -> None:
    text_width = c.text_encoder.hidden_size
    for what, left, right in (
        (
            "unet cross_attention_dim and text encoder hidden_size",
            c.unet.cross_attention_dim,
            text_width,
        ),
        ("unet in_channels and vae latent_channels", c.unet.in_channels, c.vae.latent_channels),
        ("unet out_channels and vae latent_channels", c.unet.out_channels, c.vae.latent_channels),
    ):
        if left != right:
            raise ConfigError(
                f"{c.folder}: {what} differ ({left}, {right}); these parts belong to different "
                "checkpoints, copy all folders from one"
            )
    if c.frame.size % c.size_multiple:
        raise ConfigError(
            f"{c.folder / 'sdxs.json'}: size is {c.frame.size}, expected a multiple of "
            f"{c.size_multiple}; write the size this checkpoint was trained for"
        )


def weights_folder() -> Path:
    """Return the folder of checkpoints.

    It is $SDXS_WEIGHTS, or `weights/` in a source checkout, or the user's cache.
    """
    if chosen := os.environ.get("SDXS_WEIGHTS"):
        return expanded(chosen)
    if (PACKAGE_FOLDER / "pyproject.toml").is_file():
        return PACKAGE_FOLDER / "weights"
    return user_cache() / "weights"


def local_folder(known: Entry, vae_folder: str = "vae") -> tuple[Path, str] | None:
    """Return (folder, origin) of a known checkpoint with this VAE if it is local, else None."""
    for base in (weights_folder(), PACKAGE_FOLDER / "weights"):
        folder = base / known.name
        if all((folder / part / "config.json").is_file() for part in ("unet", vae_folder)):
            return folder, "weights"
    if not known.repo or not known.revision:
        return None
    from .hub import cached_folder

    cached = cached_folder(known, vae_folder)
    return (cached, HUB_CACHE) if cached else None


def model_files(model: str, vae_folder: str = "vae") -> list[Path]:
    """Return the files and folders of a checkpoint by path or known name, if it is local."""
    here = None if _is_path(model) else local_folder(ENTRIES[model]) if model in ENTRIES else None
    folder = here[0] if here else expanded(model)
    if not (folder / "unet").is_dir():
        return []
    beside = [folder / name for name in ("model_index.json", "sdxs.json", SUMS)]
    parts = [each for each in folder.iterdir() if each.is_dir() or each in beside]
    return sorted({*parts, folder / vae_folder})


def control_files(model: str, control: str) -> list[Path]:
    """Return the folder of a ControlNet outside of its checkpoint's, if it is local."""
    if control not in ("none", "sketch"):
        return [expanded(control)]
    known = [control_folder(each) for each in ENTRIES.values() if each.controls == model]
    return [folder for folder in known if folder and control == "sketch"]


def with_control(checkpoint: Checkpoint, control: str) -> Checkpoint:
    """Return the checkpoint with the ControlNet of `--control`: 'none', 'sketch', or a folder.

    'sketch' is the checkpoint's folder `controlnet/`, or the known ControlNet for this checkpoint.
    Raises UsageError, WeightsError, ConfigError if it is missing or does not fit.
    """
    if control == "none":
        return checkpoint
    if control != "sketch":
        folder = expanded(control)
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"--control {control}: expected none, sketch, or a folder with a ControlNet's "
                "config.json and safetensors file"
            )
    elif (checkpoint.folder / "controlnet" / "config.json").is_file():
        folder = checkpoint.folder / "controlnet"
    else:
        folder = _known_control(checkpoint.name)
    found = ControlNet.open(folder)
    found.check_fit(checkpoint.unet, checkpoint.vae, checkpoint.name)
    return replace(checkpoint, control=found)


def control_folder(known: Entry) -> Path | None:
    """Return the local folder of a known ControlNet, or None."""
    places = (base / known.name for base in (weights_folder(), PACKAGE_FOLDER / "weights"))
    return next(
        (folder for folder in places if known.controls and (folder / "config.json").is_file()), None
    )


def _known_control(model: str) -> Path:
    known = next(
        (known for known in ENTRIES.values() if known.controls and known.controls == model), None
    )
    if known is None:
        which = ", ".join(f"{k.name} for {k.controls}" for k in ENTRIES.values() if k.controls)
        raise UsageError(
            f"--control sketch: there is no sketch ControlNet for {model} (known: {which}; "
            "demo-sketch has its own); use --model demo-sketch, --control none, or the folder of a "
            f"ControlNet trained for {model}"
        )
    if folder := control_folder(known):
        return folder
    raise WeightsError(
        f"--control sketch: {known.name} is not on this machine and cannot be pulled: "
        f"{known.pickle_only}"
    )


def _is_path(model: str) -> bool:
    """Tell whether `model` is a path: not a known name, and a folder or written as a path."""
    if model in ENTRIES:
        return False
    return Path(model).is_dir() or len(Path(model).parts) > 1 or model.startswith(("~", "."))


def _open_path(model: str, vae_folder: str) -> Checkpoint:
    path = expanded(model)
    if not (path / "unet" / "config.json").is_file():
        raise UsageError(no_checkpoint(model, path))
    return open_checkpoint(path, vae_folder=vae_folder)


def find(model: str, vae_folder: str = "vae", download: bool = True) -> Checkpoint:
    """Open a checkpoint by path or known name; pull it from the hub if it is not local.

    Raises UsageError (unknown model), WeightsError (neither local nor on the hub), ConfigError.
    """
    if _is_path(model):
        return _open_path(model, vae_folder)
    known = entry(model)
    here = local_folder(known, vae_folder)
    if here is None:
        if known.pickle_only:
            raise WeightsError(f"{model} cannot be pulled: {known.pickle_only}")
        if vae_folder not in VAE_FOLDERS:
            raise UsageError(
                f"--vae {vae_folder}: expected {' or '.join(VAE_FOLDERS)}, or a folder of a "
                "--model given by path"
            )
        if not known.repo and vae_folder != VAE_FOLDERS[0]:
            raise WeightsError(
                f"{model} with the VAE {vae_folder!r} is not in this installation; drop --vae, or "
                "choose a --model with this VAE"
            )
        if not known.repo:
            raise WeightsError(f"{model} is not in this installation; reinstall sdxs")
        from .hub import obtain

        here = obtain(known, weights_folder(), vae_folder, download), "hub"
    folder, origin = here
    return open_checkpoint(folder, known.name, origin, vae_folder)
