"""Measure which form of a 3 x 3 convolution is fastest on this CPU, for every shape in use.

Run as `python -m sdxs.experiments conv-forms [--json PATH]`. Processor time of one thread,
so that a shared machine disturbs it little; the least of several runs, in turns.
`mlx_sdxs/fast/conv.py` chooses by these figures, and the last column says whether its choice is
within a tenth of the best.
"""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read once, when the library is loaded

from ...mlx_sdxs import blas
from ...mlx_sdxs.fast import conv
from ...mlx_sdxs.fast.conv import Form, best_form, convolve, transform_weight
from ...mlx_sdxs.fast.ops import stepwise
from .. import record
from ..options import Options, result_file

# side, inputs, outputs: TAESD at 512, the UNets of SDXS at 512, and small networks at 256
SHAPES = (
    (512, 3, 64),
    (512, 64, 64),
    (512, 64, 3),
    (256, 64, 64),
    (128, 64, 64),
    (64, 64, 64),
    (64, 64, 4),
    (64, 320, 320),
    (64, 640, 320),
    (64, 960, 320),
    (32, 640, 640),
    (32, 1280, 640),
    (16, 1280, 1280),
    (16, 2560, 1280),
    (256, 16, 16),
    (256, 16, 3),
    (128, 16, 16),
    (64, 16, 16),
    (32, 32, 32),
    (32, 64, 32),
    (16, 64, 64),
    (8, 128, 128),
)
STRIDED = (
    (512, 64, 64),
    (256, 64, 64),
    (128, 64, 64),
    (64, 320, 320),
    (32, 640, 640),
    (256, 24, 24),
    (128, 24, 24),
)
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """Time each form at one shape in CPU ms, with its largest relative error.

    uncut_ms: of the chosen form with the map in one piece, where it goes through in strips; else 0.
    """

    side: int
    inputs: int
    outputs: int
    stride: int
    ms: dict[str, float]
    error: dict[str, float]
    chosen: str
    chosen_over_best: float
    uncut_ms: float


def measure(side: int, inputs: int, outputs: int, stride: int = 1) -> Row:
    import mlx.core as mx
    import numpy as np

    random = np.random.default_rng(0)
    x = mx.array(random.standard_normal((1, side, side, inputs), dtype=np.float32))
    weight = mx.array(
        random.standard_normal((outputs, 3, 3, inputs), dtype=np.float32)
        / np.float32(3 * inputs**0.5)
    )
    forms = (
        ("direct", "windows")
        if stride == 2
        else tuple(form for form in get_args(Form) if form != "windows")
    )
    weights = {form: transform_weight(weight, form) for form in forms}
    mx.eval(x, weights)
    exact = convolve(x, weight, "direct", stride=stride)
    largest = mx.abs(exact).max()
    error = {
        f: float(mx.abs(convolve(x, w, f, stride=stride) - exact).max() / largest)
        for f, w in weights.items()
    }
    chosen = best_form(side, side, inputs, outputs, stride)
    cut = chosen not in ("direct", "shifts") and conv._strip_rows(x, weights[chosen]) < side
    ms = dict.fromkeys([*weights, *(["uncut"] if cut else [])], float("inf"))
    strips = conv._STRIPS
    for _ in range(ROUNDS):
        for name in ms:
            form = chosen if name == "uncut" else name
            conv._STRIPS = 1 << 30 if name == "uncut" else strips
            with stepwise():
                began = time.process_time()
                mx.eval(convolve(x, weights[form], form, stride=stride))
                ms[name] = min(ms[name], (time.process_time() - began) * 1e3)
    conv._STRIPS = strips
    uncut = ms.pop("uncut", 0.0)
    return Row(
        side, inputs, outputs, stride, ms, error, chosen, ms[chosen] / min(ms.values()), uncut
    )


@dataclass(frozen=True, slots=True)
class ConvFormsOptions(Options):
    """Where the figures go."""

    json: Path | None = result_file()


def run(options: ConvFormsOptions) -> None:
    """Measure every form of every shape."""
    rows = []
    for shape in (*SHAPES, *((*shape, 2) for shape in STRIDED)):
        rows.append(row := measure(*shape))
        times = "  ".join(f"{form} {ms:8.2f}" for form, ms in row.ms.items())
        whole = f", in one piece {row.uncut_ms:.2f} ms" if row.uncut_ms else ""
        verdict = f"{row.chosen} ({row.chosen_over_best:.2f} of the best{whole})"
        print(
            f"{row.side:4} / {row.stride} {row.inputs:5} -> {row.outputs:<5} ms {times}   "
            f"{verdict}",
            flush=True,
        )
    if options.json:
        library = blas.loaded()
        used = f"{library.origin} ({library.core})" if library else "MLX's own"
        figures = {"blas": used, "rows": [asdict(row) for row in rows]}
        record.write(options.json, figures, options)
