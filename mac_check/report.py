"""The JSON of mac-check, written whole after every answer.

    schema          2
    rehearsal       null; a text if the interpreter answered instead of Core ML
    finished        true once every question was asked; false after Ctrl-C, or before the end
    started, ended  local times
    plan            quick, soak_s, frames, size
    environment     machine and versions of packages, as in the JSON of bench
    system          macOS and its build, wheels, GPU
    power           load, power source and thermal state: at_start, at_end
    core_ml_cache   bytes of Core ML's own cache, of every program of this user: at_start, at_end
    crash_reports   names of the reports that macOS wrote meanwhile, in ~/Library/Logs
    device          {question: answer}: about the machine
    models          {model: {"size": 256 or "512x256", question: answer}}

An answer is {"ok": bool, "seconds": s, ...}; a question with several variants answers
{"ok": all of them, "variants": [answer, ...]}, each with its options and units. Further keys of an
answer:

    error           the exception that a question raised
    died            the signal that ended its process; with `hung` and `limit_s` after its limit
    after_answer    the process ended badly after it had answered
    interrupted     Ctrl-C during this question
    asked           false: not asked, `note` says why
    stderr          last lines of its output; E5RT and ANECCompile tell of failed compiles
    cpu_only_ms     frame time of the same program on the CPU alone, from another question: a frame
                    that takes as long was probably computed there, whatever the plan says

The question `ways` has a `verdict`, too: which way to call Core ML should be the default, by what
rule, and why not the others (`mac_check/verdict.py`). `conv forms` has the microseconds and the
error of every form of every convolution in `rows`, what was chosen in `forms`, whether it pays in a
frame, and whether the table was written (`table_written`) for this machine's MLX to use.
"""

import json
from dataclasses import asdict
from pathlib import Path

from ..common.files import write_whole
from .facts import core_ml_cache_bytes, crash_reports, environment, now, power, system
from .question import Plan, Question
from .setup import Answer
from .verdict import WAYS_GROUP, verdict

SCHEMA = 2
REHEARSAL = "by the reference interpreter, NOT Core ML: no figure here is one of a Mac"


class Report:
    """The answers so far. `write` stores them all."""

    def __init__(self, path: Path, plan: Plan, started: float) -> None:
        """started: time.time() of the beginning."""
        self._path = path
        self._started = started
        self.left_bytes = 0  # in Core ML's own cache, once finished
        self._content: dict[str, object] = {
            "schema": SCHEMA,
            "rehearsal": REHEARSAL if plan.rehearsed else None,
            "finished": False,
            "started": now(),
            "plan": asdict(plan) | {"soak_s": plan.soak_seconds},
            "environment": environment(),
            "system": system(),
            "power": {"at_start": power()},
        }
        self._cache_bytes = core_ml_cache_bytes()
        self._device: Answer = {}
        self._models: dict[str, Answer] = {}

    def add(self, question: Question, size: int | str, answer: Answer) -> None:
        """Add an answer and write the file. Raises SinkError."""
        place: Answer
        if question.model:
            place = self._models.setdefault(question.model.name, {"size": size})
        else:
            place = self._device
        if not question.variant:
            place[question.group] = answer
        else:
            group = place.setdefault(question.group, {"ok": True, "variants": []})
            assert isinstance(group, dict)
            group["variants"].append(_told(question) | answer)
            group["ok"] = all(each["ok"] for each in group["variants"])
            _compare_with_cpu(group["variants"])
            if question.group == WAYS_GROUP:
                group["verdict"] = verdict(
                    group["variants"], self._content["rehearsal"] is not None
                )
        self.write()

    def finish(self) -> None:
        """Note that every question was asked, and write the file. Raises SinkError."""
        self._content["finished"] = True
        at_end = core_ml_cache_bytes()
        self._content["core_ml_cache"] = {"at_start": self._cache_bytes, "at_end": at_end}
        self.left_bytes = at_end - self._cache_bytes
        self.write()

    def write(self) -> None:
        """Write the file whole. Raises SinkError."""
        power_facts = self._content["power"]
        assert isinstance(power_facts, dict)
        power_facts["at_end"] = power()
        self._content |= {
            "ended": now(),
            "crash_reports": crash_reports(self._started),
            "device": self._device,
            "models": self._models,
        }
        write_whole(self._path, (json.dumps(self._content, indent=1) + "\n").encode())

    @property
    def all_good(self) -> bool:
        """Tell whether every answer so far is as it should be."""
        places = [self._device, *self._models.values()]
        return all(
            answer["ok"]
            for place in places
            for answer in place.values()
            if isinstance(answer, dict)
        )


def _told(question: Question) -> Answer:
    """Return the options and values of a variant."""
    return {**question.chosen, **question.values}


def _compare_with_cpu(variants: list[Answer]) -> None:
    """Put the CPU's frame time of the same program beside each variant's own."""
    for one in variants:
        for other in variants:
            if _program(one) == _program(other) and other.get("compute_units") == "cpu_only":
                frame_ms = other.get("frame_ms")
                if isinstance(frame_ms, dict) and "p50" in frame_ms and one is not other:
                    one["cpu_only_ms"] = frame_ms["p50"]


def _program(answer: Answer) -> list[object]:
    return [answer.get(name) for name in ("attention", "weights", "input", "sizes", "noise_seed")]
