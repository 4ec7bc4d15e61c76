"""Run what `sdxs live` has opened: one session, or one for each file of a shoot."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from ..common.errors import BackendError, PictureError, SdxsError
from .console import err, interrupts, out, progress, show_summary, state

if TYPE_CHECKING:
    from ..common.live.session import Session
    from ..common.live.shoot import Take


def run_session(session: "Session", label: str = "") -> None:
    """Run a session to its end, and say what it showed and wrote.

    label: of one session among many, which says only what it wrote. Raises typer.Exit after a
    Ctrl-C, and what ended the session.
    """
    with interrupts(session.loop.stop, session.loop.continued) as caught:
        try:
            with progress(session.total, label) as report:
                session.run(report)
        finally:
            state.abandoned = state.abandoned or session.loop.abandoned
            if session.loop.summary and not label:
                show_summary(session.loop.summary)
            for each in session.outputs.said:
                ended = ", ended early" if each.ended else ""
                dropped = f", {each.dropped} dropped" if each.dropped else ""
                out.print(escape(f"sent {each.sent} frames to {each.name}{dropped}{ended}"))
            for path in session.files:
                out.print(f"wrote {escape(str(path))}")
    if caught:
        raise typer.Exit(128 + caught[0])


def run_shoot(
    takes: "Sequence[Take]", opened: "Callable[[Take], Session]", end: Callable[[], None]
) -> None:
    """Render file after file; go on after a bad one, and say at the end which were bad.

    end: frees the backends. Raises typer.Exit with 1 if a file failed, BackendError at once.
    """
    failed: list[str] = []
    done = 0
    try:
        for number, take in enumerate(takes, 1):
            label = f"{number} of {len(takes)}: {take.source.name}"
            try:
                take.out.parent.mkdir(parents=True, exist_ok=True)
                run_session(opened(take), label)
                done += 1
            except (SdxsError, OSError) as error:
                if isinstance(error, BackendError) and not isinstance(error, PictureError):
                    raise
                failed.append(take.source.name)
                err.print(f"[bold red]error:[/] {escape(str(error))}")
            except typer.Exit:
                out.print(escape(f"interrupted in {label}"))
                raise
    finally:
        end()
        folder = takes[0].out.parent
        out.print(escape(f"rendered {done} of {len(takes)} files into {folder}"))
        if failed:
            out.print(escape(f"failed: {', '.join(failed)}"))
    if failed:
        raise typer.Exit(1)
