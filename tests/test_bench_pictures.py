"""The picture beside the speed: a wrong one, or one that is not rendered, is no fast one."""

import io
from dataclasses import replace

import bench_samples
import numpy as np
import pytest
from rich.console import Console

from sdxs.common.backend import spec as spec_module
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.spec import PEERS, spec_of, specs
from sdxs.common.bench.measure.entrants import entrants
from sdxs.common.bench.measure.fresh import Fresh, RenderFresh
from sdxs.common.bench.measure.judging import Gallery, check_of, compare
from sdxs.common.bench.measure.requests import Bench, Entrant, Load, Run
from sdxs.common.bench.measure.runner import BenchPlan, Runner
from sdxs.common.bench.measure.scene import clip
from sdxs.common.bench.model import advice
from sdxs.common.bench.model.compare import compare as compare_reports
from sdxs.common.bench.model.compare import cut_short
from sdxs.common.bench.model.paper import beside
from sdxs.common.bench.model.pictures import (
    BY_DTYPE,
    GATE,
    Limits,
    PictureCheck,
    failure,
    limits_of,
)
from sdxs.common.bench.model.ratios import ratios
from sdxs.common.bench.model.report import Report, read_report
from sdxs.common.bench.show import html, plots, speed, table
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import UsageError
from sdxs.common.io.sources.synthetic import read_counter
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 64
IDENTITY = "sdxs.common.backend.identity:IdentityBackend"
MLX = "sdxs.mlx_sdxs.backend:MlxBackend"
STATES = np.random.default_rng(0).standard_normal((1, 77, 64), dtype=np.float32)


def entrant(location: str, label: str = "it") -> Entrant:
    """One that is judged by the identity, or by MLX in float32."""
    ours = location.partition(":")[2] not in ("Scaled", "MlxBackend")
    options = BackendOptions(SIZE) if ours else MlxOptions(SIZE, lanes=1)
    judge = Entrant("the reference", IDENTITY if ours else MLX, options)
    return Entrant(label, location, options, reference=judge)


def rendered(
    who: Entrant, checkpoint: Checkpoint | None, clips: int
) -> dict[int, tuple[np.ndarray, float]]:
    """Load, time a turn, render each clip: what a worker does, in this process."""
    bench = Bench(who, checkpoint, STATES, 0)  # type: ignore[arg-type]
    Load().do(bench)
    Run(0.02, warm=len(bench.pictures)).do(bench)
    timed = Run(0.02).do(bench)
    found = {}
    for number in range(clips):
        fresh = RenderFresh(number).do(bench)
        ratio = float(np.median(fresh.frame_ms) / np.median(timed.frame_ms))
        found[number] = fresh.pictures, ratio
    bench.loaded().close()
    return found


def judged(location: str) -> PictureCheck:
    who = entrant(location)
    assert who.reference
    theirs = rendered(who, None, 2)
    bench = Bench(who.reference, None, STATES, 0)  # type: ignore[arg-type]
    Load().do(bench)
    right = {n: RenderFresh(n, len(theirs[n][0])).do(bench).pictures for n in theirs}
    return check_of(theirs, right, "the reference", {"dtype": ""})


# The frames


def test_no_fresh_frame_comes_twice_and_none_was_timed() -> None:
    bench = Bench(entrant(IDENTITY), None, STATES, 0)  # type: ignore[arg-type]
    Load().do(bench)
    fresh = [frame.tobytes() for number in range(3) for frame in clip(SIZE, number, 6)]
    seen = {picture.tobytes() for picture in bench.pictures}
    assert len(set(fresh)) == 18 and not seen & set(fresh)
    assert [frame.tobytes() for frame in clip(SIZE, 2, 6)] == fresh[12:]  # seeded
    longer = [frame.tobytes() for frame in clip(SIZE, 2, 9)]
    assert longer[:6] == fresh[12:]  # a longer clip begins as the shorter
    numbers = [read_counter(frame) for number in (0, 2) for frame in clip(128, number, 3)]
    assert numbers == [0, 1, 2, 2000, 2001, 2002]  # told apart wherever nothing moves, too


def test_frames_move_enough_that_one_is_not_taken_for_the_next() -> None:
    frames = np.stack(list(clip(128, 1, 5)))
    found = compare(frames[1:], frames[:-1])
    assert max(found.psnr_db) < 30 and frames.shape == (5, 128, 128, 3)
    wide = next(clip(replace(BackendOptions(SIZE)).size, 0, 1))
    assert wide.shape == (SIZE, SIZE, 3) and float(wide.std()) > 30


