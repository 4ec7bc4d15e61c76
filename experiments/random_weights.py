"""Write a random checkpoint: `python -m sdxs.experiments random-weights NAME FOLDER`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common.settings import setting
from ..common.testing.random_checkpoint import ARCHITECTURES, architecture, tiny, write_checkpoint
from .options import Options, argument


@dataclass(frozen=True, slots=True)
class RandomWeightsOptions(Options):
    """Which architecture, and where to."""

    name: str = argument(
        "an architecture", str, choices=sorted(p.stem for p in ARCHITECTURES.glob("*.json"))
    )
    folder: Path = argument("the checkpoint is written to FOLDER/NAME")
    float16: bool = setting(False, "half the disk; what a GPU computes in anyway")
    tiny: bool = setting(False, "a tenth of the width")


def run(options: RandomWeightsOptions) -> None:
    """Write FOLDER/NAME."""
    full = architecture(options.name)
    configs = tiny(full) if options.tiny else full
    print(
        write_checkpoint(
            options.folder / options.name,
            configs,
            dtype=np.float16 if options.float16 else np.float32,
        )
    )
