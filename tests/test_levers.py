"""The table of levers: taking one away changes the speed and nothing else, and everything is put back."""

import numpy as np
import pytest

from sdxs.common.backend import BackendOptions
from sdxs.common.checkpoint import Checkpoint
from sdxs.experiments import levers
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.ops import on_gpu

pytestmark = pytest.mark.skipif(on_gpu(), reason="the levers are those of a CPU")


def picture(demo: Checkpoint) -> np.ndarray:
    backend = MlxBackend(demo, BackendOptions(64, "float32", (("lanes", "1"),)))
    backend.load()
    backend.set_conditioning(np.random.default_rng(1).standard_normal((1, 77, 64), dtype=np.float32))
    shown, made = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), np.empty((64, 64, 3), np.uint8)
    backend.submit(shown)
    backend.collect(made)
    backend.close()
    return made


@pytest.mark.parametrize("lacking", [tuple(levers.WITHOUT), *[(lever,) for lever in levers.WITHOUT]], ids=lambda v: v[0])
def test_a_frame_without_a_lever_is_the_same_frame(lacking: tuple[str, ...], demo: Checkpoint) -> None:
    before = [getattr(owner, name) for patches in levers.WITHOUT.values() for owner, name, _ in patches]
    with levers.without(lacking):
        for owner, name, value in (patch for lever in lacking for patch in levers.WITHOUT[lever]):
            assert getattr(owner, name) is value
        made = picture(demo)
    assert [getattr(owner, name) for patches in levers.WITHOUT.values() for owner, name, _ in patches] == before
    assert np.abs(made.astype(int) - picture(demo)).max() <= 1


def test_gains_are_ratios_of_medians() -> None:
    raw = {name: [10.0] for name in levers.variants()}
    lever = next(iter(levers.WITHOUT))
    raw |= {"plain port": [40.0, 41.0, 39.0], f"only {lever}": [20.0], f"without {lever}": [30.0]}
    assert levers.gains(raw)[lever] == {"alone": 2.0, "in the end": 3.0}
    assert levers.variants()[f"only {lever}"] == tuple(levers.WITHOUT)[1:]
