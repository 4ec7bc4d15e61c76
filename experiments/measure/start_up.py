"""Measure from the start of a process to its first picture, part by part.

`python -m sdxs.experiments start-up [--models demo] [--rounds 5] [--json PATH]`. Every
round is a new process: imports, weights verified and loaded (hashes of what was verified before
are not computed again), warm-up, first frame, and a second one for comparison. The files are in
the system's cache after the first round; the first is therefore listed apart.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...common.settings import setting
from .. import record
from ..options import Options, option, result_file


def child(model: str, size: int, began: float) -> None:
    """Print the milliseconds of each part as JSON.

    began: wall clock at the start of this process, from the parent.
    """
    from ...common.checkpoint.find import find
    from ...common.prompt.text_encoder import TextEncoder
    from ...mlx_sdxs.backend import MlxBackend
    from ...mlx_sdxs.options import MlxOptions

    marks = {"process and imports": time.time()}
    checkpoint = find(model, download=False)
    backend = MlxBackend(checkpoint, MlxOptions(size or checkpoint.frame.size))
    backend.load()
    marks["weights and warm-up"] = time.time()
    backend.set_conditioning(TextEncoder(checkpoint).encode("an oil painting"))
    marks["prompt"] = time.time()
    picture = np.zeros((size or checkpoint.frame.size,) * 2 + (3,), np.uint8)
    for name in ("first frame", "second frame"):
        backend.submit(picture)
        backend.collect(picture)
        marks[name] = time.time()
    memory = backend.memory()
    backend.close()
    names, times = list(marks), [began, *marks.values()]
    parts = {name: round(1e3 * (times[i + 1] - times[i]), 1) for i, name in enumerate(names)}
    print(
        json.dumps(
            parts
            | {
                "to the first picture": round(1e3 * (marks["first frame"] - began), 1),
                "model bytes": memory.model_bytes,
                "peak bytes": memory.peak_bytes,
            }
        )
    )


def measure(model: str, size: int, rounds: int) -> dict[str, object]:
    """Start a process for every round."""
    raw = []
    for _ in range(rounds + 1):
        command = [sys.executable, "-m", __name__, model, str(size), str(time.time())]
        raw.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        )
        print(model, raw[-1], flush=True)
    first, *later = raw
    median = {key: float(np.median([row[key] for row in later])) for key in first}
    return {"model": Path(model).name, "first": first, "median": median, "raw": later}


@dataclass(frozen=True, slots=True)
class StartUpOptions(Options):
    """Which checkpoints, and how often."""

    models: tuple[str, ...] = option(("demo",), "checkpoints, by name or folder", str, count="+")
    size: int = setting(0, "side of the picture", minimum=0, unit="pixels", shown="the model's own")
    rounds: int = setting(5, "processes after the first", minimum=1)
    json: Path | None = result_file()


def run(options: StartUpOptions) -> None:
    """Measure every model."""
    rows = [measure(model, options.size, options.rounds) for model in options.models]
    if options.json:
        record.write(options.json, {"rows": rows}, options)


if __name__ == "__main__":  # the measured process: MODEL SIZE BEGAN
    child(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
