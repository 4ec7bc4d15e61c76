"""Compare the custom GroupNorm kernel with its twin in plain MLX, on the GPU at hand.

`python -m sdxs.experiments kernel [--json PATH]`; `mac_check.kernel` does the comparing.
"""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ...mac_check.kernel import compare
from .. import record
from ..options import Options, result_file


@dataclass(frozen=True, slots=True)
class KernelOptions(Options):
    """Where the figures go."""

    json: Path | None = result_file()


def run(options: KernelOptions) -> int:
    """Compare every shape; return 1 if one passes its limit."""
    shapes = compare()
    for shape in shapes:
        print(shape)
    if options.json:
        figures = {
            "device": str(mx.device_info().get("device_name", "")),
            "mlx": mx.__version__,
            "shapes": shapes,
        }
        record.write(options.json, figures, options)
    return 0 if all(shape["ok"] for shape in shapes) else 1
