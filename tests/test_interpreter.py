"""The reference interpreter: each operation in a tiny ML Program against a formula written here.

Expected values are loops and formulas in float64 that share no code with the interpreter. Programs
in float32 target iOS 17, in float16 iOS 18. In float16 the interpreter keeps float32 precision by
default, so one tolerance serves both: 5e-6 relative is some tens of float32 roundings, a hundred
times below float16's.
"""

import inspect
import itertools
import json
import math
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.var import Var

from sdxs.common.errors import BackendError
from sdxs.coreml_backend.interpreter import operations as mil_ops
from sdxs.coreml_backend.interpreter import products as mil_products
from sdxs.coreml_backend.interpreter.interpreter import OPS, Interpreter
from sdxs.coreml_backend.interpreter.package import MIL_pb2, Model_pb2

# coremltools 9.0 leaves a temporary folder to the garbage collector after every conversion
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

Array = np.ndarray
Cast = Callable[[object], Array]
Outputs = Var | Sequence[Var]


@dataclass
class Case:
    """A program on `inputs`, and its expected outputs in float64."""

    build: Callable[..., Outputs]
    inputs: list[Array]
    expected: object


RNG = np.random.default_rng(20)
FLOATS = {
    "float32": (ct.target.iOS17, np.float32, types.fp32),
    "float16": (ct.target.iOS18, np.float16, types.fp16),
}


def save(
    path: Path,
    build: Callable[..., Outputs],
    specs: Sequence[object],
    target: ct.target,
    **options: object,
) -> ct.models.MLModel:
    program = mb.program(input_specs=list(specs), opset_version=target)(build)
    options.setdefault("pass_pipeline", ct.PassPipeline.EMPTY)
    model = ct.convert(program, minimum_deployment_target=target, skip_model_load=True, **options)
    model.save(str(path))
    return model


def tensor(shape: Sequence[int], dtype: object = types.fp32) -> object:
    return mb.TensorSpec(tuple(shape), dtype=dtype)


def names(build: Callable[..., Outputs]) -> list[str]:
    return list(inspect.signature(build).parameters)


def outputs_of(model: Interpreter, inputs: dict[str, Array]) -> list[Array]:
    return [model.predict(inputs)[name] for name in model.outputs]


def check(case: Case, path: Path, precision: str) -> None:
    target, _, kind = FLOATS[precision]
    kinds = [{"i": types.int32, "f": kind}[a.dtype.kind] for a in case.inputs]
    save(
        path,
        case.build,
        [tensor(a.shape, k) for a, k in zip(case.inputs, kinds, strict=True)],
        target,
    )
    model = Interpreter(path)
    given = dict(zip(names(case.build), case.inputs, strict=True))
    expected = case.expected if isinstance(case.expected, tuple) else (case.expected,)
    found = outputs_of(model, given)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        other = np.asarray(other, np.float64)
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=5e-6, atol=5e-6)


CASES: dict[str, Callable[[Cast], Case]] = {}


def case(function: Callable[[Cast], Case]) -> Callable[[Cast], Case]:
    CASES[function.__name__] = function
    return function


def normal(f: Cast, *shape: int) -> Array:
    return f(np.random.default_rng(shape).standard_normal(shape))


def each(function: Callable[[float], float], x: Array) -> Array:
    return np.array([function(float(v)) for v in x.ravel()]).reshape(x.shape)


# Numbers one by one

LOGISTIC = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
UNARY: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "erf": math.erf,
    "exp": math.exp,
    "floor": math.floor,
    "identity": float,
    "relu": lambda v: v if v > 0 else 0.0,
    "round": round,
    "sigmoid": LOGISTIC,
    "sign": lambda v: (v > 0) - (v < 0),
    "silu": lambda v: v * LOGISTIC(v),
    "sin": math.sin,
    "softplus": lambda v: math.log(1 + math.exp(v)),
    "square": lambda v: v * v,
    "tanh": math.tanh,
}
BINARY: dict[str, Callable[[float, float], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "real_div": lambda a, b: a / b,
    "maximum": max,
    "minimum": min,
    "floor_div": lambda a, b: math.floor(a / b),
    "mod": lambda a, b: a - b * math.floor(a / b),
    "pow": math.pow,
}
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
}


def op(kind: str) -> Callable[..., Outputs]:
    return getattr(mb, kind)


@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("kind", UNARY)
def test_unary(kind: str, precision: str, tmp_path: Path) -> None:
    x = FLOATS[precision][1](
        np.concatenate([np.linspace(-7, 7, 113), [0.5, 1.5, 2.5, -0.5]]).reshape(3, 39)
    )
    check(
        Case(lambda x: op(kind)(x=x), [x], each(UNARY[kind], x)),
        tmp_path / "m.mlpackage",
        precision,
    )


@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("kind", BINARY)
def test_binary_broadcasts(kind: str, precision: str, tmp_path: Path) -> None:
    f = FLOATS[precision][1]
    x, y = f([[[0.3, 1.7, 2.9, 4.6]], [[5.1, 0.8, 3.3, 2.2]]]), f([[0.4], [1.3], [2.6]])
    if kind != "pow":  # the others with every pair of signs
        x[:, :, 1::2] *= -1
        y[1] *= -1
    expected = [
        [[BINARY[kind](float(x[i, 0, k]), float(y[j, 0])) for k in range(4)] for j in range(3)]
        for i in range(2)
    ]
    check(
        Case(lambda x, y: op(kind)(x=x, y=y), [x, y], expected), tmp_path / "m.mlpackage", precision
    )


@pytest.mark.parametrize("kind", COMPARE)
def test_comparison_and_select(kind: str, tmp_path: Path) -> None:
    x, y = np.float32(RNG.integers(0, 3, (2, 5))), np.float32(RNG.integers(0, 3, (2, 5)))
    expected = [
        [10.0 + a if COMPARE[kind](a, b) else b for a, b in zip(*rows, strict=True)]
        for rows in zip(x, y, strict=True)
    ]
    check(
        Case(
            lambda x, y: mb.select(cond=op(kind)(x=x, y=y), a=mb.add(x=x, y=np.float32(10)), b=y),
            [x, y],
            expected,
        ),
        tmp_path / "m.mlpackage",
        "float32",
    )


