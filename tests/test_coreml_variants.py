"""Every form of the program from the command line, against a strict fake of Core ML."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest

import fake_coreml
from command import Command
from fake_coreml import StrictModel
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.picture.size import FrameSize, Size
from sdxs.common.picture.temporal import psnr
from sdxs.common.settings import parse_settings
from sdxs.coreml_backend import compute_plan, prepare
from sdxs.coreml_backend.backend import CoreMLBackend
from sdxs.coreml_backend.options import CoreMLOptions, parse_placement
from sdxs.coreml_backend.prepare import find_or_build, warm_up

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"
SIZE = 64

# what is around the programs is tested here: each is built once a run
pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(scope="module")
def shared_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(autouse=True)
def own_cache(shared_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(shared_weights))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path))
    return tmp_path / "coreml"


def made_of(size: Size = SIZE, **chosen: str) -> CoreMLOptions:
    """Options as the command line makes them out of texts."""
    return parse_settings(CoreMLOptions, chosen, "coreml", size=size)


def picture(seed: int = 0, size: Size = SIZE) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    height, width = FrameSize.of(size).shape
    return np.kron(coarse, np.ones((height // 8, width // 8, 1))).astype(np.uint8)


def render(demo: Checkpoint, *frames: np.ndarray, **chosen: str) -> list[np.ndarray]:
    """What a backend with these settings makes of `frames`, under one prompt."""
    backend = CoreMLBackend(demo, made_of(FrameSize.of_picture(frames[0]), **chosen))
    backend.load()
    states = np.random.default_rng(1).standard_normal(
        (1, 77, demo.unet.cross_attention_dim), dtype=np.float32
    )
    backend.set_conditioning(states)
    pictures = []
    for frame in frames:
        backend.submit(frame)
        pictures.append(np.empty_like(frame))
        backend.collect(pictures[-1])
    backend.close()
    return pictures


@pytest.mark.parametrize("placement", ["", "encode=ne,unet=ne,decode=ne"])
def test_an_image_goes_in_and_out_as_core_ml_wants_it(
    demo: Checkpoint, on_macos: None, placement: str
) -> None:
    """RGB pictures come back with alpha. The program rounds, so the picture is the same."""
    more = {"attention": "matmul"} | ({"placement": placement} if placement else {})
    assert np.array_equal(
        render(demo, picture(), input="image", **more)[0],
        render(demo, picture(), attention="matmul")[0],
    )
    assert all(
        model.compute_unit == ct.ComputeUnit.CPU_AND_NE
        for model in StrictModel.made[:3]
        if placement
    )


def test_the_fake_bites_who_passes_an_array_for_an_image(
    demo: Checkpoint, on_macos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxs.coreml_backend.runner import Runner

    monkeypatch.setattr(Runner, "_as_image", lambda self, given: given)
    with pytest.raises(BackendError, match="not convertible"):
        render(demo, picture(), input="image")


@pytest.mark.parametrize("breach", ["float64", "moved", "read-only"])
def test_the_fake_bites_who_breaks_a_rule(
    demo: Checkpoint, on_macos: None, monkeypatch: pytest.MonkeyPatch, breach: str
) -> None:
    from sdxs.coreml_backend.runner import Runner

    right = Runner._fill

    def wrong(self: Runner, given: np.ndarray) -> dict[str, np.ndarray]:
        data = right(self, given)
        if breach == "read-only":
            data["noise"] = data["noise"].view()
            data["noise"].flags.writeable = False
        else:
            data["noise"] = data["noise"].astype(np.float64 if breach == "float64" else np.float32)
        return data

    monkeypatch.setattr(Runner, "_fill", wrong)
    kept = []  # what moved must not come to lie where it lay before
    monkeypatch.setattr(
        StrictModel,
        "predict",
        lambda self, data, right=StrictModel.predict: (kept.append(dict(data)), right(self, data))[
            1
        ],
    )
    with pytest.raises(BackendError, match="prediction failed"):
        render(demo, picture(), picture(1))


def test_without_pillow_an_image_is_one_clear_line(
    command: Command, on_macos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    done = command(
        "live",
        "--backend",
        "coreml",
        "--model",
        "demo",
        "--input",
        "image",
        "--size",
        SIZE,
        "--headless",
        "--source",
        CLIP,
        "--frames",
        1,
        "--stats",
        "/dev/null",
    )
    assert (
        done.code == 2
        and "pip install pillow" in done.err
        and len(done.err.strip().splitlines()) == 1
    )


@pytest.mark.parametrize(
    ("system", "chosen", "says"),
    [
        ("13.6", {"attention": "matmul"}, "macOS 14.*--backend mlx"),
        ("14.7", {}, "sdpa needs macOS 15.*--attention matmul"),
        ("14.7", {"attention": "matmul", "sizes": "64,128"}, "--sizes needs macOS 15"),
        ("14.7", {"attention": "matmul"}, ""),
        ("15.1", {"sizes": "64,128"}, ""),
    ],
)
def test_an_older_macos_is_one_clear_line(
    on_macos: None, monkeypatch: pytest.MonkeyPatch, system: str, chosen: dict[str, str], says: str
) -> None:
    monkeypatch.setattr(prepare, "macos_version", lambda: system)
    monkeypatch.setattr(prepare, "macos_major", lambda: int(system.partition(".")[0]))
    options = made_of(**chosen)
    if says:
        with pytest.raises(UsageError, match=says):
            prepare.refuse_without_runtime(options)
    else:
        prepare.refuse_without_runtime(options)


def test_latents_that_overflow_are_an_error_and_no_black_picture(
    demo: Checkpoint, on_macos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = StrictModel.predict

    def overflowed(self: StrictModel, data: dict[str, object]) -> dict[str, object]:
        return right(self, data) | {"x0": np.full((1, 8, 8, 8), np.nan, np.float32)}

    monkeypatch.setattr(StrictModel, "predict", overflowed)
    with pytest.raises(BackendError, match="float16 overflowed"):
        render(demo, picture())


def test_sizes_share_a_package_and_each_is_a_function_of_it(
    demo: Checkpoint, on_macos: None, empty_cache: Path
) -> None:
    for size in (64, 128):
        frame = picture(size=size)
        assert np.array_equal(
            render(demo, frame, sizes="64,128")[0], render(demo, frame, runtime="reference")[0]
        )
    functions = [model.function_name for model in StrictModel.made]
    assert functions == ["size_64", "size_128"]
    assert len({model.path for model in StrictModel.made}) == 1
    with pytest.raises(UsageError, match="--size 192: is not among --sizes 64,128"):
        CoreMLBackend(demo, made_of(192, sizes="64,128"))
    with pytest.raises(UsageError, match="--sizes 64,64"):
        CoreMLBackend(demo, made_of(64, sizes="64,64"))
    with pytest.raises(UsageError, match="multiple of"):
        CoreMLBackend(demo, made_of(64, sizes="64,100"))


def test_a_package_holds_frames_of_several_shapes(
    demo: Checkpoint, on_macos: None, empty_cache: Path
) -> None:
    wide = FrameSize(96, 64)
    for size in (FrameSize.of(64), wide):
        frame = picture(size=size)
        made = render(demo, frame, sizes="96x64,64")[0]
        assert made.shape == frame.shape
        assert np.array_equal(made, render(demo, frame, runtime="reference")[0])
    assert [m.function_name for m in StrictModel.made] == ["size_64", "size_96x64"]
    assert made_of(wide, sizes="96x64,64").identity()["sizes"] == "64+96x64"
    with pytest.raises(UsageError, match="--size 64x96: is not among --sizes 64,96x64"):
        CoreMLBackend(demo, made_of(FrameSize(64, 96), sizes="64,96x64"))


def test_a_squares_package_keeps_its_key() -> None:
    """Another text here would build every package again that users have."""
    assert made_of(64).identity() == {
        "sizes": "64",
        "attention": "sdpa",
        "input": "float32",
        "weights": "float16",
        "stages": "frame",
        "noise": "noise as input",
    }
    assert made_of(64, sizes="128,64").identity()["sizes"] == "64+128"
    assert prepare.gate_key(made_of(64), FrameSize.of(64)) == "64 by cpu_and_gpu"


@pytest.mark.parametrize(
    "chosen",
    [
        {"placement": "encode=ne,unet=gpu,decode=ne"},
        pytest.param(
            {"placement": "encode=ne,unet=ne,decode=ne", "input": "image"},
            marks=pytest.mark.thorough,
        ),
        pytest.param({"noise_seed": "3", "attention": "matmul"}, marks=pytest.mark.thorough),
    ],
    ids=["placed", "images", "noise built in"],
)
def test_every_form_takes_a_frame_that_is_not_square(
    demo: Checkpoint, chosen: dict[str, str]
) -> None:
    frames = [picture(seed, FrameSize(96, 64)) for seed in range(3)]
    plain = render(demo, *frames, runtime="reference")
    for one, other in zip(plain, render(demo, *frames, runtime="reference", **chosen), strict=True):
        assert psnr(one, other) > 35  # the gate's limit: forms round differently in float16


def test_noise_that_is_built_in_is_the_seeds_and_no_other_is_taken_for_it(demo: Checkpoint) -> None:
    backend = CoreMLBackend(demo, CoreMLOptions(SIZE, runtime="reference", noise_seed=3))
    backend.load()
    backend.set_params(FrameParams(seed=3, feedback=0.2))
    with pytest.raises(BackendError, match="seed 3 is built into the program"):
        backend.set_params(FrameParams(seed=4))
    backend.close()
    with pytest.raises(UsageError, match="noise_seed"):
        CoreMLBackend(demo, made_of(noise_seed="-1"))


def test_a_start_compiles_once_says_so_and_prepares_each_unit_once(
    demo: Checkpoint, on_macos: None, empty_cache: Path
) -> None:
    steps: list[str] = []
    placed = CoreMLOptions(
        SIZE, placement=parse_placement("encode=ne,unet=gpu,decode=ne"), attention="matmul"
    )

    def start(options: CoreMLOptions) -> list[str]:
        steps.clear()
        warm_up(
            demo,
            options,
            find_or_build(demo, options, progress=lambda step, _: steps.append(step)),
            lambda step, _: steps.append(step),
        )
        return [step for step in steps if "Core ML" in step]

    first = start(placed)
    assert [step for step in first if "compiles" in step] == [
        f"Core ML compiles {s}" for s in ("encode", "unet", "decode")
    ]
    assert (
        "Core ML prepares unet for cpu_and_gpu; a first load takes half a minute to several minutes"
        in first
    )
    assert start(placed) == []
    moved = replace(placed, placement=parse_placement("encode=ne,unet=ne,decode=ne"))
    assert start(moved) == [
        "Core ML prepares unet for cpu_and_ne; a first load takes half a minute to several minutes"
    ]
    StrictModel.refuses_to_load = True
    with pytest.raises(BackendError, match="cannot be loaded.*sdxs convert --force"):
        CoreMLBackend(demo, CoreMLOptions(SIZE)).load()


def test_a_program_is_held_against_the_reference_by_every_choice_of_units(
    demo: Checkpoint, on_macos: None, empty_cache: Path
) -> None:
    """Bug: a package that had passed on the GPU was taken for good on the Neural Engine as well."""
    asked: list[np.ndarray] = []

    def right(frame: np.ndarray, states: np.ndarray, seed: int) -> np.ndarray:
        asked.append(frame)
        backend = CoreMLBackend(demo, made_of(runtime="reference", attention="matmul"))
        backend.load()
        backend.set_conditioning(states)
        backend.set_params(FrameParams(seed))
        backend.submit(frame)
        out = np.empty_like(frame)
        backend.collect(out)
        return out

    gpu, ne = (made_of(compute_units=u, attention="matmul") for u in ("cpu_and_gpu", "cpu_and_ne"))
    # `right` renders with the same program, which only its own process may use before its gate
    find_or_build(demo, gpu)
    for _ in range(2):
        built = find_or_build(demo, gpu, right)
    with pytest.raises(BackendError, match="dB from the reference"):
        find_or_build(demo, ne, lambda frame, _states, _seed: 255 - frame)
    find_or_build(demo, ne, right)
    assert (
        list(built.record.gate_db) == ["64 by cpu_and_gpu", "64 by cpu_and_ne"] and len(asked) == 2
    )


# The command line


def test_convert_prints_what_compression_costs(command: Command, empty_cache: Path) -> None:
    plain = command("convert", "--model", "demo", "--size", SIZE)
    small = command("convert", "--model", "demo", "--size", SIZE, "--weights", "int8")
    assert plain.code == small.code == 0, small.err
    assert "weights are off by" not in plain.out and "int8 weights are off by 0." in small.out
    assert all(" dB at 64" in done.out for done in (plain, small))
    records = {
        json.loads(path.read_text())["variant"]["weights"]: json.loads(path.read_text())
        for path in empty_cache.glob("*/record.json")
    }
    assert 0 == records["float16"]["weights_error"] < records["int8"]["weights_error"] < 0.02
    (plain_db,), (small_db,) = (records[form]["gate_db"].values() for form in ("float16", "int8"))
    assert plain_db > small_db > 35
    listed = command("convert", "--list").out
    assert "int8" in listed and f"{records['int8']['weights_error']:.2%}" in listed


def test_too_much_compression_is_refused_with_both_pictures(
    command: Command, empty_cache: Path, tiny_sdxs: Checkpoint
) -> None:
    """Two bits leave a third of the weights' energy behind; SDXS multiplies eps errors by 14.6."""
    done = command(
        "convert", "--model", tiny_sdxs.folder, "--size", SIZE, "--weights", "palettize2"
    )
    assert done.code == 1 and "dB from the reference" in done.err and "is ready" not in done.out
    assert len(list(empty_cache.glob("refused-*.png"))) == 2 and not list(
        empty_cache.glob("*/record.json")
    )


