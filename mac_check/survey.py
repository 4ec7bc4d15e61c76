"""Ask every question of a plan, each in a child process, and keep the answers as they come."""

import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..common.checkpoint.find import find
from ..common.errors import SinkError, UsageError
from ..common.picture.size import FrameSize
from ..common.system import awake, macos_major
from .children import run_question
from .disk import FULL_GB, QUICK_GB, scratch_folder
from .models import Model
from .question import CONV_FORMS, Plan, Question
from .questions import table
from .report import Report
from .setup import Answer, Setup
from .stored import refuse_without_stored_outputs

# A failed compile for the Neural Engine slows the next (ANEForge#149).
PAUSE_S = 15.0
# A unit on which this many questions hung is not waited for as long as at first.
MOST_HUNG, SHORT_S = 2, 180.0
REHEARSAL_SIZE = 64
_FAILED = re.compile(r"(ANEC|E5RT|ANE ).*(fail|error)", re.IGNORECASE)


class Watcher(Protocol):
    """Shows a person what is asked and answered."""

    def plan(self, questions: int, minutes: float, gigabytes: int) -> None:
        """Say what is to come."""

    def begin(self, number: int, question: Question, limit_s: float) -> None:
        """Say that a question is being asked, for so long at most. number: from 1."""

    def end(self, number: int, question: Question, answer: Answer) -> None:
        """Say how it was answered."""

    def left(self, size_bytes: int) -> None:
        """Say how much Core ML's own cache has grown."""

    def pause(self, seconds: float) -> None:
        """Say that nothing is asked for a while, because the last compile failed."""


def survey(
    plan: Plan,
    path: Path,
    watcher: Watcher,
    questions: Sequence[Question] | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Ask everything and write the answers to `path`; tell whether all are as they should be.

    questions: those to ask; the plan's by default. pause: waits that many seconds. Raises SdxsError
    where there is nothing to ask, and KeyboardInterrupt after it has written the answers so far.
    """
    refuse_elsewhere(plan.runtime)
    refuse_without_stored_outputs()
    if plan.size:
        find("demo", download=False).check_size(plan.size)
    asked = table(plan, macos_major()) if questions is None else list(questions)
    needed_gb = QUICK_GB if plan.quick or plan.rehearsed else FULL_GB
    with scratch_folder(needed_gb) as scratch, awake():
        minutes = sum(each.expected_s for each in asked if not each.skip) / 60
        watcher.plan(len(asked), minutes, needed_gb)
        report = Report(path, plan, time.time())
        interview = _Interview(plan, scratch, asked)
        for index, question in enumerate(asked):
            watcher.begin(index + 1, question, interview.limit_s(question))
            try:
                answer = interview.ask(question)
            except KeyboardInterrupt:
                report.add(
                    question, interview.size(question.model), {"ok": False, "interrupted": True}
                )
                raise
            if question.group == CONV_FORMS and not plan.rehearsed:
                answer |= keep_table(answer)
            report.add(question, interview.size(question.model), answer)
            watcher.end(index + 1, question, answer)
            interview.drop_after(index)
            if question.unit in ("all", "ne") and failed_compile(answer) and not plan.rehearsed:
                watcher.pause(PAUSE_S)
                pause(PAUSE_S)
        report.finish()
        watcher.left(report.left_bytes)
        return report.all_good


@dataclass(frozen=True, slots=True)
class _Interview:
    """Where questions are asked: the models, and one folder of programs for each form."""

    plan: Plan
    scratch: Path
    asked: Sequence[Question]
    hung: Counter[str] = field(default_factory=Counter)  # questions by unit

    def ask(self, question: Question) -> Answer:
        """Ask one question in a child process."""
        if question.skip:
            return {"ok": True, "asked": False, "note": question.skip}
        programs, temporary = self._programs(question), self.scratch / "tmp"
        for folder in (programs, temporary):
            folder.mkdir(parents=True, exist_ok=True)
        environment = {
            "SDXS_WEIGHTS": str(programs),
            "XDG_CACHE_HOME": str(self.scratch / "cache"),
            "TMPDIR": str(temporary),  # compilers leave folders there when they are killed
            **question.environment,
        }
        limit_s = self.limit_s(question)
        try:
            answer = run_question(
                question.ask, self._setup(question), limit_s, environment, self.scratch
            )
        except (OSError, ValueError) as error:  # of its start, or of a damaged answer
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.hung[question.unit] += "hung" in answer
        return answer

    def limit_s(self, question: Question) -> float:
        """The time that a question may take; less after other hangs on its unit."""
        hangs = self.hung[question.unit] >= MOST_HUNG
        return min(question.limit, SHORT_S) if hangs else question.limit

    def size(self, model: Model | None) -> int | str:
        """The size of a model's picture, as JSON has it; 0 without a model."""
        if model is None:
            return 0
        side = self._side(model)
        return FrameSize(2 * side if model.wide else side, side).json

    def _side(self, model: Model) -> int:
        if self.plan.rehearsed:
            return self.plan.size or REHEARSAL_SIZE
        return (
            512
            if model.architecture
            else self.plan.size or find(model.base, download=False).frame.size
        )

    def drop_after(self, index: int) -> None:
        """Remove the programs and models that no later question uses."""
        question, later = self.asked[index], self.asked[index + 1 :]
        if question.form not in {each.form for each in later}:
            shutil.rmtree(self._programs(question), ignore_errors=True)
        model = question.model
        if model and model.architecture and not self._uses(model, later):
            shutil.rmtree(self.scratch / model.base, ignore_errors=True)

    def _uses(self, model: Model, questions: Sequence[Question]) -> bool:
        return any(each.model and each.model.base == model.base for each in questions)

    def _programs(self, question: Question) -> Path:
        forms = list(dict.fromkeys(each.form for each in self.asked))
        return self.scratch / f"programs-{forms.index(question.form)}"

    def _setup(self, question: Question) -> Setup:
        model, plan = question.model, self.plan
        shared = (plan.runtime, plan.frames)
        if model is None:
            return Setup("", "", str(self.scratch), 0, *shared, values=question.values)
        folder = (
            self.scratch / model.base
            if model.architecture
            else find(model.base, download=False).folder
        )
        return Setup(
            str(folder),
            model.name,
            str(self.scratch),
            self.size(model),
            *shared,
            model.control,
            model.vae,
            question.chosen,
            question.values,
        )


def keep_table(answer: Answer) -> Answer:
    """Write the forms of convolutions that paid in a whole frame, where MLX will look for them."""
    from ..mlx_sdxs.fast.conv_table import Maker, store

    forms, maker = answer.get("forms"), answer.get("maker")
    if not (answer["ok"] and answer.get("pays") and isinstance(maker, dict)):
        return {}
    assert isinstance(forms, dict)
    try:
        store(forms, Maker(maker["machine"], maker["mlx"], maker["form_version"]))
    except (OSError, SinkError) as error:
        return {"table_written": False, "table_error": f"{type(error).__name__}: {error}"}
    return {"table_written": True}


def failed_compile(answer: Answer) -> bool:
    """Tell whether a compile for the Neural Engine may have failed; Core ML itself goes on then."""
    lines = answer.get("stderr", [])
    assert isinstance(lines, list)
    return not answer["ok"] or any(_FAILED.search(line) for line in lines)


def refuse_elsewhere(runtime: str) -> None:
    """Raise UsageError where there is no Core ML to ask."""
    if runtime == "coreml" and sys.platform != "darwin":
        raise UsageError(
            "mac-check asks Core ML and Metal what only they can tell, so it needs macOS; run it "
            "on a Mac"
        )
