"""Single operations at the edge of float16, as tiny Core ML programs against NumPy in float64.

The pictures of random weights do not reach these values; real weights may.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..coreml_backend.inputs import kept
from ..coreml_backend.ops import MilOps, Var, ct
from ..coreml_backend.runner import Model
from ..coreml_backend.single_function import write_program
from ..graphs.ops import AttentionForm
from ..graphs.weights import Weights
from .setup import Answer, Setup

NORM_SHAPE = (1, 960, 64, 64)  # in 32 groups: 122,880 elements each, the largest of SDXS at 512
GROUPS = 32
EPS = 1e-5
STDS = (0.5, 3.0, 20.0)
NORM_LIMIT = 1e-2  # relative L2; float16 sums give 4e-2 and worse, float32 sums 2e-4
TOKENS, HEADS, HEAD_DIM = 512, 2, 64
SCORE = 1e5  # of q k^T before its scaling; float16 ends at 65,504
ATTENTION_LIMIT = 1e-2


class _Plain:
    """Weights of a norm that changes nothing."""

    name = label = "norm"

    def float32(self, part: str) -> np.ndarray:
        make = np.ones if part == "weight" else np.zeros
        return make(NORM_SHAPE[1], np.float32)


def ask_group_norm(setup: Setup) -> Answer:
    """Normalise groups of 122,880 elements of three deviations, as the backend does."""
    shape = _shape(setup)
    weights: Weights = _Plain()  # type: ignore[assignment]
    model = _open(
        setup,
        {"x": shape},
        lambda x: MilOps("sdpa").group_norm(x["x"], weights, GROUPS, EPS),
    )
    generator = np.random.default_rng(0)
    errors = {}
    for std in STDS:
        x = (1 + std * generator.standard_normal(shape)).astype(np.float16).astype(np.float32)
        errors[f"std {std:g}"] = _error(_run(model, {"x": x}), group_norm(x))
    return {
        "ok": max(errors.values()) < NORM_LIMIT,
        "elements": int(np.prod(shape[1:])) // GROUPS,
        "error": errors,
    }


def _shape(setup: Setup) -> tuple[int, int, int, int]:
    side = int(setup.number("side", 16 if setup.runtime == "reference" else NORM_SHAPE[2]))
    return (1, NORM_SHAPE[1], side, side)


def group_norm(x: np.ndarray) -> np.ndarray:
    """Normalise groups of channels of (1, C, H, W) in float64."""
    grouped = x.astype(np.float64).reshape(GROUPS, -1)
    mean, variance = grouped.mean(1, keepdims=True), grouped.var(1, keepdims=True)
    normed: np.ndarray = ((grouped - mean) / np.sqrt(variance + EPS)).reshape(x.shape)
    return normed


def ask_attention(setup: Setup) -> Answer:
    """Attend with scores of 1e5 before scaling: finite only if the form scales early enough."""
    form: AttentionForm = setup.text("form")  # type: ignore[assignment]
    q, k, v = attention_inputs()
    # tokens (1, S, C), or (1, C, 1, S) for split_einsum
    given = {name: _tokens(x, form) for name, x in (("q", q), ("k", k), ("v", v))}
    model = _open(
        setup,
        {name: x.shape for name, x in given.items()},
        lambda x: MilOps(form).attention(x["q"], x["k"], x["v"], HEADS),
        ct.target.iOS18 if form == "sdpa" else ct.target.iOS17,
    )
    error = _error(_run(model, given), _tokens(attention(q, k, v), form))
    return {"ok": error < ATTENTION_LIMIT, "score": SCORE, "error": error}


def attention_inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return q, k, v (heads, tokens, head_dim); every query has a score of 1e5 with some keys."""
    hadamard = np.ones((1, 1))
    while len(hadamard) < HEAD_DIM:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    rows = np.float32(np.sqrt(SCORE / HEAD_DIM)) * hadamard[np.arange(TOKENS) % HEAD_DIM]
    q = np.repeat(rows[None], HEADS, 0).astype(np.float16).astype(np.float32)
    v = np.random.default_rng(1).standard_normal(q.shape).astype(np.float16).astype(np.float32)
    return q, q[:, ::-1].copy(), v


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return softmax(q k^T / sqrt(d)) v in float64."""
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(1, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result: np.ndarray = weights / weights.sum(-1, keepdims=True) @ v
    return result


def _tokens(x: np.ndarray, form: str) -> np.ndarray:
    merged = x.transpose(1, 0, 2).reshape(1, x.shape[1], -1)
    shaped = merged.transpose(0, 2, 1)[:, :, None] if form == "split_einsum" else merged
    return np.ascontiguousarray(shaped)


def _error(made: np.ndarray, exact: np.ndarray) -> float:
    """Relative L2; infinite if anything made is not finite."""
    if not np.isfinite(made).all():
        return float("inf")
    return float(np.linalg.norm(made - exact) / np.linalg.norm(exact))


def _run(model: Model, given: Mapping[str, np.ndarray]) -> np.ndarray:
    for array in given.values():
        kept(array)
    return np.asarray(model.predict(dict(given))["y"], np.float64)


def _open(
    setup: Setup,
    shapes: Mapping[str, tuple[int, ...]],
    body: Callable[[Mapping[str, Var]], Var],
    target: ct.target = ct.target.iOS17,
) -> Model:
    """Build a program of one operation in float16 and load it on the setup's units."""
    folder = Path(tempfile.mkdtemp(dir=setup.scratch))
    package, compiled = folder / "operation.mlpackage", folder / "operation.mlmodelc"
    write_program(package, shapes, body, target)
    if setup.runtime == "reference":
        from ..coreml_backend.interpreter.interpreter import Interpreter

        return Interpreter(package, round_float16=True)
    ct.models.utils.compile_model(str(package), str(compiled))
    units = ct.ComputeUnit[setup.text("units").upper()]
    model: Model = ct.models.CompiledMLModel(str(compiled), units)
    return model
