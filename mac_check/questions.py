"""The table of mac-check's questions: what is asked, of which model, on which unit, how long.

A question names its function as a text, so that this process loads no framework. Order: MLX first;
then Core ML and Core AI on the GPU, the CPU, all units and the Neural Engine, since each is
likelier to end its process than the one before.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from .coreai_questions import MACOS, is_core_ai, of_core_ai, without_core_ai
from .models import DEMO, DREAMSHAPER, FULL, LARGE_VAE, SKETCH, WIDE, Model
from .question import COMPUTE_UNITS, CONV_FORMS, ORDER, Plan, Question, Unit
from .setup import WAYS
from .unified import of_unified_memory
from .verdict import WAYS_GROUP

NE_GPU_NE = "encode=ne,unet=gpu,decode=ne"
SDPA_MACOS = 15  # scaled_dot_product_attention, and packages of several sizes
# MLX reads these when it starts. TF32 is the default of float32 on an M5.
EXACT_FLOAT32 = {"MLX_ENABLE_TF32": "0"}
_HERE = __package__


def table(plan: Plan, macos: int | None = None) -> list[Question]:
    """Return the questions of a plan in their order.

    macos: major version; None is taken for the newest. Before macOS 15 the matmul form is used
    where no form is asked for, and a question that needs a later macOS has `skip`.
    """
    plain = "sdpa" if macos is None or macos >= SDPA_MACOS else "matmul"
    asked = [each for each in _all(plan, plain) if each.quick or not plan.quick]
    asked.sort(key=lambda each: ORDER.index(each.unit))  # stable: the table's order within a unit
    if plain == "matmul":
        asked = [_without_macos_15(each) for each in asked]
    asked = [without_core_ai(each, macos or MACOS) for each in asked]
    return list(_with_preparations(asked, plan, plain))


def _without_macos_15(question: Question) -> Question:
    sdpa = "sdpa" in (question.chosen.get("attention"), question.values.get("form"))
    hint = bool(question.values.get("hint"))
    if is_core_ai(question):
        return question  # needs a later one in any case
    if sdpa or hint or "sizes" in question.chosen:
        return replace(question, skip=f"needs macOS {SDPA_MACOS}")
    return question


def _with_preparations(asked: Iterable[Question], plan: Plan, plain: str) -> Iterator[Question]:
    """Insert what a question needs before the first that needs it."""
    written, exact = set[str](), set[str]()
    for question in asked:
        model = question.model
        if model and model.architecture and model.base not in written:
            written.add(model.base)
            values: dict[str, float | str] = {"architecture": model.architecture}
            values["tiny"] = int(plan.rehearsed)
            write = f"{_HERE}.models:ask_write"
            made = Question("random weights", write, "machine", model, values=values)
            yield replace(made, expected_s=40.0, limit_s=600.0)
        if model and question.needs_exact and model.name not in exact and not question.skip:
            exact.add(model.name)
            yield Question(
                "exact picture",
                f"{_HERE}.coreml:ask_exact",
                "machine",
                model,
                {"attention": plain},
                limit_s=900.0,
                expected_s=8 if model in (DEMO, SKETCH) else 16 if model is WIDE else 90,
            )
        yield question


def _all(plan: Plan, plain: str) -> Iterator[Question]:
    yield from _of_the_machine()
    yield from _of_mlx()
    yield from _of_forms(plan, plain)
    yield from _of_operations()
    yield from _of_behaviour(plan, plain)
    yield from of_unified_memory(plain)
    yield from of_core_ai(_sizes(plan))


def _of_the_machine() -> Iterator[Question]:
    yield Question("camera", f"{_HERE}.camera:ask_camera", "machine", quick=True, expected_s=4)
    yield Question("cameras", f"{_HERE}.camera:ask_cameras", "machine", quick=True, expected_s=2)
    yield Question("screen", f"{_HERE}.screen:ask_screen", "machine", quick=True, expected_s=10)
    yield Question("films", f"{_HERE}.films:ask_films", "machine", quick=True, expected_s=10)
    yield Question("syphon", f"{_HERE}.outputs:ask_syphon", "machine", quick=True, expected_s=12)
    yield Question("vcam", f"{_HERE}.outputs:ask_vcam", "machine", quick=True, expected_s=8)


def _of_mlx() -> Iterator[Question]:
    def mlx(
        group: str, name: str, model: Model | None = None, s: float = 10, **more: object
    ) -> Question:
        made = Question(group, f"{_HERE}.mlx:{name}", "mlx", model, expected_s=s)
        return replace(made, **more)  # type: ignore[arg-type]

    exact = EXACT_FLOAT32
    yield mlx("kernel", "ask_kernel", quick=True, environment=exact, s=15)
    yield mlx("mlx parity", "ask_parity", quick=True, environment=exact)
    yield mlx("attention heads", "ask_heads", quick=True, environment=exact)
    yield mlx("mlx", "ask_frame", DEMO, quick=True, needs_exact=True)
    yield mlx("mlx overflow", "ask_overflow", DEMO, quick=True)
    yield mlx("mlx", "ask_frame", WIDE, needs_exact=True)
    for winograd in ("0", "1"):
        yield mlx(
            "winograd",
            "ask_winograd",
            FULL,
            s=40,
            values={"winograd": int(winograd)},
            environment={**exact, "MLX_CONV_WINOGRAD": winograd},
            variant=True,
            title=f"MLX_CONV_WINOGRAD={winograd}",
        )
    for model in (DEMO, FULL, DREAMSHAPER):
        forms = mlx(CONV_FORMS, "ask_conv_forms", model, environment=exact)
        forms = replace(forms, ask=f"{_HERE}.conv_forms:ask_conv_forms", needs_exact=True)
        yield replace(forms, expected_s=10.0 if model is DEMO else 60.0)
    yield mlx("mlx", "ask_frame", FULL, s=40, needs_exact=True)
    yield mlx("mlx", "ask_frame", DREAMSHAPER, s=40, needs_exact=True)


def _variant(unit: Unit, model: Model, quick: bool = False, **chosen: str) -> Question:
    units = {} if "placement" in chosen else {"compute_units": COMPUTE_UNITS[unit]}
    full = model not in (DEMO, WIDE, SKETCH)
    seconds = {"gpu": 10.0, "cpu": 12.0, "all": 25.0, "ne": 25.0}[unit] * (4 if full else 1)
    made = Question("core ml", f"{_HERE}.coreml:ask_variant", unit, model, {**chosen, **units})
    return replace(made, variant=True, quick=quick, needs_exact=True, expected_s=seconds)


def _of_forms(plan: Plan, plain: str) -> Iterator[Question]:
    """Every form of the program on every unit, first of the demo."""
    yield _variant("gpu", DEMO, quick=True, attention="matmul")
    yield _variant("gpu", DEMO, quick=True, attention="sdpa")
    yield _variant("gpu", DEMO, attention="split_einsum")
    yield _variant("gpu", DEMO, attention=plain, input="image")
    for weights in ("palettize6", "int8"):
        for attention in ("matmul", "sdpa"):  # macOS 14's operations, and 15's
            yield _variant("gpu", DEMO, attention=attention, weights=weights)
    yield _variant("gpu", DEMO, attention=plain, noise_seed="7")
    yield _variant("gpu", DEMO, attention="sdpa", sizes=_sizes(plan))
    yield _variant("gpu", WIDE, attention=plain)
    yield _variant("gpu", SKETCH, attention=plain)
    # first what is deleted afterwards: the disk holds less at once
    yield _variant("gpu", DREAMSHAPER, attention=plain)
    yield _variant("gpu", LARGE_VAE, attention=plain)
    for attention in ("matmul", "sdpa"):
        yield _variant("gpu", FULL, attention=attention)
    yield _variant("gpu", FULL, attention=plain, weights="palettize6")

    for attention in ("matmul", "split_einsum", "sdpa"):
        yield _variant("cpu", DEMO, quick=attention == "split_einsum", attention=attention)
        yield _variant("cpu", FULL, attention=attention)

    for attention in ("matmul", "split_einsum", "sdpa"):
        yield _variant("all", DEMO, attention=attention)
    for attention in ("split_einsum", "sdpa"):
        yield _variant("all", FULL, attention=attention)

    yield _variant("ne", DEMO, quick=True, attention="split_einsum")
    yield _variant("ne", DEMO, attention="split_einsum", placement=NE_GPU_NE)
    yield _variant("ne", DEMO, attention="split_einsum", input="image")
    yield _variant("ne", DEMO, attention="split_einsum", weights="palettize6")
    yield _variant("ne", DEMO, attention="matmul")
    yield _variant("ne", DEMO, attention="matmul", weights="int8")
    yield _variant("ne", DEMO, attention="sdpa")
    yield _variant("ne", DEMO, attention="sdpa", weights="int8")
    yield _variant("ne", WIDE, attention="split_einsum")
    yield _variant("ne", SKETCH, attention="split_einsum")
    yield _variant("ne", FULL, attention="split_einsum", placement=NE_GPU_NE)
    yield _variant("ne", FULL, attention="split_einsum")
    yield _variant("ne", FULL, attention="split_einsum", weights="palettize6")


def _sizes(plan: Plan) -> str:
    """Name the demo's size and another: half of it where that is a multiple of 64, or twice."""
    size = plan.size or 256
    other = size // 2 if size % 128 == 0 else 2 * size
    return f"{min(size, other)},{max(size, other)}"


