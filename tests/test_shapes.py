"""Frames that are not square, end to end: loop, viewer, backends, lanes, hosting, commands, API."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.api import open_model
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.protocol import Backend, FrameParams, check_edges
from sdxs.common.backend.schedule import seeded_noise
from sdxs.common.bench.measure.passes import count_copies, profile_surroundings
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.synthetic import Synthetic, read_counter
from sdxs.common.live.look import Look, View
from sdxs.common.live.stats import Stats
from sdxs.common.live.threads.frames import LiveFrame
from sdxs.common.live.threads.loop import Loop, LoopOptions, Prompt
from sdxs.common.live.viewer import Viewer
from sdxs.common.picture.edges import KINDS, Edges
from sdxs.common.picture.image import enlarge, to_frame_rgb
from sdxs.common.picture.opencv import cv2
from sdxs.common.picture.size import Fit, FrameSize
from sdxs.common.picture.temporal import Flicker, Similarity, thumbnail
from sdxs.common.testing.fakes import GilBackend, SleepingBackend, StagedBackend
from sdxs.coreml_backend.instrument import CoreMLInstrument
from sdxs.experiments.parity.control import tiny_controlled
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.instrument import MlxInstrument
from sdxs.mlx_sdxs.options import MlxOptions

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"
SIZE = FrameSize(96, 64)
TALL = FrameSize(64, 128)
FITS: tuple[Fit, ...] = ("crop", "pad", "stretch")


def picture(size: FrameSize = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size.shape, 3), dtype=np.uint8)


def states(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 77, 64), dtype=np.float32)


def render(backend: Backend, *frames: np.ndarray) -> list[np.ndarray]:
    """What a backend makes of `frames`, as many in flight as it takes."""
    backend.load()
    backend.set_conditioning(states())
    backend.set_params(FrameParams(seed=3, feedback=0.2))
    made, waiting = [], 0
    for number, frame in enumerate(frames):
        backend.submit(frame)
        waiting += 1
        while waiting == backend.depth or (waiting and number == len(frames) - 1):
            made.append(np.empty_like(frame))
            backend.collect(made[-1])
            waiting -= 1
    backend.close()
    return made


# Fitting a picture into a frame


def halves(height: int, width: int) -> np.ndarray:
    """A picture whose left third is white, in OpenCV's order."""
    made = np.zeros((height, width, 3), np.uint8)
    made[:, : width // 3] = 255
    return made


def fitted(given: np.ndarray, size: FrameSize, fit: Fit, mirror: bool = False) -> np.ndarray:
    out = np.full((*size.shape, 3), 7, np.uint8)
    to_frame_rgb(given, out, mirror, fit)
    return out


def test_crop_takes_the_middle_of_the_frames_proportions() -> None:
    given = np.zeros((90, 300, 3), np.uint8)
    given[:, 60:240] = 200  # 180 x 90, the middle with the proportions 2 to 1
    assert (fitted(given, FrameSize(64, 32), "crop") == 200).all()
    upright = given.transpose(1, 0, 2).copy()
    assert (fitted(upright, FrameSize(32, 64), "crop") == 200).all()


def test_pad_shows_everything_between_black_bars() -> None:
    given = np.full((90, 180, 3), 200, np.uint8)
    given[..., 0] = 10  # blue in OpenCV's order
    out = fitted(given, FrameSize(64, 64), "pad")
    assert (out[16:48] == (200, 200, 10)).all()
    assert not out[:16].any() and not out[48:].any()
    out = fitted(given.transpose(1, 0, 2).copy(), FrameSize(64, 32), "pad")
    assert (out[:, 24:40] == (200, 200, 10)).all()
    assert not out[:, :24].any() and not out[:, 40:].any()


def test_stretch_shows_everything_without_bars() -> None:
    out = fitted(halves(90, 300), FrameSize(30, 60), "stretch")
    assert (out[:, :9] == 255).all() and not out[:, 11:].any()


@pytest.mark.parametrize("fit", FITS)
def test_mirror_turns_each_fit_around(fit: Fit) -> None:
    given = np.random.default_rng(0).integers(0, 256, (90, 180, 3), dtype=np.uint8)
    one, other = (fitted(given, SIZE, fit, mirror) for mirror in (False, True))
    assert (one != other).any()
    np.testing.assert_array_equal(one, other[:, ::-1])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(720, 1280), (37, 500), (5, 3), (64, 96), (1, 1)])
