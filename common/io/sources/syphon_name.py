"""Names of Syphon servers as options give them, `NAME` or `NAME,flip`; open one by its name."""

import sys

from ...errors import UsageError
from .received import Received, needing_package

FLIP = ",flip"


def read_name(text: str) -> tuple[str, bool]:
    """Return the name, and whether the picture is turned upside down."""
    return text.removesuffix(FLIP).strip(), text.endswith(FLIP)


def open_syphon(text: str) -> Received:
    """Return a source of what a Syphon server shows; '' is for the only one there is.

    Raises UsageError away from macOS and where syphon-python is not installed, SourceError where
    there is no such server.
    """
    spec = f"syphon:{text.strip()}"
    if sys.platform != "darwin":
        raise UsageError(f"--source {spec}: syphon: is for macOS; ndi:NAME takes its place here")
    needing_package(spec, "syphon", "pip install 'sdxs[syphon]'")
    return Received(".syphon:SyphonInlet", spec, text.strip())
