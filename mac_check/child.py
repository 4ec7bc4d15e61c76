"""The child's side of one question: `python -m sdxs.mac_check REQUEST ANSWER`.

It imports nothing heavy before the question. An answer that is written survives a crash at exit.
"""

import json
import math
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from ..common.backend.process.child import end_with
from ..common.backend.spec import specs
from ..common.files import write_whole
from .setup import Answer, Setup


def answer_request(request: Path, answer: Path) -> None:
    """Ask the question of a request file and write its answer file.

    The request is JSON: `ask`, a 'module:function' that takes a `Setup`, and `setup`, its fields.
    """
    end_with(0)  # standard input: a pipe that the parent never writes to
    stored = json.loads(request.read_text(encoding="utf-8"))
    module, name = stored["ask"].split(":")
    try:
        specs()  # a backend's package loads a BLAS, which must come before MLX and OpenCV
        found: Answer = getattr(import_module(module), name)(Setup(**stored["setup"]))
    except Exception as error:  # whatever it is, it is the answer
        traceback.print_exc(file=sys.stderr)
        found = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    write_whole(answer, json.dumps(plain(found)).encode())


def plain(value: object) -> object:
    """Return a value that JSON can hold: NumPy's scalars as Python's, 'nan' and 'inf' as texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):  # of NumPy
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)