# What is caught


def test_a_right_picture_passes() -> None:
    check = judged("fake_pictures:Working")
    assert check.failed == "" and check.frames == 8 and check.worst_db == 99
    assert min(check.ssim) == pytest.approx(1) and max(check.flicker_levels) == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Previous", "frame 3 looks like frame 2: it returns another's picture"),
        ("Swapped", "it returns another's picture"),
        ("Constant", "all its pictures are the same"),
        ("Flickering", "flickers by 5.9 levels more"),
        ("Remembering", "times as long as a timed one"),
    ],
)
def test_what_is_fast_by_a_trick_is_caught(name: str, said: str) -> None:
    assert said in judged(f"fake_pictures:{name}").failed


def fresh_of(who: Entrant, checkpoint: Checkpoint) -> dict[int, tuple[np.ndarray, float]]:
    bench = Bench(who, checkpoint, STATES, 0)
    Load().do(bench)
    pictures = RenderFresh(0, 2).do(bench).pictures
    bench.loaded().close()
    return {0: (pictures, 1.0)}


def test_one_weight_scaled_is_caught(tiny_sdxs: Checkpoint) -> None:
    right, wrong = entrant(MLX), entrant("fake_pictures:Scaled")
    made = {who.location: fresh_of(who, tiny_sdxs) for who in (right, wrong)}
    expected = {0: made[MLX][0][0]}
    check = check_of(made[MLX], expected, "the reference", {"dtype": "float32"})
    assert check.failed == "" and check.worst_db == 99
    failed = check_of(made[wrong.location], expected, "r", {"dtype": "float16"}).failed
    assert "dB from r, expected at least 40" in failed


def test_limits_go_by_precision_and_the_gate_holds_for_the_rest() -> None:
    assert limits_of({"dtype": "float32"}) == BY_DTYPE["float32"]
    assert limits_of({"dtype": "float16", "weights": "float16"}) == BY_DTYPE["float16"]
    assert limits_of({"dtype": "float16", "weights": "int8"}) == GATE
    assert limits_of({"dtype": "palettize6"}) == limits_of({"dtype": "bfloat16"}) == GATE
    near = PictureCheck("r", 2, [39.0, 41.0], [0.99, 0.97], [1.0], [1.0, 1.0])
    assert failure(near, GATE) == "" and failure(near, Limits(40, 0.9, 2)).startswith("39.0 dB")
    assert failure(near, Limits(30, 0.98, 2)) == "SSIM 0.970, expected at least 0.98"
    assert failure(PictureCheck("r", 0, [], [], [], []), GATE) == "no fresh frame was rendered"
    once = replace(near, fresh_ratio=[9.0, 1.1])  # a busy machine, in one round
    assert failure(once, GATE) == ""
    no_number = replace(near, psnr_db=[float("nan")])
    assert "nan dB" in failure(no_number, GATE)


def test_frames_go_in_and_out_at_the_depth_that_is_timed() -> None:
    depth = []

    class Counting:
        depth, name = 5, "counting"
        waiting: list[np.ndarray]

        def submit(self, frame: np.ndarray) -> None:
            self.waiting = [*getattr(self, "waiting", []), frame]
            depth.append(len(self.waiting))

        def collect(self, out: np.ndarray) -> None:
            out[:] = self.waiting.pop(0)

    bench = Bench(entrant(IDENTITY), None, STATES, 0)  # type: ignore[arg-type]
    Load().do(bench)
    bench.backend = Counting()  # type: ignore[assignment]
    fresh = RenderFresh(0).do(bench)
    assert max(depth) == 5 and depth.count(5) > 5
    assert len(fresh.pictures) == len(fresh.frame_ms) == 10
    assert all(np.array_equal(a, b) for a, b in zip(fresh.pictures, clip(SIZE, 0, 10), strict=True))


# In a run


def test_a_run_shows_a_wrong_picture_as_failed_and_makes_no_ratio_of_it(
    tiny_sdxs: Checkpoint,
) -> None:
    asked = BenchPlan(
        (entrant("fake_pictures:Working", "right"), entrant("fake_pictures:Previous", "wrong")),
        {},
        rounds=2,
        turns=1,
        turn_s=0.01,
        fresh=False,
        profile=False,
        memory=False,
    )
    report = Runner(asked, tiny_sdxs).run()
    right, wrong = report.backends
    assert right.picture is not None and right.picture.worst_db == 99 and not right.wrong
    assert wrong.frames and "it returns another's picture" in wrong.wrong
    assert report.ratios == ratios(report.backends) and report.ratios[0].ratio is None
    assert "the picture of wrong failed" in report.ratios[0].refused
    assert not report.complete and report.failures[0].startswith("wrong, the picture: ")


