"""Options are made from settings: each is described, shows its default and is declared once."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from typer import rich_utils
from typer.main import get_command

from command import Command
from sdxs import cli
from sdxs.commands import tables
from sdxs.commands.options import backend_settings, described, with_settings
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.spec import BackendSpec, specs
from sdxs.common.errors import BackendError
from sdxs.common.settings import setting

ROOT = Path(__file__).parent.parent
DESCRIBED = re.compile(r"(?P<help>\S+ .{6,}) \[default: (?P<default>.+)\]")


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with its path; the root has none."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), get_command(cli.app()))]
    while waiting:
        path, found = waiting.pop()
        yield path, found
        waiting += [((*path, name), each) for name, each in getattr(found, "commands", {}).items()]


def rows(shown: str) -> dict[str, str]:
    """The last cell of each row of a wide help, by option."""
    found = {}
    for line in shown.splitlines():
        cells = re.split(r"\s{2,}", line.strip("\u2502 "))
        if cells[0].startswith("--"):
            found[cells[0]] = cells[-1]
    return found


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_option_is_described_and_shows_its_default(
    path: tuple[str, ...], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: defaults written in help strings were taken for markup and vanished; `bench --rounds`
    had no description at all.
    """
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 600)
    shown = rows(command(*path, "--help").out)
    options = [
        each.opts[0] for each in dict(commands())[path].params if each.param_type_name == "option"
    ]
    assert {*options, "--help"} == set(shown)
    assert not {name: shown[name] for name in options if not DESCRIBED.fullmatch(shown[name])}


def test_the_help_shows_the_default_of_the_table(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 600)
    shown = rows(command("live", "--help").out)
    for each in tables.TABLE.values():
        if each.flag:
            found = DESCRIBED.fullmatch(shown[each.flag])
            assert found and found["default"] == each.default_text
            assert each.help in found["help"][0].lower() + found["help"][1:]


@dataclass(frozen=True, slots=True)
class Few(BackendOptions):
    dtype: Literal["auto", "float32"] = setting("auto", "precision")


@dataclass(frozen=True, slots=True)
class Other(BackendOptions):
    dtype: Literal["auto", "int8"] = setting("auto", "another precision")


@dataclass(frozen=True, slots=True)
class Clash(BackendOptions):
    dtype: Literal["float32", "auto"] = setting("float32", "precision")


def brings(name: str, options: type[BackendOptions]) -> BackendSpec:
    return replace(specs()["identity"], name=name, options=options)


def test_backends_that_share_an_option_make_one() -> None:
    ((dtype, owners),) = backend_settings([brings("few", Few), brings("other", Other)]).values()
    assert owners == ["few", "other"] and dtype.help == "precision"
    assert set(dtype.choices) == {"auto", "float32", "int8"}


def test_backends_that_declare_an_option_differently_are_an_error() -> None:
    with pytest.raises(BackendError, match="--dtype: few and clash declare it with different"):
        backend_settings([brings("few", Few), brings("clash", Clash)])


def test_a_command_and_a_backend_that_declare_an_option_differently_are_an_error() -> None:
    def command(few: Few) -> None: ...

    with pytest.raises(BackendError, match="--dtype: backend clash declare"):
        with_settings([brings("clash", Clash)])(command)


def test_a_default_is_no_markup() -> None:
    assert described("Size [of all].", "8 [quick: 3]", "--size").help == (
        r"Size \[of all]. [dim]\[default: 8 \[quick: 3]][/dim]"
    )


def test_the_page_of_settings_is_what_the_code_says() -> None:
    """`python -m sdxs.commands.tables` writes it again."""
    assert tables.PAGE.read_text() == tables.render()


def test_commands_are_short() -> None:
    assert len((ROOT / "cli.py").read_text().splitlines()) <= 150
    for path in [ROOT / "cli.py", *(ROOT / "commands").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 60, f"{path.name}: {node.name} has {lines} lines"
