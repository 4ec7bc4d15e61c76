"""What diffusers made of the tiny checkpoints, stored in the repository; imports no MLX."""

import numpy as np
from safetensors.numpy import load_file

from ..common.checkpoint.find import PACKAGE_FOLDER
from ..common.errors import UsageError

FIXTURES = PACKAGE_FOLDER / "tests" / "fixtures"
STORED = "parity.safetensors"


def stored_outputs() -> dict[str, np.ndarray]:
    """Load what diffusers made of every tiny checkpoint, by 'checkpoint/part/output'.

    A wheel does not hold the file. Raises UsageError outside of a checkout.
    """
    refuse_without_stored_outputs()
    return load_file(FIXTURES / STORED)


def refuse_without_stored_outputs() -> None:
    """Raise UsageError outside of a checkout."""
    if not (FIXTURES / STORED).is_file():
        raise UsageError(
            f"{STORED}: not found in {FIXTURES}; an installed wheel does not hold the stored "
            "outputs of diffusers; clone the repository and run `make mac-check` there"
        )
