"""The table of levers: removing one changes only the speed, and everything is put back."""

import mlx.core as mx
import numpy as np
import pytest

from sdxs.common.checkpoint.find import Checkpoint
from sdxs.experiments.measure import levers
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.fast import conv
from sdxs.mlx_sdxs.fast.ops import on_gpu
from sdxs.mlx_sdxs.options import MlxOptions

pytestmark = pytest.mark.skipif(on_gpu(), reason="the levers are those of a CPU")


def picture(demo: Checkpoint) -> np.ndarray:
    backend = MlxBackend(demo, MlxOptions(64, dtype="float32", lanes=1))
    backend.load()
    backend.set_conditioning(
        np.random.default_rng(1).standard_normal((1, 77, 64), dtype=np.float32)
    )
    shown, made = (
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),
        np.empty((64, 64, 3), np.uint8),
    )
    backend.submit(shown)
    backend.collect(made)
    backend.close()
    return made


ALL = tuple(levers.WITHOUT)


@pytest.mark.parametrize(
    "lacking",
    [ALL, *[pytest.param((lever,), marks=pytest.mark.thorough) for lever in ALL]],
    ids=["all", *ALL],
)
def test_a_frame_without_a_lever_is_the_same_frame(
    lacking: tuple[str, ...], demo: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The largest maps of this small frame are cut in four.
    monkeypatch.setattr(conv, "_STRIP_BYTES", 64 * 64 * 24)
    monkeypatch.setattr(conv, "_STRIPS", 2)
    rows_of, cut = conv._strip_rows, []

    def watched(x: mx.array, weight: mx.array) -> int:
        cut.append(rows_of(x, weight) < x.shape[1])
        return rows_of(x, weight)

    monkeypatch.setattr(conv, "_strip_rows", watched)
    before = [
        getattr(owner, name) for patches in levers.WITHOUT.values() for owner, name, _ in patches
    ]
    with levers.without(lacking):
        for owner, name, value in (patch for lever in lacking for patch in levers.WITHOUT[lever]):
            assert getattr(owner, name) is value
        made = picture(demo)
    assert any(cut) == (levers.STRIPS not in lacking)
    assert [
        getattr(owner, name) for patches in levers.WITHOUT.values() for owner, name, _ in patches
    ] == before
    assert np.abs(made.astype(int) - picture(demo)).max() <= 1


def test_gains_are_ratios_of_medians() -> None:
    raw = {name: [10.0] for name in levers.variants(True)}
    lever = next(iter(levers.WITHOUT))
    raw |= {"plain port": [40.0, 41.0, 39.0], f"only {lever}": [20.0], f"without {lever}": [30.0]}
    assert levers.gains(raw)[lever] == {"alone": 2.0, "in the end": 3.0}
    # Nothing without the products that they cut.
    assert levers.gains(raw)[levers.STRIPS] == {"in the end": 1.0}
    assert levers.variants(True)[f"only {lever}"] == ALL[1:]
    assert f"without {levers.STRIPS}" not in levers.variants(False)


def test_only_large_maps_are_cut(demo: Checkpoint) -> None:
    assert levers.has_strips(demo, 512) and not levers.has_strips(demo, 256)