def test_a_backend_that_cannot_render_a_fresh_frame_has_failed() -> None:
    check = check_of({}, {}, "r", {}, "it, the picture of round 1: it died")
    assert check.failed == "it, the picture of round 1: it died" and check.typical is None


def test_pictures_wait_on_disk_and_are_removed() -> None:
    gallery = Gallery()
    gallery.close()  # nothing was kept
    gallery.keep("a", 3, Fresh(np.full((2, 4, 4, 3), 7, np.uint8), [2.0, 4.0]), 1.5)
    ((number, (pictures, ratio)),) = gallery.of("a").items()
    assert (number, pictures[1, 0, 0, 0], ratio, gallery.of("b")) == (3, 7, 2.0, {})
    gallery.close()
    with pytest.raises(FileNotFoundError):
        gallery.of("a")


def test_every_backend_but_the_floor_is_judged_by_mlx_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spec_module, "find_spec", lambda name: object())  # torch need not be here
    chosen = entrants(["mlx", "torch", "identity"], SIZE)
    judges = [each.reference for each in chosen]
    assert judges[0] == judges[1] and judges[0] is not None and judges[2] is None
    assert judges[0].options == MlxOptions(SIZE, dtype="float32", kernels="off", attention="fused")
    assert dict(judges[0].environment) == {"MLX_ENABLE_TF32": "0"}
    known = specs() | specs(PEERS)
    assert {name for name, spec in known.items() if not spec.reference} == {"identity"}
    assert spec_of("coreml").reference == "mlx"


# How it is shown


def failed_report() -> Report:
    report = bench_samples.report()
    report.backends[1].picture = PictureCheck(
        "MLX in float32", 4, [12.5, 13.0], [0.4, 0.5], [9.0], [1.0], "12.5 dB from MLX in float32"
    )
    report.ratios = ratios(report.backends)
    return report


def told(report: Report) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(table.render(report))
    return console.export_text()


def test_a_failed_picture_is_shown_as_failed_and_not_as_fast() -> None:
    report = failed_report()
    text, page = told(report), html.render(report)
    for shown in (text, page):
        assert "picture failed" in shown and "FAILED 12 dB" in shown
        assert "the picture of two failed: 12.5 dB" in shown and "times as long as" not in shown
        assert "its times are not those of this work" in shown
    row = speed.speed_cells(report.backends[1], True)
    assert row[:9] == ["two", "picture failed", *[""] * 6, "160"]
    names = [figure.plot.name for figure in plots.figures(report)]
    assert "picture" in names and "ratios" not in names
    latency = next(f for f in plots.figures(report) if f.plot.name == "latency")
    assert [label for label, _ in latency.legend] == ["one"]
    assert not any("two" in row.ours_ms for row in beside(report.work, report.backends))
    assert not any("p99 of" in line and "two" in line for line in advice.warnings(report))


def test_a_good_picture_stands_beside_the_speed() -> None:
    report = bench_samples.report()
    assert speed.speed_cells(report.backends[0], True)[9] == "54 dB"
    assert "54.8 dB" in told(report) and "54.8 dB" in html.render(report)
    report.backends[0].picture = None
    assert speed.speed_cells(report.backends[0], True)[9] == "not checked"


def test_compare_leaves_a_failed_picture_out(tmp_path: object) -> None:
    first, second = bench_samples.report(), failed_report()
    assert [change.label for change in compare_reports(first, second)] == ["one"]
    assert cut_short(first, second) == [
        "two is left out: its picture failed in the second run (12.5 dB from MLX in float32)"
    ]
    second.backends.pop(0)
    with pytest.raises(UsageError, match="no measured backend in common"):
        compare_reports(first, second)


def test_similarity_of_opposites_may_be_below_zero_in_a_report(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    report = failed_report()
    assert report.backends[1].picture
    report.backends[1].picture.ssim = [-0.2, 0.1]
    path = tmp_path_factory.mktemp("r") / "r.json"
    path.write_text(report.as_json())
    assert read_report(path) == report
    report.backends[1].picture.psnr_db = [-1.0]
    path.write_text(report.as_json())
    with pytest.raises(UsageError, match=r"psnr_db\[0\] is -1, expected 0 or more"):
        read_report(path)
