"""PyObjC's objc, Foundation, CoreML and Quartz, as strict as Apple's headers and their metadata.

What the real ones punish with a crash, a wrong picture or not at all is noted in `World.broken`:
memory that was freed or changed while Core ML held it, buffers in two predictions at once, a pixel
buffer that is locked or was written without a lock, a call outside of an autorelease pool.
Containers, numbers and strings of Python that Core ML would keep are noted, too: its threads would
wait for Python's lock to read them. Errors come back as the second value of a pair, as PyObjC
returns an NSError's out-parameter. Results are written, and completion handlers called, by a queue
of the fake's own, never by the caller's thread.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest

from sdxs.common.errors import PictureError
from sdxs.coreml_backend.interpreter.interpreter import Interpreter

DTYPES = {0x10040: "float64", 0x10020: "float32", 0x10010: "float16", 0x20020: "int32"}
IMAGE, MULTI_ARRAY = 4, 5
COMPILED = "model.mil"
BGRA = int.from_bytes(b"BGRA", "big")


class ObjCError(Exception):
    """objc.error: an Objective-C exception."""


@dataclass
class NSError:
    text: str

    def localizedDescription(self) -> str:
        return self.text


@dataclass(frozen=True)
class Feature:
    """A feature of a program. image: shape is (H, W, 3)."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    image: bool = False


@dataclass
class Program:
    """What a compiled folder does: `function` of arrays by name, and of the states' arrays."""

    inputs: Mapping[str, Feature]
    outputs: Mapping[str, Feature]
    function: Callable[..., Mapping[str, np.ndarray]]
    states: Mapping[str, Feature] = field(default_factory=dict)


@dataclass
class World:
    """What Core ML does next, and what its callers did wrong.

    ignores_backings: results come in other memory. pads: the rows of such results have a stride of
    16 elements. fails: predictions end with an NSError. raises: they raise. hangs: handlers wait
    for `release`. programs: by the name of the compiled folder; others run on the interpreter.
    """

    broken: list[str] = field(default_factory=list)
    ignores_backings: bool = False
    pads: bool = False
    fails: bool = False
    raises: bool = False
    hangs: bool = False
    copies: bool = False
    programs: dict[str, Program] = field(default_factory=dict)
    made: list["MLModel"] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)
    handled_by: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pools = threading.local()
        self.in_flight: Counter[int] = Counter()
        self.held: list[Callable[[], None]] = []
        self.go = threading.Event()
        self.queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while (work := self.queue.get()) is not None:
            work()

    def release(self) -> None:
        """Let predictions that hang end."""
        self.go.set()

    def settle(self) -> list[str]:
        """Wait for the queue and drop what Core ML still holds; return `broken`."""
        self.go.set()
        done = threading.Event()
        self.queue.put(done.set)
        assert done.wait(60)
        while self.held:
            self.held.pop()()
        return self.broken

    def check_pool(self, what: str) -> None:
        if not getattr(self.pools, "depth", 0):
            self.broken.append(f"{what} outside of an autorelease pool")


WORLD = World()


class NSObject:
    """alloc and init, each once."""

    ready = False

    @classmethod
    def alloc(cls) -> Any:
        return cls.__new__(cls)

    def init(self) -> Any:
        self.ready = True
        return self


class Varlist:
    """objc.varlist of void: bytes from an address, of which the caller says how many."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory

    def as_buffer(self, count: int) -> memoryview:
        assert count <= self._memory.nbytes, "read beyond the end"
        return memoryview(self._memory.reshape(-1).view(np.uint8))[:count]


def _bytes_of(owner: np.ndarray) -> np.ndarray:
    return owner.reshape(-1).view(np.uint8)


class NSNumber(int):
    @staticmethod
    def numberWithLongLong_(number: int) -> "NSNumber":
        assert type(number) is int
        return NSNumber(number)


class NSString(str):
    @staticmethod
    def stringWithUTF8String_(text: bytes) -> "NSString":
        return NSString(text.decode())


class NSMutableArray(list[NSNumber]):
    @staticmethod
    def array() -> "NSMutableArray":
        return NSMutableArray()

    def addObject_(self, item: NSNumber) -> None:
        self.append(item)


class NSMutableDictionary(dict[NSString, Any]):
    @staticmethod
    def dictionary() -> "NSMutableDictionary":
        return NSMutableDictionary()

    def setObject_forKey_(self, value: Any, key: NSString) -> None:
        self[key] = value


def check_native(*values: object) -> None:
    """Note what is Python's within Core ML."""
    for value in values:
        if isinstance(value, dict | list):
            check_native(*value)
        if not isinstance(value, NSNumber | NSString | NSMutableArray | NSMutableDictionary):
            WORLD.broken.append(f"a {type(value).__name__} of Python within Core ML")