@pytest.mark.parametrize(
    ("chosen", "size"),
    [
        (("--input", "image"), 64),
        (("--sizes", "64,128", "--size", 128), 128),
        pytest.param(("--weights", "palettize8"), 64, marks=pytest.mark.thorough),
        pytest.param(("--fixed-noise", "--seed", 5), 64, marks=pytest.mark.thorough),
        (("--attention", "split_einsum"), 64),
    ],
    ids=["image", "sizes", "weights", "noise", "attention"],
)
def test_every_form_goes_live(
    command: Command, tmp_path: Path, chosen: tuple[object, ...], size: int
) -> None:
    out = tmp_path / "out.mp4"
    size_option = () if "--size" in chosen else ("--size", size)
    done = command(
        "live",
        "--backend",
        "coreml",
        "--coreml-runtime",
        "reference",
        "--model",
        "demo",
        *size_option,
        *chosen,
        "--source",
        CLIP,
        "--frames",
        2,
        "--headless",
        "--out",
        out,
    )
    assert done.code == 0, done.err
    assert ("weights are off by" in done.err) == ("--weights" in chosen)
    (first,) = [VideoFile(out).read() for _ in range(1)]
    assert first is not None and first.shape[:2] == (size, size)


def test_convert_builds_several_sizes_and_checks_each(command: Command, empty_cache: Path) -> None:
    done = command(
        "convert", "--model", "demo", "--sizes", "64,128", "--input", "image", "--fixed-noise", 2
    )
    assert done.code == 0 and " dB at 64" in done.out and " dB at 128" in done.out
    (record,) = [json.loads(path.read_text()) for path in empty_cache.glob("*/record.json")]
    assert (
        record["variant"]["sizes"] == "64+128" and record["variant"]["noise"] == "noise of seed 2"
    )
    assert record["variant"]["input"] == "image"


