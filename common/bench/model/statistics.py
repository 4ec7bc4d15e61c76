"""What rounds of frame times say: percentiles, a ratio with its interval, drift, outliers, growth.

The round is the unit of chance: frames of one process share its luck (memory layout, a neighbour's
load), so intervals come from how much rounds differ, never from how many frames there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Rounds = Sequence[Sequence[float]]  # frame times in milliseconds, round by round

DRAWS = 4000
LEAST_ROUNDS = 6  # fewer cannot carry a 95 % interval: the range of five values is one of 94 %
# What no number of rounds averages out: where things lie in memory can depend on the length of a
# name or a setting and is then the same at every start (Mytkowicz et al. 2009). A copy backend
# against itself showed 0.2 %.
RESOLUTION = 0.005
DRIFT = 0.05
OUTLIER = 1.5
OUTLIER_SHARE = 0.05
# Student's t, 97.5 %, by degrees of freedom; from there on Fisher's expansion is exact to three
# digits.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the range that 95 in 100 such measurements would have around the truth."""

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class FrameSummary:
    """Of all frames of all rounds, in milliseconds; fps is the rate at the median."""

    frames: int
    median: float
    p95: float
    p99: float
    fps: float


def summary(rounds: Rounds) -> FrameSummary:
    """Pool the frames. Raises ValueError if there are none."""
    times = np.concatenate([np.asarray(r, float) for r in rounds])
    median, p95, p99 = (float(p) for p in np.percentile(times, [50, 95, 99]))
    return FrameSummary(len(times), median, p95, p99, 1000 / median if median else 0.0)


def ratio(first: Rounds, second: Rounds, seed: int = 0) -> Interval | None:
    """How many times as long `first` takes as `second`; None with fewer than two common rounds.

    Rounds are paired: the two were measured in alternation. Each pair gives a log ratio of
    medians; their Hodges-Lehmann centre shrugs off a round that was disturbed. The interval is the
    bootstrap percentile interval over rounds, expanded for a small sample as Hesterberg (2015,
    sections 4.2 and 5) advises: without that, eight rounds give one of 90 %. Fewer than six rounds
    get Student's interval, which is wide then. RESOLUTION widens every interval.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=False) if len(a) and len(b)]
    if len(pairs) < 2:
        return None
    logs = np.array([math.log(float(np.median(a)) / float(np.median(b))) for a, b in pairs])
    centre = float(_hodges_lehmann(logs[None])[0])
    if len(logs) < LEAST_ROUNDS:
        half = _t975(len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        mean = float(logs.mean())
        return _widened(mean, mean - half, mean + half)
    low, high = _bootstrap(logs, seed)
    return _widened(centre, low, high)


def unpaired_ratio(first: Rounds, second: Rounds, seed: int = 0) -> Interval | None:
    """Return the ratio of two runs at different times, each resampled by itself (unpaired)."""
    logs = [
        np.array([math.log(float(np.median(r))) for r in rounds if len(r)])
        for rounds in (first, second)
    ]
    if min(len(values) for values in logs) < 2:
        return None
    generator = np.random.default_rng(seed)
    centre = float(_hodges_lehmann(logs[0][None])[0] - _hodges_lehmann(logs[1][None])[0])
    spread = [
        _hodges_lehmann(values[generator.integers(0, len(values), (DRAWS, len(values)))])
        for values in logs
    ]
    n = min(len(values) for values in logs)
    tail = 100 * NormalDist().cdf(-math.sqrt(n / (n - 1)) * _t975(n - 1))
    low, high = np.percentile(spread[0] - spread[1], [tail, 100 - tail])
    return _widened(centre, float(low), float(high))


def _widened(centre: float, low: float, high: float) -> Interval:
    """Of logarithms."""
    return Interval(math.exp(centre), math.exp(low - RESOLUTION), math.exp(high + RESOLUTION))


def _bootstrap(values: np.ndarray, seed: int) -> tuple[float, float]:
    """Expanded percentile interval of the Hodges-Lehmann centre."""
    n = len(values)
    chosen = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    centres = _hodges_lehmann(values[chosen])
    tail = 100 * NormalDist().cdf(-math.sqrt(n / (n - 1)) * _t975(n - 1))
    low, high = np.percentile(centres, [tail, 100 - tail])
    return float(low), float(high)


def _hodges_lehmann(samples: np.ndarray) -> np.ndarray:
    """Median of all pairwise means, of each row: (draws, n) -> (draws,)."""
    i, j = np.triu_indices(samples.shape[1])
    walsh: np.ndarray = np.median((samples[:, i] + samples[:, j]) / 2, axis=1)
    return walsh


def _t975(freedom: int) -> float:
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def between_rounds(rounds: Rounds) -> float | None:
    """Return how much the rounds' medians differ: the standard deviation of their logarithms.

    Where each round is a start of its own, that is the spread between starts. None with fewer than
    two rounds.
    """
    logs = [math.log(float(np.median(r))) for r in rounds if len(r)]
    return float(np.std(logs, ddof=1)) if len(logs) > 1 else None


def drift(rounds: Rounds) -> float:
    """Return the median's relative change from the first third of the rounds to the last.

    0 with fewer than three rounds.
    """
    medians = [float(np.median(r)) for r in rounds if len(r)]
    third = len(medians) // 3
    if not third:
        return 0.0
    return float(np.median(medians[-third:]) / np.median(medians[:third]) - 1)


def outliers(rounds: Rounds) -> float:
    """Share of frames that took more than half as long again as the median of their round."""
    slow = sum(int(np.sum(np.asarray(r) > OUTLIER * np.median(r))) for r in rounds if len(r))
    return slow / max(1, sum(len(r) for r in rounds))


def growth(frames: Sequence[float], used_bytes: Sequence[float], seed: int = 0) -> Interval | None:
    """Return bytes gained per 1,000 frames: Theil-Sen slope and bootstrap interval.

    None with fewer than eight samples.
    """
    x, y = np.asarray(frames, float), np.asarray(used_bytes, float)
    if len(x) < 8 or np.ptp(x) == 0:
        return None
    generator = np.random.default_rng(seed)
    slopes = [_theil_sen(x[c], y[c]) for c in generator.integers(0, len(x), (400, len(x)))]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return Interval(1000 * _theil_sen(x, y), 1000 * float(low), 1000 * float(high))


def _theil_sen(x: np.ndarray, y: np.ndarray) -> float:
    """Median slope between all pairs of points."""
    i, j = np.triu_indices(len(x), 1)
    apart = x[j] != x[i]
    return float(np.median((y[j] - y[i])[apart] / (x[j] - x[i])[apart])) if apart.any() else 0.0
