"""How long Core ML takes to compile and load a program: first, again, after a rename, in pairs."""

import shutil
import threading
import time
from pathlib import Path

import numpy as np

from ..common.checkpoint.find import weights_folder
from ..common.picture.temporal import psnr
from ..coreml_backend.cache import Built
from ..coreml_backend.gate import MOST_PSNR_DB, probe
from ..coreml_backend.ops import ct
from ..coreml_backend.prepare import find_or_build
from ..coreml_backend.runner import Model, Runner
from .coreml import hosted_backend, nearness, probe_params, render, spread
from .setup import Answer, Setup


def ask_load(setup: Setup) -> Answer:
    """Compile if needed, load, and render: the seconds of each, in this fresh process.

    values: `at` names the compiled program, `to` another name that it is loaded under; `hint` is
    a specialisation strategy, '' for Core ML's own.
    """
    checkpoint, options = setup.checkpoint(), setup.options()
    built = find_or_build(checkpoint, options)
    at, to = (weights_folder() / f"{setup.text(name)}.mlmodelc" for name in ("at", "to"))
    answer: Answer = {}
    if at == to and not at.exists():
        began = time.perf_counter()
        _compile(built.package("frame"), at, setup)
        answer["compile_s"] = time.perf_counter() - began
    elif at != to:
        at.rename(to)
    began = time.perf_counter()
    model = _load(to, built, setup)
    answer["load_s"] = time.perf_counter() - began

    picture, encoder_hidden_states = probe(checkpoint, setup.frame)
    runner = Runner("frame", model, checkpoint, options)
    runner.set_conditioning(encoder_hidden_states)
    runner.set_params(probe_params(checkpoint))
    times, made = [], picture
    for _ in range(min(setup.frames, 20)):
        began = time.perf_counter()
        made, _ = runner.run(picture)
        times.append((time.perf_counter() - began) * 1e3)
    times = times or [0.0]
    facts = {"first_frame_ms": times[0], "frame_ms": spread(times[1:])}
    return {**nearness(np.ascontiguousarray(made), setup), **answer, **facts}


def _compile(package: Path, compiled: Path, setup: Setup) -> None:
    if setup.runtime == "reference":
        compiled.mkdir()
        return
    ct.models.utils.compile_model(str(package), str(compiled))


def _load(compiled: Path, built: Built, setup: Setup) -> Model:
    if setup.runtime == "reference":
        from ..coreml_backend.interpreter.interpreter import Interpreter

        return Interpreter(built.package("frame"), round_float16=True)
    hint = setup.text("hint")
    hints = {"specializationStrategy": ct.SpecializationStrategy[hint]} if hint else None
    units = ct.ComputeUnit[setup.options().units("frame").upper()]
    model: Model = ct.models.CompiledMLModel(str(compiled), units, optimization_hints=hints)
    return model


def ask_two_loaders(setup: Setup) -> Answer:
    """Load one package in two processes at once, before it is compiled."""
    checkpoint, options = setup.checkpoint(), setup.options()
    built = find_or_build(checkpoint, options)
    shutil.rmtree(built.compiled("frame"), ignore_errors=True)
    for mark in built.folder.glob("*.loaded"):
        mark.unlink()
    backends = [hosted_backend(checkpoint, options) for _ in range(2)]
    errors: list[str] = []

    def load(number: int) -> None:
        try:
            backends[number].load()
        except Exception as error:  # it is part of the answer
            errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    began = time.perf_counter()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        both = time.perf_counter() - began
        if errors:
            return {"ok": False, "errors": errors, "load_s": both}
        made = [render(backend, checkpoint, setup.frame, 2)[0] for backend in backends]
    finally:
        for backend in backends:
            backend.close()
    between = min(psnr(*made), MOST_PSNR_DB)
    return {**nearness(made[0], setup), "errors": [], "load_s": both, "between_them_db": between}
