"""Planted errors: what a builder of programs could get wrong in the shared graphs.

Each must fail the comparison of a format's programs with diffusers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sdxs.graphs import layers, unet
from sdxs.graphs.ops import Ops
from sdxs.graphs.weights import Weights

# called with the Ops of a format
Plant = Callable[[pytest.MonkeyPatch, type[Ops]], None]


def wrong_heads(monkeypatch: pytest.MonkeyPatch, kind: type[Ops]) -> None:
    """The number of heads read as their dimension."""
    right = kind.attention

    def attention(
        self: Ops, query: Any, key: Any, value: Any, heads: int, form: str | None = None
    ) -> object:
        channels = query.shape[1 if self.form == "split_einsum" else 2]
        return right(self, query, key, value, channels // heads, form)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "attention", attention)


def wrong_timestep(monkeypatch: pytest.MonkeyPatch, _: type[Ops]) -> None:
    """The last timestep counted from 1."""
    right = unet.TimestepEmbedding.__call__
    monkeypatch.setattr(
        unet.TimestepEmbedding, "__call__", lambda self, timestep: right(self, timestep + 1)
    )


def wrong_padding(monkeypatch: pytest.MonkeyPatch, _: type[Ops]) -> None:
    """TensorFlow's 'same' at stride 2: bottom and right only."""
    right = layers.Downsample.__init__
    monkeypatch.setattr(
        layers.Downsample,
        "__init__",
        lambda self, ops, weights, symmetric=True: right(self, ops, weights, False),
    )


def swapped_scale(monkeypatch: pytest.MonkeyPatch, _: type[Ops]) -> None:
    """Gain and shift of a norm in each other's place."""
    right = Weights.float32

    def float32(self: Weights, name: str) -> np.ndarray:
        if "norm" in self.name.rpartition(".")[2]:
            name = {"weight": "bias", "bias": "weight"}[name]
        return right(self, name)

    monkeypatch.setattr(Weights, "float32", float32)


def missing_projection(monkeypatch: pytest.MonkeyPatch, _: type[Ops]) -> None:
    """Attention without its output projection."""

    def forward(self: unet.Attention, x: Any, context: Any, norm: Weights) -> object:
        ops, w, source = self.ops, self.weights, x if context is None else context
        query = ops.linear(x, w["to_q"], norm=norm)
        key, value = (
            ops.linear(source, w[name], norm=norm if context is None else None)
            for name in ("to_k", "to_v")
        )
        return ops.attention(query, key, value, self.heads)

    monkeypatch.setattr(unet.Attention, "__call__", forward)


PLANTS: tuple[Plant, ...] = (
    wrong_heads,
    wrong_timestep,
    wrong_padding,
    swapped_scale,
    missing_projection,
)
