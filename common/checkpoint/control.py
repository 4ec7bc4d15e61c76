"""A ControlNet on disk: its config, its weights, and the check that it fits a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .config.controlnet import ControlNetConfig
from .config.unet import UNetConfig
from .config.vae import VAEConfig
from .layout import controlnet_layout, skip_channels
from .manifest import verify_hashes
from .tensor_reader import check_values
from .tensors import check_layout
from .weights_file import weights_file


@dataclass(frozen=True, slots=True)
class ControlNet:
    """Hold a ControlNet's folder and config; tensors are not loaded."""

    folder: Path
    config: ControlNetConfig

    @classmethod
    def open(cls, folder: Path) -> "ControlNet":
        """Read the config of a ControlNet's folder. Raises ConfigError."""
        return cls(folder, ControlNetConfig.read(folder / "config.json"))

    @property
    def weights(self) -> Path:
        return weights_file(self.folder, "diffusion_pytorch_model")

    def verify(self, manifest: Path) -> None:
        """Check the name, shape and dtype of every tensor, then hashes. Raises WeightsError."""
        check_layout(self.weights, controlnet_layout(self.config))
        verify_hashes(self.folder, manifest)

    def check_values(self) -> None:
        """Look at every value. Raises WeightsError for NaN, infinities, or only zeros."""
        check_values(self.weights, controlnet_layout(self.config))

    def check_fit(self, unet: UNetConfig, vae: VAEConfig, model: str) -> None:
        """Raise ConfigError unless the ControlNet fits the UNet and the VAE.

        The residuals, cross_attention_dim, latent channels and reduction must agree.
        """
        mine, theirs = self.config.unet, unet
        for what, left, right in (
            ("cross_attention_dim", mine.cross_attention_dim, theirs.cross_attention_dim),
            ("in_channels", mine.in_channels, theirs.in_channels),
            ("number of residuals", len(skip_channels(mine)), len(skip_channels(theirs))),
            ("widths of residuals", skip_channels(mine), skip_channels(theirs)),
            ("width in the middle", mine.block_out_channels[-1], theirs.block_out_channels[-1]),
            ("reduction of the picture", self.config.reduction, vae.reduction),
            ("conditioning_channels", self.config.conditioning_channels, 3),
        ):
            if left != right:
                raise ConfigError(
                    f"{self.folder}: {what} is {left}, {model} needs {right}; this ControlNet was "
                    "trained for another model, use --control none or a ControlNet that fits"
                )
