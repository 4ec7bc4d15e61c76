"""Frame time of MLX beside PyTorch, each in its own process, in alternating rounds of one run.

Run as `python -m sdxs.experiments.speed [--json PATH]`. This machine may be shared and noisy: the
ratio of the two medians is the figure to quote, and its spread over the rounds is reported with it.
`sdxs bench` will replace this script; until then it makes the figures of the README.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path

from ..common.checkpoint import find
from .random_checkpoint import architecture, write_checkpoint

BACKENDS = {"mlx": "..mlx_sdxs.backend:MlxBackend", "torch": ".torch_peer:TorchBackend"}


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison. Full-size models run on random weights, which takes the same time."""

    model: str
    size: int
    frames: int
    rounds: int


CASES = (
    Case("demo", 192, 30, 4),
    Case("demo", 256, 30, 4),
    Case("sdxs-512-0.9", 512, 3, 3),
)


def measure(backend: str, model: str, size: int, frames: int) -> dict[str, object]:
    """Run in the child: load, warm up twice, time each frame. Milliseconds from submit to collect."""
    module, name = BACKENDS[backend].split(":")
    made_by = getattr(import_module(module, __package__), name)  # before OpenCV and torch, for MLX's BLAS
    import numpy as np

    from ..common.backend import BackendOptions

    renderer = made_by(find(model, download=False), BackendOptions(size))
    began = time.perf_counter()
    renderer.load()
    loaded = time.perf_counter() - began
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = np.empty_like(picture)
    times = []
    for n in range(frames + 2):
        renderer.submit(picture)
        total_ns = renderer.collect(out).total_ns
        if n >= 2:
            times.append(total_ns / 1e6)
    result = {"frame_ms": times, "load_s": loaded, "describe": renderer.describe()}
    renderer.close()
    return result


def child(backend: str, model: str, size: int, frames: int) -> dict[str, object]:
    """Measure in a fresh process."""
    arguments = ["--child", backend, "--model", model, "--size", str(size), "--frames", str(frames)]
    command = [sys.executable, "-m", "sdxs.experiments.speed", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{backend} on {model} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: Case, model: str) -> dict[str, object]:
    """Alternate the two backends for `case.rounds` rounds and summarise."""
    runs: dict[str, list[dict[str, object]]] = {name: [] for name in BACKENDS}
    for number in range(case.rounds):
        for name in runs:
            runs[name].append(child(name, model, case.size, case.frames))
            print(f"{case.model} {case.size} round {number + 1}/{case.rounds} {name}: "
                  f"{statistics.median(runs[name][-1]['frame_ms']):.1f} ms", flush=True)
    medians = {name: [statistics.median(run["frame_ms"]) for run in rounds] for name, rounds in runs.items()}
    ratios = [a / b for a, b in zip(medians["mlx"], medians["torch"], strict=True)]
    return {
        **asdict(case),
        "weights": "demo" if case.model == "demo" else "random, real architecture",
        "median_ms": {name: statistics.median(values) for name, values in medians.items()},
        "ratio_mlx_to_torch": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "runs": runs,
    }


def machine() -> dict[str, object]:
    """Name what the figures were taken on."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    packages = ("mlx", "torch", "diffusers", "numpy", "opencv-python-headless")
    return {
        "system": platform.platform(terse=True), "cpu": model or platform.processor(), "cores": os.cpu_count(),
        "python": platform.python_version(), "versions": {name: metadata.version(name) for name in packages},
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE", "chosen by sdxs"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="model name")
    parser.add_argument("--child", choices=BACKENDS)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=10)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.model, options.size, options.frames)))
        return
    results = []
    for case in CASES:
        if options.only not in (None, case.model):
            continue
        if case.model == "demo":
            results.append(compare(case, "demo"))
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(f"writing {case.model} with random weights", flush=True)
            results.append(compare(case, str(write_checkpoint(Path(folder) / case.model, architecture(case.model)))))
    for result in results:
        print(f"{result['model']} at {result['size']}: {result['median_ms']}, mlx / torch {result['ratio_mlx_to_torch']}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"schema": 1, "machine": machine(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
