"""A complete report of bench for tests of its readers. The numbers are arbitrary but consistent."""

from pathlib import Path

import numpy as np

from sdxs.common.bench.measure.instrument import Peaks, StageCost
from sdxs.common.bench.model import statistics
from sdxs.common.bench.model.pairs import Ratio, Together
from sdxs.common.bench.model.pictures import PictureCheck
from sdxs.common.bench.model.report import (
    SCHEMA,
    BackendReport,
    Contention,
    ContentionPoint,
    Count,
    Machine,
    MemoryOverTime,
    MemoryPoint,
    Report,
    Round,
    RunSettings,
    Work,
)
from sdxs.common.bench.model.roofline import roofline
from sdxs.common.bench.model.unified import Account

RESULTS = Path(__file__).parent.parent / "docs" / "results"
COSTS = [
    StageCost("encode", 10**9, 10**5, 10**7),
    StageCost("unet", 4 * 10**9, 10**7, 10**7),
    StageCost("decode", 10**9, 10**5, 10**7),
]
PEAKS = Peaks(1e12, 1e11, "float16", "made up")


def backend(
    label: str, milliseconds: float, seed: int, rounds: int = 8, dtype: str = "float16"
) -> BackendReport:
    """One whose rounds differ by a percent and whose frames differ by two."""
    chance = np.random.default_rng(seed)
    made = BackendReport(
        label,
        f"nowhere:{label}",
        {},
        False,
        {"backend": label, "device": "made up", "dtype": dtype, "in flight": "2", "batch": "1"},
    )
    for number in range(rounds):
        middle = milliseconds * (1 + 0.01 * chance.standard_normal())
        frames = [float(t) for t in middle * (1 + 0.02 * np.abs(chance.standard_normal(20)))]
        made.rounds.append(Round(number, [middle * 2], frames, frames, 0.5))
    made.summary = statistics.summary(made.frames)
    made.memory = [
        MemoryPoint(m, 10**8, 10**7, 2 * 10**7, 10**6, 5 * 10**6)
        for m in ("load", "warm-up", "end")
    ]
    frames_seen = list(range(0, 310, 10))
    used = [10**8 + 100 * f for f in frames_seen]
    made.memory_over_time = MemoryOverTime(frames_seen, used, statistics.growth(frames_seen, used))
    made.picture = PictureCheck(
        "MLX in float32", 4, [55.5, 54.2, 54.9, 54.8], [0.999] * 4, [0.2] * 3, [1.0, 1.1]
    )
    made.account = Account(
        "smaps_rollup", 1, 15 * 10**7, 9 * 10**7, 0, 2 * 10**6, device_bytes=3 * 10**8
    )
    made.copies = {"source": 2764800.0, "backend in": 196608.0, "backend out": 196608.0}
    shares = {"encode": 0.2, "unet": 0.6, "decode": 0.2}
    made.stages_ms = {
        "pre": [1.0],
        **{name: [share * milliseconds] for name, share in shares.items()},
    }
    made.roofline = roofline(COSTS, PEAKS, made.stages_ms, milliseconds, "float16")
    points = [
        ContentionPoint(
            share,
            False,
            share * 1e10,
            [milliseconds * (1 + share)] * 3,
            share * 1.25e10,
            share * 1e10,
        )
        for share in (0.0, 0.5, 1.0)
    ]
    made.contention = Contention(
        3, 1e10, [*points, ContentionPoint(1.0, True, 0.0, [milliseconds * 1.25] * 3, 4e10, 3.8e10)]
    )
    return made


def report(first_ms: float = 20.0, second_ms: float = 10.0) -> Report:
    """Two backends, everything measured."""
    made = Report(
        SCHEMA,
        True,
        "finished",
        "2026-01-01T00:00:00+00:00",
        60.0,
        Work(
            "made-up", {"unet": "ab" * 32, "vae": "cd" * 32}, 328_180_000, 512, 0, "an oil painting"
        ),
        Machine("Linux", "a chip", "", 8, 2**34, "3.12.0", {"mlx": "1"}, {"MLX_X": "1"}, "abc"),
        RunSettings(8, 3, 0.4, True),
        [{"load": "0.10 0.10 0.10"}, {"load": "0.20 0.10 0.10", "power": "mains"}],
        [backend("one", first_ms, 1), backend("two", second_ms, 2)],
    )
    one, two = made.backends
    made.ratios = [Ratio("one", "two", statistics.ratio(one.frames, two.frames))]
    made.together = Together(["one", "two"], [50.0, 100.0], [40.0, 60.0], [10**8, 10**8])
    made.counts = [Count(cost.stage, {"mlx": cost.flops, "coreml": cost.flops}) for cost in COSTS]
    return made
