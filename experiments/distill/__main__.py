"""Train the demo checkpoint: `python -m sdxs.experiments.distill PHOTOS OUT`.

PHOTOS is a folder of photographs. OUT receives the pairs, the state of every stage, `log.jsonl`
and `checkpoint/`, which `sdxs live --model OUT/checkpoint` takes. Stopped at any moment, the same
command goes on. On one data-centre GPU ten minutes make the demo but for its last stage, which was
trained in an hour on two CPU cores (`--start-from`, `--each 1 --window 128`); all of it on a CPU
takes days, so try `--squares 64 --steps 50 50 50 50 50` first.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn

from . import export
from .material import photographs
from .recipe import STAGES, TOKENIZER, Settings, run


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


def settings_of(options: argparse.Namespace) -> Settings:
    settings = Settings(
        seconds=options.seconds,
        seed=options.seed,
        squares=options.squares,
        each=options.each,
        window=options.window,
    )
    return replace(settings, steps=tuple(options.steps)) if options.steps else settings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--hold-out",
        type=Path,
        nargs="*",
        default=[],
        metavar="PICTURE",
        help="pictures whose scenes must not be trained on",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="CHECKPOINT",
        help="train on its networks, not on fresh ones",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.0,
        help="stop by the clock (training alone, pairs not counted)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs=len(STAGES),
        metavar=tuple(name.upper() for name in STAGES),
        help="0 leaves a stage out",
    )
    parser.add_argument(
        "--squares", type=int, default=3000, help="how many squares to cut from the photographs"
    )
    parser.add_argument("--each", type=int, default=4, help="pictures of each style in a batch")
    parser.add_argument(
        "--window",
        type=int,
        help="side of what the last stage sees of a picture, in pixels, a multiple of 32",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parts = photographs.split(options.photos, options.hold_out)
    console = Console()
    console.print(f"{len(parts.train)} photographs to train on, {len(parts.held_out)} held out")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "held_out.txt").write_text(
        "".join(f"{p.name}\n" for p in parts.held_out), encoding="utf-8"
    )
    settings = settings_of(options)
    with Progress(*columns(), console=console, disable=not console.is_terminal) as progress:
        networks = run(parts, options.out, TOKENIZER, settings, Bars(progress), options.start_from)
    folder = export.write(networks, settings.configs, TOKENIZER, options.out / "checkpoint")
    console.print(f"checkpoint in {folder}; code {export.code_hash()[:12]}")


if __name__ == "__main__":
    main()
