"""Measure what making a Core ML program costs: written from safetensors, and traced by PyTorch.

`python -m sdxs.experiments coreml-build [--json PATH]` (extra `[parity]`) writes SDXS-0.9
with random weights in its real layout, then builds the whole frame (encode, UNet, decode) by both
routes, each in a process of its own, taken in turns; wall time is the whole process, from start to
exit, peak memory the process's resident maximum as the kernel counts it (files mapped into memory
included). The traced route is what a user of diffusers would write: torch.jit.trace and ct.convert
with their defaults. It needs one repair, see `repair_cast`; whether coremltools still needs it is
tried each time, on a tiny model.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...common.errors import SinkError
from ...common.settings import setting
from ...common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from .. import record
from ..options import Options, result_file

# Mixing at t = 999 as the paper's script has it: the textbook form.
SQRT_ALPHA, SQRT_ONE_MINUS_ALPHA = 0.0683, 0.9977
REPAIR = (
    "coremltools.converters.mil.frontend.torch.ops._cast takes int() of arrays with one "
    "element, which NumPy 2 refuses"
)
SIZES = (256, 512, 768)
Figures = dict[str, float | int | str]


def build_route(folder: Path, size: int, package: Path) -> Figures:
    """Build by our route in a child, with PyTorch hidden: coremltools would load it for nothing."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    began = time.perf_counter()
    from ...common.checkpoint.find import open_checkpoint
    from ...coreml_backend.options import Variant
    from ...coreml_backend.program import build

    imported = time.perf_counter()
    build(open_checkpoint(folder), Variant(size, input="float32"), package)
    return {"import_s": imported - began, "build_s": time.perf_counter() - imported}


def sizes_route(folder: Path, _: int, package: Path) -> Figures:
    """Child: one package for 256, 512 and 768, which share its weights."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    from ...common.checkpoint.find import open_checkpoint
    from ...coreml_backend.options import Variant
    from ...coreml_backend.program import build_sizes

    build_sizes(open_checkpoint(folder), Variant(SIZES[0], input="float32"), list(SIZES), package)
    return {"sizes": "+".join(map(str, SIZES))}


def traced_route(folder: Path, size: int, package: Path, repaired: bool = True) -> Figures:
    """Child: the same frame through torch.jit.trace and ct.convert. Raises what they raise."""
    began = time.perf_counter()
    import coremltools as ct
    import torch
    from diffusers import AutoencoderTiny, UNet2DConditionModel

    if repaired:
        repair_cast()
    imported = time.perf_counter()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    vae = AutoencoderTiny.from_pretrained(folder / "vae").eval()

    class TorchFrame(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet, self.vae = unet, vae

        def forward(
            self, picture: torch.Tensor, encoder_hidden_states: torch.Tensor, noise: torch.Tensor
        ) -> torch.Tensor:
            latents = self.vae.encode(picture / 127.5 - 1, return_dict=False)[0]
            sample = SQRT_ALPHA * latents + SQRT_ONE_MINUS_ALPHA * noise
            eps = self.unet(sample, torch.tensor([999]), encoder_hidden_states, return_dict=False)[
                0
            ]
            x0 = (sample - SQRT_ONE_MINUS_ALPHA * eps) / SQRT_ALPHA
            return (self.vae.decode(x0, return_dict=False)[0] + 1) * 127.5

    side, channels = size // 8, unet.config.in_channels
    example = {
        "picture": torch.rand(1, 3, size, size) * 255,
        "encoder_hidden_states": torch.randn(1, 77, unet.config.cross_attention_dim),
        "noise": torch.randn(1, channels, side, side),
    }
    loaded = time.perf_counter()
    with torch.no_grad():
        traced = torch.jit.trace(TorchFrame().eval(), tuple(example.values()), check_trace=False)
    seen = time.perf_counter()
    model = ct.convert(
        traced,
        inputs=[ct.TensorType(name=name, shape=tensor.shape) for name, tensor in example.items()],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    converted = time.perf_counter()
    model.save(str(package))
    return {
        "import_s": imported - began,
        "load_s": loaded - imported,
        "trace_s": seen - loaded,
        "convert_s": converted - seen,
        "save_s": time.perf_counter() - converted,
    }


def repair_cast() -> None:
    """Let ct.convert (9.0) take `int(tensor)` under NumPy 2.

    Can go once coremltools does so itself.
    """
    import numpy as np
    from coremltools.converters.mil.frontend.torch import ops
    from coremltools.converters.mil.mil import Builder as mb

    released = ops._cast

    def cast(context: object, node: object, dtype: type, dtype_name: str) -> None:
        (x,) = ops._get_inputs(context, node, expected=1)
        if x.can_be_folded_to_const() and np.size(x.val) == 1:
            context.add(mb.const(val=dtype(np.asarray(x.val).item()), name=node.name), node.name)  # type: ignore[attr-defined]
        else:
            released(context, node, dtype, dtype_name)

    ops._cast = cast


CHILDREN = {
    "built": build_route,
    "built for three sizes": sizes_route,
    "traced": traced_route,
    "traced as released": lambda folder, size, package: traced_route(
        folder, size, package, repaired=False
    ),
}


def write_apart(folder: Path, name: str) -> Path:
    """Write a checkpoint with random weights in a process of its own; return `folder`.

    The kernel counts the peak of the process that starts a child as the child's.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=write_checkpoint, args=(folder, architecture(name))
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SinkError(f"{folder}: the weights could not be written")
    return folder


