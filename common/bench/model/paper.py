"""The figures of the rebuilt paper (arXiv:2605.16259), beside ours where the work is the same.

The same work is the same number of UNet parameters at the same size. It is not the same machine,
and whoever shows these says so.
"""

import json
from pathlib import Path
from statistics import median

from .report import BackendReport, PaperRow, Work

FILE = Path(__file__).with_name("paper.json")
NOT_THE_SAME_MACHINE = "not the same machine"
_SAME_M = 0.1  # millions of parameters: the paper gives one decimal


def source() -> str:
    """Which paper, on which machine."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    return f"{stored['source']}: {stored['machine']}"


def beside(work: Work, backends: list[BackendReport]) -> list[PaperRow]:
    """Return a row for every figure of the paper that has a counterpart here."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    rows: list[PaperRow] = []
    for paper_work in stored["works"]:
        same = abs(work.unet_parameters / 1e6 - paper_work["unet_parameters_m"]) <= _SAME_M
        if not same or work.size != stored["resolution"]:
            continue
        for stage, paper_ms in paper_work["milliseconds"].items():
            right = [b for b in backends if not b.wrong]
            ours = {b.label: found for b in right if (found := _ours(b, stage)) is not None}
            if ours:
                rows.append(PaperRow(f"{paper_work['name']}: {stage}", paper_ms, ours))
    return rows


def _ours(backend: BackendReport, stage: str) -> float | None:
    """Return our median of the same thing.

    The paper's 'frame' is from camera to picture, so pre and post are added.
    """
    stages = {name: median(times) for name, times in backend.stages_ms.items() if times}
    if stage == "frame":
        around = stages.get("pre", 0.0) + stages.get("post", 0.0)
        return backend.summary.median + around if backend.summary and stages else None
    if stage == "pre + post":
        return stages["pre"] + stages["post"] if {"pre", "post"} <= stages.keys() else None
    return stages.get(stage)