def _of_operations() -> Iterator[Question]:
    """Single operations at the edge of float16, as tiny programs."""
    forms: dict[Unit, tuple[str, ...]] = {
        "gpu": ("matmul", "sdpa"),
        "cpu": ("matmul", "sdpa"),
        "all": ("sdpa",),
        "ne": ("split_einsum", "sdpa"),
    }

    def operation(
        unit: Unit, group: str, name: str, quick: bool = False, form: str = ""
    ) -> Question:
        values = {"units": COMPUTE_UNITS[unit], **({"form": form} if form else {})}
        made = Question(group, f"{_HERE}.operations:{name}", unit, values=values, variant=True)
        return replace(made, quick=quick, expected_s=6.0, title=f"{form} {unit}".strip())

    for unit, forms_of_unit in forms.items():
        yield operation(unit, "group norm", "ask_group_norm", quick=unit in ("gpu", "ne"))
        for form in forms_of_unit:
            yield operation(unit, "attention", "ask_attention", form=form)


def _of_behaviour(plan: Plan, plain: str) -> Iterator[Question]:
    """What a session meets: pictures as images, other threads, prompts, second starts, idling."""
    pause = 0.0 if plan.rehearsed else 1.0
    gpu = {"attention": plain, "compute_units": COMPUTE_UNITS["gpu"]}
    ne = {"attention": "split_einsum", "compute_units": COMPUTE_UNITS["ne"]}

    def asked(name: str, unit: Unit, module: str = "behaviour") -> Question:
        ask = f"{_HERE}.{module}:ask_{name.replace(' ', '_')}"
        exact = name in ("load", "two loaders", "idle predictions")
        chosen = gpu if unit == "gpu" else ne
        return Question(name, ask, unit, DEMO, chosen, variant=True, needs_exact=exact)

    yield from _of_ways(gpu)
    yield replace(asked("image rounding", "gpu"), variant=False, quick=True)
    yield replace(asked("gil", "gpu"), variant=False)
    units: tuple[Unit, ...] = ("gpu", "ne")
    for unit in units:
        yield asked("feedback", unit)
        yield asked("prompt change", unit)
        yield asked("overflow", unit)
        for model in (DEMO, FULL):
            yield from _loads(asked("load", unit, "loading"), model)
        idling = asked("first frame after idling", unit)
        yield replace(idling, values={"idle_s": 90 * pause}, expected_s=100.0)
        yield asked("two loaders", unit, "loading")
        # the crash of coremltools#2827 comes about a second after a prediction
        values = {"idle_s": 1.5 * pause, "times": 5 if plan.quick else 20}
        idle = replace(asked("idle predictions", unit), values=values, quick=unit == "gpu")
        yield replace(idle, expected_s=15.0 if plan.quick else 40.0)
    soak_s = plan.soak_seconds
    soak = replace(asked("soak", "gpu"), variant=False, quick=True, values={"soak_s": soak_s})
    yield replace(soak, limit_s=soak_s + 600, expected_s=soak_s + 10)


