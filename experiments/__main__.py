"""List the experiments, or run one: `python -m sdxs.experiments [NAME [OPTIONS]]`."""

import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from types import ModuleType

from ..common.errors import SdxsError, UsageError
from .catalogue import Experiment, experiments
from .options import call

PROG = "python -m sdxs.experiments"


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments name, or list everything; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _list()
        return 0
    try:
        found = _find(arguments[0])
        module = _import(found)
    except SdxsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return call(module.run, arguments[1:], f"{PROG} {found.name}", module.__doc__ or "")


def _list() -> None:
    print(f"{PROG} NAME [OPTIONS]; {PROG} NAME --help shows the options.")
    for room, members in groupby(experiments(), key=lambda each: each.room):
        print(f"\n{room or 'other'}")
        for each in members:
            print(f"  {each.name:22} {each.summary}")


def _find(name: str) -> Experiment:
    known = {each.name: each for each in experiments()}
    if (wanted := name.replace("_", "-")) not in known:
        raise UsageError(f"unknown experiment {name!r}; known are {', '.join(known)}")
    return known[wanted]


def _import(found: Experiment) -> ModuleType:
    try:
        return import_module(found.module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{found.name}: needs {error.name}, which is not installed; "
            "run `pip install --editable '.[parity]'`"
        ) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
