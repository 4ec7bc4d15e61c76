"""Train the demo checkpoint: `python -m sdxs.experiments.distill PHOTOS OUT`.

PHOTOS is a folder of photographs. OUT receives the pairs, the state of every stage, `log.jsonl`
and `checkpoint/`, which `sdxs live --model OUT/checkpoint` takes. Stopped at any moment, the same
command goes on. On one data-centre GPU ten minutes make the demo but for its last stage, which was
trained in an hour on two CPU cores (`--start-from`, `--each 1 --window 128`); all of it on a CPU
takes days, so try `--squares 64 --steps 50 50 50 50 50` first.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ...common.settings import setting
from ..options import Options, argument, call, option
from . import export, recipe
from .material import photographs
from .progress import Bars, columns
from .recipe import STAGES, TOKENIZER, Settings


@dataclass(frozen=True, slots=True)
class DistillOptions(Options):
    """Photographs, and how much of everything."""

    photos: Path = argument("folder of photographs")
    out: Path = argument("folder of pairs, states, log and checkpoint")
    hold_out: tuple[Path, ...] = option(
        (), "pictures whose scenes must not be trained on", count="*", metavar="PICTURE"
    )
    start_from: Path | None = option(
        None, "train on the networks of this checkpoint, not on fresh ones", metavar="CHECKPOINT"
    )
    seconds: float = setting(
        0.0, "stop by the clock; pairs are not counted", minimum=0, unit="s", shown="no limit"
    )
    steps: tuple[int, ...] | None = option(
        None,
        "steps of each stage; 0 leaves it out",
        int,
        count=len(STAGES),
        shown=" ".join(map(str, Settings().steps)),
        metavar=tuple(name.upper() for name in STAGES),
    )
    squares: int = setting(3000, "squares to cut from the photographs", minimum=1)
    each: int = setting(4, "pictures of each style in a batch", minimum=1)
    window: int | None = setting(
        None,
        "side of the part of a picture that the last stage sees, a multiple of 32",
        minimum=32,
        unit="pixels",
        shown="the whole picture",
    )
    seed: int = setting(0, "seed of everything random", minimum=0)

    def settings(self) -> Settings:
        """The recipe's settings."""
        found = Settings(
            seconds=self.seconds,
            seed=self.seed,
            squares=self.squares,
            each=self.each,
            window=self.window,
        )
        return replace(found, steps=self.steps) if self.steps else found


def run(options: DistillOptions) -> None:
    """Train the checkpoint, or go on with it."""
    parts = photographs.split(options.photos, options.hold_out)
    console = Console()
    console.print(f"{len(parts.train)} photographs to train on, {len(parts.held_out)} held out")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "held_out.txt").write_text(
        "".join(f"{p.name}\n" for p in parts.held_out), encoding="utf-8"
    )
    settings = options.settings()
    with Progress(*columns(), console=console, disable=not console.is_terminal) as progress:
        networks = recipe.run(
            parts, options.out, TOKENIZER, settings, Bars(progress), options.start_from
        )
    folder = export.write(networks, settings.configs, TOKENIZER, options.out / "checkpoint")
    console.print(f"checkpoint in {folder}; code {export.code_hash()[:12]}")


if __name__ == "__main__":
    sys.exit(call(run, sys.argv[1:], "python -m sdxs.experiments.distill", __doc__ or ""))