class MLMultiArray(NSObject):
    """Memory of the caller's, of which only the address is known."""

    def initWithDataPointer_shape_dataType_strides_deallocator_error_(
        self,
        pointer: Any,
        shape: list[int],
        data_type: int,
        strides: list[int],
        deallocator: Callable[[Any], None] | None,
        error: None,
    ) -> tuple[Any, NSError | None]:
        assert error is None, "an out-parameter is given None"
        memoryview(pointer).cast("B")  # PyObjC takes contiguous buffers only
        if any(isinstance(each, np.generic) for each in (*shape, *strides)):
            raise TypeError("no NSNumber")
        check_native(shape, strides)
        assert type(data_type) is int
        if data_type not in DTYPES or len(shape) != len(strides):
            return None, NSError("the array's description is invalid")
        self.dtype = np.dtype(DTYPES[data_type])
        self._shape, self._strides = tuple(shape), tuple(strides)
        span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if span * self.dtype.itemsize > pointer.nbytes:
            WORLD.broken.append("strides that reach beyond the memory")
            return None, NSError("strides")
        self._memory: Callable[[], np.ndarray | None] = ref(pointer)
        self.address: int = pointer.ctypes.data
        self._deallocator = deallocator
        self.ready = True
        return self, None

    @classmethod
    def of_core_ml(cls, value: np.ndarray) -> "MLMultiArray":
        """Make one that holds its own memory, as Core ML does, padded if the world says so."""
        made = cls.alloc()
        padded = (*value.shape[:-1], -(-value.shape[-1] // 16) * 16) if WORLD.pads else value.shape
        room = np.full(padded, np.nan, value.dtype)
        room[..., : value.shape[-1]] = value
        made.dtype, made._shape = value.dtype, value.shape
        made._strides = tuple(step // value.itemsize for step in room.strides)
        made._memory, made.address, made._deallocator = (lambda: room), room.ctypes.data, None
        made.ready = True
        return made

    def shape(self) -> tuple[int, ...]:
        return self._shape

    def strides(self) -> tuple[int, ...]:
        return self._strides

    def dataType(self) -> int:
        return next(kind for kind, name in DTYPES.items() if name == self.dtype.name)

    def dataPointer(self) -> Varlist:
        memory = self._memory()
        assert memory is not None
        return Varlist(memory.copy() if WORLD.copies else memory)

    def view(self, why: str) -> np.ndarray | None:
        """Return the memory, None and a note if it was freed."""
        memory = self._memory()
        if memory is None:
            WORLD.broken.append(f"memory freed before {why}")
            return None
        steps = tuple(step * self.dtype.itemsize for step in self._strides)
        return np.ndarray(self._shape, self.dtype, memoryview(_bytes_of(memory)), strides=steps)

    def let_go(self) -> None:
        self.view("Core ML let go of it")
        if self._deallocator is not None:
            self._deallocator(self.address)


class CVPixelBuffer:
    """Pixels, BGRA. written: what they were when they were last unlocked."""

    def __init__(self, memory: np.ndarray, height: int, width: int, row: int) -> None:
        self.height, self.width, self.row, self.locks = height, width, row, 0
        self._memory = memory  # PyObjC holds the buffer until the release callback
        self.written = self.pixels().copy()
        self.address = memory.ctypes.data

    def pixels(self) -> np.ndarray:
        return np.ndarray(
            (self.height, self.width, 4),
            np.uint8,
            memoryview(_bytes_of(self._memory)),
            strides=(self.row, 4, 1),
        )

    def view(self, why: str) -> np.ndarray | None:
        if self.locks:
            WORLD.broken.append(f"pixel buffer locked at {why}")
        if not np.array_equal(self.pixels(), self.written):
            WORLD.broken.append(f"pixels written without a lock before {why}")
        return self.pixels()[..., 2::-1]

    def let_go(self) -> None:
        pass  # Core ML may hold what nobody locks


def create_with_bytes(
    allocator: None,
    width: int,
    height: int,
    pixel_format: int,
    memory: np.ndarray,
    row: int,
    callback: None,
    info: None,
    attributes: None,
) -> tuple[int, CVPixelBuffer] | None:
    memoryview(memory).cast("B")
    if pixel_format != BGRA or row < 4 * width or row * height > memory.nbytes:
        return None
    return 0, CVPixelBuffer(memory, height, width, row)


def lock(buffer: CVPixelBuffer, flags: int) -> int:
    if WORLD.in_flight[buffer.address]:
        WORLD.broken.append("pixel buffer locked in a prediction")
    buffer.locks += 1
    return 0


def unlock(buffer: CVPixelBuffer, flags: int) -> int:
    if buffer.locks == 0:
        return -6661  # kCVReturnInvalidArgument
    buffer.locks -= 1
    if not flags:
        buffer.written = buffer.pixels().copy()
    return 0


def base_address(buffer: CVPixelBuffer) -> Varlist:
    if not buffer.locks:
        WORLD.broken.append("base address without a lock")
    return Varlist(buffer._memory)


class MLFeatureValue:
    def __init__(self, value: MLMultiArray | CVPixelBuffer) -> None:
        self.value = value

    @staticmethod
    def featureValueWithMultiArray_(array: MLMultiArray) -> "MLFeatureValue":
        assert isinstance(array, MLMultiArray) and array.ready
        return MLFeatureValue(array)

    @staticmethod
    def featureValueWithPixelBuffer_(buffer: CVPixelBuffer) -> "MLFeatureValue":
        assert isinstance(buffer, CVPixelBuffer)
        return MLFeatureValue(buffer)

    def multiArrayValue(self) -> MLMultiArray | None:
        return self.value if isinstance(self.value, MLMultiArray) else None

    def imageBufferValue(self) -> CVPixelBuffer | None:
        return self.value if isinstance(self.value, CVPixelBuffer) else None


class MLDictionaryFeatureProvider(NSObject):
    def initWithDictionary_error_(
        self, values: dict[str, MLFeatureValue], error: None
    ) -> tuple[Any, NSError | None]:
        assert error is None
        check_native(values)
        if not all(isinstance(each, MLFeatureValue) for each in values.values()):
            return None, NSError("not a feature value")
        self.values = dict(values)
        return self, None

    def featureValueForName_(self, name: str) -> MLFeatureValue | None:
        return self.values.get(name)


class MLPredictionOptions(NSObject):
    def __init__(self) -> None:
        raise ObjCError("use alloc().init()")

    def init(self) -> Any:
        self.backings: dict[str, Any] = {}
        return super().init()

    def setOutputBackings_(self, backings: dict[str, Any]) -> None:
        check_native(backings)
        self.backings = dict(backings)  # the property copies


class MLModelConfiguration(NSObject):
    def init(self) -> Any:
        self.units, self.function = 2, None
        return super().init()

    def setComputeUnits_(self, units: int) -> None:
        assert type(units) is int and units in range(4)
        self.units = units

    def setFunctionName_(self, name: str) -> None:
        check_native(name)
        self.function = name  # type: ignore[assignment]


class NSURL:
    def __init__(self, path: str) -> None:
        self._path = path

    @staticmethod
    def fileURLWithPath_(path: str) -> "NSURL":
        assert type(path) is str
        return NSURL(path)

    def path(self) -> str:
        return self._path


class Description:
    """MLFeatureDescription."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature

    def type(self) -> int:
        return IMAGE if self._feature.image else MULTI_ARRAY

    def imageConstraint(self) -> Any:
        height, width, _ = self._feature.shape
        return SimpleNamespace(pixelsHigh=lambda: height, pixelsWide=lambda: width)


def allowed(feature: Feature, value: Any) -> bool:
    """isAllowedValue: of a description."""
    if feature.image:
        return isinstance(value, CVPixelBuffer) and (value.height, value.width) == feature.shape[:2]
    return (
        isinstance(value, MLMultiArray)
        and value.shape() == feature.shape
        and value.dtype.name == feature.dtype
    )


class MLState:
    def __init__(self, model: "MLModel") -> None:
        self.model, self.busy = model, False
        features = model.program.states.items()
        self.arrays = {name: np.zeros(each.shape, each.dtype) for name, each in features}


class MLModel:
    def __init__(self, path: Path, configuration: MLModelConfiguration) -> None:
        self.program = WORLD.programs.get(path.name) or _interpreted(path, configuration.function)
        self.units, self.function = configuration.units, configuration.function

    @staticmethod
    def modelWithContentsOfURL_configuration_error_(
        url: NSURL, configuration: MLModelConfiguration, error: None
    ) -> tuple[Any, NSError | None]:
        assert error is None and configuration.ready
        path = Path(url.path())
        if not path.name.endswith(".mlmodelc") or not (path / COMPILED).is_file():
            return None, NSError(f"{path.name} is not a compiled model")
        try:
            made = MLModel(path, configuration)
        except Exception as trouble:
            return None, NSError(str(trouble))
        WORLD.made.append(made)
        return made, None

    @staticmethod
    def compileModelAtURL_error_(url: NSURL, error: None) -> tuple[Any, NSError | None]:
        assert error is None
        package = Path(url.path())
        if not (package / "Manifest.json").is_file():
            return None, NSError("no manifest")
        made = package.parent / f".made-{len(WORLD.compiled)}-{package.stem}.mlmodelc"
        made.mkdir()
        (made / COMPILED).write_text("program")
        WORLD.compiled.append(package.stem)
        return NSURL(str(made)), None

    def modelDescription(self) -> Any:
        inputs = {name: Description(each) for name, each in self.program.inputs.items()}
        outputs = {name: Description(each) for name, each in self.program.outputs.items()}
        return SimpleNamespace(
            inputDescriptionsByName=lambda: inputs, outputDescriptionsByName=lambda: outputs
        )

    def newState(self) -> MLState:
        return MLState(self)

    def predictionFromFeatures_options_completionHandler_(
        self, provider: MLDictionaryFeatureProvider, options: MLPredictionOptions, handler: Any
    ) -> None:
        if handler is None:
            raise ObjCError("The completion handler cannot be nil.")
        if WORLD.raises:
            raise ObjCError("NSInvalidArgumentException")
        run = self._begin(provider, options)
        caller = threading.get_ident()

        def work() -> None:
            if WORLD.hangs:
                WORLD.go.wait(60)
            result, error = run(None)
            assert threading.get_ident() != caller
            WORLD.handled_by.add(threading.get_ident())
            try:
                handler(result, error)
            except BaseException as trouble:
                WORLD.broken.append(f"a completion handler raised {type(trouble).__name__}")

        WORLD.queue.put(work)

    def predictionFromFeatures_usingState_options_error_(
        self,
        provider: MLDictionaryFeatureProvider,
        state: MLState,
        options: MLPredictionOptions,
        error: None,
    ) -> tuple[Any, NSError | None]:
        assert error is None
        if state.model is not self:
            return None, NSError("the state is another model's")
        if state.busy:
            WORLD.broken.append("two predictions with one state")
        state.busy = True
        run = self._begin(provider, options)
        if WORLD.hangs:
            WORLD.go.wait(60)
        result = run(state)
        state.busy = False
        return result

    def _begin(
        self, provider: MLDictionaryFeatureProvider, options: MLPredictionOptions
    ) -> Callable[[MLState | None], tuple[Any, NSError | None]]:
        """Take hold of all memory, and return what the queue does with it."""
        WORLD.check_pool("prediction")
        given = {name: each.value for name, each in provider.values.items()}
        backings = {} if not options.ready else options.backings
        read = {each.address for each in given.values()}
        written = [each.address for each in backings.values()]
        if read & set(written) or len(set(written)) < len(written):
            WORLD.broken.append("memory twice in one prediction")
        if any(WORLD.in_flight[each] for each in (*read, *written)):
            WORLD.broken.append("memory in two predictions at once")
        for name in backings.keys() - self.program.outputs.keys():
            WORLD.broken.append(f"a backing for {name!r}, which is no output")
        WORLD.in_flight.update((*read, *written))
        before = {name: np.array(each.view("the prediction")) for name, each in given.items()}

        def run(state: MLState | None) -> tuple[Any, NSError | None]:
            try:
                if not options.ready:
                    return None, NSError("Failure in -completeOutputBackings:error:")
                return self._run(given, before, backings, state)
            finally:
                WORLD.in_flight.subtract((*read, *written))
                WORLD.held.extend(each.let_go for each in (*given.values(), *backings.values()))

        return run

    def _run(
        self,
        given: Mapping[str, Any],
        before: Mapping[str, np.ndarray],
        backings: Mapping[str, Any],
        state: MLState | None,
    ) -> tuple[Any, NSError | None]:
        wrong = [n for n, each in self.program.inputs.items() if not allowed(each, given.get(n))]
        outputs = self.program.outputs
        wrong += [n for n in backings if n in outputs and not allowed(outputs[n], backings[n])]
        if wrong or WORLD.fails:
            return None, NSError(f"{', '.join(wrong) or 'it'} is not allowed")
        values = {name: each.view("it was read") for name, each in given.items()}
        for name, value in values.items():
            if value is None or not np.array_equal(value, before[name], equal_nan=True):
                WORLD.broken.append(f"{name} changed in a prediction")
                return None, NSError("input")
        arguments = (values,) if not self.program.states else (values, state and state.arrays)
        try:
            made = self.program.function(*arguments)
        except PictureError:  # the interpreter's; Core ML goes on, and nothing is a number
            made = {
                name: np.full(each.shape, 0 if each.image else np.nan, each.dtype)
                for name, each in outputs.items()
            }
        except Exception as trouble:
            return None, NSError(str(trouble))
        return self._give(made, backings), None

    def _give(
        self, made: Mapping[str, np.ndarray], backings: Mapping[str, Any]
    ) -> MLDictionaryFeatureProvider:
        result = MLDictionaryFeatureProvider.alloc()
        result.values = {}
        for name, feature in self.program.outputs.items():
            backing = None if WORLD.ignores_backings else backings.get(name)
            if backing is None:
                backing = (
                    _image(made[name]) if feature.image else MLMultiArray.of_core_ml(made[name])
                )
            elif isinstance(backing, CVPixelBuffer):
                backing.view("it was written")[...] = made[name]
                backing.written = backing.pixels().copy()
            elif (room := backing.view("it was written")) is not None:
                room[...] = made[name]
            result.values[name] = MLFeatureValue(backing)
        return result


def _image(picture: np.ndarray) -> CVPixelBuffer:
    """Make a pixel buffer of Core ML's own, whose rows are padded."""
    height, width, _ = picture.shape
    row = -(-4 * width // 64) * 64 + 64
    made = CVPixelBuffer(np.zeros((height, row), np.uint8), height, width, row)
    made.pixels()[..., 2::-1] = picture
    made.written = made.pixels().copy()
    return made


def _interpreted(path: Path, function: str | None) -> Program:
    model = Interpreter(path.with_suffix(".mlpackage"), function, round_float16=True)

    def features(given: Mapping[str, Any]) -> dict[str, Feature]:
        return {
            name: Feature(each.shape, each.dtype, each.image is not None)
            for name, each in given.items()
        }

    return Program(features(model.inputs), features(model.outputs), model.predict)


@contextmanager
def autorelease_pool() -> Iterator[None]:
    WORLD.pools.depth = getattr(WORLD.pools, "depth", 0) + 1
    try:
        yield
    finally:
        WORLD.pools.depth -= 1


def install(patch: pytest.MonkeyPatch) -> World:
    """Put the fake in the place of PyObjC's modules; return a new world."""
    global WORLD
    WORLD.queue.put(None)
    WORLD = World()

    def module(name: str, **values: object) -> None:
        made = ModuleType(name)
        for key, value in values.items():
            setattr(made, key, value)
        patch.setitem(sys.modules, name, made)

    module("objc", autorelease_pool=autorelease_pool, error=ObjCError)
    foundation = (NSURL, NSNumber, NSString, NSMutableArray, NSMutableDictionary)
    module("Foundation", **{each.__name__: each for each in foundation})
    classes = (
        MLMultiArray,
        MLFeatureValue,
        MLDictionaryFeatureProvider,
        MLPredictionOptions,
        MLModelConfiguration,
        MLModel,
    )
    module("CoreML", **{each.__name__: each for each in classes})
    module(
        "Quartz",
        CVPixelBufferCreateWithBytes=create_with_bytes,
        CVPixelBufferLockBaseAddress=lock,
        CVPixelBufferUnlockBaseAddress=unlock,
        CVPixelBufferGetBaseAddress=base_address,
        CVPixelBufferGetHeight=lambda buffer: buffer.height,
        CVPixelBufferGetWidth=lambda buffer: buffer.width,
        CVPixelBufferGetBytesPerRow=lambda buffer: buffer.row,
    )
    return WORLD
