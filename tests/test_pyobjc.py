"""Core ML through PyObjC, against a fake that keeps Apple's rules; and each rule, broken once."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fake_pyobjc
from fake_pyobjc import COMPILED, Feature, ObjCError, Program, World
from sdxs.common.backend import copies
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.coreml_backend import inputs, objc_model, objc_values, prepare
from sdxs.coreml_backend.backend import CoreMLBackend
from sdxs.coreml_backend.objc_model import PyObjCModel, compile_package
from sdxs.coreml_backend.options import CoreMLOptions, is_hosted

SIZE = 64
SHAPE = (1, 2, 3, 5)
HERE = CoreMLOptions(SIZE, runtime="pyobjc", process="here", attention="matmul")

pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = fake_pyobjc.install(monkeypatch)
    monkeypatch.setattr(prepare, "sys", type("System", (), {"platform": "darwin"}))
    yield made
    made.settle()


def sums(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"y": given["x"] + given["shift"], "total": given["x"].sum(keepdims=True)}


SUMS = Program(
    {"x": Feature(SHAPE), "shift": Feature((1,))},
    {"y": Feature(SHAPE), "total": Feature((1, 1, 1, 1))},
    sums,
)


def open_program(
    world: World, folder: Path, program: Program = SUMS, timeout_s: float = 60.0
) -> PyObjCModel:
    compiled = folder / "sums.mlmodelc"
    compiled.mkdir(exist_ok=True)
    (compiled / COMPILED).touch()
    world.programs[compiled.name] = program
    return PyObjCModel(compiled, "cpu_and_gpu", None, timeout_s)


def given(fill: float = 1.0) -> dict[str, np.ndarray]:
    made = {"x": inputs.lend(SHAPE), "shift": inputs.lend((1,))}
    made["x"][...] = np.arange(30, dtype=np.float32).reshape(SHAPE)
    made["shift"][...] = fill
    return made


# The runtime


def test_results_lie_in_memory_that_was_offered(world: World, tmp_path: Path) -> None:
    model, data = open_program(world, tmp_path), given()
    model.predict(data)  # the first tells the shapes, and is copied
    copies.take()
    results = [model.predict(data) for _ in range(4)]
    assert copies.take() == {}
    assert all(np.array_equal(each["y"], data["x"] + 1) for each in results)
    assert all(inputs.is_lent(each["y"]) for each in results)
    assert all(each["y"].ctypes.data % inputs.mmap.PAGESIZE == 0 for each in results)
    # a result is written over by the prediction after the next, and no sooner
    assert results[0]["y"] is results[2]["y"] and results[0]["y"] is not results[1]["y"]
    assert threading.get_ident() not in world.handled_by and model.inside_ns > 0
    model.close()
    assert world.settle() == []


@pytest.mark.parametrize("pads", [False, True])
def test_results_elsewhere_are_copied_and_counted(world: World, tmp_path: Path, pads: bool) -> None:
    world.ignores_backings, world.pads = True, pads
    model, data = open_program(world, tmp_path), given()
    model.predict(data)
    copies.take()
    made = model.predict(data)
    assert copies.take() == {"another backing": made["y"].nbytes + 4}
    assert np.array_equal(made["y"], data["x"] + 1) and made["total"].item() == data["x"].sum()
    assert made["y"].flags.c_contiguous and world.settle() == []


def test_a_result_may_be_the_next_input(world: World, tmp_path: Path) -> None:
    model, data = open_program(world, tmp_path), given()
    expected = data["x"].copy()
    for _ in range(5):
        made = model.predict(data)
        expected += 1
        assert np.array_equal(made["y"], expected)
        data = {**data, "x": made["y"]}
    assert world.settle() == []


def test_a_result_that_is_still_an_input_is_not_written_over(world: World, tmp_path: Path) -> None:
    """A frame that overflows leaves the latents of the one before as the next one's input."""
    model, data = open_program(world, tmp_path), given()
    first = model.predict(data)["y"]
    kept = first.copy()
    for _ in range(3):
        made = model.predict({**data, "x": first})["y"]
        assert np.array_equal(made, kept + 1) and np.array_equal(first, kept)
    second = model.predict(data)["y"]
    other = model.predict({**data, "x": second})["y"]
    with pytest.raises(BackendError, match="no memory is left"):
        model.predict({"x": second, "shift": other})
    assert world.settle() == []


