"""Let the project's files import a `sys` and a `platform` that say Darwin.

Libraries keep Linux's: they chose their code by it, and that code must run.
"""

import builtins
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SHAPE = Path(__file__).resolve().parent
VERSION, KERNEL = "15.5", "24.5.0"

_import = builtins.__import__


class Seen(ModuleType):
    """A module that answers some names by itself and leaves all others to the real one.

    What a test sets is set where it is read: in the real module, but for the names answered here.
    """

    def __init__(self, real: ModuleType, answers: dict[str, object]) -> None:
        super().__init__(real.__name__, real.__doc__)
        object.__setattr__(self, "_real", real)
        object.__setattr__(self, "_answers", answers)

    def __getattribute__(self, name: str) -> object:
        real, answers = _parts(self)
        if name == "__dict__":  # pytest asks here what to put back and what to delete
            return vars(real) | answers
        return answers[name] if name in answers else getattr(real, name)

    def __setattr__(self, name: str, value: object) -> None:
        real, answers = _parts(self)
        if name in answers:
            answers[name] = value
        else:
            setattr(real, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_parts(self)[0], name)


def _parts(module: Seen) -> tuple[ModuleType, dict[str, object]]:
    own = object.__getattribute__(module, "__dict__")
    return own["_real"], own["_answers"]


DARWIN = {
    "sys": Seen(sys, {"platform": "darwin"}),
    "platform": Seen(
        platform,
        {
            "system": lambda: "Darwin",
            "machine": lambda: "arm64",
            "processor": lambda: "arm",
            "release": lambda: KERNEL,
            "version": lambda: f"Darwin Kernel Version {KERNEL}",
            "mac_ver": lambda *_, **__: (VERSION, ("", "", ""), "arm64"),
            "platform": lambda *_, **__: f"macOS-{VERSION}-arm64-arm-64bit",
        },
    ),
}


def show_darwin() -> None:
    """Give `import sys` and `import platform` of the project's files the ones of Darwin."""
    builtins.__import__ = _import_as_seen


def _import_as_seen(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    if name in DARWIN and level == 0 and globals and is_ours(globals.get("__file__")):
        return DARWIN[name]
    return _import(name, globals, locals, fromlist, level)


def is_ours(file: object) -> bool:
    """Whether a file is of the project: not of an environment within it, nor of the shape."""
    if not isinstance(file, str):
        return False
    path = Path(os.path.realpath(file))
    return (
        path.is_relative_to(ROOT)
        and not path.is_relative_to(SHAPE)
        and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    )
