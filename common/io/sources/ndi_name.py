"""Open an NDI sender by its name."""

from .received import Received, needing_package


def open_ndi(name: str) -> Received:
    """Return a source of what an NDI sender sends; '' is for the only one there is.

    Raises UsageError where cyndilib is not installed, SourceError where there is no such sender.
    """
    spec = f"ndi:{name.strip()}"
    needing_package(spec, "cyndilib", "pip install 'sdxs[ndi]'")
    return Received(".ndi:NdiInlet", spec, name.strip())
