"""What commands share of the terminal: two consoles, progress, interrupts, a session's figures."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from types import FrameType

    from ..common.live.stats import Summary

PLAIN_PROGRESS_S = 2.0
SAME_S = 0.5  # between two signals that are one act

LEFT = b"left at once: an unfinished film lies beside its name, as .NAME.partial\n"

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class CommandState:
    """State that `main` needs: a thread that never returns, and a Ctrl-C."""

    abandoned = False
    interrupted = False


state = CommandState()


def leave_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    err.print(f"[yellow]warning:[/] {escape(str(message))}")


def say_plainly(line: str) -> None:
    err.print(escape(line))


@contextmanager
def handling(
    catch: Callable[[int, "FrameType | None"], object], *numbers: signal.Signals
) -> Iterator[None]:
    """Handle these signals by `catch` for a while. Main thread only."""
    before = {number: signal.signal(number, catch) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts(
    stop: "Callable[[], None]", continued: "Callable[[], None]" = lambda: None
) -> Iterator[list[int]]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into `stop`, so that files are finished.

    Neither function touches a lock. continued: called when the process goes on after Ctrl-Z.
    Yields the signals that came.

    A second one leaves at once, whatever hangs; within half a second it is taken for the first,
    as of a key that bounces or a terminal that sends two. Under nohup a closed terminal is ignored.
    """
    caught: list[int] = []
    first_s = 0.0

    def catch(number: int, _frame: object) -> None:
        nonlocal first_s
        if caught and time.monotonic() - first_s < SAME_S:
            return
        if caught:
            with suppress(OSError):  # the terminal may be gone
                os.write(2, LEFT)
            os._exit(128 + number)
        caught.append(number)
        first_s = time.monotonic()
        stop()

    hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    numbers = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hung_up else []))
    with handling(catch, *numbers), handling(lambda *_: continued(), signal.SIGCONT):
        yield caught


@contextmanager
def kept_interrupt() -> Iterator[Callable[[], None]]:
    """Yield a function that raises a Ctrl-C again which somebody has swallowed. Main thread only.

    coremltools has bare `except:` clauses, which take a KeyboardInterrupt for an error of theirs.
    """
    caught: list[int] = []

    def catch(number: int, _: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if caught:
            raise KeyboardInterrupt

    with handling(catch, signal.SIGINT):
        yield check
        check()


@contextmanager
def steps(what: str) -> Iterator[Callable[[str, float], None]]:
    """Show a bar with the current step on a terminal; elsewhere print a line per long step."""
    if err.is_terminal:
        with Progress(
            SpinnerColumn(),
            TextColumn(f"{what}: {{task.description}}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
        ) as progress:
            task = progress.add_task("looking", total=1.0)
            yield lambda step, done: progress.update(task, description=escape(step), completed=done)
        return
    said: list[str] = []

    def plain(step: str, _: float) -> None:
        if step not in said and not step.startswith("done"):
            said.append(step)
            err.print(escape(f"{what}: {step}"), style="dim")

    yield plain


@contextmanager
def progress(total: int | None, label: str = "") -> Iterator[Callable[[int, str], None]]:
    """A moving line on a terminal, a plain line every two seconds anywhere else.

    label: what is under way, where that is one of many.
    """
    began = time.perf_counter()

    def rate(done: int) -> float:
        return done / max(time.perf_counter() - began, 1e-9)

    if err.is_terminal:
        columns = (
            TextColumn(escape(label)),
            TextColumn("{task.fields[fps]:5.1f} fps"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[prompt]}", markup=False),
        )
        with Progress(*columns, console=err) as progress:
            task = progress.add_task("", total=total, fps=0.0, prompt="")
            yield lambda done, text: progress.update(
                task, completed=done, fps=rate(done), prompt=text
            )
        return
    last = [began]

    def plain(done: int, text: str) -> None:
        if done == total or time.perf_counter() - last[0] >= PLAIN_PROGRESS_S:
            last[0] = time.perf_counter()
            began_of = f"{label}, frame" if label else "frame"
            count = f"{done}/{total}" if total else f"{done}"
            err.print(escape(f"{began_of} {count}  {rate(done):.1f} fps  {text}"))

    yield plain


def show_summary(summary: "Summary") -> None:
    if not summary.shown:
        err.print("no frame was rendered")
        return
    for facts in summary.backends:
        out.print(escape(", ".join(f"{key} {value}" for key, value in facts.items())))
    latency = summary.latency_ms
    out.print(
        f"{summary.shown} frames in {summary.seconds:.1f} s, {summary.fps:.1f} fps; camera to "
        f"display {latency.p50:.1f} ms median, {latency.p95:.1f} p95, {latency.p99:.1f} p99"
    )
    out.print(
        f"captured {summary.captured}, dropped {summary.dropped_before_inference} before and "
        f"{summary.dropped_before_display} after inference, rendered {summary.inferred}, "
        f"reused {summary.skipped_as_similar}"
    )
    if summary.no_pictures:
        out.print(
            f"{summary.no_pictures} of them were no pictures; the last good one was shown instead"
        )
    stages = ", ".join(f"{name} {spread.p50:.1f}" for name, spread in summary.stages_ms.items())
    out.print(f"median ms: {stages}")
    models = " and ".join(f"{memory['model_bytes'] / 1e6:.0f}" for memory in summary.memory)
    out.print(
        f"memory: {summary.process_peak_bytes / 1e6:.0f} MB at most in this process; weights "
        f"{models} MB"
    )
    if summary.flicker["ratio"] is not None:
        out.print(
            f"flicker where the camera stands still: output changes {summary.flicker['ratio']:.2f} "
            "times as much"
        )
    elif summary.shown > 1 and not summary.flicker["pairs"]:
        out.print("flicker: not measured, because the camera never stood still")
    if summary.psnr_db:
        out.print(f"between the two backends: {summary.psnr_db.p50:.1f} dB PSNR median")
    if summary.identical_frames:
        out.print(f"the two backends rendered {summary.identical_frames} frames identically")
