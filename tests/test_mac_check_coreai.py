"""mac-check's questions about Core AI, rehearsed on the runtime of Apple's package."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from coreai_here import build_here, shared_weights
from sdxs.common.backend.gate import PROBE_SEED, probe
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.coreai_backend import prepare
from sdxs.mac_check import coreai
from sdxs.mac_check.setup import Answer, Setup
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 32
FORM = {"attention": "split_einsum", "unit": "gpu", "dtype": "float32"}


@pytest.fixture
def scratch(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(shared_weights(tmp_path_factory)))
    build_here(monkeypatch)
    return tmp_path


def setup(checkpoint: Checkpoint, scratch: Path, chosen: Mapping[str, str] = FORM) -> Setup:
    folder = str(checkpoint.folder)
    return Setup(folder, "demo", str(scratch), SIZE, "reference", 2, chosen=chosen)


def write_exact(asked: Setup) -> None:
    """Save MLX's probe frame, which `needs_exact` has a question of Core ML save."""
    checkpoint = asked.checkpoint()
    picture, states = probe(checkpoint, SIZE)
    backend = MlxBackend(checkpoint, MlxOptions(SIZE, dtype="float32"))
    backend.load()
    backend.set_conditioning(states)
    backend.set_params(FrameParams(PROBE_SEED))
    backend.submit(picture)
    backend.collect(made := np.empty_like(picture))
    backend.close()
    np.save(asked.exact_path, made)


def numbers(answer: Answer, *names: str) -> None:
    for name in names:
        assert isinstance(answer[name], float) and answer[name] >= 0, name  # type: ignore[operator]


def test_a_unit_is_compared_with_the_exact_picture_and_the_cpu(
    demo: Checkpoint, scratch: Path
) -> None:
    asked = setup(demo, scratch)
    assert coreai.ask_unit(asked)["error"] == "no exact picture to compare with"
    write_exact(asked)
    answer = coreai.ask_unit(asked)
    assert answer["ok"] is True and answer["psnr_db"] > 60  # type: ignore[operator]
    assert (answer["runs_on"], answer["framework"], answer["in_place"]) == ("cpu", False, True)
    assert answer["x0_off_cpu"] == 0.0
    numbers(answer, "load_s", "first_frame_ms", "cpu_only_ms", "build_s", "weights_error")


def test_a_unit_that_is_wrong_is_no_good_answer(
    demo: Checkpoint, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = setup(demo, scratch)
    write_exact(asked)
    monkeypatch.setattr(coreai, "relative", lambda found, expected: 0.3)
    answer = coreai.ask_unit(asked)
    assert answer["ok"] is False and answer["x0_off_cpu"] == 0.3


def test_composites_are_timed_beside_their_plain_bodies(demo: Checkpoint, scratch: Path) -> None:
    answer = coreai.ask_composites(setup(demo, scratch, {**FORM, "attention": "sdpa"}))
    assert answer["ok"] is True and answer["x0_off"] < 1e-6  # type: ignore[operator]
    numbers(answer, "composites_ms", "plain_ms", "ratio")
    assert list(scratch.iterdir()) == []


def test_inputs_in_place_are_compared_with_copies(demo: Checkpoint, scratch: Path) -> None:
    answer = coreai.ask_arrays(setup(demo, scratch))
    assert answer["ok"] is True and answer["in_place"] is True
    numbers(answer, "ndarray_of_picture_ms", "picture_numpy_ms", "picture_view_ms")
    layout = answer["layout"]
    assert isinstance(layout, dict)
    assert layout["image"] == {"shape": [SIZE, SIZE, 3], "strides": [3 * SIZE, 3, 1]}
    assert {"picture", "noise", "previous", "x0"} <= layout.keys()


def test_a_load_is_timed(demo: Checkpoint, scratch: Path) -> None:
    asked = setup(demo, scratch)
    write_exact(asked)
    answer = coreai.ask_load(asked)
    assert answer["ok"] is True
    numbers(answer, "load_s", "first_frame_ms")


@pytest.mark.parametrize("name", ["ask_unit", "ask_composites", "ask_arrays", "ask_load"])
def test_without_the_package_it_is_not_asked(
    demo: Checkpoint, scratch: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(prepare, "coreai_version", lambda: "")
    answer = getattr(coreai, name)(setup(demo, scratch))
    assert answer["ok"] is True and answer["asked"] is False
    assert "coreai-core is not installed" in answer["note"]
