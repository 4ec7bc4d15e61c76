"""Tone-map a frame in HLG or PQ to the standard range, by a cube of 33 colours a side.

Both curves are those of ITU-R BT.2100. A diffuse white of 203 cd/m2 (ITU-R BT.2408) becomes 0.85 of
the standard range; what is brighter is compressed into the rest.
"""

import tempfile
from pathlib import Path

import numpy as np

PQ, HLG = 16, 18  # color_trc of ITU-T H.273
NAMES = {PQ: "PQ", HLG: "HLG"}
SIDE = 33
WHITE_NITS, PEAK_NITS = 203.0, 1000.0
KNEE = 0.7  # of the standard range; below it nothing is compressed
# linear BT.2020 to BT.709, from their primaries
TO_709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


def to_standard(colours: np.ndarray, transfer: int) -> np.ndarray:
    """Return RGB of the standard range of RGB in BT.2020 under `transfer`.

    colours, result: float64 (..., 3), 0 to 1, as coded.
    """
    nits = _of_pq(colours) if transfer == PQ else _of_hlg(colours)
    linear = np.clip((nits / WHITE_NITS) @ TO_709.T, 0, None)
    # by the largest channel: the hue stays
    peak = np.maximum(linear.max(-1, keepdims=True), 1e-9)
    coded: np.ndarray = np.clip(linear * _compressed(peak) / peak, 0, 1) ** (1 / 2.2)
    return coded


def write_cube(transfer: int) -> Path:
    """Write the cube into a temporary file, for FFmpeg's lut3d; the caller removes it."""
    axis = np.linspace(0, 1, SIDE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")  # red changes fastest
    table = to_standard(np.stack([red, green, blue], -1).reshape(-1, 3), transfer)
    lines = [f"LUT_3D_SIZE {SIDE}", *(f"{r:.5f} {g:.5f} {b:.5f}" for r, g, b in table)]
    with tempfile.NamedTemporaryFile("w", prefix="sdxs-", suffix=".cube", delete=False) as file:
        file.write("\n".join(lines) + "\n")
    return Path(file.name)


def _compressed(light: np.ndarray) -> np.ndarray:
    """Leave light below the knee; bring the peak to 1, smoothly (Reinhard's extended curve)."""
    peak = (PEAK_NITS / WHITE_NITS - KNEE) / (1 - KNEE)
    above = np.maximum(light - KNEE, 0) / (1 - KNEE)
    return np.where(
        light <= KNEE, light, KNEE + (1 - KNEE) * above * (1 + above / peak**2) / (1 + above)
    )


def _of_pq(coded: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = coded ** (1 / m2)
    nits: np.ndarray = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return nits


def _of_hlg(coded: np.ndarray) -> np.ndarray:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    nits: np.ndarray = PEAK_NITS * scene * (np.maximum(luminance, 1e-9) ** 0.2)[..., None]
    return nits
