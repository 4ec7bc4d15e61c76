"""Try faults of every kind on the command and the API: which are survived, and what they got.

Run as `python -m sdxs.experiments faults [--share 120] [--only ID]`. Kinds: damaged, foreign and
hostile files; options; names; films and pictures; outputs that cannot be written; signals; two
commands at once; environments; limits. Faults are drawn from `--seed`. Survived means: an exit code
that the manual names, one error line with what, where and a remedy, no hang, no false success, no
file lost or left half-written, nothing executed. `fault_kinds/judge.py` judges. Exits with 1
if a fault was not survived.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...common.errors import UsageError
from ...common.settings import setting
from .. import record
from ..options import Options, option, result_file
from .fault_kinds.every import faults
from .fault_kinds.fault import Fault, Outcome
from .fault_kinds.pool import attempt_all
from .fault_kinds.samples import Samples

AGAIN = "python -m sdxs.experiments faults --seed {seed} --only {id}"
ENDING_S = 10.0  # of a share: the faults under way end within it, mostly


@dataclass(frozen=True, slots=True)
class FaultsOptions(Options):
    """Which faults, for how long, and where the outcomes go."""

    json: Path | None = result_file()
    table: Path | None = option(None, "write the page of the manual to this file", use="written")
    seed: int = setting(0, "seed that the faults are drawn from", minimum=0)
    only: str = setting("", "try the faults whose id begins so, as pickles-03 or films,pictures")
    share: float | None = setting(
        None, "try a share of all kinds that takes about so long", minimum=1, unit="s"
    )
    workers: int = setting(2, "faults tried at once", minimum=1, maximum=16)
    listed: bool = setting(False, "list the faults and try none")


def chosen(options: FaultsOptions) -> list[Fault]:
    """Return the faults that the options ask for; of a share, every kind in turn."""
    begins = tuple(options.only.split(","))
    found = [each for each in faults(options.seed) if each.id.startswith(begins)]
    if not found:
        known = ", ".join(dict.fromkeys(each.id[:-3] for each in faults(options.seed)))
        raise UsageError(f"--only {options.only}: no fault has this id; kinds are {known}")
    return found if options.share is None else mixed(found, options.seed)


def mixed(found: Sequence[Fault], seed: int) -> list[Fault]:
    """Return the faults in an order in which every kind has its turn."""
    draw, by_kind = Random(f"{seed} order"), dict[str, list[Fault]]()
    for each in draw.sample(found, len(found)):
        by_kind.setdefault(each.kind, []).append(each)
    rows = list(by_kind.values())
    most = max(map(len, rows))
    return [row[i] for i in range(most) for row in rows if i < len(row)]


def attempt(found: Sequence[Fault], options: FaultsOptions, console: Console) -> list[Outcome]:
    """Try faults, show how far that is, and say each that is not survived."""
    began = time.monotonic()
    until = None if options.share is None else began + options.share - ENDING_S
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        tempfile.TemporaryDirectory(prefix="sdxs-faults-", ignore_cleanup_errors=True) as name,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        folder = Path(name)
        folder.chmod(0o755)  # a fault may happen to another user
        samples = Samples(folder)  # the others are made by the first fault that asks
        assert samples.tiny.exists() and samples.cat.exists()
        task = progress.add_task("faults", total=len(found))
        tried: list[Outcome] = []

        def tell(outcome: Outcome) -> None:
            tried.append(outcome)
            progress.update(task, advance=1, description=outcome.kind)
            if not console.is_terminal and not len(tried) % 50:
                console.print(f"{len(tried)} of {len(found)} tried")
            if not outcome.survived:
                console.print(said(outcome, options.seed), markup=False)

        return attempt_all(found, options.seed, folder, options.workers, until, tell)


def said(outcome: Outcome, seed: int) -> str:
    """A fault that was not survived, in lines, with the command that repeats it."""
    lines = [
        f"NOT SURVIVED {outcome.id}: {outcome.what}",
        *(f"    {each}" for each in outcome.wrong),
        f"    code {outcome.code}, {outcome.seconds:g} s; {outcome.line}",
        f"    again: {AGAIN.format(seed=seed, id=outcome.id)}",
    ]
    return "\n".join(lines)


def run(options: FaultsOptions) -> int:
    """Try faults; return 1 unless all were survived."""
    console = Console(highlight=False, soft_wrap=True)
    found = chosen(options)
    if options.listed:
        for each in found:
            print(f"{each.id:28} {each.what}")
        return 0
    outcomes = attempt(found, options, console)
    order = {each.id: number for number, each in enumerate(faults(options.seed))}
    outcomes.sort(key=lambda each: order[each.id])
    lost = [each for each in outcomes if not each.survived]
    print(f"{len(outcomes) - len(lost)} of {len(outcomes)} faults survived")
    if options.json:
        rows = [asdict(each) | {"survived": each.survived} for each in outcomes]
        kinds = {name: {"tried": n, "survived": s} for name, n, s in counts(outcomes)}
        record.write(options.json, {"kinds": kinds, "faults": rows}, options)
    if options.table:
        options.table.write_text(page(outcomes, options.seed), encoding="utf-8")
    return 1 if lost else 0


def counts(outcomes: Sequence[Outcome]) -> list[tuple[str, int, int]]:
    """Count by kind: name, tried, survived."""
    kinds = dict.fromkeys(each.kind for each in outcomes)
    return [
        (name, len(of), sum(each.survived for each in of))
        for name in kinds
        if (of := [each for each in outcomes if each.kind == name])
    ]


HEAD = """# Faults that were tried

`python -m sdxs.experiments faults --table docs/faults.md --json docs/results/faults.json` draws
these faults from a seed, tries each on the command or the API, judges what it got, and writes this
page. `faults --share 120` tries a share of two minutes, as CI does; `faults --only ID` repeats one.

Survived means all of these: the exit code is 0, 1, 2 or 3, or 128 and the number of the signal
sent. A failure says one line with what, where, and a remedy. Nothing hangs or crashes. Success is
only said over files that read back whole. No earlier file is lost, and no partial one stays.
Nothing is executed. On Linux; no Mac was at hand. [results.md](results.md) names the file with
every line and code.

"""


def page(outcomes: Sequence[Outcome], seed: int) -> str:
    """The page of the manual, in Markdown: kinds, and what was not survived."""
    rows = counts(outcomes)
    tried, survived = (sum(row[i] for row in rows) for i in (1, 2))
    lines = ["| kind | tried | survived |", "|---|---|---|"]
    lines += [f"| {name} | {n} | {s} |" for name, n, s in rows]
    lines += [f"| **all** | **{tried}** | **{survived}** |", ""]
    lost = [each for each in outcomes if not each.survived]
    if lost:
        lines += ["## Not survived", "", "| fault | what was done | why |", "|---|---|---|"]
        lines += [
            f"| {each.id} | {_cell(each.what)} | {_cell('; '.join(each.wrong))} |" for each in lost
        ]
        lines.append("")
    return HEAD + "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:300]
