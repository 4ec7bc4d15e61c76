"""Command-line options made from settings: name, range, default and help are declared once.

A command takes dataclasses whose fields are declared by `common.settings.setting`. `with_settings`
turns every field into one option and hands the command the dataclasses, built and checked. With
`backends` the options of every installed backend come along, by their specs.

Options are strings to typer; a `Setting` parses them, so a refusal reads the same everywhere.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import typer
from rich.markup import escape
from typer.models import OptionInfo

from ..common.backend import spec as installed
from ..common.backend.spec import BackendSpec
from ..common.errors import BackendError, UsageError
from ..common.live.parameters import TABLE
from ..common.prompt.syntax import read_seconds
from ..common.settings import Setting, setting, settings_of

T = TypeVar("T")
Concerns = Callable[[BackendSpec], bool]
_TRANSITION = TABLE["transition"]
KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """Which backend renders."""

    backend: str = setting(
        installed.default_backend(), f"backend that renders: {', '.join(installed.specs())}"
    )


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line gave, by parameter, and the settings that it was given for.

    texts: as typed; True or False for a switch, several texts for a repeatable option.
    of_backends: parameters that a backend declares. concerns: which backends an option of the
    command concerns, where that is not all of them.
    """

    texts: Mapping[str, str | bool | Sequence[str]]
    settings: Mapping[str, Setting]
    of_backends: frozenset[str] = frozenset()
    concerns: Mapping[str, Concerns] = field(default_factory=dict)

    def __contains__(self, parameter: object) -> bool:
        return parameter in self.texts

    def value(self, parameter: str) -> object:
        """The parsed value of an option that was given. Raises UsageError."""
        known, text = self.settings[parameter], self.texts[parameter]
        if isinstance(text, bool):
            return text
        if isinstance(text, str):
            return known.parse(text, known.spelling)
        return known.parse_all(text, known.spelling)

    def all_texts(self, parameter: str) -> tuple[str, ...]:
        """The texts of a repeatable option, as typed."""
        texts = self.texts.get(parameter, ())
        return () if isinstance(texts, bool | str) else tuple(texts)

    def build(self, cls: type[T]) -> T:
        """A dataclass of settings with the values that were given. Raises UsageError."""
        chosen = {}
        for each in settings_of(cls):
            if each.parameter in self and each.parameter in self.settings:
                value = self.value(each.parameter)
                many = self.settings[each.parameter].repeatable and not each.repeatable
                chosen[each.name] = value[0] if many and isinstance(value, tuple) else value
        return cls(**chosen)

    def for_backends(self) -> dict[str, object]:
        """The values meant for a backend, by parameter; for `assembly.options_for`."""
        return {name: self.value(name) for name in self.texts if name in self.of_backends}

    def refuse_ignored(self, chosen: Sequence[BackendSpec]) -> None:
        """Raise UsageError for an option that no chosen backend accepts and another would."""
        for name in self.texts:
            known = _concerned(name, self.concerns)
            if known and not {spec.name for spec in chosen} & set(known):
                raise UsageError(
                    f"{self.settings[name].spelling}: only for "
                    f"{' and '.join(f'--backend {each}' for each in known)}; "
                    f"{' and '.join(spec.name for spec in chosen)} would ignore it; drop it or "
                    "name another backend"
                )


