"""Backends by name: the one table that has to grow for a third."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from ..common.errors import UsageError

if TYPE_CHECKING:
    from ..common.backend.protocol import Backend, BackendOptions
    from ..common.checkpoint.find import Checkpoint

BACKENDS = {
    "mlx": "sdxs.mlx_sdxs.backend:MlxBackend",
    "coreml": "sdxs.coreml_backend.backend:CoreMLBackend",
    "identity": "sdxs.common.backend.identity:IdentityBackend",
}


def backend_location(name: str, option: str = "--backend") -> str:
    """'module:Class' of a backend. Raises UsageError with the names there are."""
    if name not in BACKENDS:
        raise UsageError(f"{option} {name}: expected one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def backend_class(name: str) -> "Callable[[Checkpoint, BackendOptions], Backend]":
    """Import a backend's class. Raises UsageError if there is none, or its framework is not
    installed.
    """
    module, attribute = backend_location(name).split(":")
    try:
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("sdxs"):
            raise
        raise UsageError(
            f"--backend {name}: {error.name!r} is not installed; `pip install {error.name}`"
        ) from None
