"""The `sdxs` command: mounts what `commands/` holds and turns errors into exit codes."""

import signal
import sys
import warnings
from functools import cache
from importlib import metadata
from typing import Annotated

import typer
from rich.markup import escape
from typer.exceptions import TyperException

from .commands import console
from .commands.console import err, out, show_warning, state
from .common.errors import SdxsError, SdxsWarning


@cache
def app() -> typer.Typer:
    """Mount every command.

    Options are made from the installed backends. A spawned child imports this module again and must
    load none of them.
    """
    from .commands import bench, convert, doctor, image, live, mac_check, weights
    from .commands.options import help_text

    mounted = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Turn a live camera into a diffusion-rendered picture.",
    )

    @mounted.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                help=help_text("Print the version and end.", "off"),
                show_default=False,
                callback=_version,
                is_eager=True,
            ),
        ] = False,
    ) -> None:
        pass

    for command in (live.live, convert.convert, image.image, bench.bench, doctor.doctor):
        mounted.command()(command)
    mounted.command("mac-check")(mac_check.mac_check)
    mounted.add_typer(weights.app, name="weights")
    return mounted


def main() -> None:
    """Entry point: every sdxs error becomes one line on stderr and its exit code."""
    warnings.simplefilter("always", SdxsWarning)
    warnings.showwarning = show_warning
    code: object = 1
    state.interrupted = False
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        code = app()(standalone_mode=False) or 0
        if state.interrupted:  # typer turns a Ctrl-C within a command into a code
            err.print("interrupted")
    except TyperException as error:  # what it refuses itself: one line, too
        # Nothing is said where the help was shown instead.
        if said := " ".join(error.format_message().split()).removesuffix("."):
            err.print(f"[bold red]error:[/] {escape(said)}; see `{_help_of(error)}`")
        code = error.exit_code
    except SystemExit as end:
        code = end.code
    except SdxsError as error:
        # a name may hold a line break
        err.print(f"[bold red]error:[/] {escape(' '.join(str(error).splitlines()))}")
        for note in getattr(error, "__notes__", ()):
            err.print(escape(note), style="dim")
        code = error.exit_code
    except KeyboardInterrupt:
        err.print("interrupted")
        code = 130
    except Exception:
        # A library whose import was interrupted says so with an error of its own (NumPy:
        # ImportError).
        if state.interrupted:
            err.print("interrupted")
            code = 130
        else:  # a mistake of ours: show all of it, but still end
            err.print_exception()
    finally:
        signal.signal(signal.SIGINT, before)
    if state.abandoned:
        # A thread that never returns would keep the interpreter from ending, or crash it on the
        # way out.
        console.leave_at_once(code if isinstance(code, int) else 1)
    sys.exit(code)  # type: ignore[arg-type]


def _help_of(error: TyperException) -> str:
    """Return the command that shows the help of the one that was not understood."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'sdxs'} --help"


def _interrupt(_number: int, _frame: object) -> None:
    state.interrupted = True
    raise KeyboardInterrupt


def _version(wanted: bool) -> None:
    if wanted:
        out.print(metadata.version("sdxs"))
        raise typer.Exit


if __name__ == "__main__":
    main()