def test_strides_are_in_elements(world: World) -> None:
    array = inputs.lend((4, 6))
    tools = objc_values.frameworks()
    assert objc_values.wrap(tools, array).strides() == (6, 1)
    assert objc_values.read(objc_values.wrap(tools, array)).ctypes.data == array.ctypes.data


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"x": (1, 2, 3, 4)}, "x is not allowed"),
        ({"x": (30,)}, "x is not allowed"),
        ({"shift": None}, "shift is not allowed"),
    ],
)
def test_a_wrong_shape_or_a_missing_input_is_an_error(
    world: World, tmp_path: Path, wrong: dict[str, Any], what: str
) -> None:
    model, data = open_program(world, tmp_path), given()
    for name, shape in wrong.items():
        if shape is None:
            del data[name]
        else:
            data[name] = inputs.lend(shape)
    with pytest.raises(BackendError, match=what):
        model.predict(data)
    assert model.predict(given())["total"].item() == 435  # it can be used again
    data["x"] = inputs.lend(SHAPE, "float16")
    with pytest.raises(BackendError, match="x is not allowed"):
        model.predict(data | {"shift": inputs.lend((1,))})
    assert world.settle() == []


def test_an_error_and_an_exception_of_core_ml(world: World, tmp_path: Path) -> None:
    model = open_program(world, tmp_path)
    world.fails = True
    with pytest.raises(BackendError, match="refused a prediction"):
        model.predict(given())
    world.fails, world.raises = False, True
    with pytest.raises(ObjCError):
        model.predict(given())
    world.raises = False
    with pytest.raises(BackendError, match="load the backend again"):
        model.predict(given())  # nobody knows whether it began
    assert world.settle() == []


def test_a_prediction_that_never_ends_is_waited_for_with_a_limit(
    world: World, tmp_path: Path
) -> None:
    model, data = open_program(world, tmp_path, timeout_s=0.05), given()
    first, second = model.predict(data), model.predict(data)
    world.hangs = True
    with pytest.raises(BackendError, match=r"did not end within 0.05 s; use --coreml-runtime"):
        model.predict(data)
    with pytest.raises(BackendError, match="never ended"):
        model.predict(data)
    model.close()
    inputs.give_back(data.values())
    busy = {id(each) for each in (*data.values(), *first.values(), *second.values())}
    again = [inputs.lend(SHAPE) for _ in range(4)]
    assert busy.isdisjoint(map(id, again)), "memory that may still be written is lent again"
    assert world.settle() == []  # its completion after `close` harms nobody


def test_completion_after_close_and_collection(world: World, tmp_path: Path) -> None:
    model, data = open_program(world, tmp_path, timeout_s=0.05), given()
    world.hangs = True
    with pytest.raises(BackendError, match="did not end"):
        model.predict(data)
    model.close()
    del model, data
    gc.collect()
    world.release()
    assert world.settle() == [] and len(world.handled_by) == 1


