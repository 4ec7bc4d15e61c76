"""The attribute trees of the MLX modules, the layout derived from the config and the published
sizes agree.

Full size throughout: parameters stay lazy, so building a network costs milliseconds and no memory.
"""

import mlx.core as mx
import mlx.nn as nn
import pytest

from sdxs.common.checkpoint.config.fields import Fields
from sdxs.common.checkpoint.config.text_encoder import CLIPTextConfig
from sdxs.common.checkpoint.config.unet import UNetConfig
from sdxs.common.checkpoint.config.vae import KLVAEConfig, TinyVAEConfig
from sdxs.common.checkpoint.layout import (
    Layout,
    parameter_count,
    text_encoder_layout,
    unet_layout,
    vae_layout,
)
from sdxs.common.testing.random_checkpoint import Architecture, architecture, tiny
from sdxs.mac_check.fixtures import NAMES
from sdxs.mlx_sdxs.networks.autoencoder_kl import AutoencoderKL
from sdxs.mlx_sdxs.networks.taesd import AutoencoderTiny
from sdxs.mlx_sdxs.networks.unet import UNet2DConditionModel

UNET_MILLIONS = {
    "sdxs-512-0.9": 328.18,
    "sdxs-512-dreamshaper": 315.75,
    "sd-turbo": 865.91,
    "small-sd": 579.38,
    "tiny-sd": 323.38,
}
# CLIP ViT-L/14's text tower, and OpenCLIP ViT-H/14's without its last layer.
TEXT_MILLIONS = {768: 123.06, 1024: 340.39}


def _configs(name: str, size: str) -> Architecture:
    return tiny(architecture(name)) if size == "tiny" else architecture(name)


def _file_shapes(model: nn.Module) -> Layout:
    """Keys and shapes of a module's parameters as a checkpoint stores them: convolutions O, I, kH,
    kW.
    """
    shapes = {}
    for key, array in nn.utils.tree_flatten(model.parameters()):
        assert isinstance(array, mx.array)
        shape = array.shape
        shapes[key] = (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else tuple(shape)
    return shapes


@pytest.mark.parametrize("size", ["tiny", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_unet_tree_equals_the_layout(name: str, size: str) -> None:
    config = UNetConfig.parse(Fields(_configs(name, size)["unet"], name))
    assert _file_shapes(UNet2DConditionModel(config)) == unet_layout(config)


@pytest.mark.parametrize("size", ["tiny", "full"])
@pytest.mark.parametrize("part", ["vae", "vae_large"])
def test_vae_tree_equals_the_layout(part: str, size: str) -> None:
    fields = Fields(_configs("sdxs-512-0.9", size)[part], part)
    if fields.values["_class_name"] == "AutoencoderTiny":
        config = TinyVAEConfig.parse(fields)
        assert _file_shapes(AutoencoderTiny(config)) == vae_layout(config)
    else:
        large = KLVAEConfig.parse(fields)
        assert _file_shapes(AutoencoderKL(large)) == vae_layout(large)


@pytest.mark.parametrize("name", NAMES)
def test_unet_has_the_published_number_of_parameters(name: str) -> None:
    count = parameter_count(unet_layout(UNetConfig.parse(Fields(architecture(name)["unet"], name))))
    assert round(count / 1e6, 2) == UNET_MILLIONS[name]


def test_vaes_have_the_published_number_of_parameters() -> None:
    configs = architecture("sdxs-512-0.9")
    assert (
        round(
            parameter_count(vae_layout(TinyVAEConfig.parse(Fields(configs["vae"], "vae")))) / 1e6, 2
        )
        == 2.45
    )
    large = KLVAEConfig.parse(Fields(configs["vae_large"], "vae_large"))
    assert round(parameter_count(vae_layout(large)) / 1e6, 2) == 83.65


@pytest.mark.parametrize("name", NAMES)
def test_text_encoder_has_the_published_number_of_parameters(name: str) -> None:
    text = architecture(name)["text_encoder"]
    config = CLIPTextConfig(
        **{key: text[key] for key in CLIPTextConfig.__dataclass_fields__}  # type: ignore[arg-type]
    )
    assert (
        round(parameter_count(text_encoder_layout(config)) / 1e6, 2)
        == TEXT_MILLIONS[config.hidden_size]
    )
