"""Prepare Core AI programs before a session: build, gate, and check the compute unit.

Imports nothing of Apple's package, so that a missing one is a message of ours.
"""

import numpy as np

from ..common.backend.options import BackendOptions
from ..common.backend.program_cache import Record, read_record, size_bytes
from ..common.backend.programs import Prepared, Progress, Reference
from ..common.backend.protocol import FrameParams
from ..common.checkpoint.find import Checkpoint
from ..common.system import macos_build
from .cache import PROGRAMS, Built
from .options import CoreAIOptions, check_options, has_framework
from .prepare import find_or_build, refuse_without_runtime, run_task


class CoreAIPrograms:
    """The Core AI implementation of `common.backend.programs.Programs`."""

    def prepare(
        self,
        checkpoint: Checkpoint,
        options: BackendOptions,
        reference: Reference,
        report: Progress,
        force: bool,
    ) -> list[Prepared]:
        assert isinstance(options, CoreAIOptions)
        check_options(checkpoint, options)
        refuse_without_runtime()
        # a frame under control needs a second program
        needed = [options, *([options.controlled()] if checkpoint.control else [])]
        return [_prepared(checkpoint, each, reference, report, force) for each in needed]

    def listed(self) -> list[Prepared]:
        return [_found(Built(folder), record) for folder, record in PROGRAMS.listed()]


def _prepared(
    checkpoint: Checkpoint,
    options: CoreAIOptions,
    reference: Reference,
    report: Progress,
    force: bool,
) -> Prepared:
    def render(picture: np.ndarray, encoder_hidden_states: np.ndarray, seed: int) -> np.ndarray:
        edges = None
        if options.control:
            from ..common.backend.gate import probe_edges  # imports OpenCV, which must follow MLX

            edges = probe_edges(picture)
        params = FrameParams(seed, control_scale=float(options.control))
        return reference(picture, encoder_hidden_states, params, edges)

    built = find_or_build(checkpoint, options, render, report, force)
    if has_framework() and options.used_unit != "cpu":
        mark = built.mark(options.stage, options.used_unit, macos_build())
        if not mark.exists():
            run_task(options, "check_unit", built, checkpoint, options, report=report)
    return _found(built, read_record(built.folder))


def _found(built: Built, record: Record | None) -> Prepared:
    folder = built.folder
    if record is None:
        return Prepared(folder, size_bytes(folder), damaged=True)
    return Prepared(
        folder,
        size_bytes(folder),
        record.name,
        tuple(dict.fromkeys(record.variant.values())),
        record.seconds,
        record.gate_db,
        record.variant["weights"],
        record.weights_error,
        news=built.news,
        judge="Core AI" if has_framework() else "Apple's CPU runtime",
    )