def test_ctrl_c_leaves_what_is_running_alone(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = open_program(world, tmp_path), given()
    world.hangs = True

    def interrupted(self: objc_model.Ending, limit_s: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(objc_model.Ending, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.predict(data)
    inputs.give_back(data.values())
    assert inputs.lend(SHAPE) is not data["x"]
    assert world.settle() == []


def test_memory_outlives_the_model(world: World, tmp_path: Path) -> None:
    model, data = open_program(world, tmp_path), given()
    for _ in range(3):
        model.predict(data)
    model.close()
    inputs.give_back(data.values())
    del model, data
    gc.collect()
    assert world.settle() == []  # the fake looks at all of it once more


def test_closed_models_give_their_memory_back(world: World, tmp_path: Path) -> None:
    data, seen = given(), list[set[int]]()
    for _ in range(3):
        model = open_program(world, tmp_path)
        seen.append({id(model.predict(data)["y"]) for _ in range(3)})
        model.close()
        world.settle()
    assert seen[0] == seen[1] == seen[2]
    with pytest.raises(BackendError, match="closed"):
        model.predict(data)
    with pytest.raises(BackendError, match="closed"):
        model.make_state()


def test_an_array_that_may_be_freed_is_refused(world: World, tmp_path: Path) -> None:
    model = open_program(world, tmp_path)
    with pytest.raises(BackendError, match="may be freed"):
        model.predict(given() | {"x": np.zeros(SHAPE, np.float32)})
    assert world.settle() == []


def test_a_pyobjc_that_copies_buffers_is_found_out(world: World, tmp_path: Path) -> None:
    model = open_program(world, tmp_path)
    world.copies = True
    with pytest.raises(BackendError, match="PyObjC copied an array"):
        model.predict(given())


def count_up(given: Mapping[str, np.ndarray], states: Mapping[str, np.ndarray]) -> Any:
    states["count"][...] += given["x"]
    return {"y": states["count"].copy()}


COUNTER = Program({"x": Feature((2,))}, {"y": Feature((2,))}, count_up, {"count": Feature((2,))})


def test_a_state_lives_from_prediction_to_prediction(world: World, tmp_path: Path) -> None:
    model = open_program(world, tmp_path, COUNTER)
    x = inputs.lend((2,))
    x[...] = 1, 2
    one, other = model.make_state(), model.make_state()
    made = [model.predict({"x": x}, state)["y"].tolist() for state in (one, one, other, one)]
    assert made == [[1, 2], [2, 4], [1, 2], [3, 6]]
    with one.busy, pytest.raises(BackendError, match="two predictions with one state"):
        model.predict({"x": x}, one)
    assert model.predict({"x": x}, one)["y"].tolist() == [4, 8]
    foreign = open_program(world, tmp_path, COUNTER).make_state()
    with pytest.raises(BackendError, match="another model's"):
        model.predict({"x": x}, foreign)
    assert world.settle() == []


def invert(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"image": 255 - given["picture"]}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_pictures_in_pixel_buffers(world: World, tmp_path: Path, elsewhere: bool) -> None:
    feature = Feature((6, 10, 3), "uint8", True)
    model = open_program(world, tmp_path, Program({"picture": feature}, {"image": feature}, invert))
    world.ignores_backings = elsewhere
    generator = np.random.default_rng(0)
    copies.take()
    for _ in range(4):
        picture = generator.integers(0, 256, (6, 10, 3), dtype=np.uint8)
        made = model.predict({"picture": picture})["image"]
        assert np.array_equal(made, 255 - picture) and made.flags.c_contiguous
    assert copies.take() == {
        "pixels in": 4 * 180,
        **(
            {"another backing": 4 * 180}
            if elsewhere
            else {"another backing": 180, "pixels out": 540}
        ),
    }
    model.close()
    assert world.settle() == []


def test_a_result_of_another_type_is_named(world: World, tmp_path: Path) -> None:
    model = open_program(world, tmp_path)
    result = fake_pyobjc.MLMultiArray.of_core_ml(np.zeros(2, np.float32))
    result.dataType = lambda: 0x20008  # int8  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="data type 0x20008; expected one of float64, float32"):
        objc_values.read(result)
    model.close()


def test_units_and_function_are_configured(world: World, tmp_path: Path) -> None:
    open_program(world, tmp_path)
    for units, number in objc_model.UNITS.items():
        PyObjCModel(tmp_path / "sums.mlmodelc", units, "size_64").close()
        assert world.made[-1].units == number and world.made[-1].function == "size_64"
    assert world.settle() == []


def test_what_is_no_program_cannot_be_loaded(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty.mlmodelc").mkdir()
    with pytest.raises(BackendError, match=r"cannot be loaded \(empty.mlmodelc is not a compiled"):
        PyObjCModel(tmp_path / "empty.mlmodelc", "all")
    with pytest.raises(BackendError, match=r"cannot be compiled \(no manifest\)"):
        compile_package(tmp_path, tmp_path / "made.mlmodelc")


# The backend


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path))
    return tmp_path


def frames(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    coarse = [generator.integers(0, 256, (8, 8, 3)) for _ in range(count)]
    return [np.kron(each, np.ones((8, 8, 1))).astype(np.uint8) for each in coarse]


def rendered(checkpoint: Checkpoint, chosen: CoreMLOptions) -> tuple[list[np.ndarray], Any]:
    """Render frames under feedback; return them and the bytes that were copied, per site."""
    backend = CoreMLBackend(checkpoint, chosen)
    backend.load()
    states = np.random.default_rng(2).standard_normal(
        (1, 77, checkpoint.unet.cross_attention_dim), np.float32
    )
    backend.set_conditioning(states)
    made = []
    copies.take()
    for number, frame in enumerate(frames(4)):
        # the last two without the picture: latents of zeros in the place of the feedback
        backend.set_params(FrameParams(3, 0.5, text_only=number > 2))
        backend.submit(frame)
        made.append(np.empty_like(frame))
        backend.collect(made[-1])
    counted = copies.take()
    backend.close()
    return made, counted


@pytest.mark.parametrize("form", ["float32", pytest.param("image", marks=pytest.mark.slow)])
def test_frames_are_those_of_the_interpreter(
    world: World, weights: Path, demo: Checkpoint, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    monkeypatch.setattr(prepare, "run_apart", None)  # nothing is prepared in a child
    exact, before = rendered(demo, replace(HERE, input=form, runtime="reference", process="child"))
    made, after = rendered(demo, replace(HERE, input=form))
    assert all(map(np.array_equal, made, exact))
    assert world.settle() == [] and world.compiled == ["frame"] and len(world.made) == 1
    assert world.made[0].units == 1, "the GPU"
    latents = 4 * 16 * 8 * 8
    assert before["previous x0"] == 4 * latents and "previous x0" not in after
    assert "another backing" not in after


def test_facts_and_hosting(demo: Checkpoint) -> None:
    assert is_hosted(replace(HERE, process="child")) and not is_hosted(HERE)
    assert is_hosted(CoreMLOptions(SIZE))
    assert not is_hosted(CoreMLOptions(SIZE, runtime="reference"))
    with pytest.raises(UsageError, match=r"--coreml-process here: coremltools' calls stop"):
        CoreMLOptions(SIZE, process="here")
    told = CoreMLBackend(demo, HERE).describe()
    assert ("runtime", "PyObjC") in told.facts and not told.stand_in
    assert prepare.gate_key(HERE, HERE.size) == "64 by cpu_and_gpu through PyObjC"


def test_without_pyobjc_or_off_macos_it_is_refused(
    demo: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "sys", type("System", (), {"platform": "linux"}))
    with pytest.raises(UsageError, match="Core ML needs macOS"):
        CoreMLBackend(demo, HERE).load()
    monkeypatch.setattr(prepare, "sys", type("System", (), {"platform": "darwin"}))
    monkeypatch.setattr(objc_values, "find_spec", lambda name: None)
    for name in ("CoreML", "Quartz"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UsageError, match="pip install 'pyobjc-framework-CoreML>=12', or use"):
        CoreMLBackend(demo, HERE).load()
    with pytest.raises(UsageError, match="not installed: .*CoreML and .*Quartz"):
        CoreMLBackend(demo, replace(HERE, input="image")).load()


# The fake: every rule, broken by a caller


def native(numbers: Any) -> Any:
    made = fake_pyobjc.NSMutableArray.array()
    for each in numbers:
        made.addObject_(fake_pyobjc.NSNumber.numberWithLongLong_(each))
    return made


def named(values: Mapping[str, Any]) -> Any:
    made = fake_pyobjc.NSMutableDictionary.dictionary()
    for name, value in values.items():
        made.setObject_forKey_(value, fake_pyobjc.NSString.stringWithUTF8String_(name.encode()))
    return made


def raw(array: np.ndarray, strides: Any = None, kind: int = 0x10020) -> Any:
    steps = [each // array.itemsize for each in array.strides]
    init = "initWithDataPointer_shape_dataType_strides_deallocator_error_"
    made, _ = getattr(fake_pyobjc.MLMultiArray.alloc(), init)(
        array, native(array.shape), kind, native(steps) if strides is None else strides, None, None
    )
    return made


class Caller:
    """A careless caller of the trivial program."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.model = open_program(world, folder)._model
        self.x, self.shift = np.ones(SHAPE, np.float32), np.ones(1, np.float32)
        self.answers: list[tuple[Any, Any]] = []

    def provider(self, **values: Any) -> Any:
        value = fake_pyobjc.MLFeatureValue.featureValueWithMultiArray_
        arrays = {"x": raw(self.x), "shift": raw(self.shift)} | values
        made = fake_pyobjc.MLDictionaryFeatureProvider.alloc()
        values = named({name: value(each) for name, each in arrays.items()})
        return made.initWithDictionary_error_(values, None)[0]

    def options(self, **backings: Any) -> Any:
        made = fake_pyobjc.MLPredictionOptions.alloc().init()
        made.setOutputBackings_(named(backings))
        return made

    def ask(self, provider: Any, options: Any, handler: Any = None) -> None:
        with fake_pyobjc.autorelease_pool():
            self.model.predictionFromFeatures_options_completionHandler_(
                provider, options, handler or (lambda *answer: self.answers.append(answer))
            )


def freed_early(caller: Caller) -> None:
    caller.world.hangs = True
    caller.ask(caller.provider(), caller.options())
    caller.x = np.ones(SHAPE, np.float32)  # the last reference to the one in use
    gc.collect()


def freed_after(caller: Caller) -> None:
    caller.ask(caller.provider(), caller.options())
    wait(caller)
    caller.x = np.ones(SHAPE, np.float32)
    gc.collect()


def result_freed(caller: Caller) -> None:
    caller.world.hangs = True
    y = np.ones(SHAPE, np.float32)
    caller.ask(caller.provider(), caller.options(y=raw(y)))
    del y
    gc.collect()


def changed(caller: Caller) -> None:
    caller.world.hangs = True
    caller.ask(caller.provider(), caller.options())
    caller.x[...] = 7


def strides_in_bytes(caller: Caller) -> None:
    raw(caller.x, native(caller.x.strides))


def strides_of_python(caller: Caller) -> None:
    raw(caller.x, [30, 15, 5, 1])


def backings_of_python(caller: Caller) -> None:
    fake_pyobjc.MLPredictionOptions.alloc().init().setOutputBackings_({"y": raw(caller.x)})


def shared(caller: Caller) -> None:
    caller.world.hangs = True
    options = caller.options(y=raw(kept(SHAPE)))
    caller.ask(caller.provider(), options)
    caller.ask(caller.provider(), options)


def aliased(caller: Caller) -> None:
    caller.ask(caller.provider(), caller.options(y=raw(caller.x)))


def no_output(caller: Caller) -> None:
    caller.ask(caller.provider(), caller.options(z=raw(kept(SHAPE))))


def no_pool(caller: Caller) -> None:
    caller.model.predictionFromFeatures_options_completionHandler_(
        caller.provider(), caller.options(), lambda *_: None
    )


def raising_handler(caller: Caller) -> None:
    def handler(result: Any, error: Any) -> None:
        raise ValueError

    caller.ask(caller.provider(), caller.options(), handler)


def one_state(caller: Caller) -> None:
    state = caller.model.newState()
    state.busy = True
    with fake_pyobjc.autorelease_pool():
        caller.model.predictionFromFeatures_usingState_options_error_(
            caller.provider(), state, caller.options(), None
        )


def pixel_buffer() -> tuple[np.ndarray, Any]:
    memory = np.zeros((6, 10, 4), np.uint8)
    code, made = fake_pyobjc.create_with_bytes(
        None, 10, 6, fake_pyobjc.BGRA, memory, 40, None, None, None
    )  # type: ignore[misc]
    assert code == 0
    return memory, made


def written_unlocked(caller: Caller) -> None:
    memory, buffer = pixel_buffer()
    memory[...] = 3
    buffer.view("the prediction")


def locked(caller: Caller) -> None:
    _, buffer = pixel_buffer()
    fake_pyobjc.lock(buffer, 0)
    buffer.view("the prediction")


def locked_meanwhile(caller: Caller) -> None:
    _, buffer = pixel_buffer()
    caller.world.in_flight[buffer.address] += 1
    fake_pyobjc.lock(buffer, 0)


def base_without_lock(caller: Caller) -> None:
    fake_pyobjc.base_address(pixel_buffer()[1])


_kept: list[np.ndarray] = []


def kept(shape: tuple[int, ...]) -> np.ndarray:
    _kept.append(np.ones(shape, np.float32))
    return _kept[-1]


def wait(caller: Caller) -> None:
    done = threading.Event()
    caller.world.queue.put(done.set)
    assert done.wait(60)


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (freed_early, "memory freed before it was read"),
        (freed_after, "memory freed before Core ML let go of it"),
        (result_freed, "memory freed before it was written"),
        (changed, "x changed in a prediction"),
        (strides_in_bytes, "strides that reach beyond the memory"),
        (strides_of_python, "a list of Python within Core ML"),
        (strides_of_python, "a int of Python within Core ML"),
        (backings_of_python, "a dict of Python within Core ML"),
        (backings_of_python, "a str of Python within Core ML"),
        (shared, "memory in two predictions at once"),
        (aliased, "memory twice in one prediction"),
        (no_output, "a backing for 'z', which is no output"),
        (no_pool, "prediction outside of an autorelease pool"),
        (raising_handler, "a completion handler raised ValueError"),
        (one_state, "two predictions with one state"),
        (written_unlocked, "pixels written without a lock before the prediction"),
        (locked, "pixel buffer locked at the prediction"),
        (locked_meanwhile, "pixel buffer locked in a prediction"),
        (base_without_lock, "base address without a lock"),
    ],
)
def test_every_rule_that_is_broken_is_noticed(
    world: World, tmp_path: Path, breaks: Callable[[Caller], None], said: str
) -> None:
    caller = Caller(world, tmp_path)
    if breaks is one_state:
        caller.model = open_program(world, tmp_path, SUMS)._model
    breaks(caller)
    assert said in world.settle()


def test_what_the_rules_answer_with_an_error(world: World, tmp_path: Path) -> None:
    caller = Caller(world, tmp_path)
    with pytest.raises(ObjCError, match="cannot be nil"):
        caller.model.predictionFromFeatures_options_completionHandler_(
            caller.provider(), caller.options(), None
        )
    without_init = fake_pyobjc.MLPredictionOptions.alloc()
    caller.ask(caller.provider(), without_init)
    caller.ask(caller.provider(), caller.options(y=raw(kept((30,)))))
    caller.ask(caller.provider(x=raw(np.ones(SHAPE), kind=0x10040)), caller.options())
    caller.ask(caller.provider(), caller.options())
    wait(caller)
    texts = [error and error.localizedDescription() for _, error in caller.answers]
    assert texts[0] == "Failure in -completeOutputBackings:error:"  # coremltools#931
    assert texts[1:] == ["y is not allowed", "x is not allowed", None]
    assert [result is None for result, _ in caller.answers] == [True, True, True, False]
    with pytest.raises(TypeError):
        raw(caller.x, list(np.array(caller.x.strides) // 4))
    with pytest.raises((BufferError, TypeError, ValueError)):
        raw(np.ones((4, 4), np.float32)[:, ::2])
