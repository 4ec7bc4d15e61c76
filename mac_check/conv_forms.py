"""Which convolutions are faster as products on this Mac: every shape of a model, then a frame.

Asked because MLX has kernels for the matrix unit of an M5 for products and none for convolutions.
The shapes are those that a frame of the model meets. A form is taken if it errs no more than twice
as much as MLX's own and gains 5 %. The whole frame then decides: the table pays if a frame with it
is faster and its picture as near to the exact one. If so, mac-check writes the table where
`mlx_sdxs/fast/conv_table.py` looks for it; deleting that file gives back MLX's convolutions.
"""

import math
import time
from dataclasses import asdict, dataclass

import mlx.core as mx
import numpy as np

from ..common.system import macos_version
from ..mlx_sdxs.backend import MlxBackend
from ..mlx_sdxs.fast import products
from ..mlx_sdxs.fast.conv_table import FORMS, choose, shape_key, store, table_path, unit
from ..mlx_sdxs.fast.products import ProductConv, convolve, maker
from ..mlx_sdxs.options import MlxOptions
from .coreml import nearness, render, spread
from .mlx import _dtype
from .setup import Answer, Setup

OWN_FACTOR = 2.0  # what a form may err more than MLX's own
EXACT = 1e-6  # and what it may err in any case, relative L2
ROUNDS = 5
HELD_BYTES = 1 << 28  # of gathered windows in one chain
MOST_CHAIN = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """A convolution that a frame meets: (B, H, W, C) and (O, k, k, C)."""

    map: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int
    dtype: str

    @property
    def key(self) -> str:
        return shape_key(self.map, self.weight, self.stride, self.dtype)

    @property
    def forms(self) -> tuple[str, ...]:
        return FORMS if self.weight[1] == 3 else FORMS[:2]


def ask_conv_forms(setup: Setup) -> Answer:
    """Measure every form of every convolution of a frame, then the frame with the best of them."""
    if not products.on_metal():
        return {"ok": True, "asked": False, "note": "no Metal here: the table is for it"}
    # this check's own folder has a cache of its own
    rows = [measured(shape) for shape in shapes_of(setup)]
    forms = {str(row["key"]): str(row["form"]) for row in rows}
    before, own = frame(setup)
    store(forms, maker())
    after, with_table = frame(setup)
    table_path().unlink()
    pays = any(form != "direct" for form in forms.values()) and after["p50"] < before["p50"]
    return {
        **with_table,
        "ok": bool(with_table["ok"]) or not own["ok"],
        "maker": asdict(maker()),
        "matrix_unit": unit(str(mx.device_info().get("architecture", "")), macos_version()),
        "forms": forms,
        "rows": rows,
        "own_psnr_db": own["psnr_db"],
        "frame_ms_by": {"direct": before, "table": after},
        "pays": pays,
    }


def shapes_of(setup: Setup) -> list[Shape]:
    """Return the convolutions that a frame of this model meets, each once."""
    found: dict[str, Shape] = {}
    right = ProductConv.__call__

    def note(self: ProductConv, x: mx.array) -> mx.array:
        dtype = str(x.dtype).rpartition(".")[2]
        shape = Shape(tuple(x.shape), tuple(self.weight.shape), self._stride, dtype)
        found[shape.key] = shape
        return right(self, x)

    ProductConv.__call__ = note  # type: ignore[method-assign]
    store({}, maker())  # every convolution is MLX's own, and passes here
    try:
        _frame_backend(setup).close()
    finally:
        ProductConv.__call__ = right  # type: ignore[method-assign]
        table_path().unlink()
    return list(found.values())


def measured(shape: Shape) -> Answer:
    """Time every form of one convolution in turns; choose among those that are near enough."""
    generator, dtype = np.random.default_rng(0), getattr(mx, shape.dtype)

    def normal(*sizes: int) -> mx.array:
        return mx.array(generator.standard_normal(sizes, dtype=np.float32)).astype(dtype)

    x = normal(*shape.map)
    weight = normal(*shape.weight) / math.sqrt(math.prod(shape.weight[1:]))
    mx.eval(x, weight)
    wide = [each.astype(mx.float32) for each in (x, weight)]
    exact = convolve(wide[0], wide[1], "direct", stride=shape.stride)
    error = {
        form: _relative(convolve(x, weight, form, stride=shape.stride), exact)
        for form in shape.forms
    }
    limit = max(EXACT, OWN_FACTOR * error["direct"])
    us = dict.fromkeys(shape.forms, math.inf)
    gathered = math.prod(shape.weight[1:3]) * x.nbytes // shape.stride**2
    chain = max(1, min(MOST_CHAIN, HELD_BYTES // gathered))
    for _ in range(ROUNDS):
        for form in us:
            us[form] = min(us[form], _chain_us(x, weight, form, shape.stride, chain))
    passing = [form for form, each in error.items() if each <= limit]
    facts = {"us": us, "error": error, "form": choose(us, passing)}
    return {"key": shape.key, **facts}


def _chain_us(x: mx.array, weight: mx.array, form: str, stride: int, chain: int) -> float:
    began = time.perf_counter()
    mx.eval([convolve(x, weight, form, stride=stride) for _ in range(chain)])
    return (time.perf_counter() - began) / chain * 1e6


def _relative(made: mx.array, exact: mx.array) -> float:
    return float(mx.linalg.norm(made.astype(mx.float32) - exact) / mx.linalg.norm(exact))


def frame(setup: Setup) -> tuple[dict[str, float], Answer]:
    """Time frames as a session has them, and compare the picture with the exact one."""
    backend = _frame_backend(setup)
    picture, intervals, _ = render(backend, setup.checkpoint(), setup.frame, setup.frames)
    backend.close()
    return spread(intervals[1:]), nearness(picture, setup)


def _frame_backend(setup: Setup) -> MlxBackend:
    """Load the backend, which renders a blank frame."""
    made = MlxBackend(setup.checkpoint(), MlxOptions(setup.frame, dtype=_dtype()))
    made.load()
    return made