def test_logic(tmp_path: Path) -> None:
    x, y = np.float32([0, 0, 1, 1]), np.float32([0, 1, 0, 1])

    def build(x: Var, y: Var) -> list[Var]:
        a, b = mb.cast(x=x, dtype="bool"), mb.cast(x=y, dtype="bool")
        results = [mb.logical_and(x=a, y=b), mb.logical_or(x=a, y=b), mb.logical_not(x=a)]
        return [mb.cast(x=r, dtype="fp32") for r in results]

    check(
        Case(build, [x, y], ([0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0])),
        tmp_path / "m.mlpackage",
        "float32",
    )


def test_erf_everywhere() -> None:
    x = np.concatenate([np.linspace(-8, 8, 20001), [1e-9, -1e-30, 0.0, np.inf, -np.inf]]).astype(
        np.float32
    )
    expected = each(math.erf, x)
    np.testing.assert_allclose(mil_ops.erf(x), expected, rtol=1.2e-7, atol=0)
    assert np.isnan(mil_ops.erf(np.float32([np.nan])))


GELU = {
    "EXACT": lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))),
    "TANH_APPROXIMATION": lambda v: (
        0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
    ),
    "SIGMOID_APPROXIMATION": lambda v: v * LOGISTIC(1.702 * v),
}


@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("mode", GELU)
def test_gelu_modes_differ(mode: str, precision: str, tmp_path: Path) -> None:
    x = FLOATS[precision][1](np.linspace(-5, 5, 60))
    check(
        Case(lambda x: mb.gelu(x=x, mode=mode), [x], each(GELU[mode], x)),
        tmp_path / "m.mlpackage",
        precision,
    )


@case
def clip(f: Cast) -> Case:
    x = normal(f, 4, 5)
    return Case(
        lambda x: mb.clip(x=x, alpha=f(-0.5), beta=f(0.25)),
        [x],
        each(lambda v: min(max(v, -0.5), 0.25), x),
    )


@case
def leaky_relu(f: Cast) -> Case:
    x = normal(f, 4, 5)
    return Case(
        lambda x: mb.leaky_relu(x=x, alpha=f(0.25)), [x], each(lambda v: v if v > 0 else v / 4, x)
    )


@case
def epsilons_of_roots_and_logs(f: Cast) -> Case:
    x, e = f(np.linspace(0.01, 3, 12)), f(0.125)
    shifted = x.astype(np.float64) + float(e)
    return Case(
        lambda x: [
            mb.rsqrt(x=x, epsilon=e),
            mb.inverse(x=x, epsilon=e),
            mb.log(x=x, epsilon=e),
            mb.sqrt(x=x),
        ],
        [x],
        (shifted**-0.5, shifted**-1, each(math.log, shifted), x.astype(np.float64) ** 0.5),
    )