def test_an_option_of_core_ml_for_another_backend_is_refused(
    command: Command, tmp_path: Path
) -> None:
    for chosen in (
        ("--placement", "encode=ne,unet=gpu,decode=ne"),
        ("--input", "image"),
        ("--compute-units", "all"),
        ("--weights", "int8"),
        ("--sizes", "64,128"),
        ("--fixed-noise",),
        ("--verbose",),
        ("--attention", "matmul"),
    ):
        done = command(
            "live",
            "--backend",
            "mlx",
            "--model",
            "demo",
            *chosen,
            "--headless",
            "--out",
            tmp_path / "o.mp4",
        )
        assert done.code == 2 and "--backend coreml" in done.err, chosen


# The compute plan


def test_the_compute_plan_counts_operations_by_unit(demo: Checkpoint, on_macos: None) -> None:
    options = CoreMLOptions(SIZE, compute_units="cpu_and_ne")
    built = find_or_build(demo, options)
    warm_up(demo, options, built, lambda step, done: None)
    (plan,) = compute_plan.plans(built, options)
    spec = ct.utils.load_spec(str(built.package("frame"))).mlProgram.functions["main"]
    (block,) = spec.block_specializations.values()
    kinds = [op.type for op in block.operations if not op.type.startswith("const")]
    # the fake answers as Core ML may: no usage for some operations, no device for others
    cpu, none, unplanned = (kinds.count(kind) for kind in ("layer_norm", "transpose", "reshape"))
    assert min(cpu, none, unplanned) > 0 and plan.unplanned == unplanned
    ne = len(kinds) - cpu - none - unplanned
    assert plan.operations == {"ne": ne, "cpu": cpu, "no unit": none}
    assert plan.kinds["cpu"] == {"layer_norm": kinds.count("layer_norm")} and plan.kinds["ne"][
        "conv"
    ] == kinds.count("conv")
    assert plan.cost == {"ne": 1.0, "cpu": 0.0, "no unit": 0.0}
    assert str(plan).startswith("frame on cpu_and_ne: operations on ")
    assert f"on cpu: layer_norm x {plan.operations['cpu']}" in str(plan)


