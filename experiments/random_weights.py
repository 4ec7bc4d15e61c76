"""Write a random checkpoint: `python -m sdxs.experiments.random_weights NAME FOLDER`."""

import argparse
from pathlib import Path

import numpy as np

from ..common.testing.random_checkpoint import ARCHITECTURES, architecture, tiny, write_checkpoint


def main() -> None:
    """Write FOLDER/NAME."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", help="one of " + ", ".join(sorted(p.stem for p in ARCHITECTURES.glob("*.json")))
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--float16", action="store_true", help="half the disk; what a GPU computes in anyway"
    )
    parser.add_argument("--tiny", action="store_true", help="a tenth of the width")
    options = parser.parse_args()
    full = architecture(options.name)
    configs = tiny(full) if options.tiny else full
    print(
        write_checkpoint(
            options.folder / options.name,
            configs,
            dtype=np.float16 if options.float16 else np.float32,
        )
    )


if __name__ == "__main__":
    main()
