"""The Core ML programs against diffusers' outputs for the same weights; mistakes would show.

Programs run through the interpreter, every float16 result rounded. Stored outputs are those of
`test_parity`. `make parity` compares with live diffusers, full size too.
"""

from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load_file

from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.picture.size import FrameSize
from sdxs.coreml_backend.ops import MilOps, Var
from sdxs.experiments.parity.coreml import MLX_LIMIT_DB, agrees, run_program
from sdxs.graphs import layers, unet
from sdxs.graphs.weights import Weights
from sdxs.mac_check.fixtures import (
    FIXTURES,
    SHAPES,
    distances,
    inputs_of,
    run_frame,
    tiny_checkpoint,
    tiny_inputs,
)

STORED = load_file(FIXTURES / "parity.safetensors")
Open = Callable[[str], Checkpoint]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """The tiny checkpoints that the stored outputs belong to, each written once."""
    base, written = tmp_path_factory.mktemp("coreml-parity"), {}

    def open_one(name: str) -> Checkpoint:
        if name not in written:
            written[name] = open_checkpoint(tiny_checkpoint(base, name))
        return written[name]

    return open_one


def oracle(name: str, label: str = "frame") -> dict[str, np.ndarray]:
    """x0 and picture of diffusers."""
    return {what: STORED[f"{name}/{label}/{what}"] for what in ("x0", "picture")}


SDXS = ("sdxs-512-0.9", "sdxs-512-dreamshaper")


@pytest.mark.parametrize(
    ("name", "attention"),
    [(name, form) for name in SDXS for form in ("sdpa", "matmul", "split_einsum")]
    + [("sd-turbo", "sdpa")],
)
def test_the_program_equals_diffusers(checkpoint: Open, name: str, attention: str) -> None:
    given = checkpoint(name)
    ours = run_program(given, tiny_inputs(given), attention)
    assert agrees(ours, oracle(name)), distances(ours, oracle(name))


@pytest.mark.parametrize("attention", ["sdpa", "matmul", "split_einsum"])
@pytest.mark.parametrize("size", SHAPES[32], ids=str)
def test_a_program_that_is_not_square_equals_diffusers_and_mlx(
    checkpoint: Open, size: FrameSize, attention: str
) -> None:
    given = checkpoint(SDXS[0])
    inputs = inputs_of(f"frame {size}", tiny_inputs(given))
    ours, wanted = run_program(given, inputs, attention), oracle(SDXS[0], f"frame {size}")
    assert ours["picture"].shape == (*size.shape, 3)
    assert agrees(ours, wanted), distances(ours, wanted)
    assert distances(ours, run_frame(given, inputs))[1] > MLX_LIMIT_DB


def test_the_program_equals_mlx_on_the_demo(demo: Checkpoint) -> None:
    inputs = tiny_inputs(demo)
    _, quality = distances(run_program(demo, inputs), run_frame(demo, inputs))
    assert quality > MLX_LIMIT_DB


# Planted errors: what a builder of these programs could get wrong. Each must fail the comparison
# above.


def wrong_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of heads read as their dimension."""
    right = MilOps.attention

    def attention(
        self: MilOps, query: Var, key: Var, value: Var, heads: int, form: str | None = None
    ) -> Var:
        channels = query.shape[1 if self.form == "split_einsum" else 2]
        return right(self, query, key, value, channels // heads, form)  # type: ignore[arg-type]

    monkeypatch.setattr(MilOps, "attention", attention)


def wrong_timestep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last timestep counted from 1."""
    right = unet.TimestepEmbedding.__call__
    monkeypatch.setattr(
        unet.TimestepEmbedding, "__call__", lambda self, timestep: right(self, timestep + 1)
    )


def wrong_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's 'same' at stride 2: bottom and right only."""
    right = layers.Downsample.__init__
    monkeypatch.setattr(
        layers.Downsample,
        "__init__",
        lambda self, ops, weights, symmetric=True: right(self, ops, weights, False),
    )


def swapped_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gain and shift of a norm in each other's place."""
    right = Weights.float32

    def float32(self: Weights, name: str) -> np.ndarray:
        if "norm" in self.name.rpartition(".")[2]:
            name = {"weight": "bias", "bias": "weight"}[name]
        return right(self, name)

    monkeypatch.setattr(Weights, "float32", float32)


def missing_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention without its output projection."""

    def forward(self: unet.Attention, x: Var, context: Var | None, norm: Weights) -> Var:
        ops, w, source = self.ops, self.weights, x if context is None else context
        query = ops.linear(x, w["to_q"], norm=norm)
        key, value = (
            ops.linear(source, w[name], norm=norm if context is None else None)
            for name in ("to_k", "to_v")
        )
        return ops.attention(query, key, value, self.heads)

    monkeypatch.setattr(unet.Attention, "__call__", forward)


@pytest.mark.parametrize(
    "plant", [wrong_heads, wrong_timestep, wrong_padding, swapped_scale, missing_projection]
)
@pytest.mark.parametrize("name", SDXS)
def test_a_planted_error_is_caught(
    checkpoint: Open,
    name: str,
    plant: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = checkpoint(name)
    plant(monkeypatch)
    assert not agrees(run_program(given, tiny_inputs(given)), oracle(name))
