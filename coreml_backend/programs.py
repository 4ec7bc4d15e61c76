"""Prepare Core ML programs before a session: build, gate, compile and load them."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..common.backend.options import BackendOptions
from ..common.backend.programs import Prepared, Progress, Reference
from ..common.backend.protocol import FrameParams
from ..common.checkpoint.find import Checkpoint
from ..common.errors import SdxsWarning
from . import cache
from .backend import CoreMLBackend, controlled
from .options import CoreMLOptions
from .prepare import find_or_build, plan_lines, refuse_without_runtime, warm_up


class CoreMLPrograms:
    """The Core ML implementation of `common.backend.programs.Programs`."""

    def prepare(
        self,
        checkpoint: Checkpoint,
        options: BackendOptions,
        reference: Reference,
        report: Progress,
        force: bool,
    ) -> list[Prepared]:
        assert isinstance(options, CoreMLOptions)
        CoreMLBackend(checkpoint, options)  # raises for impossible options
        refuse_without_runtime(options)
        _warn_of_neural_engine(checkpoint, options)
        # a frame under control needs a second program
        needed = [options, *([controlled(options)] if checkpoint.control else [])]
        return [_prepared(checkpoint, each, reference, report, force) for each in needed]

    def listed(self) -> list[Prepared]:
        return [_found(folder, record) for folder, record in cache.list_built()]


def _warn_of_neural_engine(checkpoint: Checkpoint, options: CoreMLOptions) -> None:
    """Warn of what was reported not to run on the Neural Engine."""
    if not options.on_core_ml or not options.on_neural_engine:
        return
    if options.weights == "int8":
        warnings.warn(
            "coreml: int8 weights do not run on the Neural Engine: Core ML takes the CPU or the GPU"
            " for their layers; use --weights palettize8 there",
            SdxsWarning,
            stacklevel=2,
        )
    if checkpoint.control:
        warnings.warn(
            "coreml: a ControlNet failed on the Neural Engine of an M1 and ran on an M2 "
            "(ml-stable-diffusion#251); if it fails, use --compute-units cpu_and_gpu",
            SdxsWarning,
            stacklevel=2,
        )


def _prepared(
    checkpoint: Checkpoint,
    options: CoreMLOptions,
    reference: Reference,
    report: Progress,
    force: bool,
) -> Prepared:
    from .gate import probe_edges

    def render(picture: np.ndarray, encoder_hidden_states: np.ndarray, seed: int) -> np.ndarray:
        edges = probe_edges(picture) if options.control else None
        params = FrameParams(seed, control_scale=float(options.control))
        return reference(picture, encoder_hidden_states, params, edges)

    built = find_or_build(checkpoint, options, render, report, force)
    warm_up(checkpoint, options, built, report)

    judge = "Core ML" if options.on_core_ml else "the reference interpreter"
    return _found(built.folder, built.record, built.news, judge, lambda: plan_lines(built, options))


def _found(
    folder: Path,
    record: cache.Record | None,
    news: str = "",
    judge: str = "",
    plan: Callable[[], list[str]] = list,
) -> Prepared:
    size_bytes = cache.size_bytes(folder)
    if record is None:
        return Prepared(folder, size_bytes, damaged=True)
    return Prepared(
        folder,
        size_bytes,
        record.name,
        tuple(record.variant.values()),
        record.seconds,
        record.gate_db,
        record.variant["weights"],
        record.weights_error,
        news=news,
        judge=judge,
        plan=plan,
    )
