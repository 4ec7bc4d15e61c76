"""ControlNetModel's config.json, field names as in diffusers."""

from dataclasses import dataclass
from pathlib import Path

from .fields import Fields, JsonValue, read_json
from .unet import UNetConfig


@dataclass(frozen=True, slots=True)
class ControlNetConfig:
    """`config.json` of diffusers' ControlNetModel. `unet` describes the half of a UNet that it is
    a copy of.

    embedding: widths of the network that brings the condition down to the latents' size, outermost
    first. bgr: whether it was trained on conditions in OpenCV's order of colours; grey edges are
    the same in both.
    """

    unet: UNetConfig
    conditioning_channels: int
    embedding: tuple[int, ...]
    bgr: bool

    @property
    def reduction(self) -> int:
        """Factor by which the condition is larger than the latents."""
        return 1 << (len(self.embedding) - 1)

    @classmethod
    def read(cls, path: Path) -> "ControlNetConfig":
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, fields: Fields) -> "ControlNetConfig":
        fields.require("_class_name", ("ControlNetModel",))
        fields.require("global_pool_conditions", (False,), False)
        fields.require("controlnet_conditioning_channel_order", ("rgb", "bgr"), "rgb")
        downs = fields.values.get("down_block_types")
        ups: JsonValue = (
            [str(kind).replace("Down", "Up") for kind in reversed(downs)]
            if isinstance(downs, list)
            else None
        )
        half: dict[str, JsonValue] = {
            "_class_name": "UNet2DConditionModel",
            "up_block_types": ups,
            "out_channels": fields.values.get("in_channels", 4),
        }
        return cls(
            unet=UNetConfig.parse(Fields(dict(fields.values) | half, fields.where, fields.remedy)),
            conditioning_channels=fields.integer("conditioning_channels", 3),
            embedding=fields.integers("conditioning_embedding_out_channels", (16, 32, 96, 256)),
            bgr=fields.values.get("controlnet_conditioning_channel_order", "rgb") == "bgr",
        )
