"""Every kind of faults: importing this module fills the list, in the order of the page."""

from importlib import import_module

from .fault import Fault, faults

ROOMS = (
    *(
        "folders",
        "checkpoints",
        "configs",
        "pickles",
        "imports",
        "pulls",
        "stores",
        "records",
        "words",
    ),
    *("media", "outputs", "signals", "surroundings", "leaks"),
)
for room in ROOMS:
    import_module(f"{__package__}.{room}")

__all__ = ["Fault", "faults"]
