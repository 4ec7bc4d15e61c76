"""CPU forms of activations and attention, against NumPy in float64."""

import math
import threading

import mlx.core as mx
import numpy as np
import pytest

from sdxs.mlx_sdxs.fast import ops

pytestmark = pytest.mark.skipif(
    ops.on_gpu(), reason="the CPU forms are not used where MLX has a GPU"
)

X = np.concatenate([np.linspace(-40, 40, 40_000), [1e-30, -1e-30, 1e4, -1e4]]).astype(np.float32)


@pytest.mark.parametrize(
    ("ours", "exact", "limit"),
    [
        (ops.silu, lambda x: x / (1 + math.exp(-x)) if x > -700 else 0.0, 1e-6),
        (ops.gelu, lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)), 5e-7),
    ],
    ids=["silu", "gelu"],
)
def test_activations_stay_within_their_stated_error(ours, exact, limit: float) -> None:
    got = np.array(ours(mx.array(X)), np.float64)
    expected = np.array([exact(float(x)) for x in X])
    assert np.max(np.abs(got - expected) / np.abs(X)) < limit


def test_exp2_over_its_whole_range() -> None:
    t = -np.linspace(0, 126, 50_001).astype(np.float32)
    got = np.array(ops._exp2_times_constant(mx.array(t)), np.float64)
    ratio = got / np.exp2(t.astype(np.float64))
    assert np.max(np.abs(ratio / ratio[0] - 1)) < 6e-6
    far = np.array(ops._exp2_times_constant(mx.array([-127.0, -1e4, -np.inf])))
    assert np.all((far >= 0) & (far < 1e-30))


def softmax_product(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = (q.astype(np.float64) @ k.swapaxes(-1, -2).astype(np.float64)) * q.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)) @ v


@pytest.mark.parametrize("spread", [1.0, 30.0], ids=["soft", "nearly hard"])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_attention_in_pieces_of_any_size(
    spread: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_CACHED_SCORES", rows * 50)
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((2, 3, n, 16), dtype=np.float32) for n in (40, 50, 50))
    got = np.array(ops.attention(mx.array(q * spread), mx.array(k), mx.array(v)))
    assert np.max(np.abs(got - softmax_product(q * spread, k, v))) < 2e-5 * spread


def test_attention_can_be_trained_through() -> None:
    """The softmax adds to the bits of a float; its gradient is stated, and must be the softmax's
    own.
    """
    random = np.random.default_rng(1)
    q, k, v, given = (
        mx.array(random.standard_normal((2, 3, 20, 16), dtype=np.float32)) for _ in range(4)
    )

    def plain(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return (mx.softmax(q @ k.swapaxes(-1, -2) * 16**-0.5, axis=-1) @ v * given).sum()

    ours = mx.grad(lambda q, k, v: (ops.attention(q, k, v) * given).sum(), argnums=(0, 1, 2))(
        q, k, v
    )
    for mine, expected in zip(ours, mx.grad(plain, argnums=(0, 1, 2))(q, k, v), strict=True):
        assert mx.allclose(mine, expected, rtol=1e-3, atol=1e-4)


def test_settle_computes_only_where_it_is_asked_to() -> None:
    def pending(x: mx.array) -> bool:  # what is computed has let go of its operands
        before = mx.get_active_memory()
        mx.eval(x)
        return mx.get_active_memory() != before

    def chain() -> mx.array:
        return ops.settle(mx.ones((256, 256)) * 2.0)

    assert pending(chain())
    with ops.stepwise():
        assert not pending(chain())
        other: list[bool] = []
        thread = threading.Thread(
            target=lambda: (other.append(pending(chain())), mx.clear_streams())
        )
        thread.start()
        thread.join()
        assert other == [True]  # each thread for itself
    assert pending(chain())
    with pytest.raises(ZeroDivisionError), ops.stepwise():
        raise ZeroDivisionError
    assert pending(chain())
