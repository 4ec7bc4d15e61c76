"""Folding changes the work and not the picture."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from sdxs.common.checkpoint.find import open_checkpoint
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from sdxs.mlx_sdxs.fast.fold import fold, prompt_products
from sdxs.mlx_sdxs.networks.layers import load_weights
from sdxs.mlx_sdxs.networks.unet import UNet2DConditionModel

NAMES = ["sdxs-512-0.9", "sdxs-512-dreamshaper", "sd-turbo", "tiny-sd", "small-sd"]


def random(shape: tuple[int, ...], seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


@pytest.fixture(params=NAMES)
def unets(
    request: pytest.FixtureRequest, tmp_path
) -> tuple[UNet2DConditionModel, UNet2DConditionModel, int]:
    checkpoint = open_checkpoint(
        write_checkpoint(tmp_path / "c", tiny(architecture(request.param))), request.param
    )
    made = []
    for _ in range(2):
        made.append(UNet2DConditionModel(checkpoint.unet))
        load_weights(made[-1], checkpoint.unet_weights, mx.float32)
    return made[0], made[1], checkpoint.unet.cross_attention_dim


def test_the_folded_unet_is_the_plain_one(unets) -> None:
    plain, folded, width = unets
    fold(folded, 999.0)
    sample, states = (
        random((1, 16, 16, plain.conv_in.weight.shape[-1]), 1),
        random((1, 77, width), 2),
    )
    expected = plain.features(sample, 999.0, states)
    products = prompt_products(folded, states)
    got = folded.features(sample, None, iter(products))
    assert float(mx.abs(got - expected).max() / mx.abs(expected).max()) < 1e-5
    # the same through the raw prompt, and another timestep is another picture
    assert mx.array_equal(folded.features(sample, None, states), got)
    other = plain.features(sample, 500.0, states)
    assert float(mx.abs(other - expected).max() / mx.abs(expected).max()) > 1e-3


@pytest.mark.parametrize("prompt", [False, True])
def test_several_pictures_under_one_prompt(unets, prompt: bool) -> None:
    """Also with cross-attention in two products."""
    plain, folded, width = unets
    fold(folded, 999.0, prompt)
    sample, states = (
        random((3, 16, 16, plain.conv_in.weight.shape[-1]), 1),
        random((1, 77, width), 2),
    )
    expected = plain.features(sample, 999.0, states)
    assert mx.allclose(
        expected[1:2], plain.features(sample[1:2], 999.0, states), rtol=1e-4, atol=1e-4
    )
    products = prompt_products(folded, states)
    assert (products[0][0].ndim == 2) == prompt
    left = iter(products)
    got = folded.features(sample, None, left)
    assert float(mx.abs(got - expected).max() / mx.abs(expected).max()) < 1e-5
    assert next(left, None) is None


def test_every_product_of_the_prompt_is_used_once(unets) -> None:
    _, folded, width = unets
    fold(folded, 999.0)
    sample, states = (
        random((1, 16, 16, folded.conv_in.weight.shape[-1]), 1),
        random((1, 77, width), 2),
    )
    left = iter(prompt_products(folded, states))
    mx.eval(folded.features(sample, None, left))
    assert next(left, None) is None


def test_what_is_folded_away_is_not_kept(unets) -> None:
    plain, folded, _ = unets
    fold(folded, 999.0)
    names = {name for name, _ in tree_flatten(folded.parameters())}
    assert not any("time_emb" in name for name in names)
    assert any("time_emb" in name for name, _ in tree_flatten(plain.parameters()))
