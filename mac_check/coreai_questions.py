"""The questions about Core AI, for the table in `questions.py`."""

from collections.abc import Iterator
from dataclasses import replace

from .models import DEMO, FULL, SKETCH, Model
from .question import Question, Unit

UNITS = {"gpu": "gpu", "cpu": "cpu", "all": "any", "ne": "ne"}
PACKAGE_MACOS, MACOS = 26, 27  # Core AI's package alone, on the CPU; Core AI itself
_HERE = __package__


def without_core_ai(question: Question, macos: int) -> Question:
    """Skip what needs a later macOS; the package's runtime takes minutes for a frame of SDXS."""
    small = question.unit == "cpu" and question.model is DEMO
    needed = PACKAGE_MACOS if small else MACOS
    if is_core_ai(question) and macos < needed:
        return replace(question, skip=f"needs macOS {needed}")
    return question


def is_core_ai(question: Question) -> bool:
    return question.ask.startswith(f"{_HERE}.coreai:")


def of_core_ai(sizes: str) -> Iterator[Question]:
    """Core AI in every form on every unit; composites, inputs in place, and second loads.

    sizes: of a program with several.
    """

    def asked(
        unit: Unit, model: Model, attention: str, quick: bool = False, **chosen: str
    ) -> Question:
        facts = {"attention": attention, "unit": UNITS[unit], **chosen}
        made = Question("core ai", f"{_HERE}.coreai:ask_unit", unit, model, facts, variant=True)
        seconds = 10.0 if model in (DEMO, SKETCH) else 40.0
        return replace(made, quick=quick, needs_exact=True, expected_s=seconds)

    def other(group: str, name: str, question: Question) -> Question:
        ask, title = f"{_HERE}.coreai:{name}", f"{question.chosen['attention']} {question.unit}"
        return replace(question, group=group, ask=ask, title=title, needs_exact=False)

    for attention in ("sdpa", "matmul", "split_einsum"):
        yield asked("gpu", DEMO, attention, quick=attention == "sdpa")
    yield asked("gpu", DEMO, "sdpa", dtype="float32")
    for weights in ("int8", "palettize4"):
        yield asked("gpu", DEMO, "sdpa", weights=weights)
    yield asked("gpu", DEMO, "sdpa", sizes=sizes)
    yield asked("gpu", SKETCH, "sdpa")
    yield asked("gpu", FULL, "sdpa")
    yield asked("gpu", FULL, "sdpa", weights="int8")
    yield asked("cpu", DEMO, "split_einsum", quick=True)
    yield asked("cpu", FULL, "split_einsum")
    for model in (DEMO, FULL):
        yield asked("all", model, "sdpa")
        yield asked("ne", model, "split_einsum")
        yield other("core ai composites", "ask_composites", asked("gpu", model, "sdpa"))
        yield other("core ai arrays", "ask_arrays", asked("gpu", model, "sdpa"))
        for unit, attention in (("gpu", "sdpa"), ("ne", "split_einsum")):
            one: Unit = "gpu" if unit == "gpu" else "ne"
            load = other("core ai load", "ask_load", asked(one, model, attention))
            for step in ("first", "again"):
                title = f"{step} {load.title}"
                yield replace(load, values={"load": step}, title=title, needs_exact=True)
    yield asked("ne", DEMO, "split_einsum", weights="int8")
