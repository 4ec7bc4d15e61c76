"""Our networks against outputs of diffusers and transformers for the same weights (no torch).

The stored outputs were computed in float64 by `experiments/parity/make_fixtures.py`; weights and
inputs are drawn again. `make parity` compares with the live libraries, full size too.
"""

import math
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from safetensors.numpy import load_file

from sdxs.common.checkpoint.config.vae import KLVAEConfig, TinyVAEConfig
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.prompt.text_encoder import gelu, quick_gelu
from sdxs.experiments.parity.control import run_control
from sdxs.experiments.parity.demos import DEMO_FIXTURES, demo_inputs, sketch_inputs
from sdxs.mac_check.fixtures import (
    FIXTURES,
    NAMES,
    PARTS,
    SHAPES,
    error,
    inputs_of,
    limit,
    open_parts,
    run_frame,
    tiny_checkpoint,
    tiny_inputs,
    weights_sample,
)
from sdxs.mlx_sdxs.networks.autoencoder_kl import AutoencoderKL
from sdxs.mlx_sdxs.networks.layers import GroupNorm
from sdxs.mlx_sdxs.networks.taesd import AutoencoderTiny
from sdxs.mlx_sdxs.networks.unet import GEGLU, UNet2DConditionModel

STORED = load_file(FIXTURES / "parity.safetensors")
STORED_DEMOS = load_file(DEMO_FIXTURES)
CASES = sorted(
    {(key.split("/")[0], key.split("/")[1]) for key in STORED if not key.endswith("/weights")}
)
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Tiny checkpoints by architecture, each written once."""
    base = tmp_path_factory.mktemp("parity")
    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = tiny_checkpoint(base, name)
        return written[name]

    return folder


def test_fixtures_cover_every_network_of_every_architecture() -> None:
    large = [(name, "vae_large") for name in NAMES if name.startswith("sdxs")]
    found = sorted(case for case in CASES if not case[1].startswith("frame "))
    assert sorted([(name, part) for name in NAMES for part in PARTS] + large) == found


@pytest.mark.parametrize("name", NAMES)
def test_fixtures_cover_two_frames_that_are_not_square(name: str, folders: Folders) -> None:
    shapes = SHAPES[open_checkpoint(folders(name)).size_multiple]
    labels = sorted(label for given, label in CASES if given == name and label.startswith("frame "))
    assert sorted(f"frame {size}" for size in shapes) == labels
    assert [size.width > size.height for size in shapes] == [True, False]
    for size in shapes:
        assert STORED[f"{name}/frame {size}/picture"].shape == (*size.shape, 3)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_drawn_as_when_the_fixtures_were_made(name: str, folders: Folders) -> None:
    np.testing.assert_allclose(weights_sample(folders(name)), STORED[f"{name}/weights"], rtol=1e-5)


@pytest.mark.parametrize(("name", "label"), CASES)
def test_equals_diffusers(name: str, label: str, folders: Folders) -> None:
    part, checkpoint = open_parts(folders(name))[label]
    outputs = PARTS[part](checkpoint, inputs_of(label, tiny_inputs(checkpoint)))
    assert outputs.keys() == {
        key.split("/")[2] for key in STORED if key.startswith(f"{name}/{label}/")
    }
    for what, ours in outputs.items():
        oracle = STORED[f"{name}/{label}/{what}"]
        assert error(what, ours, oracle) <= limit(what), what
        if what == "picture":  # one level off would pass, but cutting instead of rounding must not
            assert (ours == oracle).mean() > 0.99


@pytest.mark.parametrize(("name", "label"), [case for case in CASES if case[1].startswith("frame")])
def test_stored_pictures_can_tell_a_difference(name: str, label: str) -> None:
    picture = STORED[f"{name}/{label}/picture"]
    assert np.isin(picture, (0, 255)).mean() < 0.8  # a saturated value hides any error
    assert np.unique(picture).size > 200


# What follows is smaller than any tolerance: see the last of the traps, 1e-5 for a GroupNorm's eps.


def _norms(model: nn.Module) -> dict[str, nn.GroupNorm]:
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)
    }


def test_the_demo_equals_diffusers() -> None:
    checkpoint, inputs = demo_inputs()
    ours = run_frame(checkpoint, inputs)
    for what in ("x0", "picture"):
        assert error(what, ours[what], STORED_DEMOS[f"demo/{what}"]) < limit(what), what


def test_demo_sketch_equals_diffusers_with_control_and_without() -> None:
    """diffusers in float32 is 3.8e-6 off diffusers in float64; MLX 5.7e-6, and 2.2e-5 in the forms
    that it takes on a GPU.
    """
    ours = run_control(*sketch_inputs())
    for what in ("x0 controlled", "x0 free"):
        wanted = STORED_DEMOS[f"demo-sketch/{what}"]
        assert np.linalg.norm(ours[what] - wanted) < 5e-5 * np.linalg.norm(wanted), what


@pytest.mark.parametrize("name", NAMES)
def test_unet_norms_have_the_eps_of_diffusers(name: str, folders: Folders) -> None:
    checkpoint = open_checkpoint(folders(name))
    unet = UNet2DConditionModel(checkpoint.unet)
    norms = _norms(unet)
    assert norms and all(
        norm.pytorch_compatible and norm.num_groups == 8 for norm in norms.values()
    )
    inner = {key for key in norms if "attentions" in key}
    assert inner and all(key.endswith(".norm") for key in inner)
    assert {norms[key].eps for key in inner} == {1e-6}
    assert {norm.eps for key, norm in norms.items() if key not in inner} == {1e-5}
    assert {m.eps for _, m in unet.named_modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_full_vae_norms_have_the_eps_of_diffusers(folders: Folders) -> None:
    config = open_checkpoint(folders("sd-turbo")).vae
    assert isinstance(config, KLVAEConfig)
    norms = _norms(AutoencoderKL(config))
    assert norms and all(norm.pytorch_compatible and norm.eps == 1e-6 for norm in norms.values())


def test_taesd_has_no_norm_and_only_its_outer_convolutions_have_biases(
    tiny_sdxs: Checkpoint,
) -> None:
    assert isinstance(tiny_sdxs.vae, TinyVAEConfig)
    vae = AutoencoderTiny(tiny_sdxs.vae)
    assert not _norms(vae)
    bare = [n for n, m in vae.named_modules() if isinstance(m, nn.Conv2d) and "bias" not in m]
    assert sorted(bare) == sorted(
        [f"encoder.layers.{i}" for i in (2, 6, 10)] + [f"decoder.layers.{i}" for i in (6, 11, 16)]
    )


@pytest.mark.not_in_macos_shape(reason="a GPU uses MLX's own norm, and here that is the CPU's")
def test_group_norm_of_a_whole_picture_is_exact() -> None:
    """Bug: MLX's own, on a CPU, adds up a million values in one float32 and was off by 2e-4."""
    x = (
        np.random.Generator(np.random.PCG64(2)).standard_normal((1, 512, 512, 8), dtype=np.float32)
        + 1
    )
    wide = x.astype(np.float64).reshape(1, -1, 2, 4)
    expected = (wide - wide.mean((1, 3), keepdims=True)) / np.sqrt(
        wide.var((1, 3), keepdims=True) + 1e-6
    )
    ours = np.array(GroupNorm(2, 8, 1e-6)(mx.array(x)))
    np.testing.assert_allclose(ours, expected.reshape(x.shape), rtol=0, atol=1e-5)


def test_geglu_is_exact() -> None:
    gate = np.linspace(-4, 4, 33, dtype=np.float32)
    layer = GEGLU(1, 33)
    layer.proj.weight = mx.zeros((66, 1))
    layer.proj.bias = mx.array(np.concatenate([np.ones(33, np.float32), gate]))
    ours = np.array(layer(mx.zeros((1, 1))))[0]
    np.testing.assert_allclose(ours, _exact_gelu(gate), atol=1e-6)  # the tanh form is off by 5e-4


def test_text_activations_are_exact() -> None:
    x = np.linspace(-6, 6, 49, dtype=np.float32)
    np.testing.assert_allclose(gelu(x), _exact_gelu(x), atol=1e-6)
    np.testing.assert_allclose(
        quick_gelu(x), [v / (1 + math.exp(-1.702 * v)) for v in x], atol=1e-6
    )


def _exact_gelu(x: np.ndarray) -> list[float]:
    return [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()]
