"""Try faults in a process of its own: ids on stdin, outcomes as JSON lines on a descriptor.

`python -m sdxs.experiments.measure.fault_kinds.worker SEED FOLDER DESCRIPTOR`. Calls of the API
happen here; who kills this process at a limit loses nothing but the fault.
"""

import json
import os
import shutil
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from random import Random

from .every import faults
from .fault import Fault, Outcome
from .place import Place
from .samples import Samples


def attempt(fault: Fault, folder: Path, samples: Samples, seed: int) -> Outcome:
    """Try one fault in a fresh folder, and return what came of it."""
    began = time.monotonic()
    place = Place(folder, samples, Random(f"{seed} {fault.id}"))
    try:
        fault.attempt(place)
    except Exception:
        place.wrong.append(f"the fault itself failed: {traceback.format_exc()[-400:]}")
    place.finish()
    last = place.last
    return Outcome(
        fault.id,
        fault.kind,
        ", ".join([fault.what, *place.noted]),
        last.code if last else None,
        last.last_line[:400].replace(str(place.folder), ".") if last else "",
        round(time.monotonic() - began, 2),
        tuple(dict.fromkeys(each.replace(str(place.folder), ".") for each in place.wrong)),
    )


def main(seed: int, folder: Path, descriptor: int) -> None:
    """Answer ids until stdin ends."""
    samples, known = Samples(folder), {each.id: each for each in faults(seed)}
    answers = os.fdopen(descriptor, "w", encoding="utf-8")
    for line in sys.stdin:
        id = line.strip()
        place = folder / "tries" / f"{id}-{os.getpid()}"
        outcome = attempt(known[id], place, samples, seed)
        os.chdir(folder)
        answers.write(json.dumps(asdict(outcome)) + "\n")
        answers.flush()
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
