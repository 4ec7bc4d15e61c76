"""The interpreter of Core ML programs beside Apple's runtime, on a few of all operations."""

import inspect
from pathlib import Path
from unittest.mock import MagicMock

import pytest

import coreai_here  # noqa: F401 - skips this file where Apple's runtime cannot run
from sdxs.coreml_backend.ops import MilOps
from sdxs.experiments.parity.operations import LIMIT, compare, operations
from sdxs.graphs.ops import Ops

OPERATIONS = {operation.name: operation for operation in operations()}
FAST = ("convolution, stride 2", "upsample")


def apart(name: str, folder: Path) -> float:
    pair = compare(OPERATIONS[name], folder)["interpreter and runtime"]
    assert isinstance(pair, dict)
    return float(pair["relative_l2"])


@pytest.mark.parametrize(
    "name",
    [
        *FAST,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "group norm",
                "cross-attention, split_einsum",
                "linear with the LayerNorm's weight and bias",
                "convolution, palettize4 weights",
            )
        ),
    ],
)
def test_the_interpreter_agrees_with_apples_runtime(name: str, tmp_path: Path) -> None:
    assert apart(name, tmp_path) < LIMIT


def test_an_operation_that_one_of_the_two_gets_wrong_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MilOps, "relu", MilOps.silu)
    assert apart("relu", tmp_path) > 10 * LIMIT


def test_every_operation_of_the_protocol_is_compared() -> None:
    """What is not named here is what the others consist of, or what every program begins with."""
    parts = {"stored", "rounded", "convolve", "project", "normalise", "decompress"}
    parts |= {"reshape", "transpose", "expand_dims", "lower", "to_float32"}
    recorder = MagicMock()
    for operation in OPERATIONS.values():
        operation.body(recorder, MagicMock(), MagicMock())
    called = {name for name, *_ in recorder.mock_calls if name.isidentifier()}
    public = {name for name, _ in inspect.getmembers(Ops, inspect.isfunction) if name[0] != "_"}
    assert public - called == parts
