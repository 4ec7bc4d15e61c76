"""Whether the picture of a timed configuration is right: figures of fresh frames, and limits.

The limits are the project's gate of 35 dB (`common/backend/gate.py`), and closer ones where a
precision is known to do better. docs/results.md: float16 reaches 46 to 61 dB, bfloat16 28 to 51.
A float32 frame of another implementation differs by single levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

REMEMBERS = 3.0  # times a timed frame's time, in every round: no honest backend is that uneven


@dataclass(slots=True)
class PictureCheck:
    """Fresh frames beside the reference's, over all rounds; JSON has no infinity: at most 99 dB.

    frames: rendered. psnr_db, ssim: of each. flicker_levels: mean change of brightness from one
    frame to the next that the reference's frames do not make, in levels of 255, of each pair.
    fresh_ratio: time of a fresh frame over that of a timed one, of each round. failed: why the
    picture is wrong, or ''.
    """

    reference: str
    frames: int
    psnr_db: list[float]
    ssim: list[float]
    flicker_levels: list[float]
    fresh_ratio: list[float]
    failed: str = ""

    @property
    def worst_db(self) -> float | None:
        """The least PSNR of a frame; None without a frame."""
        return min(self.psnr_db, default=None)

    @property
    def typical(self) -> tuple[float, float, float] | None:
        """Medians of PSNR, SSIM and flicker; None without a frame."""
        if not self.psnr_db:
            return None
        flicker = median(self.flicker_levels) if self.flicker_levels else 0.0
        return median(self.psnr_db), median(self.ssim), flicker


@dataclass(frozen=True, slots=True)
class Limits:
    """The worst that passes: of every frame PSNR and SSIM, of the median pair the flicker."""

    psnr_db: float
    ssim: float
    flicker_levels: float


GATE = Limits(35.0, 0.90, 2.5)  # bfloat16, weights of few bits, what is unknown
BY_DTYPE: Mapping[str, Limits] = {
    "float32": Limits(50.0, 0.99, 0.5),
    "float16": Limits(40.0, 0.95, 1.5),
}
_WHOLE_WEIGHTS = frozenset({"", "float32", "float16", "bfloat16"})


def limits_of(describe: Mapping[str, str]) -> Limits:
    """Return the limits for a backend by what it says of its precision and its weights."""
    if describe.get("weights", "") not in _WHOLE_WEIGHTS:
        return GATE
    return BY_DTYPE.get(describe.get("dtype", ""), GATE)


def failure(check: PictureCheck, limits: Limits, remark: str = "") -> str:
    """Return why a picture fails its limits, or ''. remark: what the worst frame looks like."""
    if not check.psnr_db:
        return "no fresh frame was rendered"
    found, against = [], f"from {check.reference}"
    worst, alike = min(check.psnr_db), min(check.ssim)
    if not worst >= limits.psnr_db:
        found.append(f"{worst:.1f} dB {against}, expected at least {limits.psnr_db:.0f}")
    if not alike >= limits.ssim:
        found.append(f"SSIM {alike:.3f}, expected at least {limits.ssim:.2f}")
    flicker = median(check.flicker_levels) if check.flicker_levels else 0.0
    if not flicker <= limits.flicker_levels:
        found.append(
            f"flickers by {flicker:.1f} levels more than it should, expected at most "
            f"{limits.flicker_levels:g}"
        )
    if found and remark:
        found.append(remark)
    if check.fresh_ratio and min(check.fresh_ratio) > REMEMBERS:
        found.append(
            f"a fresh frame takes {median(check.fresh_ratio):.1f} times as long as a timed one, "
            "whose picture had been shown before: it remembers pictures"
        )
    return "; ".join(found)
