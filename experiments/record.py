"""Write result files, each with what its figures depend on: machine, versions, commit, settings."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

from ..common.bench.measure.machine import machine
from ..common.errors import SinkError
from ..common.files import without_folders, write_whole
from .options import Options

SCHEMA = 1


def facts(options: Options) -> dict[str, object]:
    """Say what a measurement depends on, as JSON takes it.

    Keys: date (UTC), machine, versions, commit, uncommitted_changes, settings. commit is empty
    outside of a checkout. Paths are cut to their last name: result files are passed on.
    """
    found = asdict(machine())
    commit, _, changes = str(found.pop("git")).partition("+")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": found.pop("versions"),
        "machine": found,
        "commit": commit,
        "uncommitted_changes": bool(changes),
        "settings": {f.name: without_folders(getattr(options, f.name)) for f in fields(options)},  # type: ignore[arg-type]
    }


def write(path: Path, figures: Mapping[str, object], options: Options) -> None:
    """Write measured figures and their `facts` to `path`, whole or not at all.

    Facts that `figures` brings along, from a file that is added to, are kept. Raises SinkError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{path}: its folder cannot be made ({error.strerror})") from None
    content = {"schema": SCHEMA, **facts(options), **figures}
    write_whole(path, f"{json.dumps(content, indent=1)}\n".encode())
