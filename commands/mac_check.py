"""`sdxs mac-check`: ask a Mac what only a Mac can tell, and write it down."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer
from rich.markup import escape

from ..common.settings import setting
from .console import out
from .options import with_settings


@dataclass(frozen=True, slots=True)
class MacCheckOptions:
    """How much is asked, and where the answers go."""

    json: Path = setting(Path("mac-check.json"), "file to write the answers to; please attach it")
    quick: bool = setting(False, "the demo checkpoint only, not SDXS-0.9 in full size as well")
    soak: float = setting(300.0, "seconds that each soak lasts", minimum=0, unit="s")
    frames: int = setting(60, "frames of every timing", minimum=2)
    runtime: Literal["coreml", "reference"] = setting(
        "coreml", "reference rehearses on the interpreter, without a Mac"
    )
    size: int | None = setting(None, "side of the demo's picture", shown="the checkpoint's")


@with_settings()
def mac_check(asked: MacCheckOptions) -> None:
    """Ask a Mac what only a Mac can tell: parity, units, times, memory; attach the JSON."""
    from ..common.files import check_writable, write_whole
    from ..mac_check.questions import Plan, all_good, ask_all

    path = asked.json.expanduser()
    check_writable(path, path.absolute().parent)
    plan = Plan(asked.quick, asked.soak, asked.frames, asked.runtime, asked.size)
    content = ask_all(plan, lambda line: out.print(escape(line)))
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    out.print(f"wrote {escape(str(path))}; please attach it to an issue of this project")
    if not all_good(content):
        raise typer.Exit(1)
