"""LoRAs against what diffusers and peft made of the same files (no torch).

`python -m sdxs.experiments lora --fixtures` stored their fused weights, sampled, and x0 in float64.
"""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import SdxsWarning
from sdxs.experiments.parity.lora_cases import (
    CASES,
    LORA_FIXTURES,
    SAMPLED,
    WEIGHT_LIMIT,
    X0_LIMIT,
    LoraCase,
    changed,
    open_base,
    samples_of,
    x0_of,
)
from sdxs.mac_check.fixtures import Inputs, error

STORED = load_file(LORA_FIXTURES)
PAINTED = ("diffusers-all-3-dora", "kohya-both-5")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Inputs]:
    return open_base(tmp_path_factory.mktemp("base"))


def opened(case: LoraCase, folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    if not case.partial:
        return changed(case, folder, checkpoint)
    with pytest.warns(SdxsWarning, match="4 of .* layers do not fit"):
        return changed(case, folder, checkpoint)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fused_weights_are_those_of_diffusers(
    tmp_path: Path, base: tuple[Checkpoint, Inputs], case: LoraCase
) -> None:
    found = samples_of(opened(case, tmp_path, base[0]))
    plain = samples_of(base[0])
    for name in SAMPLED:
        expected = STORED[f"{case.name}/{name}"]
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=WEIGHT_LIMIT)
    assert any((found[name] != plain[name]).any() for name in SAMPLED)


@pytest.mark.parametrize("case", [c for c in CASES if c.name in PAINTED], ids=lambda c: c.name)
def test_x0_is_that_of_diffusers(
    tmp_path: Path, base: tuple[Checkpoint, Inputs], case: LoraCase
) -> None:
    x0, expected = x0_of(opened(case, tmp_path, base[0]), base[1]), STORED[f"{case.name}/x0"]
    assert error("x0", x0, expected) <= X0_LIMIT
    assert error("x0", x0_of(*base), expected) > 0.1  # what the LoRA changed
