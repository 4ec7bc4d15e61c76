"""The page of others' runs: `python -m sdxs.commands.community` writes it from the files beside it.

Files come from `sdxs bench --submit`. A test holds the page to what this renders.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from ..common.bench.model.ratios import FLOOR_DTYPE
from ..common.bench.model.start import COLD
from ..common.bench.model.submission import Result, Submission, read_submission
from ..common.bench.model.terms import NOT_TOLD, terms_of
from ..common.picture.size import FrameSize
from .console import out

FOLDER = Path(__file__).parent.parent / "docs" / "results" / "community"
PAGE = FOLDER / "README.md"
HEAD = """# Runs on other machines

Written by `python -m sdxs.commands.community` from the files beside this page.

Each file is one run of `sdxs bench` on somebody's machine, by chip. To add yours, measure, look at
the file, and attach it to an issue:

    sdxs bench --submit submission.json

The file holds the machine (chip, system, memory, versions), the settings and the figures. It holds
no names, no paths, no prompts and no texts of errors. A run that was measured before can be written
again: `sdxs bench --show bench.json --submit submission.json`.

A picture that failed against the float32 reference has no rate here. Files of different chips were
not measured side by side, so no ratio is made of them. More frames in flight, or more in a batch,
raise the rate and the latency. Energy is that of a frame, idle power included, by the channels that
the machine tells. A cold start is the time from the request for a process to its first picture,
with those caches emptied that can be; the median of several.
"""
HEADS = (
    *("model, size", "backend", "settings", "frames/s", "latency", "picture", "footprint"),
    *("energy", "cold start", "system", "commit, day", "file"),
)


def render(folder: Path = FOLDER) -> str:
    """The page, a section for each chip. Raises UsageError for a file that cannot be read."""
    by_chip: dict[str, list[tuple[str, Submission]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        found = read_submission(path)
        by_chip[_chip(found)].append((path.name, found))
    parts = [HEAD]
    for chip in sorted(by_chip):
        parts.append(f"## {chip}\n")
        rows = [
            _row(name, found, result)
            for name, found in by_chip[chip]
            for result in found.results
            if result.describe.get("dtype") != FLOOR_DTYPE
        ]
        parts.append("\n".join([_line(HEADS), _line(["---"] * len(HEADS)), *rows]) + "\n")
    return "\n".join(parts)


def _chip(found: Submission) -> str:
    machine = found.machine
    chip = machine.chip or "a chip that is not named"
    facts = [f"{machine.cores} cores", f"{machine.memory_bytes / 2**30:.0f} GiB"]
    return ", ".join([chip, *filter(None, [machine.accelerator]), *facts])


def _row(name: str, found: Submission, result: Result) -> str:
    size = FrameSize.from_json(found.size).words
    facts = {n: v for n, v in result.describe.items() if n in ("dtype", "device", "runtime")}
    terms = str(terms_of(result.describe) or NOT_TOLD)
    settings = [*facts.values(), terms, *(f"{n}={v}" for n, v in result.settings.items())]
    rate = f"{1000 / median(result.round_ms):.1f}"
    picture = result.picture
    footprint = result.memory.get("footprint")
    day = found.date + ("" if found.complete else ", not complete")
    day += ", beside other programs" if found.busy else ""
    return _line(
        (
            f"{found.model}, {size}",
            result.backend,
            ", ".join(settings),
            "picture failed" if result.failed else rate,
            "" if result.failed else f"{result.latency_ms:.1f} ms",
            f"{picture.worst_db:.0f} dB" if picture else "not checked",
            f"{footprint / 1e6:.0f} MB" if footprint else "",
            "" if result.failed else _energy(result),
            "" if result.failed else _cold_start(result),
            found.machine.system,
            f"{found.machine.git or 'unknown'}, {day}",
            f"[{name}]({name})",
        )
    )


def _energy(result: Result) -> str:
    channels = result.energy.channels if result.energy else []
    return ", ".join(f"{each.channel} {each.joules:.3g} J" for each in channels)


def _cold_start(result: Result) -> str:
    cold = result.starts.of(COLD) if result.starts else None
    return f"{cold.whole_ms / 1000:.2f} s of {cold.number}" if cold else ""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    PAGE.write_text(render(), encoding="utf-8")
    out.print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