def test_cast_cuts_towards_zero_and_refuses_overflow(tmp_path: Path) -> None:
    def build(x: Var) -> list[Var]:
        narrow = [
            mb.cast(x=mb.cast(x=x, dtype=d), dtype="int32")
            for d in ("int32", "int8", "uint8", "int16", "uint16")
        ]
        return [*narrow, mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp32")]

    save(tmp_path / "m.mlpackage", build, [tensor((4,))], ct.target.iOS17)
    model = Interpreter(tmp_path / "m.mlpackage")
    found = outputs_of(model, {"x": np.float32([0.9, 1.5, 100.99, 2])})
    assert [list(values) for values in found] == [[0, 1, 100, 2]] * 6
    assert [values.dtype for values in found] == [np.int32] * 5 + [np.float32]
    with pytest.raises(BackendError, match=r"\(cast\).*outside uint8"):
        model.predict({"x": np.float32([0, 0, 0, -1])})


# Products


def slow_conv(
    x: Array,
    w: Array,
    pads: Sequence[tuple[int, int]],
    steps: Sequence[int],
    gaps: Sequence[int],
    groups: int,
) -> Array:
    """One output number at a time; a tap outside the picture counts nothing."""
    spatial, kernel = x.shape[2:], w.shape[2:]
    sizes = [
        (n + sum(p) - (k - 1) * g - 1) // s + 1
        for n, p, k, g, s in zip(spatial, pads, kernel, gaps, steps, strict=True)
    ]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    per_in, per_out = w.shape[1], w.shape[0] // groups
    for n, o, *at in np.ndindex(*out.shape):
        for c, *tap in np.ndindex(*w.shape[1:]):
            where = [
                a * s + t * g - p[0]
                for a, s, t, g, p in zip(at, steps, tap, gaps, pads, strict=True)
            ]
            if all(0 <= i < size for i, size in zip(where, spatial, strict=True)):
                out[(n, o, *at)] += float(x[(n, o // per_out * per_in + c, *where)]) * float(
                    w[(o, c, *tap)]
                )
    return out


# kernel, padding as MIL is told, the padding it must amount to, strides, dilations, groups; the
# input is 4 channels of 6 x 7
CONVS = {
    "valid": ((3, 2), {"pad_type": "valid"}, [(0, 0), (0, 0)], (1, 1), (1, 1), 1),
    "custom": (
        (3, 3),
        {"pad_type": "custom", "pad": [1, 0, 2, 1]},
        [(1, 0), (2, 1)],
        (1, 1),
        (1, 1),
        1,
    ),
    "downsample": (
        (3, 3),
        {"pad_type": "custom", "pad": [1, 1, 1, 1]},
        [(1, 1), (1, 1)],
        (2, 2),
        (1, 1),
        1,
    ),
    "same": ((3, 3), {"pad_type": "same"}, [(1, 1), (1, 1)], (1, 1), (1, 1), 1),
    "same_stride_2": ((3, 3), {"pad_type": "same"}, [(0, 1), (1, 1)], (2, 2), (1, 1), 1),
    "same_lower_stride_2": (
        (3, 3),
        {"pad_type": "same_lower"},
        [(1, 0), (1, 1)],
        (2, 2),
        (1, 1),
        1,
    ),
    "dilated": ((3, 2), {"pad_type": "same"}, [(2, 2), (1, 2)], (1, 1), (2, 3), 1),
    "grouped": ((3, 3), {"pad_type": "same"}, [(1, 1), (1, 1)], (1, 1), (1, 1), 2),
    "depthwise": ((1, 3), {"pad_type": "valid"}, [(0, 0), (0, 0)], (1, 2), (1, 1), 4),
    "pointwise": ((1, 1), {}, [(0, 0), (0, 0)], (1, 1), (1, 1), 1),
}


@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("name", CONVS)
def test_conv(name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mil_products, "SCRATCH", 600)  # two rows of the larger kernels at a time
    f = FLOATS[precision][1]
    kernel, padding, pads, steps, gaps, groups = CONVS[name]
    x, w, b = normal(f, 2, 4, 6, 7), normal(f, 8, 4 // groups, *kernel), normal(f, 8)
    expected = slow_conv(x, w, pads, steps, gaps, groups) + b.astype(np.float64).reshape(8, 1, 1)
    options = {"strides": steps, "dilations": gaps, "groups": groups} | padding
    check(
        Case(lambda x: mb.conv(x=x, weight=w, bias=b, **options), [x], expected),
        tmp_path / "m.mlpackage",
        precision,
    )


@case
def conv_of_one_axis_without_bias(f: Cast) -> Case:
    x, w = normal(f, 1, 3, 9), normal(f, 5, 3, 4)
    return Case(
        lambda x: mb.conv(x=x, weight=w, strides=[2], pad_type="custom", pad=[2, 1]),
        [x],
        slow_conv(x, w, [(2, 1)], [2], [1], 1),
    )


@case
def conv_transpose(f: Cast) -> Case:
    x, w, b = normal(f, 1, 4, 3, 4), normal(f, 4, 3, 3, 2), normal(f, 6)
    full = np.zeros((1, 6, 7, 10))
    for c, o, y, z, i, j in itertools.product(
        range(4), range(3), range(3), range(4), range(3), range(2)
    ):
        full[0, o + 3 * (c // 2), 2 * y + i, 2 * z + 3 * j] += float(x[0, c, y, z]) * float(
            w[c, o, i, j]
        )
    expected = (full + b.astype(np.float64).reshape(6, 1, 1))[:, :, 1:, :9]
    return Case(
        lambda x: mb.conv_transpose(
            x=x,
            weight=w,
            bias=b,
            strides=[2, 2],
            dilations=[1, 3],
            groups=2,
            pad_type="custom",
            pad=[1, 0, 0, 1],
        ),
        [x],
        expected,
    )


@case
def linear(f: Cast) -> Case:
    x, w, b = normal(f, 2, 5, 6), normal(f, 3, 6), normal(f, 3)
    expected = [
        [
            [
                sum(float(v) * float(u) for v, u in zip(row, unit, strict=True)) + float(b[k])
                for k, unit in enumerate(w)
            ]
            for row in block
        ]
        for block in x
    ]
    return Case(lambda x: mb.linear(x=x, weight=w, bias=b), [x], expected)


@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("flip_y", [False, True])
@pytest.mark.parametrize("flip_x", [False, True])
def test_matmul_transposes(flip_x: bool, flip_y: bool, precision: str, tmp_path: Path) -> None:
    f = FLOATS[precision][1]
    x, y = normal(f, 2, 1, 4, 5), normal(f, 3, 5, 6)
    expected = np.einsum("nzik,mkj->nmij", x.astype(np.float64), y.astype(np.float64))
    given = [
        np.ascontiguousarray(a.swapaxes(-1, -2)) if flip else a
        for a, flip in ((x, flip_x), (y, flip_y))
    ]
    check(
        Case(
            lambda x, y: mb.matmul(x=x, y=y, transpose_x=flip_x, transpose_y=flip_y),
            given,
            expected,
        ),
        tmp_path / "m.mlpackage",
        precision,
    )


@case
def einsum(f: Cast) -> Case:
    x, y = normal(f, 2, 3, 4, 5), normal(f, 2, 5, 4, 6)
    expected = np.einsum("nchw,nwhu->nchu", x.astype(np.float64), y.astype(np.float64))
    return Case(lambda x, y: mb.einsum(values=(x, y), equation="bchk,bkhq->bchq"), [x, y], expected)


@case
def einsum_of_rank_3(f: Cast) -> Case:
    x, y = normal(f, 3, 4, 5), normal(f, 5, 1, 6)
    expected = np.einsum("chw,wr->chr", x.astype(np.float64), y[:, 0].astype(np.float64))
    return Case(lambda x, y: mb.einsum(values=(x, y), equation="chw,whr->chr"), [x, y], expected)


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_softmax_along_any_axis_without_overflow(axis: int, tmp_path: Path) -> None:
    x = np.float32(normal(np.float32, 3, 4, 5) + 200)
    lines = np.moveaxis(x.astype(np.float64) - 200, axis, -1)
    shares = [
        [[math.exp(v) / sum(math.exp(u) for u in line) for v in line] for line in block]
        for block in lines
    ]
    check(
        Case(lambda x: mb.softmax(x=x, axis=axis), [x], np.moveaxis(np.array(shares), -1, axis)),
        tmp_path / "m.mlpackage",
        "float32",
    )


@pytest.mark.parametrize("kind", ["none", "float", "bool"])
def test_attention(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mil_products, "SCRATCH", 20)  # two queries at a time
    f = np.float16
    q, k, v = normal(f, 2, 3, 5, 4), normal(f, 2, 3, 7, 4), normal(f, 2, 3, 7, 6)
    keep = np.arange(35).reshape(5, 7) % 3 > 0
    mask = {"none": None, "float": f(np.where(keep, 0.5, -4.0)), "bool": keep}[kind]
    added = {
        "none": np.zeros((5, 7)),
        "float": np.where(keep, 0.5, -4.0),
        "bool": np.where(keep, 0, -1e9),
    }[kind]
    expected = np.zeros((2, 3, 5, 6))
    for b, h, i in np.ndindex(2, 3, 5):
        weights = [
            math.exp(float(q[b, h, i].astype(np.float64) @ k[b, h, j]) / 2 + added[i, j])
            for j in range(7)
        ]
        expected[b, h, i] = sum(
            w * v[b, h, j].astype(np.float64) for j, w in enumerate(weights)
        ) / sum(weights)
    extra = {} if mask is None else {"attn_mask": mask}
    check(
        Case(
            lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, **extra),
            [q, k, v],
            expected,
        ),
        tmp_path / "m.mlpackage",
        "float16",
    )


# Normalisation and reductions


@case
def batch_norm(f: Cast) -> Case:
    x, m, g, b = normal(f, 2, 3, 4, 5), normal(f, 3), f(normal(f, 3) + f(2)), f(-normal(f, 3))
    v, e = f([0.5, 1.0, 3.0]), f(0.125)
    wide = [a.astype(np.float64) for a in (x, m, v, g, b)]
    expected = np.stack(
        [
            (wide[0][:, c] - wide[1][c]) * wide[3][c] / math.sqrt(wide[2][c] + float(e))
            + wide[4][c]
            for c in range(3)
        ],
        1,
    )
    return Case(
        lambda x: mb.batch_norm(x=x, mean=m, variance=v, gamma=g, beta=b, epsilon=e), [x], expected
    )


@case
def layer_norm_of_tokens(f: Cast) -> Case:
    x, g, b, e = normal(f, 2, 3, 8), normal(f, 8), normal(f, 4, 2).reshape(8), f(0.125)
    wide = x.astype(np.float64)
    expected = np.zeros(x.shape)
    for at in np.ndindex(2, 3):
        expected[at] = (wide[at] - wide[at].mean()) / math.sqrt(
            wide[at].var() + float(e)
        ) * g.astype(np.float64) + b
    return Case(lambda x: mb.layer_norm(x=x, axes=[-1], gamma=g, beta=b, epsilon=e), [x], expected)


@case
def layer_norm_over_inner_axes(f: Cast) -> Case:
    x, g, b = normal(f, 2, 3, 4, 5), normal(f, 3, 5), normal(f, 5, 3).reshape(3, 5)
    wide, e = x.astype(np.float64), float(f(1e-5))
    expected = np.zeros(x.shape)
    for n, h in np.ndindex(2, 4):
        part = wide[n, :, h]
        expected[n, :, h] = (part - part.mean()) / math.sqrt(part.var() + e) * g.astype(
            np.float64
        ) + b.astype(np.float64)
    return Case(
        lambda x: mb.layer_norm(x=x, axes=[1, 3], gamma=g, beta=b, epsilon=f(1e-5)), [x], expected
    )


@case
def instance_norm(f: Cast) -> Case:
    x, g, b, e = normal(f, 2, 3, 4, 5), normal(f, 3), f(-normal(f, 3)), f(0.125)
    wide = x.astype(np.float64)
    expected = np.zeros(x.shape)
    for n, c in np.ndindex(2, 3):
        part = wide[n, c]
        expected[n, c] = (part - part.mean()) / math.sqrt(part.var() + float(e)) * float(
            g[c]
        ) + float(b[c])
    return Case(lambda x: mb.instance_norm(x=x, gamma=g, beta=b, epsilon=e), [x], expected)


REDUCE = {
    "reduce_mean": np.mean,
    "reduce_sum": np.sum,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_sum_square": lambda a: np.sum(a * a),
}


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", REDUCE)
def test_reductions(kind: str, keep: bool, tmp_path: Path) -> None:
    x = normal(np.float32, 2, 3, 4, 5)
    wide = x.astype(np.float64)
    expected = np.array([[REDUCE[kind](wide[n, :, h]) for h in range(4)] for n in range(2)])
    check(
        Case(
            lambda x: op(kind)(x=x, axes=[1, -1], keep_dims=keep),
            [x],
            expected.reshape(2, 1, 4, 1) if keep else expected,
        ),
        tmp_path / "m.mlpackage",
        "float32",
    )


# Shapes


@case
def reshape_and_transpose(f: Cast) -> Case:
    x = normal(f, 2, 3, 4)
    expected = np.zeros((4, 2, 3))
    for n, c, w in np.ndindex(2, 3, 4):
        expected[w, n, c] = x[n, c, w]
    return Case(
        lambda x: mb.reshape(x=mb.transpose(x=x, perm=[2, 0, -2]), shape=[0, -1, 1]),
        [x],
        expected.reshape(4, 6, 1),
    )


@case
def expand_and_squeeze(f: Cast) -> Case:
    x = normal(f, 1, 3, 1)
    flat = x.astype(np.float64).reshape(3)
    return Case(
        lambda x: [mb.expand_dims(x=mb.squeeze(x=x, axes=[-1]), axes=[0, -1]), mb.squeeze(x=x)],
        [x],
        (flat.reshape(1, 1, 3, 1), flat),
    )


@case
def concat(f: Cast) -> Case:
    x, y = normal(f, 2, 3), normal(f, 2, 2)
    return Case(
        lambda x, y: mb.concat(values=[y, x, y], axis=-1),
        [x, y],
        [[*b, *a, *b] for a, b in zip(x, y, strict=True)],
    )


@case
def concat_interleaved(f: Cast) -> Case:
    x, y = normal(f, 2, 3), f(-normal(f, 2, 3))
    return Case(
        lambda x, y: mb.concat(values=[x, y], axis=0, interleave=True),
        [x, y],
        [x[0], y[0], x[1], y[1]],
    )


@case
def stack(f: Cast) -> Case:
    x, y = normal(f, 2, 3), f(-normal(f, 2, 3))
    return Case(lambda x, y: mb.stack(values=[x, y], axis=1), [x, y], [[x[0], y[0]], [x[1], y[1]]])


@case
def split_evenly(f: Cast) -> Case:
    x = normal(f, 2, 6)
    return Case(
        lambda x: mb.split(x=x, num_splits=3, axis=1),
        [x],
        tuple([x[0, a : a + 2], x[1, a : a + 2]] for a in (0, 2, 4)),
    )


@case
def split_by_size(f: Cast) -> Case:
    x = normal(f, 6, 2)
    return Case(lambda x: mb.split(x=x, split_sizes=[1, 3, 2], axis=0), [x], (x[:1], x[1:4], x[4:]))


@case
def slice_by_index_with_every_mask(f: Cast) -> Case:
    x = normal(f, 4, 5, 6, 3)
    expected = [[[float(x[i, 2, j, k]) for k in (2, 1, 0)] for j in (0, 2)] for i in (1, 2, 3)]
    return Case(
        lambda x: mb.slice_by_index(
            x=x,
            begin=[1, 2, 5, -1],
            end=[0, 0, 4, 0],
            stride=[1, 1, 2, -1],
            begin_mask=[False, False, True, False],
            end_mask=[True, False, False, True],
            squeeze_mask=[False, True, False, False],
        ),
        [x],
        expected,
    )


@case
def slice_by_size(f: Cast) -> Case:
    x = normal(f, 4, 5)
    expected = [[x[i, j] for j in (2, 3, 4)] for i in (1, 2)]
    return Case(lambda x: mb.slice_by_size(x=x, begin=[1, 2], size=[2, -1]), [x], expected)


@case
def tile(f: Cast) -> Case:
    x = normal(f, 2, 3)
    return Case(lambda x: mb.tile(x=x, reps=[2, 2]), [x], [[*x[0], *x[0]], [*x[1], *x[1]]] * 2)


@case
def pad_three_ways(f: Cast) -> Case:
    x = normal(f, 2, 3)

    def rows(widen: Callable[[list[float]], list[float]]) -> Array:
        return np.array([widen([float(v) for v in row]) for row in x])

    return Case(
        lambda x: [
            mb.pad(x=x, pad=[1, 2], mode="constant", constant_val=f(7)),
            mb.pad(x=x, pad=[0, 0, 1, 2], mode="reflect"),
            mb.pad(x=x, pad=[1, 2], mode="replicate"),
        ],
        [x],
        (
            rows(lambda r: [7, *r, 7, 7]),
            rows(lambda r: [r[1], *r, r[1], r[0]]),
            rows(lambda r: [r[0], *r, r[2], r[2]]),
        ),
    )


@case
def gather(f: Cast) -> Case:
    x, at = normal(f, 4, 5), np.int32([[3, 0], [1, 1]])
    return Case(
        lambda x, at: mb.gather(x=x, indices=at, axis=1, validate_indices=False),
        [x, at],
        [[[row[3], row[0]], [row[1], row[1]]] for row in x],
    )


def test_gather_refuses_what_ios_17_leaves_undefined(tmp_path: Path) -> None:
    save(
        tmp_path / "m.mlpackage",
        lambda at: mb.gather(x=np.arange(4, dtype=np.float32), indices=at, axis=0),
        [tensor((2,), types.int32)],
        ct.target.iOS17,
    )
    model = Interpreter(tmp_path / "m.mlpackage")
    for outside in (-1, 4):
        with pytest.raises(BackendError, match=r"\(gather\).*index outside 0 to 3"):
            model.predict({"at": np.int32([0, outside])})


@case
def made_from_nothing(f: Cast) -> Case:
    x = normal(f, 2, 5)
    return Case(
        lambda x: [
            mb.fill(shape=[2, 3], value=f(1.5)),
            mb.shape(x=x),
            mb.range_1d(start=2, end=9, step=3),
        ],
        [x],
        (np.full((2, 3), 1.5), [2, 5], [2, 5, 8]),
    )


@case
def nearest(f: Cast) -> Case:
    x = normal(f, 1, 2, 2, 3)
    expected = np.array(
        [[[[x[0, c, h // 2, w // 3] for w in range(9)] for h in range(4)] for c in range(2)]]
    )
    return Case(
        lambda x: [
            mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
            mb.resize_nearest_neighbor(x=x, target_size_height=4, target_size_width=9),
        ],
        [x],
        (expected, expected),
    )


# documented grid points for two samples widened to five (coremltools, resize_bilinear)
GRIDS = {
    "UNALIGN_CORNERS": [0, 0.1, 0.5, 0.9, 1],
    "STRICT_ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
    "ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
    "DEFAULT": [0, 0.4, 0.8, 1, 1],
}


@pytest.mark.parametrize("mode", GRIDS)
def test_bilinear_grids(mode: str, tmp_path: Path) -> None:
    x = normal(np.float32, 1, 1, 2, 2)
    (a, b), (c, d) = x[0, 0].astype(np.float64)
    expected = [
        [(1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d) for u in GRIDS[mode]]
        for v in GRIDS[mode]
    ]
    expected = np.array(expected)[None, None]
    check(
        Case(
            lambda x: mb.resize_bilinear(
                x=x, target_size_height=5, target_size_width=5, sampling_mode=mode
            ),
            [x],
            expected,
        ),
        tmp_path / "m.mlpackage",
        "float32",
    )
    if mode in ("UNALIGN_CORNERS", "ALIGN_CORNERS"):
        check(
            Case(
                lambda x: mb.upsample_bilinear(
                    x=x,
                    scale_factor_height=2.5,
                    scale_factor_width=2.5,
                    align_corners=mode == "ALIGN_CORNERS",
                ),
                [x],
                expected,
            ),
            tmp_path / "u.mlpackage",
            "float32",
        )


@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, precision: str, tmp_path: Path) -> None:
    dtype = FLOATS[precision][1]
    check(
        CASES[name](lambda values: np.asarray(values, dtype)), tmp_path / "m.mlpackage", precision
    )


def test_every_operation_is_tested() -> None:
    source = Path(__file__).read_text()
    untested = [k for k in OPS if f"mb.{k}(" not in source and f'"{k}"' not in source]
    assert not untested


# Compressed weights


def compressed(
    path: Path,
    target: ct.target,
    weight: Array,
    config: cto.OpLinearQuantizerConfig | cto.OpPalettizerConfig,
) -> Array:
    """Return a compressed linear layer's weight, from its outputs on unit vectors."""
    size = weight.shape[1]
    model = save(
        path.with_name("plain.mlpackage"),
        lambda x: mb.linear(x=x, weight=weight, name="y"),
        [tensor((size, size), types.fp16)],
        target,
        pass_pipeline=ct.PassPipeline.CLEANUP,
    )
    quantise = (
        cto.linear_quantize_weights
        if isinstance(config, cto.OpLinearQuantizerConfig)
        else cto.palettize_weights
    )
    quantise(model, cto.OptimizationConfig(global_config=config)).save(str(path))
    return Interpreter(path).predict({"x": np.eye(size, dtype=np.float32)})["y"].T


@pytest.mark.parametrize("target", [ct.target.iOS17, ct.target.iOS18])
@pytest.mark.parametrize("mode", ["linear_symmetric", "linear"])
def test_int8_weights(mode: str, target: ct.target, tmp_path: Path) -> None:
    weight = normal(np.float16, 24, 32) + np.arange(24, dtype=np.float16)[:, None] / np.float16(8)
    config = cto.OpLinearQuantizerConfig(
        mode=mode, dtype="int8", granularity="per_channel", weight_threshold=100
    )
    found = compressed(tmp_path / "q.mlpackage", target, weight, config)
    kinds = Interpreter(tmp_path / "q.mlpackage").op_counts
    assert (
        kinds[
            "constexpr_affine_dequantize"
            if target == ct.target.iOS17
            else "constexpr_blockwise_shift_scale"
        ]
        == 1
    )
    # a step of each row: its range over 255, or twice its largest over 254
    wide = weight.astype(np.float64)
    step = np.ptp(wide, axis=1) / 255 if mode == "linear" else np.abs(wide).max(1) / 127
    assert (np.abs(found - wide).max(1) <= 0.51 * step + 2e-3 * np.abs(wide).max()).all()
    assert (np.abs(found - wide).max(1) >= 0.2 * step).all()  # it is compressed, and row by row


@pytest.mark.parametrize("target", [ct.target.iOS17, ct.target.iOS18])
@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_palettes_of_every_width(bits: int, target: ct.target, tmp_path: Path) -> None:
    """Weights at 2**bits evenly spaced values survive a uniform palette, each in its place."""
    order = np.random.default_rng(bits).permutation(np.arange(24 * 32) % 2**bits)
    weight = (order / 32).astype(np.float16).reshape(24, 32)
    config = cto.OpPalettizerConfig(mode="uniform", nbits=bits, weight_threshold=100)
    found = compressed(tmp_path / "q.mlpackage", target, weight, config)
    assert Interpreter(tmp_path / "q.mlpackage").op_counts["constexpr_lut_to_dense"] == 1
    np.testing.assert_allclose(found, weight, atol=2e-3 * 2**bits / 32)


def test_grouped_and_vector_palettes_as_documented(tmp_path: Path) -> None:
    """The two worked examples in coremltools' description of the iOS 18 operation."""
    lut = np.float16([1, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    indices = (
        np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3]).reshape(6, 2).astype(types.np_uint2_dtype)
    )
    vectors = np.int8([1, 2, 3, 4, 5, 6]).reshape(1, 1, 1, 2, 3)
    which = np.array([0, 0, 1, 0, 1, 1, 0, 0]).reshape(2, 2, 2).astype(types.np_uint1_dtype)

    def build(x: Var) -> list[Var]:
        grouped = mb.constexpr_lut_to_dense(indices=indices, lut=lut)
        along = [
            mb.constexpr_lut_to_dense(indices=which, lut=vectors.astype(np.float16), vector_axis=a)
            for a in (1, 2)
        ]
        return [mb.add(x=w, y=x) for w in (grouped, *along)]

    a, b = [1, 2, 3], [4, 5, 6]
    columns = [[a, a], [b, a]], [[b, b], [a, a]]
    check(
        Case(
            build,
            [np.float16([0])],
            (
                [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]],
                [
                    [[pair[k][i] for k in (0, 1)] for pair in rows for i in range(3)]
                    for rows in (([a, a], [b, a]), ([b, b], [a, a]))
                ],
                [[[*left, *right] for left, right in rows] for rows in columns],
            ),
        ),
        tmp_path / "m.mlpackage",
        "float16",
    )


def test_blockwise_scales_with_offsets(tmp_path: Path) -> None:
    data = np.arange(-8, 8).reshape(2, 8).astype(types.np_int4_dtype)
    scale, offset = (
        np.float16([[0.5, 2], [1, 4]]),
        np.array([[1, -2], [0, 3]]).astype(types.np_int4_dtype),
    )
    expected = [
        [float(scale[i, j // 4]) * (8 * i + j - 8 - int(offset[i, j // 4])) for j in range(8)]
        for i in range(2)
    ]
    check(
        Case(
            lambda x: mb.add(
                x=mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset), y=x
            ),
            [np.float16([0])],
            expected,
        ),
        tmp_path / "m.mlpackage",
        "float16",
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_affine_weights_along_an_axis(axis: int, tmp_path: Path) -> None:
    data, scale = np.uint8(RNG.integers(0, 256, (3, 3))), np.float32([0.5, 2, 4])
    zero = np.uint8([7, 130, 250])
    expected = [
        [float(scale[(i, j)[axis]]) * (int(data[i, j]) - int(zero[(i, j)[axis]])) for j in range(3)]
        for i in range(3)
    ]
    check(
        Case(
            lambda x: mb.add(
                x=mb.constexpr_affine_dequantize(
                    quantized_data=data, zero_point=zero, scale=scale, axis=axis
                ),
                y=x,
            ),
            [np.float32([0])],
            expected,
        ),
        tmp_path / "m.mlpackage",
        "float32",
    )


@pytest.mark.parametrize("target", [ct.target.iOS17, ct.target.iOS18])
def test_sparse_weights(target: ct.target, tmp_path: Path) -> None:
    mask = np.array([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]])
    values = np.float32([1, 2, 3, 4, 5])

    def build(x: Var) -> Var:
        if target == ct.target.iOS18:
            dense = mb.constexpr_sparse_to_dense(
                nonzero_data=values, mask=mask.astype(types.np_uint1_dtype)
            )
        else:
            packed = np.packbits(mask.astype(np.uint8).ravel(), bitorder="little")
            dense = mb.constexpr_sparse_to_dense(
                nonzero_data=values, mask=packed, shape=np.uint32(mask.shape)
            )
        return mb.add(x=dense, y=x)

    save(tmp_path / "m.mlpackage", build, [tensor((1,))], target)
    (dense,) = outputs_of(Interpreter(tmp_path / "m.mlpackage"), {"x": np.float32([0])})
    assert dense.tolist() == [[0, 1, 0, 2, 3], [4, 0, 0, 0, 5]]


def test_half_weights_of_a_float32_program(tmp_path: Path) -> None:
    weight = np.float16([[0.1, 3]])
    check(
        Case(
            lambda x: mb.add(x=mb.constexpr_cast(source_val=weight, output_dtype="fp32"), y=x),
            [np.float32([0])],
            weight,
        ),
        tmp_path / "m.mlpackage",
        "float32",
    )


# Functions, states, images


def test_functions_of_one_package(tmp_path: Path) -> None:
    shared = normal(np.float32, 4, 4)
    bundle = ct.utils.MultiFunctionDescriptor()
    for name, factor in (("twice", 2.0), ("thrice", 3.0)):
        save(
            tmp_path / f"{name}.mlpackage",
            scaled(shared, factor),
            [tensor((2, 4))],
            ct.target.iOS18,
        )
        bundle.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    bundle.default_function_name = "thrice"
    ct.utils.save_multifunction(bundle, str(tmp_path / "both.mlpackage"))
    x = normal(np.float32, 2, 4)
    for name, factor in (("twice", 2), ("thrice", 3), (None, 3)):
        model = Interpreter(tmp_path / "both.mlpackage", name)
        assert model.function == (name or "thrice")
        expected = factor * (x.astype(np.float64) @ shared.T)
        np.testing.assert_allclose(model.predict({"x": x})["y"], expected, rtol=5e-6, atol=5e-6)
    with pytest.raises(BackendError, match=r"no function 'main'.*thrice, twice"):
        Interpreter(tmp_path / "both.mlpackage", "main")


def scaled(weight: Array, factor: float) -> Callable[[Var], Var]:
    return lambda x: mb.mul(x=mb.linear(x=x, weight=weight), y=np.float32(factor), name="y")


def test_states_last_from_call_to_call(tmp_path: Path) -> None:
    def build(x: Var, total: Var) -> list[Var]:
        summed = mb.coreml_update_state(
            state=total, value=mb.add(x=mb.read_state(input=total), y=x)
        )
        return [mb.mul(x=summed, y=np.float16(10)), mb.read_state(input=total)]

    save(
        tmp_path / "m.mlpackage",
        build,
        [tensor((3,), types.fp16), mb.StateTensorSpec((3,), dtype=types.fp16)],
        ct.target.iOS18,
    )
    model = Interpreter(tmp_path / "m.mlpackage")
    assert (
        list(model.states) == ["total"]
        and list(model.inputs) == ["x"]
        and model.op_counts["write_state"] == 1
    )
    one, other = model.make_state(), model.make_state()
    x = np.float32([1, 2, 3])
    for count in (1, 2, 3):
        ten, now = model.predict({"x": x}, one).values()
        assert ten.tolist() == [10 * count, 20 * count, 30 * count]
        assert now.tolist() == one.read_state("total").tolist() == [count, 2 * count, 3 * count]
    assert not other.read_state("total").any()
    other.write_state("total", np.float32([5, 5, 5]))
    assert model.predict({"x": x}, other)[list(model.outputs)[1]].tolist() == [6, 7, 8]
    with pytest.raises(BackendError, match=r"state.*expected \['total'\].*make_state"):
        model.predict({"x": x})
    with pytest.raises(BackendError, match=r"no state 'sum'; expected one of \['total'\]"):
        other.read_state("sum")
    with pytest.raises(BackendError, match=r"'total': given \(1,\); expected \(3,\)"):
        other.write_state("total", x[:1])


class Picture:
    """Quacks like PIL.Image."""

    def __init__(self, pixels: Array, mode: str = "RGB") -> None:
        self.pixels, self.mode = pixels, mode

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Array:
        return self.pixels


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_images_in_and_out(layout: str, tmp_path: Path) -> None:
    """The program sees (1, 3, H, W) after the description's scale and bias."""
    path = tmp_path / "m.mlpackage"
    gains = np.float32([1, 2, -1]).reshape(1, 3, 1, 1)
    image = ct.ImageType(
        name="x", shape=(1, 3, 2, 4), scale=0.5, bias=[1, 2, 3], color_layout=layout
    )
    save(
        path,
        lambda x: mb.mul(x=x, y=gains, name="y"),
        [tensor((1, 3, 2, 4))],
        ct.target.iOS17,
        inputs=[image],
    )
    with edited(path) as spec:
        described = spec.description.output[0].type.imageType
        described.width, described.height = 4, 2
        described.colorSpace = described.ColorSpace.Value(layout)
    pixels = np.uint8(RNG.integers(0, 256, (2, 4, 3)))
    pixels[0, 0] = 3, 255, 0
    model = Interpreter(path)
    assert model.inputs["x"].shape == (2, 4, 3) and model.inputs["x"].image == layout
    found = model.predict({"x": pixels})["y"]
    order = [0, 1, 2] if layout == "RGB" else [2, 1, 0]
    expected = np.zeros((2, 4, 3))
    for i, j in np.ndindex(2, 4):
        for place, channel in enumerate(order):
            value = (pixels[i, j, channel] * 0.5 + (1, 2, 3)[place]) * (1, 2, -1)[place]
            expected[i, j, channel] = round(min(max(value, 0), 255))
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(model.predict({"x": Picture(pixels)})["y"], found)
    for wrong in (
        Picture(pixels, "RGBA"),
        pixels[:1],
        pixels.astype(np.float32),
        pixels.transpose(2, 0, 1),
    ):
        with pytest.raises(BackendError, match=r"input 'x'.*expected"):
            model.predict({"x": wrong})


# float16


def test_rounding_mode_rounds_every_result(tmp_path: Path) -> None:
    def build(x: Var) -> list[Var]:
        third = mb.mul(x=x, y=np.float16(1 / 3))
        return [
            third,
            mb.sub(x=mb.add(x=x, y=np.float16(2048)), y=np.float16(2048)),
            mb.cast(x=third, dtype="fp32"),
        ]

    save(tmp_path / "m.mlpackage", build, [tensor((3,), types.fp16)], ct.target.iOS17)
    x = np.float32([1, 1.25, 0.1])
    exact = outputs_of(Interpreter(tmp_path / "m.mlpackage"), {"x": x})
    np.testing.assert_allclose(exact[0], x * float(np.float16(1 / 3)), rtol=1e-7)
    np.testing.assert_allclose(exact[1], x, atol=2e-4)
    rounded = outputs_of(Interpreter(tmp_path / "m.mlpackage", round_float16=True), {"x": x})
    product = (x.astype(np.float16).astype(np.float64) * float(np.float16(1 / 3))).astype(
        np.float16
    )
    np.testing.assert_array_equal(rounded[0], product.astype(np.float32))
    # Numbers at 2048 are 2 apart; 1 is a tie, to even.
    np.testing.assert_array_equal(rounded[1], [0, 2, 0])
    np.testing.assert_array_equal(rounded[2], rounded[0])


def test_rounding_mode_names_the_first_overflow(tmp_path: Path) -> None:
    def build(x: Var) -> Var:
        fine = mb.mul(x=x, y=np.float16(200), name="fine")
        return mb.exp(
            x=mb.sub(x=np.float16(0), y=mb.mul(x=fine, y=np.float16(400), name="too_big"))
        )

    save(tmp_path / "m.mlpackage", build, [tensor((2, 2), types.fp16)], ct.target.iOS17)
    x = np.float32([[1, 0], [0, 1]])
    assert np.isfinite(outputs_of(Interpreter(tmp_path / "m.mlpackage"), {"x": x})[0]).all()
    with pytest.raises(BackendError, match=r"'too_big' \(mul\) yields 2 of 4.*float16 \(2, 2\)"):
        Interpreter(tmp_path / "m.mlpackage", round_float16=True).predict({"x": x})


def test_rounding_mode_refuses_an_input_beyond_float16(package: Path) -> None:
    outputs_of(Interpreter(package), {"x": X + np.float32(1e5)})
    with pytest.raises(BackendError, match=r"input 'x' is not finite in float16 \(2, 16\)"):
        Interpreter(package, round_float16=True).predict({"x": X + np.float32(1e5)})


def test_values_are_let_go_when_no_longer_needed(tmp_path: Path) -> None:
    def build(x: Var) -> Var:
        for _ in range(30):
            x = mb.add(x=x, y=x)
        return x

    save(tmp_path / "m.mlpackage", build, [tensor((256, 1024))], ct.target.iOS17)
    model = Interpreter(tmp_path / "m.mlpackage")
    given = {"x": np.ones((256, 1024), np.float32)}
    tracemalloc.start()
    try:
        model.predict(given)
        assert tracemalloc.get_traced_memory()[1] < 6 * 2**20  # of 1 MiB each
    finally:
        tracemalloc.stop()
    assert given["x"].max() == 1


# What must be refused


class edited:
    """Context that hands out the protobuf of a saved package and writes it back."""

    def __init__(self, path: Path) -> None:
        self.file = model_file(path)

    def __enter__(self) -> Model_pb2.Model:
        self.spec = Model_pb2.Model()
        self.spec.ParseFromString(self.file.read_bytes())
        return self.spec

    def __exit__(self, *_: object) -> None:
        self.file.write_bytes(self.spec.SerializeToString())


def model_file(path: Path) -> Path:
    return path / "Data" / "com.apple.CoreML" / "model.mlmodel"


def operations(spec: Model_pb2.Model) -> Iterator[object]:
    for block in spec.mlProgram.functions["main"].block_specializations.values():
        yield from block.operations


@pytest.fixture
def package(tmp_path: Path) -> Path:
    weight = normal(np.float16, 64, 16)
    save(
        tmp_path / "small.mlpackage",
        lambda x: mb.gelu(x=mb.linear(x=x, weight=weight, name="dense"), name="y"),
        [tensor((2, 16), types.fp16)],
        ct.target.iOS17,
    )
    return tmp_path / "small.mlpackage"


X = np.zeros((2, 16), np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"missing \['x'\]"),
        ({"x": X, "z": X}, r"unknown \['z'\]"),
        ({"x": X[:1]}, r"input 'x' is float32 \(1, 16\); expected float16 \(2, 16\)"),
        ({"x": X.astype(np.int32)}, r"input 'x' is int32"),
        ({"x": X.tolist()[0]}, r"input 'x' is float64 \(16,\)"),
    ],
)
def test_wrong_inputs_are_named(inputs: dict[str, Array], message: str, package: Path) -> None:
    with pytest.raises(BackendError, match=message):
        Interpreter(package).predict(inputs)


def test_an_unknown_operation_is_named(package: Path) -> None:
    with edited(package) as spec:
        next(o for o in operations(spec) if o.type == "gelu").type = "frobnicate"
    with pytest.raises(BackendError, match=r"'y' \(frobnicate\) is not implemented"):
        Interpreter(package)


def test_an_unknown_attribute_is_never_ignored(package: Path) -> None:
    with edited(package) as spec:
        gelu = next(o for o in operations(spec) if o.type == "gelu")
        gelu.inputs["approximate"].CopyFrom(gelu.inputs["mode"])
    with pytest.raises(BackendError, match=r"'y' \(gelu\) has attributes \['approximate'\]"):
        Interpreter(package)


def test_an_unknown_mode_is_refused(package: Path) -> None:
    with edited(package) as spec:
        for o in operations(spec):
            for value in (
                o.attributes["val"].immediateValue.tensor.strings.values
                if o.type == "const"
                else ()
            ):
                if value == "EXACT":
                    o.attributes["val"].immediateValue.tensor.strings.values[0] = "ROUGH"
    with pytest.raises(BackendError, match=r"'y' \(gelu\).*'ROUGH', expected EXACT"):
        Interpreter(package).predict({"x": X})


def test_a_lost_argument_is_refused(package: Path) -> None:
    with edited(package) as spec:
        del next(o for o in operations(spec) if o.type == "linear").inputs["weight"]
    with pytest.raises(BackendError, match=r"'dense' \(linear\) lacks \['weight'\]"):
        Interpreter(package)


def test_a_shape_other_than_declared_is_refused(package: Path) -> None:
    with edited(package) as spec:
        kind = next(o for o in operations(spec) if o.type == "linear").outputs[0].type.tensorType
        kind.dimensions[1].constant.size = 63
    with pytest.raises(
        BackendError, match=r"'dense' \(linear\) gave float32 \(2, 64\).*declares float16 \(2, 63\)"
    ):
        Interpreter(package).predict({"x": X})


def test_flexible_shapes_are_refused(package: Path) -> None:
    with edited(package) as spec:
        kind = next(o for o in operations(spec) if o.type == "linear").outputs[0].type.tensorType
        kind.dimensions[0].unknown.variadic = False
    with pytest.raises(BackendError, match=r"small.mlpackage: the program has a flexible shape"):
        Interpreter(package)


def test_a_constant_unlike_its_declaration_is_refused(package: Path) -> None:
    with edited(package) as spec:
        weight = next(
            o
            for o in operations(spec)
            if o.attributes["val"].WhichOneof("value") == "blobFileValue"
        )
        weight.outputs[0].type.tensorType.dataType = MIL_pb2.FLOAT32
    with pytest.raises(
        BackendError, match=r"constant 'dense_weight_0' is not one value of the type it declares"
    ):
        Interpreter(package)


def test_a_description_unlike_its_program_is_refused(package: Path) -> None:
    with edited(package) as spec:
        spec.description.input[0].name = "other"
    with pytest.raises(
        BackendError, match=r"the description and the program name different inputs"
    ):
        Interpreter(package)


@pytest.mark.parametrize("keep", [0, 100, 1000, -1, None])
def test_truncated_weights_are_found_at_once(keep: int | None, package: Path) -> None:
    weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    whole = weights.read_bytes()
    if keep is None:
        weights.unlink()
    else:
        weights.write_bytes(whole[:keep])
    with pytest.raises(
        BackendError, match=r"weight.bin has \d+ bytes, expected at least.*run the conversion again"
    ):
        Interpreter(package)


def test_overwritten_weights_are_found(package: Path) -> None:
    weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    with pytest.raises(BackendError, match=r"weight.bin at byte \d+ is not float16 \(64,"):
        Interpreter(package).predict({"x": X})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_model_is_refused(share: float, package: Path) -> None:
    raw = model_file(package).read_bytes()
    model_file(package).write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(BackendError, match=r"model.mlmodel.*run the conversion again"):
        Interpreter(package)


def test_what_is_no_package_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"nowhere.*Manifest.json is missing or damaged"):
        Interpreter(tmp_path / "nowhere.mlpackage")
    manifest = json.loads((package / "Manifest.json").read_text())
    model_file(package).unlink()
    with pytest.raises(BackendError, match=r"model.mlmodel is missing"):
        Interpreter(package)
    manifest["rootModelIdentifier"] = "other"
    (package / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BackendError, match=r"Manifest.json is missing or damaged"):
        Interpreter(package)
