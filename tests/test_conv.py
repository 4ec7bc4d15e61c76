"""Convolutions in every form, against MLX's own and against exact arithmetic."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from sdxs.mlx_sdxs.fast import conv as module
from sdxs.mlx_sdxs.fast.conv import (
    FoldedConv,
    best_form,
    convolve,
    fold_convolutions,
    minimal_filter,
    transform_weight,
)

FORMS = ["direct", "rows4", "tiles4", "tiles2", "shifts"]


def random(shape: tuple[int, ...], seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("outputs", [2, 4])
def test_minimal_filter_is_exact(outputs: int) -> None:
    a, g, b = minimal_filter(outputs)
    generator = np.random.default_rng(0)
    taps, inputs = generator.standard_normal(3), generator.standard_normal(outputs + 2)
    expected = np.correlate(inputs, taps, "valid")
    np.testing.assert_allclose(a @ ((g @ taps) * (b @ inputs)), expected, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("batch", "height", "width", "inputs", "outputs"),
    [(1, 8, 8, 5, 7), (2, 12, 8, 16, 3), (1, 4, 20, 3, 4), (1, 16, 16, 64, 32)],
)
def test_every_form_is_the_same_convolution(
    form: str, batch: int, height: int, width: int, inputs: int, outputs: int
) -> None:
    x, weight = random((batch, height, width, inputs)), random((outputs, 3, 3, inputs), 1)
    got = convolve(x, transform_weight(weight, form), form)
    expected = mx.conv2d(x, weight, padding=1)
    assert got.shape == expected.shape
    assert float(mx.abs(got - expected).max() / mx.abs(expected).max()) < 1e-5


def test_a_folded_network_is_the_same_and_drops_what_it_no_longer_needs() -> None:
    chain = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.Conv2d(32, 4, 1),
        nn.Conv2d(4, 16, 3, padding=1),
        nn.Conv2d(16, 3, 3, padding=1),
    )
    x = random((1, 64, 64, 3))
    expected = chain(x)
    fold_convolutions(chain)
    got = chain(x)
    assert float(mx.abs(got - expected).max() / mx.abs(expected).max()) < 1e-5
    kinds = [type(layer).__name__ for layer in chain.layers]
    assert kinds == [
        "FoldedConv",
        "ReLU",
        *["FoldedConv"] * 3,
        "Conv2d",
        "FoldedConv",
        "FoldedConv",
    ]
    assert chain.layers[3].weight.shape == (3, 6, 16, 32)
    assert mx.array_equal(chain(x), got)


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ((64, 64, 320, 320), "tiles4"),
        ((16, 16, 1280, 1280), "tiles2"),
        ((512, 512, 64, 64), "rows4"),
        ((512, 512, 64, 3), "shifts"),
        ((512, 512, 3, 64), "direct"),
        ((90, 90, 320, 320), "direct"),
        ((8, 8, 128, 128), "direct"),
        ((32, 32, 64, 32), "tiles4"),
        ((32, 32, 16, 16), "rows4"),
    ],
)
def test_the_form_follows_the_shape(shape: tuple[int, int, int, int], form: str) -> None:
    assert best_form(*shape) == form


@pytest.mark.parametrize(("height", "width", "inputs"), [(16, 12, 5), (8, 8, 16), (24, 20, 3)])
def test_windows_are_a_convolution_of_stride_two(height: int, width: int, inputs: int) -> None:
    x, weight, bias = (
        random((2, height, width, inputs)),
        random((7, 3, 3, inputs), 1),
        random((7,), 2),
    )
    got = convolve(x, transform_weight(weight, "windows"), "windows", bias, stride=2)
    expected = mx.conv2d(x, weight, stride=2, padding=1) + bias
    assert got.shape == expected.shape
    assert float(mx.abs(got - expected).max() / mx.abs(expected).max()) < 1e-5


@pytest.mark.parametrize(
    ("form", "height", "stride"),
    [("windows", 16, 1), ("windows", 15, 2), ("rows4", 16, 2), ("shifts", 16, 2)],
)
def test_a_form_refuses_what_it_cannot_take(form: str, height: int, stride: int) -> None:
    weight = transform_weight(random((4, 3, 3, 4)), form)
    with pytest.raises(
        ValueError, match=f"form '{form}' cannot take a map of {height} x 16 with stride {stride}"
    ):
        convolve(random((1, height, 16, 4)), weight, form, stride=stride)


def test_an_odd_map_of_stride_two_stays_with_mlx() -> None:
    assert best_form(32, 32, 24, 24, stride=2) == "windows"
    assert best_form(33, 32, 24, 24, stride=2) == best_form(32, 33, 24, 24, stride=2) == "direct"


@pytest.mark.parametrize("form", ["rows4", "tiles4", "tiles2", "windows"])
def test_strips_make_the_same_picture(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stride = 2 if form == "windows" else 1
    x, weight, bias = random((1, 40, 64, 4)), random((6, 3, 3, 4), 1), random((6,), 2)
    prepared = transform_weight(weight, form)
    assert module._strip_rows(x, prepared) == 40  # too small to be cut
    whole = convolve(x, prepared, form, bias, stride)
    monkeypatch.setattr(
        module, "_STRIP_BYTES", 12 * 64 * 4 * 4
    )  # twelve rows: 40 are three strips and a short one
    monkeypatch.setattr(module, "_STRIPS", 2)
    cut = module._convolve_one(x, prepared, form, bias)
    assert module._strip_rows(x, prepared) == 12
    assert float(mx.abs(cut - whole).max() / mx.abs(whole).max()) < 1e-6


def test_a_large_map_is_cut_and_heavy_weights_are_not() -> None:
    def rows(side: int, channels: int, form: str) -> int:
        weight = transform_weight(mx.zeros((channels, 3, 3, channels)), form)
        return module._strip_rows(mx.zeros((1, side, side, channels)), weight)

    assert rows(512, 64, "rows4") == 32 and rows(256, 64, "rows4") == 64
    assert rows(128, 64, "rows4") == 128  # all of it stays in the cache anyway
    assert rows(128, 320, "tiles4") == 128  # the weights would be read again for every strip


def test_the_matrices_are_made_once() -> None:
    layer = FoldedConv(nn.Conv2d(16, 16, 3, padding=1))
    module._transforms.cache_clear()
    for _ in range(3):
        mx.eval(layer(random((1, 32, 32, 16))))
    assert module._transforms.cache_info().misses == 1
