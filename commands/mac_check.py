"""`sdxs mac-check`: ask a Mac what only a Mac can tell, and write it down."""

import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..common.files import expanded
from ..common.settings import setting
from .console import err, handling, out
from .options import with_settings

if TYPE_CHECKING:
    from ..mac_check.question import Question
    from ..mac_check.setup import Answer


@dataclass(frozen=True, slots=True)
class MacCheckOptions:
    """How much is asked, and where the answers go."""

    json: Path = setting(Path("mac-check.json"), "file to write the answers to; please attach it")
    quick: bool = setting(
        False, "the demo checkpoint in a few forms only, not SDXS in full size as well"
    )
    soak: float | None = setting(
        None, "seconds that the soak lasts", minimum=0, unit="s", shown="60, with --quick 20"
    )
    frames: int = setting(60, "frames of every timing, at most", minimum=2)
    runtime: Literal["coreml", "reference"] = setting(
        "coreml", "reference rehearses on the interpreter with tiny models, without a Mac"
    )
    size: int | None = setting(None, "side of the demo's picture", shown="the checkpoint's")


@with_settings()
def mac_check(asked: MacCheckOptions) -> None:
    """Ask a Mac what only a Mac can tell: parity, units, times, memory; attach the JSON."""
    from ..common.checkpoint.find import model_files
    from ..common.files import Written, check_writable, refuse_overlaps
    from ..mac_check.question import Plan
    from ..mac_check.stored import FIXTURES
    from ..mac_check.survey import survey

    path = expanded(asked.json)
    read = [("the checkpoint demo,", part) for part in model_files("demo")]
    refuse_overlaps([*read, ("the stored outputs,", FIXTURES)], [Written("--json", path)])
    check_writable(path, path.absolute().parent)
    plan = Plan(asked.quick, asked.soak, asked.frames, asked.runtime, asked.size)
    watcher = ConsoleWatcher(path)
    # a closed terminal or a shutdown is an end as Ctrl-C is: with the answers so far, and clean
    try:
        with handling(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP):
            good = survey(plan, path, watcher)
    except KeyboardInterrupt:
        if watcher.asked:
            out.print(f"wrote the answers so far to {escape(str(path))}")
        raise
    finally:
        watcher.close()
    out.print(f"wrote {escape(str(path))}; please attach it to an issue of this project")
    if not good:
        raise typer.Exit(1)


class ConsoleWatcher:
    """Print a line before and after each question; on a terminal, a moving one between them."""

    def __init__(self, path: Path) -> None:
        self.asked = False
        self._path = path
        self._total = 0
        self._shown = ExitStack()

    def plan(self, questions: int, minutes: float, gigabytes: int) -> None:
        self._total = questions
        out.print(
            f"{questions} questions, about {max(1, round(minutes))} min if nothing hangs (an "
            f"estimate), up to {gigabytes} GB of disk meanwhile; every answer is written to "
            f"{escape(str(self._path))} at once, so Ctrl-C loses the current one only"
        )

    def begin(self, number: int, question: "Question", limit_s: float) -> None:
        self.asked = True
        line = f"{self._count(number)} {question.label} ..."
        if not err.is_terminal:
            out.print(escape(line))
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        limit = TextColumn(f"of at most {limit_s / 60:.0f} min")
        progress = Progress(*columns, limit, console=err, transient=True)
        self._shown.enter_context(progress)
        progress.add_task(escape(line), total=None)

    def end(self, number: int, question: "Question", answer: "Answer") -> None:
        self.close()
        out.print(escape(f"{self._count(number)} {question.label}: {outcome(answer)}"))

    def pause(self, seconds: float) -> None:
        out.print(f"a pause of {seconds:.0f} s: a failed compile slows the next one")

    def left(self, size_bytes: int) -> None:
        if size_bytes > 0:
            out.print(
                f"Core ML's own cache has grown by {size_bytes / 1e9:.1f} GB, which only a macOS "
                "update clears; `sdxs doctor` names its folders"
            )

    def close(self) -> None:
        self._shown.close()

    def _count(self, number: int) -> str:
        return f"[{number}/{self._total}]"


def outcome(answer: "Answer") -> str:
    """Return an answer in a few words: '12 s, ok, 48.2 dB, 16.1 ms'."""
    if answer.get("asked") is False:
        return f"not asked: {answer.get('note') or answer.get('permission')}"
    words = [f"{answer.get('seconds', 0):.0f} s"]
    if answer["ok"]:
        words.append("ok")
    elif "hung" in answer:
        words.append(f"FAILED: no answer within {answer['limit_s']:.0f} s, its process was killed")
    elif "died" in answer:
        words.append(f"FAILED: its process died ({answer['died']})")
    else:
        words.append(f"FAILED {answer.get('error', '')}".rstrip())
    quality, frame_ms = answer.get("psnr_db"), answer.get("frame_ms")
    if isinstance(quality, float):
        words.append(f"{quality:.1f} dB")
    if isinstance(frame_ms, dict) and "p50" in frame_ms:
        words.append(f"{frame_ms['p50']:.1f} ms")
    return ", ".join(words)
