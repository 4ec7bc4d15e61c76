"""The options of an experiment: fields of a frozen dataclass, read from a command line.

An experiment is a module with `run(options)`; the annotation names the dataclass. Numbers, texts
and switches are declared by `common.settings.setting`, paths and lists by `option`, positional
arguments by `argument`. `call` makes parser and help out of them.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_type_hints

from ..common.errors import SdxsError, UsageError
from ..common.files import Written, refuse_overlaps
from ..common.settings import Setting, check_settings, settings_of

_KEY = "sdxs.experiments.option"
T = TypeVar("T", bound="Options")


class Options:
    """Base of every experiment's options. Raises UsageError for a setting out of its range."""

    __slots__ = ()

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True)
class _Option:
    """A path, a list or a positional argument, which `setting` does not cover.

    kind: makes one value out of a text. count: values that follow, as argparse's nargs. use: of a
    file, 'read' or 'written'; two options of one command must not meet there.
    """

    help: str
    kind: Callable[[str], object]
    count: int | str | None = None
    choices: tuple[str, ...] = ()
    shown: str = ""
    metavar: str | tuple[str, ...] | None = None
    positional: bool = False
    use: Literal["", "read", "written"] = ""


def argument(help: str, kind: Callable[[str], object] = Path, choices: Sequence[str] = ()) -> Any:
    """Declare a positional argument, which must be given."""
    return field(metadata={_KEY: _Option(help, kind, choices=tuple(choices), positional=True)})


def option(
    default: Any,  # as dataclasses.field: the type is the field's own
    help: str,
    kind: Callable[[str], object] = Path,
    *,
    count: int | str | None = None,
    choices: Sequence[str] = (),
    shown: str = "",
    metavar: str | tuple[str, ...] | None = None,
    use: Literal["", "read", "written"] = "",
) -> Any:
    """Declare an option that holds a path, or a tuple if it has a `count`.

    default: `MISSING` for an option that must be given. shown: the default in words. use: see
    `_Option`.
    """
    return field(
        default=default,
        metadata={_KEY: _Option(help, kind, count, tuple(choices), shown, metavar, use=use)},
    )


def result_file() -> Any:
    """Declare `--json`, the file that `record.write` writes."""
    return option(None, "write every figure to this file", metavar="PATH", use="written")


def call(
    run: Callable[[T], int | None], arguments: Sequence[str], prog: str, description: str
) -> int:
    """Read the options of an experiment, run it, and return its exit code.

    An error of the project's own becomes one line on stderr.
    """
    kind = get_type_hints(run)["options"]
    try:
        return run(parse(kind, arguments, prog, description)) or 0
    except SdxsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def parse(kind: type[T], arguments: Sequence[str], prog: str = "", description: str = "") -> T:
    """Build the options from command line arguments. Raises UsageError."""
    given = vars(parser_of(kind, prog, description).parse_args(arguments))
    files = {each.name: each.metadata.get(_KEY) for each in fields(kind)}  # type: ignore[arg-type]
    used = [
        (declared.use, f"--{name.replace('_', '-')}", path)
        for name, declared in files.items()
        if declared and isinstance(path := given[name], Path)
    ]
    refuse_overlaps(
        [(flag, path) for use, flag, path in used if use == "read"],
        [Written(flag, path) for use, flag, path in used if use == "written"],
    )
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})


def parser_of(kind: type[Options], prog: str, description: str) -> argparse.ArgumentParser:
    """Build the parser of an options dataclass; help shows each description and default."""
    parser = _Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = {each.name: each for each in settings_of(kind)}
    for each in fields(kind):  # type: ignore[arg-type]
        if each.name in known:
            _add_setting(parser, known[each.name])
        else:
            _add_option(parser, each)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are the project's own errors, of one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _add_setting(parser: argparse.ArgumentParser, setting: Setting) -> None:
    text = _help(setting.help, setting.default_text, setting.unit, _range(setting))
    if setting.kind is bool:
        parser.add_argument(
            setting.flag,
            dest=setting.name,
            action=argparse.BooleanOptionalAction,
            default=setting.default,
            help=text,
        )
        return
    choices = f"{{{','.join(setting.choices)}}}"
    parser.add_argument(
        setting.flag,
        dest=setting.name,
        type=lambda given: setting.parse(given, setting.flag),
        default=setting.default,
        metavar=choices if setting.choices else setting.name.upper(),
        help=text,
    )


def _add_option(parser: argparse.ArgumentParser, declared: "Field[object]") -> None:
    found: _Option = declared.metadata[_KEY]
    choices = found.choices or None
    if found.positional:
        parser.add_argument(
            declared.name, type=found.kind, choices=choices, help=_help(found.help, "required")
        )
        return
    required = declared.default is MISSING
    shown = "required" if required else found.shown or _shown(declared.default)
    parser.add_argument(
        f"--{declared.name.replace('_', '-')}",
        dest=declared.name,
        type=found.kind,
        nargs=found.count,
        choices=choices,
        required=required,
        default=None if required else declared.default,
        metavar=found.metavar or (None if choices else declared.name.upper()),
        help=_help(found.help, shown),
    )


def _help(text: str, default: str, *facts: str) -> str:
    end = "required" if default == "required" else f"default: {default}"
    return f"{text} ({'; '.join([*filter(None, facts), end])})".replace("%", "%%")


def _range(setting: Setting) -> str:
    """The admitted numbers in words; empty where any will do."""
    limited = setting.minimum is not None or setting.maximum is not None
    return setting.expected if limited else ""


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return "none" if default is None else str(default)