def test_the_compute_plan_of_each_stage_and_size(demo: Checkpoint, on_macos: None) -> None:
    options = CoreMLOptions(
        SIZE, sizes=(64, 128), placement=parse_placement("encode=ne,unet=gpu,decode=ne")
    )
    built = find_or_build(demo, options)
    warm_up(demo, options, built, lambda step, done: None)
    plans = compute_plan.plans(built, options)
    assert [(plan.stage, plan.compute_units) for plan in plans] == [
        ("encode", "cpu_and_ne"),
        ("unet", "cpu_and_gpu"),
        ("decode", "cpu_and_ne"),
    ]
    assert [max(plan.operations, key=plan.operations.__getitem__) for plan in plans] == [
        "ne",
        "gpu",
        "ne",
    ]
    # Core ML plans the default function only
    for plan in compute_plan.plans(built, replace(options, size=128)):
        assert plan.operations == {} and plan.unplanned > 10
        assert str(plan).endswith(
            "the default function of a package, that is the smallest of --sizes"
        )


def test_nested_operations_and_unknown_devices_are_counted() -> None:
    inner = fake_coreml.Block([fake_coreml.Operation("ios18.conv"), fake_coreml.Operation("const")])
    plan = object.__new__(fake_coreml.StrictPlan)
    plan._main, plan._others = type("MLQuantumComputeDevice", (), {})(), set()
    found = compute_plan.count(plan, [fake_coreml.Operation("ios18.cond", [inner])], "frame", "all")
    assert found.operations == {"MLQuantumComputeDevice": 2} and found.kinds[
        "MLQuantumComputeDevice"
    ] == {"cond": 1, "conv": 1}


