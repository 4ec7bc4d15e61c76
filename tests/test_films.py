"""Films by PyAV in processes of their own: what is read, what is written, and what is said."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.backend.process.apart import run_apart
from sdxs.common.io.films import hdr


def modules_of_a_child(report: object) -> list[str]:
    """The modules that a film's process has loaded, once it has decoded and encoded."""
    from sdxs.common.io.films import decode, encode, finish

    assert decode and encode and finish
    return sorted(sys.modules)


def test_pyav_and_opencv_are_never_in_one_process() -> None:
    """On macOS each brings Objective-C classes of the same names."""
    loaded = run_apart("films", "test_films:modules_of_a_child")
    assert isinstance(loaded, list) and "av" in loaded and "cv2" not in loaded
    assert "av" not in sys.modules, "only a child may load PyAV"


@pytest.mark.parametrize("transfer", [hdr.HLG, hdr.PQ])
def test_tone_mapping_keeps_black_grey_and_order(transfer: int) -> None:
    ramp = np.repeat(np.linspace(0, 1, 65)[:, None], 3, axis=1)
    shown = hdr.to_standard(ramp, transfer)
    assert shown[0].max() < 0.01 and 0.97 < shown[-1].min() <= 1
    assert (np.diff(shown[:, 0]) >= 0).all(), "brighter stays brighter"
    np.testing.assert_allclose(shown, shown[:, :1].repeat(3, 1), atol=2e-3)  # grey stays grey


@pytest.mark.parametrize(
    ("transfer", "coded", "nits"),
    [
        # ITU-R BT.2408, table 1: HDR reference white, 203 cd/m2, is 58 % of PQ and 75 % of HLG
        (hdr.PQ, 0.58, 203),
        (hdr.HLG, 0.75, 203),
        (hdr.PQ, 1.0, 10_000),
        (hdr.HLG, 1.0, 1000),
    ],
)
def test_the_curves_are_those_of_bt_2100(transfer: int, coded: float, nits: float) -> None:
    of = hdr._of_pq if transfer == hdr.PQ else hdr._of_hlg
    found = of(np.full((1, 3), coded))
    assert found[0, 0] == pytest.approx(nits, rel=0.02)


def test_the_cube_is_what_ffmpeg_reads(tmp_path: Path) -> None:
    cube = hdr.write_cube(hdr.HLG)
    try:
        first, *rows = cube.read_text().splitlines()
        assert first == f"LUT_3D_SIZE {hdr.SIDE}" and len(rows) == hdr.SIDE**3
        red = np.array(rows[hdr.SIDE - 1].split(), float)  # red changes fastest
        assert red[0] > 0.9 and red[0] > red[1] and red[0] > red[2]
    finally:
        cube.unlink()