def _of_ways(gpu: Mapping[str, str]) -> Iterator[Question]:
    """The ways to call Core ML; and of PyObjC's, what was asked of coremltools' bridge."""
    for model in (DEMO, FULL):
        for way in WAYS:
            values: dict[str, float | str] = {"way": way, "cycles": 5}
            made = Question(WAYS_GROUP, f"{_HERE}.ways:ask_way", "gpu", model, gpu, values)
            made = replace(made, variant=True, needs_exact=True, quick=model is DEMO, title=way)
            yield replace(made, expected_s=10.0 if model is DEMO else 90.0)
    for name in ("feedback", "overflow", "prompt change", "idle predictions"):
        values = {"way": "pyobjc here", "idle_s": 1.5, "times": 20}
        ask = f"{_HERE}.ways:ask_{name.replace(' ', '_')}"
        made = Question(f"{name} through pyobjc", ask, "gpu", DEMO, gpu, values, needs_exact=True)
        yield replace(made, expected_s=40.0 if "idle" in name else 10.0)


def _loads(asked: Question, model: Model) -> Iterator[Question]:
    """Load first, again at the same path, after a rename, and for the fastest prediction."""
    steps = [
        ("first", "", "load", "load"),
        ("again", "", "load", "load"),
        ("renamed", "", "load", "renamed"),
        ("first", "FastPrediction", "fast", "fast"),
    ]
    for step, hint, at, to in steps:
        made = replace(asked, model=model, values={"load": step, "hint": hint, "at": at, "to": to})
        title = " ".join(filter(None, (step, hint, asked.chosen["attention"], asked.unit)))
        yield replace(made, title=title, expected_s=10.0 if model is DEMO else 60.0)
