"""From the start of a process to its first picture: what a user waits for, part by part.

`python -m sdxs.experiments.measure.start_up [--models demo] [--rounds 5] [--json PATH]`. Every
round is a new process: imports, weights verified and loaded (hashes of what was verified before
are not computed again), warm-up, first frame, and a second one for comparison. The files are in
the system's cache after the first round; the first is therefore listed apart.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def child(model: str, size: int, began: float) -> None:
    """Print the milliseconds of each part as json. `began`: when the parent started this process,
    on the wall clock.
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
        command = [
            sys.executable,
            "-m",
            __spec__.name,
            "--child",
            model,
            "--size",
            str(size),
            "--began",
            str(time.time()),
        ]
        raw.append(
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        )
        print(model, raw[-1], flush=True)
    first, *later = raw
    median = {key: float(np.median([row[key] for row in later])) for key in first}
    return {"model": Path(model).name, "first": first, "median": median, "raw": later}


def main() -> None:
    """Measure, show, write: scripts may print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["demo"])
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.size, options.began)
        return
    rows = [measure(model, options.size, options.rounds) for model in options.models]
    if options.json:
        machine = {"system": platform.platform(terse=True), "cores": os.cpu_count()}
        options.json.write_text(
            json.dumps({"schema": 1, "machine": machine, "rows": rows}, indent=1) + "\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
