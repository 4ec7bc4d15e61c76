"""Functions for `common.backend.process.apart` to call in a child process."""

import time
import warnings
from collections.abc import Callable

from sdxs.common.errors import BackendError, SdxsWarning


def twice(number: int, report: Callable[[str, float], None]) -> int:
    if not number:
        raise BackendError("nothing to double")
    report("double", 0.5)
    if number % 2:
        warnings.warn(f"{number} is odd", SdxsWarning, stacklevel=2)
    return 2 * number


def wait(report: Callable[[str, float], None]) -> None:
    time.sleep(600)