def measure(route: str, folder: Path, size: int, package: Path, module: str = __name__) -> Figures:
    """Run one route in a child: its figures, wall time, peak memory, size, or its failure.

    module: its `__main__` takes ROUTE FOLDER SIZE PACKAGE and prints the route's figures as JSON.
    """
    command = [sys.executable, "-m", module, route, str(folder), str(size), str(package)]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began
        out.seek(0), err.seek(0)
        lines, complaint = out.read().splitlines(), err.read().strip().splitlines()
    cpu_s = usage.ru_utime + usage.ru_stime
    figures: Figures = {
        "route": route,
        "exit_code": process.returncode,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
    }
    if process.returncode:
        return figures | {"error": complaint[-1] if complaint else ""}
    unit = 1 if sys.platform == "darwin" else 1024
    size_bytes = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    return (
        figures
        | json.loads(lines[-1])
        | {"peak_rss_bytes": usage.ru_maxrss * unit, "package_bytes": size_bytes}
    )


def compare(name: str, size: int, rounds: int, say: Callable[[str], None]) -> dict[str, object]:
    """Run both routes `rounds` times in turns, and the unrepaired traced one once, tiny."""
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        small = write_checkpoint(base / "tiny", tiny(architecture(name)))
        released = measure("traced as released", small, 64, base / "released.mlpackage")
        say(f"traced as released, tiny: {released.get('error', 'works')}")
        folder = write_apart(base / name, name)
        runs = []
        for number in range(rounds):
            for route in ("built", "traced"):
                runs.append(measure(route, folder, size, base / f"{route}-{number}.mlpackage"))
                say(json.dumps(runs[-1]))
        runs.append(measure("built for three sizes", folder, size, base / "sizes.mlpackage"))
        say(json.dumps(runs[-1]))
    return {
        "model": name,
        "size": size,
        "weights": "random, float32, real layout",
        "traced_as_released_on_tiny": released,
        "repair": REPAIR,
        "runs": runs,
        "medians": {
            route: medians(runs, route) for route in ("built", "traced", "built for three sizes")
        },
    }


def medians(runs: list[Figures], route: str) -> dict[str, float]:
    good = [run for run in runs if run["route"] == route and run["exit_code"] == 0]
    keys = ("wall_s", "cpu_s", "peak_rss_bytes", "package_bytes")
    if not good:
        return {}
    # What other programs on the machine disturbed least.
    least = min(float(run["wall_s"]) for run in good)
    return {key: statistics.median(float(run[key]) for run in good) for key in keys} | {
        "least_wall_s": least
    }


@dataclass(frozen=True, slots=True)
class CoremlBuildOptions(Options):
    """Which network, and how often."""

    model: str = setting("sdxs-512-0.9", "an architecture that random weights are written for")
    size: int = setting(512, "side of the picture", minimum=64, unit="pixels")
    rounds: int = setting(3, "times that each route is built, in turns", minimum=1)
    json: Path | None = result_file()


def run(options: CoremlBuildOptions) -> None:
    """Build by every route, in turns."""
    result = compare(options.model, options.size, options.rounds, print)
    if options.json:
        record.write(options.json, result, options)
    for route, medians in result["medians"].items():  # type: ignore[attr-defined]
        print(route, {key: round(value, 1) for key, value in medians.items()})


if __name__ == "__main__":  # the measured process: ROUTE FOLDER SIZE PACKAGE
    route, folder, size, package = sys.argv[1:]
    print(json.dumps(CHILDREN[route](Path(folder), int(size), Path(package))))