def test_every_picture_fills_every_frame(shape: tuple[int, int], fit: Fit) -> None:
    for size in (SIZE, TALL, FrameSize(64, 64)):
        out = fitted(np.full((*shape, 3), 90, np.uint8), size, fit)
        if fit == "pad":
            assert set(np.unique(out)) <= {0, 90} and (out == 90).any()
        else:
            assert (out == 90).all()


def test_the_fit_makes_no_difference_to_a_picture_of_the_frames_proportions() -> None:
    given = picture(FrameSize(192, 128))
    crop, pad, stretch = (fitted(given, SIZE, fit) for fit in FITS)
    np.testing.assert_array_equal(crop, pad)
    np.testing.assert_array_equal(crop, stretch)


def squared_as_before(given: np.ndarray, side: int) -> np.ndarray:
    """How frames were made while all were square: the reference of the square's bits."""
    height, width = given.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square, times = given[top : top + least, left : left + least], least // side
    while times > 1:
        step = 2 if times % 2 == 0 else times
        times //= step
        least = square.shape[0] // step
        square = cv2.resize(
            square[: least * step, : least * step], (least, least), interpolation=cv2.INTER_AREA
        )
    if square.shape[0] != side:
        square = cv2.resize(square, (side, side), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(square, cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("shape", [(720, 1280), (481, 641), (96, 64), (64, 64), (33, 47), (301, 7)])
def test_a_square_is_cut_bit_for_bit_as_before(shape: tuple[int, int]) -> None:
    given = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for side in (32, 64, 100):
        np.testing.assert_array_equal(
            fitted(given, FrameSize.of(side), "crop"), squared_as_before(given, side)
        )


def test_a_large_picture_is_averaged_in_each_direction_by_itself() -> None:
    """Interpolation alone would read two of the ten pixels, and flicker."""
    given = picture(FrameSize(960, 64))
    means = given.reshape(64, 96, 10, 3).mean(axis=2)[..., ::-1]
    out = fitted(given, FrameSize(96, 64), "stretch")
    assert np.abs(out - means).max() <= 1.5  # in two steps, each rounded


# What the frame's neighbours make of it


@pytest.mark.parametrize("size", [SIZE, TALL])
def test_the_test_card_counts_and_moves_in_any_shape(size: FrameSize) -> None:
    card = Synthetic(size)
    frames = [card.read() for _ in range(5)]
    assert all(frame.shape == (*size.shape, 3) for frame in frames)
    assert [read_counter(frame) for frame in frames] == [0, 1, 2, 3, 4]


def test_the_square_test_card_is_the_one_of_before() -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    card = np.empty((64, 64, 3), np.uint8)
    card[..., 0], card[..., 1], card[..., 2] = ramp[None, :], ramp[:, None], 128
    first = Synthetic(64).read()
    untouched = first[50:, :]  # below counter and circle
    np.testing.assert_array_equal(untouched, card[50:, :])


@pytest.mark.parametrize("kind", KINDS)
def test_edges_of_a_part_are_edges_of_the_whole(kind: str) -> None:
    """Nothing of a kind of edges depends on the shape: far from the cut both agree."""
    whole = cv2.GaussianBlur(picture(FrameSize(128, 128)), (0, 0), 3)
    part = np.ascontiguousarray(whole[:64])
    drawn = [np.empty(given.shape[:2], np.uint8) for given in (whole, part)]
    for given, out in zip((whole, part), drawn, strict=True):
        Edges(kind, FrameSize.of_picture(given), hysteresis=False).draw(given, out)
    assert drawn[1].shape == (64, 128)
    if kind == "soft":  # canny links edges across the cut
        np.testing.assert_array_equal(drawn[0][:40], drawn[1][:40])
    assert drawn[1].any() == drawn[0][:64].any()


def test_thumbnails_keep_to_64_a_side() -> None:
    assert thumbnail(picture(FrameSize(96, 32))).shape == (32, 64)
    assert thumbnail(picture(FrameSize(128, 128))).shape == (64, 64)
    similarity, flicker, one = Similarity(2.0), Flicker(), picture()
    assert [similarity.is_similar(given) for given in (one, one, picture(seed=1))] == [
        False,
        True,
        False,
    ]
    for _ in range(2):
        flicker.add(one, one)
    assert flicker.pairs == 1


def test_edges_of_another_shape_are_refused() -> None:
    with pytest.raises(BackendError, match=r"expected contiguous uint8 \(64, 96\)"):
        check_edges(np.zeros((96, 64), np.uint8), SIZE.shape)


# The loop and the viewer


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        self.pictures.append(picture.copy())

    def close(self) -> None:
        pass


def run_loop(backend: Backend, frames: int = 4, width: int = 4, **settings: object) -> Kept:
    """Run test cards of 96 x 64 through the loop and a viewer."""
    options = LoopOptions(SIZE, frames=frames, realtime=False, **settings)  # type: ignore[arg-type]
    hidden = np.zeros((1, 77, width), np.float32)
    loop = Loop(
        Synthetic(SIZE), [backend], options, [Prompt("", hidden)], FrameParams(), lambda _: hidden
    )
    kept = Kept()
    viewer = Viewer(SIZE, Look(View.SIDE_BY_SIDE), loop.stats, [kept], None)
    summary = loop.run(viewer.show, lambda: None, viewer.close)
    assert summary.shown == frames
    return kept


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("kind", [IdentityBackend, SleepingBackend, StagedBackend, GilBackend])
def test_frames_travel_through_the_loop(
    kind: Callable[[object, BackendOptions], Backend], sequential: bool
) -> None:
    kept = run_loop(kind(None, BackendOptions(SIZE)), sequential=sequential)
    for number, shown in enumerate(kept.pictures):
        assert shown.shape == (64, 2 * 96, 3)
        camera, output = shown[:44, :96], shown[:44, 96:]  # above the label
        np.testing.assert_array_equal(camera, output)
        assert read_counter(output) == number


@pytest.mark.parametrize("mirror", [False, True])
def test_a_live_session_in_mlx(tiny_sdxs: Checkpoint, mirror: bool) -> None:
    kept = run_loop(MlxBackend(tiny_sdxs, MlxOptions(SIZE)), width=64, mirror=mirror)
    backend, card = MlxBackend(tiny_sdxs, MlxOptions(SIZE)), Synthetic(SIZE)
    backend.load()
    backend.set_conditioning(np.zeros((1, 77, 64), np.float32))
    for shown in kept.pictures:
        frame, out = (np.empty((*SIZE.shape, 3), np.uint8) for _ in range(2))
        to_frame_rgb(card.read(), frame, mirror)
        backend.submit(frame)
        backend.collect(out)
        np.testing.assert_array_equal(shown[:44, 96:], out[:44])
    backend.close()


@pytest.mark.parametrize("fit", FITS)
def test_the_loop_fits_the_camera_as_it_is_told(fit: Fit) -> None:
    class Camera(Synthetic):
        def read(self) -> np.ndarray:
            return halves(90, 300)

    options = LoopOptions(SIZE, frames=1, realtime=False, fit=fit)
    hidden = np.zeros((1, 77, 4), np.float32)
    backend = IdentityBackend(None, BackendOptions(SIZE))
    prompt = Prompt("", hidden)
    loop = Loop(Camera(SIZE), [backend], options, [prompt], FrameParams(), lambda _: hidden)
    seen: list[np.ndarray] = []
    loop.run(lambda frame: seen.append(frame.outputs[0].copy()), lambda: None, lambda: None)
    np.testing.assert_array_equal(seen[0], fitted(halves(90, 300), SIZE, fit))


def live_frame(outputs: int = 1, edges: bool = False) -> LiveFrame:
    made = LiveFrame(picture(seed=9), [picture(seed=n) for n in range(outputs)])
    made.id, made.prompt = 0, "ink"
    if edges:
        made.edges = np.zeros(SIZE.shape, np.uint8)
        made.edges[20:40] = 255
    return made


def larger(given: np.ndarray, size: FrameSize, fit: Fit = "pad") -> np.ndarray:
    out = np.zeros((*size.shape, *given.shape[2:]), np.uint8)
    enlarge(given, out, fit)
    return out


@pytest.mark.parametrize(
    ("view", "outputs", "columns"),
    [(View.OUTPUT, 1, 1), (View.OUTPUT, 2, 2), (View.SIDE_BY_SIDE, 1, 2), (View.EDGES, 1, 1)],
)
def test_a_show_size_enlarges_what_files_and_window_show(
    view: View, outputs: int, columns: int
) -> None:
    size, file, window = FrameSize(1200, 800), Kept(), Kept()
    viewer = Viewer(SIZE, Look(view), Stats(outputs), [file], window, show_size=size)
    frame = live_frame(outputs, edges=True)
    viewer.show(frame)
    (shown,), (seen,) = file.pictures, window.pictures
    assert shown.shape == seen.shape == (800, columns * 1200, 3)
    if view is View.EDGES:
        assert frame.edges is not None
        np.testing.assert_array_equal(shown[..., 0], larger(frame.edges, size))
    else:
        last = larger(frame.outputs[-1], size)
        np.testing.assert_array_equal(seen[:, -1200:], last)
        np.testing.assert_array_equal(shown[:700, -1200:], last[:700])  # above the label
    if view is View.SIDE_BY_SIDE:
        np.testing.assert_array_equal(shown[:, :1200], larger(frame.camera, size))


def test_the_prompt_is_written_on_the_output_alone() -> None:
    """Bug: the camera's width was taken for the picture's height, so a wide camera was labelled."""
    for size in (SIZE, TALL):
        file = Kept()
        frame = LiveFrame(picture(size), [picture(size, 1)])
        frame.id, frame.prompt = 0, "an oil painting of a cat"
        Viewer(size, Look(View.SIDE_BY_SIDE), Stats(), [file], None).show(frame)
        camera, output = file.pictures[0][:, : size.width], file.pictures[0][:, size.width :]
        np.testing.assert_array_equal(camera, frame.camera)
        assert (output[-3:] != frame.outputs[0][-3:]).any(axis=-1).mean() > 0.9


def test_enlarging_is_smooth_and_exact_on_a_plain_picture() -> None:
    plain = np.full((*SIZE.shape, 3), 77, np.uint8)
    assert (larger(plain, FrameSize(192, 128)) == 77).all()
    noisy = picture()
    assert np.unique(larger(noisy, FrameSize(960, 640))[:20, :20]).size > 50


def test_a_show_size_of_other_proportions_gets_bars_or_is_stretched() -> None:
    plain = np.full((*SIZE.shape, 3), 77, np.uint8)  # 3 to 2
    padded = larger(plain, FrameSize(400, 200), "pad")
    assert (padded[:, 50:350] == 77).all() and not padded[:, :50].any()
    assert (larger(plain, FrameSize(400, 200), "stretch") == 77).all()


def test_a_snapshot_has_the_show_size(tmp_path: Path) -> None:
    window, path = Kept(), tmp_path / "shot.png"
    viewer = Viewer(SIZE, Look(), Stats(), [], window, show_size=FrameSize(192, 128))
    viewer.show(live_frame())
    assert viewer.save_snapshot(path)
    assert cv2.imread(str(path)).shape == (128, 192, 3)


def test_without_a_show_size_files_hold_the_frame_itself() -> None:
    file, frame = Kept(), live_frame()
    Viewer(SIZE, Look(), Stats(), [file], None).show(frame)
    np.testing.assert_array_equal(file.pictures[0], frame.outputs[0])


# Backends


def test_noise_of_any_shape_is_drawn_in_rows() -> None:
    wide = seeded_noise(5, *SIZE.divided(8), 4)
    assert wide.shape == (1, 8, 12, 4)
    drawn = np.random.Generator(np.random.PCG64(5)).standard_normal((1, 8, 12, 4))
    np.testing.assert_array_equal(wide, drawn.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("size", [SIZE, pytest.param(TALL, marks=pytest.mark.thorough)])
def test_lanes_and_batches_change_no_picture(tiny_sdxs: Checkpoint, size: FrameSize) -> None:
    frames = [picture(size, seed) for seed in range(5)]
    alone = render(MlxBackend(tiny_sdxs, MlxOptions(size, lanes=1)), *frames)
    several = MlxOptions(size, lanes=2, depth=2)
    for one, other in zip(alone, render(MlxBackend(tiny_sdxs, several), *frames), strict=True):
        # BLAS may add up otherwise with another number of threads
        assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize("settings", [{"attention": "folded"}, {"batch": 2, "lanes": 1}])
def test_exact_rewrites_and_batches_make_the_same_frame(
    tiny_sdxs: Checkpoint, settings: dict[str, object]
) -> None:
    frames = [picture(seed=seed) for seed in range(4)]
    options = MlxOptions(SIZE, lanes=1, attention="fused")
    plain = render(MlxBackend(tiny_sdxs, options), *frames)
    other = render(MlxBackend(tiny_sdxs, MlxOptions(SIZE, **settings)), *frames)  # type: ignore[arg-type]
    for one, two in zip(plain, other, strict=True):
        assert np.abs(one.astype(int) - two).max() <= 1  # float32, added up in another order


@pytest.mark.parametrize("kind", ["identity", "mlx"])
def test_a_hosted_frame_is_the_same_frame(tiny_sdxs: Checkpoint, kind: str) -> None:
    if kind == "mlx":
        options: BackendOptions = MlxOptions(SIZE, lanes=1)
        here: Backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=1))
        location = "sdxs.mlx_sdxs.backend:MlxBackend"
    else:
        options, location = BackendOptions(SIZE), "sdxs.common.backend.identity:IdentityBackend"
        here = IdentityBackend(None, options)
    hosted = HostedBackend(kind, location, tiny_sdxs, options)
    frames = [picture(seed=seed) for seed in range(3)]
    for one, other in zip(render(here, *frames), render(hosted, *frames), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_hosted_backend_refuses_a_turned_frame_and_turned_edges() -> None:
    hosted = HostedBackend(
        "identity",
        "sdxs.common.backend.identity:IdentityBackend",
        None,
        BackendOptions(SIZE),
    )
    hosted.load()
    try:
        with pytest.raises(BackendError, match=r"expected contiguous uint8 \(64, 96, 3\)"):
            hosted.submit(picture(FrameSize(64, 96)))
        with pytest.raises(BackendError, match=r"\(64, 96\)"):
            hosted.submit(picture(), np.zeros((96, 64), np.uint8))
    finally:
        hosted.close()


def test_control_and_text_alone_in_mlx(tmp_path: Path) -> None:
    checkpoint = tiny_controlled(tmp_path, "sdxs-512-dreamshaper")
    backend = MlxBackend(checkpoint, MlxOptions(SIZE))
    backend.load()
    backend.set_conditioning(states())
    made = {}
    edges = [np.zeros(SIZE.shape, np.uint8) for _ in range(2)]
    edges[1][:, 40:50] = 255
    for name, params, drawn in (
        ("plain", FrameParams(), None),
        ("no lines", FrameParams(control_scale=1.0), edges[0]),
        ("lines", FrameParams(control_scale=1.0), edges[1]),
        ("text", FrameParams(text_only=True), None),
    ):
        backend.set_params(params)
        backend.submit(picture(), drawn)
        made[name] = np.empty((*SIZE.shape, 3), np.uint8)
        backend.collect(made[name])
    with pytest.raises(BackendError, match=r"expected contiguous uint8 \(64, 96\)"):
        backend.set_params(FrameParams(control_scale=1.0))
        backend.submit(picture(), np.zeros((96, 64), np.uint8))
    backend.close()
    pictures = list(made.values())
    assert all((a != b).any() for n, a in enumerate(pictures) for b in pictures[:n])


# Bench


def test_frames_of_equal_pixels_are_equal_work(tiny_sdxs: Checkpoint) -> None:
    """Convolutions and attention count positions, wherever they are."""
    for counter in (MlxInstrument(), CoreMLInstrument()):
        square, wide, tall, small = (
            counter.count(tiny_sdxs, size)
            for size in (128, FrameSize(256, 64), FrameSize(64, 256), FrameSize(128, 64))
        )
        assert square == wide == tall
        for whole, half in zip(square, small, strict=True):
            assert whole.weights == half.weights
            if whole.stage == "unet":  # the prompt's keys stay, attention to itself is squared
                assert half.flops < whole.flops < 4 * half.flops
            else:
                assert whole.flops == 2 * half.flops


def test_bench_measures_around_a_backend_of_any_shape() -> None:
    backend = IdentityBackend(None, BackendOptions(SIZE))
    backend.load()
    copies = count_copies(backend, SIZE, np.zeros((1, 77, 4), np.float32), 0, 3)
    assert copies["backend out"] == copies["to RGB"] == 96 * 64 * 3
    assert all(profile_surroundings(SIZE, 2).values())


def test_a_bench_of_a_shape_says_so(command: Command, tmp_path: Path) -> None:
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    asked = ("--backend", "identity", "--size", "96x64", "--quick", "--rounds", 1)
    done = command("bench", *asked, "--json", report, "--html", page)
    assert done.code == 0, done.err
    assert "demo at 96 x 64 on" in done.out
    assert json.loads(report.read_text())["work"]["size"] == "96x64"
    assert "demo at 96 \u00d7 64" in page.read_text()
    again = command("bench", "--show", report)
    assert again.code == 0 and "demo at 96 x 64 on" in again.out
    damaged = json.loads(report.read_text())
    damaged["work"]["size"] = "wide"
    report.write_text(json.dumps(damaged))
    refused = command("bench", "--show", report)
    assert refused.code == 2 and "report.work.size is str, expected int or a text" in " ".join(
        refused.err.split()
    )


# Commands and API

LIVE = ("live", "--model", "demo", "--headless", "--source", CLIP, "--frames", 2)


def test_live_writes_films_of_any_shape(command: Command, tmp_path: Path) -> None:
    out, beside = tmp_path / "out.mp4", tmp_path / "beside.mp4"
    done = command(*LIVE, "--size", "96x64", "--out", out)
    assert done.code == 0, done.err
    assert "at 96 x 64; source" in done.err
    assert VideoFile(out).read().shape == (64, 96, 3)  # type: ignore[union-attr]
    shown = ("--show-size", "192x128", "--side-by-side", "--fit", "pad")
    done = command(*LIVE, "--size", "96x64", "--backend", "identity", *shown, "--out", beside)
    assert done.code == 0, done.err
    assert VideoFile(beside).read().shape == (128, 384, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--size", "100x64"), "not width 100 (the nearest is 96); use --size 96x64"),
        (("--size", "96x"), "--size 96x: expected the side of a square in pixels, as 512, or"),
        (("--size", "96x64", "--show-size", "64x64"), "--show-size 64: only enlarges, and"),
        (("--size", "96x64", "--show-size", "192x32"), "--show-size 192x32: only enlarges"),
        (("--size", "96x64", "--show-size", "193x128"), "even sides; the nearest is 194x128"),
        (("--size", "96x64", "--fit", "zoom"), "--fit zoom: expected one of crop, pad, stretch"),
    ],
)
def test_what_cannot_be_is_refused(
    options: tuple[str, ...], says: str, command: Command, tmp_path: Path
) -> None:
    done = command(*LIVE, *options, "--out", tmp_path / "out.mp4")
    assert done.code == 2
    assert says in " ".join(done.err.split())
    assert not (tmp_path / "out.mp4").exists()


def test_the_api_has_a_shape(tiny_folder: Path) -> None:
    with open_model(str(tiny_folder), size="96x64") as model:
        assert model.shape == SIZE.shape
        with pytest.raises(UsageError, match=r"96 x 64, not square; use model.shape"):
            _ = model.size
        made = model(picture(), "ink")
        assert made.shape == (64, 96, 3)
        assert model(None, "ink").shape == (64, 96, 3)
        with pytest.raises(UsageError, match=r"expected uint8 \(64, 96, 3\)"):
            model(picture(TALL), "ink")
    with open_model(str(tiny_folder), size=64) as model:
        assert (model.size, model.shape) == (64, (64, 64))
