"""Count the operations of a program per compute unit, from Core ML's plan.

Source: MLComputePlan, macOS 14.4 or later.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import coremltools as ct

from ..common.errors import BackendError
from .cache import Built
from .options import CoreMLOptions

if TYPE_CHECKING:
    from coremltools.models.compute_plan import MLComputePlan, MLModelStructureProgramOperation

UNITS = {
    "MLCPUComputeDevice": "cpu",
    "MLGPUComputeDevice": "gpu",
    "MLNeuralEngineComputeDevice": "ne",
}
MOST_KINDS = 6


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The plan of one program, per compute unit 'cpu', 'gpu' or 'ne'.

    operations: number of operations, without constants. cost: share of Core ML's estimated work, 0
    to 1; empty without an estimate. kinds: number of operations of each kind. An operation without
    a device counts as on 'no unit'. unplanned: number of operations, without constants, that Core
    ML has no plan for. It is a plan: the Neural Engine may still refuse the program at run time.
    """

    stage: str
    compute_units: str
    operations: dict[str, int]
    cost: dict[str, float]
    kinds: dict[str, dict[str, int]]
    unplanned: int = 0

    def __str__(self) -> str:
        if not self.operations:
            return (
                f"{self.stage} on {self.compute_units}: Core ML has no plan for it; it plans only "
                "the default function of a package, that is the smallest of --sizes"
            )
        shares = [
            f"{unit} {count}"
            + (f" ({self.cost[unit]:.0%} of the work)" if unit in self.cost else "")
            for unit, count in self.operations.items()
        ]
        line = f"{self.stage} on {self.compute_units}: operations on {', '.join(shares)}"
        main = max(self.operations, key=lambda unit: self.operations[unit], default="")
        for unit, kinds in self.kinds.items():
            if unit != main:
                named = sorted(kinds.items(), key=lambda item: -item[1])[:MOST_KINDS]
                line += f"; on {unit}: {', '.join(f'{kind} x {count}' for kind, count in named)}"
        return line + (f"; no plan for {self.unplanned}" if self.unplanned else "")


def summarise(
    compiled: Path, stage: str, compute_units: str, function: str | None = None
) -> PlanSummary:
    """Ask Core ML for the plan of a compiled program (.mlmodelc).

    Raises BackendError if Core ML has no plan for it.
    """
    try:
        from coremltools.models.compute_plan import MLComputePlan

        plan = MLComputePlan.load_from_path(str(compiled), ct.ComputeUnit[compute_units.upper()])
        program = plan.model_structure.program
    except Exception as error:  # coremltools raises bare ValueError and RuntimeError
        raise BackendError(
            f"coreml: no compute plan for {compiled} ({error}); it needs macOS 14.4"
        ) from None
    name = function or "main"
    if program is None or name not in program.functions:
        raise BackendError(
            f"coreml: the compute plan of {compiled} has no function {name!r}; run `sdxs convert "
            "--force`"
        )
    return count(plan, program.functions[name].block.operations, stage, compute_units)


def count(
    plan: "MLComputePlan",
    operations: "Iterable[MLModelStructureProgramOperation]",
    stage: str,
    compute_units: str,
) -> PlanSummary:
    """Summarise a plan over `operations` and their nested blocks."""
    kinds: dict[str, Counter[str]] = {}
    work: Counter[str] = Counter()
    unplanned = 0
    for operation in _flat(operations):
        # macOS 15 prefixes the opset, as in 'ios18.conv'
        kind = operation.operator_name.rpartition(".")[2]
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:
            unplanned += not kind.startswith("const")
            continue
        device = usage.preferred_compute_device
        unit = "no unit" if device is None else type(device).__name__
        unit = UNITS.get(unit, unit)
        kinds.setdefault(unit, Counter())[kind] += 1
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        work[unit] += cost.weight if cost is not None else 0.0  # type: ignore[assignment]
    total = sum(work.values())
    return PlanSummary(
        stage,
        compute_units,
        {unit: counter.total() for unit, counter in kinds.items()},
        {unit: share / total for unit, share in work.items()} if total else {},
        {unit: dict(counter) for unit, counter in kinds.items()},
        unplanned,
    )


def plans(built: Built, options: CoreMLOptions) -> list[PlanSummary]:
    """Return the plan of every program of these options; [] on the reference interpreter."""
    if not options.on_core_ml:
        return []
    return [
        summarise(built.compiled(stage), stage, options.units(stage), options.function)
        for stage in options.stages
    ]


def describe(built: Built, options: CoreMLOptions) -> list[str]:
    """Return `plans` as lines of text, or the operation counts of the reference interpreter."""
    if options.on_core_ml:
        return [f"compute plan, {plan}" for plan in plans(built, options)]
    from .interpreter.interpreter import Interpreter

    lines = []
    for stage in options.stages:
        counts = Interpreter(built.package(stage), options.function).op_counts
        total = sum(times for kind, times in counts.items() if not kind.startswith("const"))
        lines.append(
            f"no compute plan without Core ML: the reference interpreter runs all {total} "
            f"operations of {stage}"
        )
    return lines


def _flat(
    operations: "Iterable[MLModelStructureProgramOperation]",
) -> "Iterator[MLModelStructureProgramOperation]":
    for operation in operations:
        yield operation
        for block in operation.blocks:
            yield from _flat(block.operations)
