"""The Core ML programs against diffusers' outputs for the same weights; mistakes would show.

Programs run through the interpreter, every float16 result rounded. Stored outputs are those of
`test_parity`. `make parity` compares with live diffusers, full size too.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from safetensors.numpy import load_file

from planted import PLANTS, Plant
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.picture.size import FrameSize
from sdxs.coreml_backend.ops import MilOps
from sdxs.experiments.parity.coreml import MLX_LIMIT_DB, agrees, run_program
from sdxs.mac_check.fixtures import (
    FIXTURES,
    SHAPES,
    distances,
    inputs_of,
    run_frame,
    tiny_checkpoint,
    tiny_inputs,
)

STORED = load_file(FIXTURES / "parity.safetensors")
Open = Callable[[str], Checkpoint]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """The tiny checkpoints that the stored outputs belong to, each written once."""
    base, written = tmp_path_factory.mktemp("coreml-parity"), {}

    def open_one(name: str) -> Checkpoint:
        if name not in written:
            written[name] = open_checkpoint(tiny_checkpoint(base, name))
        return written[name]

    return open_one


def oracle(name: str, label: str = "frame") -> dict[str, np.ndarray]:
    """x0 and picture of diffusers."""
    return {what: STORED[f"{name}/{label}/{what}"] for what in ("x0", "picture")}


SDXS = ("sdxs-512-0.9", "sdxs-512-dreamshaper")


@pytest.mark.parametrize(
    ("name", "attention"),
    [(SDXS[0], "split_einsum"), (SDXS[1], "matmul"), ("sd-turbo", "sdpa")]
    + [
        pytest.param(*each, marks=pytest.mark.thorough)
        for each in product(SDXS, ("sdpa", "matmul", "split_einsum"))
        if each not in ((SDXS[0], "split_einsum"), (SDXS[1], "matmul"))
    ],
)
def test_the_program_equals_diffusers(checkpoint: Open, name: str, attention: str) -> None:
    given = checkpoint(name)
    ours = run_program(given, tiny_inputs(given), attention)
    assert agrees(ours, oracle(name)), distances(ours, oracle(name))


@pytest.mark.parametrize(
    ("size", "attention"),
    [
        (SHAPES[32][0], "sdpa"),
        (SHAPES[32][1], "split_einsum"),
        *(
            pytest.param(size, attention, marks=pytest.mark.thorough)
            for size, attention in (
                (SHAPES[32][0], "matmul"),
                (SHAPES[32][0], "split_einsum"),
                (SHAPES[32][1], "sdpa"),
                (SHAPES[32][1], "matmul"),
            )
        ),
    ],
    ids=str,
)
def test_a_program_that_is_not_square_equals_diffusers_and_mlx(
    checkpoint: Open, size: FrameSize, attention: str
) -> None:
    given = checkpoint(SDXS[0])
    inputs = inputs_of(f"frame {size}", tiny_inputs(given))
    ours, wanted = run_program(given, inputs, attention), oracle(SDXS[0], f"frame {size}")
    assert ours["picture"].shape == (*size.shape, 3)
    assert agrees(ours, wanted), distances(ours, wanted)
    assert distances(ours, run_frame(given, inputs))[1] > MLX_LIMIT_DB


def test_the_program_equals_mlx_on_the_demo(demo: Checkpoint) -> None:
    inputs = tiny_inputs(demo)
    _, quality = distances(run_program(demo, inputs), run_frame(demo, inputs))
    assert quality > MLX_LIMIT_DB


@pytest.mark.parametrize(
    "plant",
    [*PLANTS[:2], *(pytest.param(each, marks=pytest.mark.thorough) for each in PLANTS[2:])],
)
@pytest.mark.parametrize("name", [pytest.param(SDXS[0], marks=pytest.mark.thorough), SDXS[1]])
def test_a_planted_error_is_caught(
    checkpoint: Open, name: str, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = checkpoint(name)
    plant(monkeypatch, MilOps)
    assert not agrees(run_program(given, tiny_inputs(given)), oracle(name))
