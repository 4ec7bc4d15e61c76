"""Try faults in a process of its own: ids on stdin, outcomes as JSON lines on a descriptor.

`pool.py` starts it with a seed, a folder and the descriptor. Calls of the API happen here: who
kills this process at a limit loses nothing but the fault.
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

from ....common.checkpoint.find import PACKAGE_FOLDER
from .every import faults
from .fault import Fault, Outcome
from .place import Place
from .samples import Samples

MOST_CHARACTERS = 300


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
        _without_places(last.last_line, place)[:MOST_CHARACTERS] if last else "",
        round(time.monotonic() - began, 2),
        tuple(
            dict.fromkeys(_without_places(each, place)[:MOST_CHARACTERS] for each in place.wrong)
        ),
    )


def _without_places(text: str, place: Place) -> str:
    """Return a text without the places of this machine: outcomes are passed on."""
    for folder, name in (
        (place.folder, "."),
        (place.base, ".."),
        (place.samples.folder, "samples"),
        (PACKAGE_FOLDER, "sdxs"),
        (sys.prefix, "venv"),
    ):
        text = text.replace(str(folder), name)
    return text


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
