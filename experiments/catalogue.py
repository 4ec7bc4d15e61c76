"""The list of all experiments, read from their source: none is imported before it runs."""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOMS = ("parity", "measure", "paper", "distill", "peers", "")  # '': beside the rooms
_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment. summary: the first line of its docstring."""

    name: str
    room: str
    module: str
    summary: str


def experiments() -> tuple[Experiment, ...]:
    """List every module that has `run(options)`, by room and name."""
    found = [each for path in _FOLDER.rglob("*.py") if (each := _read(path)) is not None]
    return tuple(sorted(found, key=lambda each: (ROOMS.index(each.room), each.name)))


def _read(path: Path) -> Experiment | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not any(map(_is_entry, tree.body)):
        return None
    parts = path.relative_to(_FOLDER).with_suffix("").parts
    # distill/__main__.py is the experiment `distill`.
    name = parts[-2] if parts[-1] == "__main__" else parts[-1]
    return Experiment(
        name.replace("_", "-"),
        parts[0] if len(parts) > 1 else "",
        ".".join([str(__package__), *parts]),
        (ast.get_docstring(tree) or "").partition("\n")[0],
    )


def _is_entry(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.FunctionDef)
        and node.name == "run"
        and [each.arg for each in node.args.args] == ["options"]
    )
