"""All settings as Markdown, and the schema of the page's API, into docs/.

`python -m sdxs.commands.tables` writes settings.md and web-schema.json.

A test holds the file to what this renders, so the tables of the docs are never typed.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from ..common.backend.assembly import ModelOptions
from ..common.backend.spec import PEERS, specs
from ..common.live.inputs import InputOptions
from ..common.live.options import SessionOptions
from ..common.live.parameters import TABLE
from ..common.settings import Setting, settings_of
from ..common.web.address import WebOptions
from .console import out
from .live import LiveOptions
from .options import BackendChoice, as_typed, backend_settings, metavar

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
SCHEMA = PAGE.with_name("web-schema.json")
HEAD = """# Settings

Written by `python -m sdxs.commands.tables` from the code; edit the code and write it again.
"""


def render() -> str:
    """The page: live parameters, options of a session, options of each backend."""
    parts = [
        HEAD,
        "## Live parameters\n\n"
        "They may change while a session runs, but for those fixed at the start. One that glides "
        "may be changed over time.\n",
        _table(map(as_typed, TABLE.values()), live=True),
        "## A session\n",
        _table(
            each
            for cls in (
                BackendChoice,
                ModelOptions,
                SessionOptions,
                InputOptions,
                LiveOptions,
                WebOptions,
            )
            for each in settings_of(cls)
            if each.name not in TABLE
        ),
    ]
    for name, spec in specs().items():
        rows = [row for row, _ in backend_settings([spec]).values()]
        own = [each for each in settings_of(spec.options) if not each.flag]
        parts.append(f"## Backend {name}\n")
        parts.append(_table([*rows, *own], key=name) if rows else "No options of its own.\n")
    for name, spec in specs(PEERS).items():
        parts.append(f"## Peer {name}, of `sdxs bench` alone\n")
        parts.append(_table(settings_of(spec.options), key=name))
    return "\n".join(parts)


def _table(rows: Iterable[Setting], live: bool = False, key: str = "") -> str:
    """Write settings as a Markdown table.

    live: adds a column on how a parameter changes. key: the backend whose settings `bench` names
    so.
    """
    heads = ["option", *(["`bench` spells it"] if key else []), "values", "default"]
    heads += [*(["changes"] if live else []), "meaning"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        name = f"`{row.flag}`" if row.flag and not (key and key in specs(PEERS)) else "none"
        cells = [f"`{row.name}`" if live and not row.flag else name]
        cells += [f"`{key}:{row.name}=`"] if key else []
        cells += [_values(row), row.default_text]
        cells += [_changes(row)] if live else []
        lines.append(_line([*cells, row.help]))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(row: Setting) -> str:
    if row.kind is bool:
        return "on, off"
    return ", ".join(row.choices) or row.range_text or metavar(row).lower()


def _changes(row: Setting) -> str:
    return "fixed at the start" if row.at_start else "glides" if row.glides else "at once"


def main() -> None:
    from ..common.web.schema import schema

    for path, text in ((PAGE, render()), (SCHEMA, json.dumps(schema(), indent=1) + "\n")):
        path.write_text(text)
        out.print(f"wrote {path}")


if __name__ == "__main__":
    main()
