"""The CPU's gradient of a convolution is the one MLX itself derives."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from sdxs.experiments.distill.conv_gradient import TrainableConv2d, prepare


@pytest.mark.parametrize(
    ("side", "stride", "padding", "size"),
    [
        (3, 1, 1, (12, 10)),
        (3, 2, 1, (12, 10)),
        (3, 2, 1, (11, 9)),
        (1, 1, 0, (5, 6)),
        (3, 1, 0, (7, 8)),
    ],
)
def test_gradient_of_input_weight_and_bias(
    side: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    mx.random.seed(7)
    conv = nn.Conv2d(5, 6, side, stride=stride, padding=padding)
    x = mx.random.normal((2, *size, 5))
    wanted = mx.random.normal(conv(x).shape)

    def loss(conv: nn.Conv2d, x: mx.array) -> mx.array:
        return mx.square(conv(x) - wanted).sum()

    plain, of_weights = loss(conv, x), nn.value_and_grad(conv, lambda x: loss(conv, x))(x)[1]
    of_input = mx.grad(lambda x: loss(conv, x))(x)
    mx.eval(plain, of_weights, of_input)
    conv.__class__ = TrainableConv2d
    ours = nn.value_and_grad(conv, lambda x: loss(conv, x))(x)[1]
    assert mx.allclose(loss(conv, x), plain)
    for key, value in of_weights.items():
        # float32 sums of 200 products.
        assert mx.allclose(ours[key], value, rtol=1e-4, atol=1e-3), key
    assert mx.allclose(mx.grad(lambda x: loss(conv, x))(x), of_input, rtol=1e-4, atol=1e-3)


def test_every_convolution_of_a_module_is_prepared_and_keeps_its_keys() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1))
    )
    before = nn.utils.tree_flatten(module.parameters())
    prepare(module)
    after = nn.utils.tree_flatten(module.parameters())
    assert [key for key, _ in before] == [key for key, _ in after]
    if mx.default_device().type == mx.DeviceType.cpu:
        assert sum(type(m) is TrainableConv2d for _, m in module.named_modules()) == 2
