"""Progress of a training: a bar for each stage."""

from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """A progress bar for each stage, plain lines where there is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, int] = {}

    def __call__(self, stage: str, done: float, loss: float) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=1.0, loss="")
        self._progress.update(
            self._tasks[stage], completed=done, loss=f"{loss:.4f}" if loss else ""
        )
        tenth = int(done * 10)
        if not self._progress.console.is_terminal and self._last.get(stage) != tenth:
            self._last[stage] = tenth
            self._progress.console.print(f"{stage}: {done:.0%} loss {loss:.4f}", highlight=False)


def columns() -> tuple[ProgressColumn, ...]:
    """What a bar of the training shows."""
    return (
        TextColumn("{task.description:8}"),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
    )