def with_settings(
    backends: Iterable[BackendSpec] = (),
    leave_out: Sequence[str] = (),
    hidden: Sequence[str] = (),
    repeatable: Sequence[str] = (),
    concerns: Mapping[str, Concerns] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: its arguments that are dataclasses of settings become options.

    An argument of type `Given` is told what was given. backends: whose options come along.
    leave_out: parameters that the command does not have. hidden: options of backends whose flag is
    the command's own. repeatable: options that it takes several times; their dataclass gets the
    first. concerns: see `Given`. Raises BackendError if two declare an option differently.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        groups = {name: hint for name, hint in hints.items() if _has_settings(hint)}
        rows: dict[str, Setting] = {}
        for cls in groups.values():
            for each in settings_of(cls):
                _add(rows, as_typed(each), cls.__name__, leave_out)
        own, panels = frozenset(rows), _add_backends(rows, backends, (*leave_out, *hidden))
        of_backends = frozenset(panels) - own
        panels |= {name: _panel(_concerned(name, concerns or {})) for name in concerns or {}}
        for name in repeatable:
            rows[name] = replace(rows[name], repeatable=True)

        def run(**raw: object) -> None:
            texts = {name: raw.pop(name) for name in rows}
            given = Given(
                {name: cast(str, text) for name, text in texts.items() if _is_given(text)},
                rows,
                of_backends,
                dict(concerns or {}) | dict.fromkeys(hidden, _all),
            )
            for name, hint in hints.items():
                if hint is Given:
                    raw[name] = given
                elif name in groups:
                    raw[name] = given.build(hint)
            command(**raw)

        kept = [
            each.replace(annotation=hints[each.name])
            for each in inspect.signature(command).parameters.values()
            if each.name not in groups and hints[each.name] is not Given
        ]
        made = [_parameter(each, panels.get(name, "")) for name, each in rows.items()]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature([*kept, *made])  # type: ignore[attr-defined]
        return run

    return decorate


def described(help: str, default: str, *flags: str) -> Any:
    """An option of typer whose help shows its default as those of settings do; without flags an
    argument.
    """
    text = help_text(help, default)
    if flags:
        return typer.Option(*flags, help=text, show_default=False)
    return typer.Argument(help=text, show_default=False)


def help_text(help: str, default: str) -> str:
    """Help in rich's markup; a default in plain brackets would be taken for a tag."""
    return rf"{escape(help)} [dim]\[default: {escape(default)}][/dim]"


def sentence(row: Setting) -> str:
    """The help of a setting with its range: 'Share of the camera (0 to 1).'"""
    said = row.help[0].upper() + row.help[1:]
    return f"{said}{f' ({row.range_text})' if row.range_text else ''}."


def backend_settings(chosen: Iterable[BackendSpec]) -> dict[str, tuple[Setting, list[str]]]:
    """The options of backends by parameter, each with the backends that know it.

    Two that share a flag, kind and default make one option. Raises BackendError for a clash.
    """
    rows: dict[str, Setting] = {}
    owners: dict[str, list[str]] = {}
    for spec in chosen:
        for each in settings_of(spec.options):
            if each.flag:
                _add(rows, each, " and ".join([*owners.get(each.parameter, []), spec.name]))
                owners.setdefault(each.parameter, []).append(spec.name)
    return {name: (row, owners[name]) for name, row in rows.items()}


def _add_backends(
    rows: dict[str, Setting], chosen: Iterable[BackendSpec], leave_out: Sequence[str]
) -> dict[str, str]:
    """Add the options of backends; return the panel of the help that each belongs to."""
    panels = {}
    for name, (row, owners) in backend_settings(chosen).items():
        if name not in leave_out:
            _add(rows, row, f"backend {' and '.join(owners)}")
            panels[name] = _panel(owners)
    return panels


def _all(_: BackendSpec) -> bool:
    return True


def _panel(names: Sequence[str]) -> str:
    return f"Only for --backend {' or '.join(names)}"


def _concerned(name: str, concerns: Mapping[str, Concerns]) -> list[str]:
    """The installed backends that an option makes a difference to."""
    test, every = concerns.get(name), installed.specs().values()
    return [spec.name for spec in every if (test(spec) if test else spec.obeys(name))]


def _add(rows: dict[str, Setting], row: Setting, owner: str, leave_out: Sequence[str] = ()) -> None:
    """Add an option; two declarations of one must agree but for the choices, which are united."""
    if not row.flag or row.parameter in leave_out:
        return
    known = rows.setdefault(row.parameter, row)
    same = ("kind", "default", "optional", "minimum", "maximum", "read", "repeatable", "flag")
    if any(getattr(known, name) != getattr(row, name) for name in same) or (
        bool(known.choices) != bool(row.choices)
    ):
        raise BackendError(
            f"{row.spelling}: {owner} declare it with different types, ranges or defaults; give "
            "one of them another flag in its setting()"
        )
    rows[row.parameter] = replace(
        known, choices=tuple(dict.fromkeys((*known.choices, *row.choices)))
    )


def as_typed(row: Setting) -> Setting:
    """A live parameter as the command line spells it: a transition is typed as 2s or 500ms."""
    if row != _TRANSITION:
        return row
    return replace(
        row,
        flag="--transition",
        read=lambda text: read_seconds("--transition", text),
        help=f"{row.help}, as 2s or 500ms",
    )


def _has_settings(hint: object) -> bool:
    return isinstance(hint, type) and is_dataclass(hint) and bool(settings_of(hint))


def _is_given(text: object) -> bool:
    return text is not None and text != []


def metavar(row: Setting) -> str:
    """What stands for a value in the help: its choices or its kind."""
    return "|".join(row.choices) or ("TEXT" if row.read else KINDS[row.kind])


def _parameter(row: Setting, panel: str) -> inspect.Parameter:
    """One option as an argument of a typer command; None stands for not given."""
    kind: object = list[str] if row.repeatable else bool if row.kind is bool else str
    flag = row.flag
    if row.kind is bool and row.default is True and "/" not in flag:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    repeated_too = " May be repeated." if row.repeatable else ""
    option = cast(
        OptionInfo,
        typer.Option(
            flag,
            help=help_text(sentence(row) + repeated_too, row.default_text),
            show_default=False,
            metavar=None if row.kind is bool else metavar(row),
            rich_help_panel=panel or None,
        ),
    )
    return inspect.Parameter(
        row.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],  # type: ignore[operator]
    )