def test_without_a_plan_one_clear_line(demo: Checkpoint, on_macos: None, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"no compute plan for .*macOS 14\.4"):
        compute_plan.summarise(tmp_path / "frame.mlmodelc", "frame", "all")
    options = CoreMLOptions(SIZE)
    built = find_or_build(demo, options)
    warm_up(demo, options, built, lambda step, done: None)
    with pytest.raises(BackendError, match="no function 'size_512'"):
        compute_plan.summarise(built.compiled("frame"), "frame", "all", "size_512")


def test_the_strict_plan_has_the_face_of_coremltools() -> None:
    """What the fake is called by must exist there, under the same names."""
    from coremltools.models import compute_device
    from coremltools.models import compute_plan as real

    for name in (
        "load_from_path",
        "model_structure",
        "get_compute_device_usage_for_mlprogram_operation",
        "get_estimated_cost_for_mlprogram_operation",
    ):
        assert hasattr(real.MLComputePlan, name) and (
            name == "model_structure" or hasattr(fake_coreml.StrictPlan, name)
        )
    for name in compute_plan.UNITS:
        assert hasattr(compute_device, name) and hasattr(fake_coreml, name)
    assert {
        "operator_name",
        "blocks",
    } <= real.MLModelStructureProgramOperation.__dataclass_fields__.keys()
    assert "preferred_compute_device" in real.MLComputePlanDeviceUsage.__dataclass_fields__
    assert "weight" in real.MLComputePlanCost.__dataclass_fields__


def test_the_picture_is_the_reference_runtimes_whatever_the_form(demo: Checkpoint) -> None:
    plain = render(demo, picture(), runtime="reference")[0]
    for chosen in ({"input": "image"}, {"noise_seed": "0"}):
        assert np.array_equal(render(demo, picture(), runtime="reference", **chosen)[0], plain), (
            chosen
        )
    assert 35 < psnr(render(demo, picture(), runtime="reference", weights="int8")[0], plain) < 90
