"""`sdxs weights import`: pickles become safetensors; a hostile pickle does nothing and is named.

No torch here: files are written the way torch.save writes them; `experiments/parity/diffusers.py`
imports real ones.
"""

import collections
import io
import json
import os
import pickle
import pickletools
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
from safetensors import TensorSpec, safe_open, serialize_file
from safetensors.numpy import load_file

from command import Command
from sdxs.common.checkpoint import alone, torch_file, torch_pickle
from sdxs.common.checkpoint.alone import writing
from sdxs.common.checkpoint.find import open_checkpoint
from sdxs.common.checkpoint.manifest import read_manifest
from sdxs.common.checkpoint.tensors import sha256
from sdxs.common.checkpoint.torch_import import import_torch, target_of
from sdxs.common.errors import UsageError, WeightsError

STORAGE = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "uint16": "BFloat16Storage",
}
Tensors = dict[str, np.ndarray]


class Global:
    """Pickles as a bare name, whatever its module holds."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """Pickles as a name that is called."""

    def __init__(self, target: Global, *arguments: object) -> None:
        self.target, self.arguments = target, arguments


class Built:
    """Pickles as a value whose state is set."""

    def __init__(self, target: object, state: object) -> None:
        self.target, self.state = target, state


class Writer(pickle._Pickler):  # type: ignore[misc, name-defined]  # the Python one can be taught names that do not exist
    """Writes names and calls of modules that are not installed, and storages as torch does."""

    def save(self, value: object, save_persistent_id: bool = True) -> None:
        if isinstance(value, Global):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.target)
            self.save(value.arguments)
            self.write(b"R")
        elif isinstance(value, Built):
            self.save(value.target)
            self.save(value.state)
            self.write(b"b")
        elif isinstance(value, Stored):
            self.save(value.reference)
            self.write(b"Q")
        else:
            super().save(value, save_persistent_id)


class Stored:
    """A storage, which torch refers to from outside its pickle."""

    def __init__(self, key: str, dtype: str, count: int, *view: object) -> None:
        self.reference = ("storage", Global("torch", STORAGE[dtype]), key, "cpu", count, *view)


def pickled(value: object, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    Writer(buffer, protocol).dump(value)
    return buffer.getvalue()


def tensor(key: str, array: np.ndarray, *view: object, **changes: object) -> Call:
    strides = tuple(stride // array.itemsize for stride in array.strides)
    facts = {"offset": 0, "shape": array.shape, "strides": strides, "count": array.size} | changes
    storage = Stored(key, array.dtype.name, facts["count"], *view)  # type: ignore[arg-type]
    return Call(
        Global("torch._utils", "_rebuild_tensor_v2"),
        storage,
        facts["offset"],
        facts["shape"],
        facts["strides"],
        False,
        Call(Global("collections", "OrderedDict")),
    )


def write_zip(
    path: Path,
    value: object,
    arrays: dict[str, bytes],
    protocol: int = 2,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(value, protocol))
        archive.writestr("archive/byteorder", "little")
        for key, content in arrays.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: Path, tensors: Tensors) -> Path:
    """torch.save before 1.6, or with _use_new_zipfile_serialization=False."""
    keys = [str(i) for i in range(len(tensors))]
    parts = [
        0x1950A86A20F9469CFC6C,
        1001,
        {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}},
        {
            name: tensor(key, array, None)
            for key, (name, array) in zip(keys, tensors.items(), strict=True)
        },
        keys,
    ]
    storages = b"".join(
        struct.pack("<q", array.size) + array.tobytes() for array in tensors.values()
    )
    path.write_bytes(b"".join(map(pickled, parts)) + storages)
    return path


def write_torch(path: Path, tensors: Tensors) -> Path:
    """torch.save today."""
    path.parent.mkdir(exist_ok=True)
    state = {name: tensor(str(i), array) for i, (name, array) in enumerate(tensors.items())}
    return write_zip(
        path, state, {str(i): array.tobytes() for i, array in enumerate(tensors.values())}
    )


def draw() -> Tensors:
    generator = np.random.Generator(np.random.PCG64(1))
    return {
        "conv.weight": generator.standard_normal((4, 3, 3, 3), dtype=np.float32),
        "conv.bias": generator.standard_normal(4).astype(np.float16),
        "steps": np.arange(5),
        "none": np.zeros((0, 3), np.float32),
        "scalar": np.array(7.0, np.float32),
    }


def run(source: Path) -> Tensors:
    done = import_torch(source, target_of(source), source.parent / "manifest.json")
    return load_file(done.path)


@pytest.mark.parametrize("write", [write_torch, write_legacy])
def test_tensors_come_over_bit_for_bit(
    write: Callable[[Path, Tensors], Path], tmp_path: Path
) -> None:
    expected = draw()
    found = run(write(tmp_path / "model.bin", expected))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_torch_may_be_told_to_use(protocol: int, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = run(
        write_zip(tmp_path / "m.pt", {"a": tensor("0", array)}, {"0": array.tobytes()}, protocol)
    )
    np.testing.assert_array_equal(found["a"], array)


def test_views_transposes_and_shared_storages_are_read_as_torch_means_them(tmp_path: Path) -> None:
    base = np.arange(12, dtype=np.float32)
    state = {
        "row": tensor("0", base, offset=4, shape=(4,), strides=(1,)),
        "turned": tensor("0", base, shape=(4, 3), strides=(1, 4)),
    }
    found = run(write_zip(tmp_path / "m.pt", state, {"0": base.tobytes()}))
    np.testing.assert_array_equal(found["row"], base[4:8])
    np.testing.assert_array_equal(found["turned"], base.reshape(3, 4).T)


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000], np.uint16)  # 1 and -2
    source = write_torch(tmp_path / "m.pt", {"a": bits})
    done = import_torch(source, target_of(source), tmp_path / "manifest.json")
    with safe_open(done.path, framework="numpy") as file:
        assert file.get_slice("a").get_dtype() == "BF16"
    assert done.path.read_bytes()[-4:] == bits.tobytes()


def test_a_state_dict_inside_a_training_checkpoint_is_taken_and_the_rest_named(
    tmp_path: Path,
) -> None:
    array = np.ones(3, np.float32)
    ordered = collections.OrderedDict(
        a=Call(Global("torch._utils", "_rebuild_parameter"), tensor("0", array), True, None)
    )
    source = write_zip(
        tmp_path / "m.ckpt", {"epoch": 3, "state_dict": ordered}, {"0": array.tobytes()}
    )
    done = import_torch(source, target_of(source), tmp_path / "manifest.json")
    assert done.ignored == ("epoch",) and done.tensors == 1


def test_both_hashes_are_recorded_and_verified(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint whose UNet is a pickle opens and verifies after the import."""
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path))
    weights = tiny_folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    source = write_torch(weights.with_suffix(".bin"), tensors)
    done = import_torch(source, target_of(source), tmp_path / "manifest.json")
    assert done.path == weights
    (record,) = read_manifest(tmp_path / "manifest.json").values()
    assert record.folder == tiny_folder.relative_to(tmp_path).as_posix()
    file = record.files["unet/diffusion_pytorch_model.safetensors"]
    assert (file.sha256, file.source_sha256) == (sha256(weights), sha256(source))
    open_checkpoint(tiny_folder).verify()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match="sha256 is"):
        open_checkpoint(tiny_folder).verify()


def test_the_tensors_lie_as_safetensors_itself_lays_them(tmp_path: Path) -> None:
    arrays = draw() | {"bits": np.array([1, 2], np.uint16), "a": np.ones(2, np.float32)}
    dtypes = {name: "bfloat16" if name == "bits" else a.dtype.name for name, a in arrays.items()}
    specs = {
        name: TensorSpec(
            dtype=dtypes[name], shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for name, a in arrays.items()
    }
    source = write_torch(tmp_path / "m.bin", arrays)
    metadata = {"format": "pt", "source_sha256": sha256(source)}
    serialize_file(specs, tmp_path / "expected.safetensors", metadata)
    import_torch(source, target_of(source), tmp_path / "manifest.json")

    def parts(path: Path) -> tuple[dict[str, object], list[str], bytes]:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        return header, [name for name in header if name != "__metadata__"], content[8 + length :]

    assert parts(tmp_path / "m.safetensors") == parts(tmp_path / "expected.safetensors")


def test_many_views_of_one_storage_take_its_memory_once(tmp_path: Path) -> None:
    """500 views of 32 MB once asked for 16 GB."""
    base = np.arange(1 << 20, dtype=np.float32)
    state = {
        f"v{i}": tensor("0", base, offset=i, shape=(1000,), strides=(1000 if i else 0,))
        for i in range(200)
    }
    source = write_zip(tmp_path / "m.pt", state, {"0": base.tobytes()})
    tracemalloc.start()
    try:
        found = import_torch(source, target_of(source), tmp_path / "manifest.json")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.tensors == 200 and peak < 3 * source.stat().st_size
    tensors = load_file(found.path)
    np.testing.assert_array_equal(tensors["v0"], np.zeros(1000))
    np.testing.assert_array_equal(tensors["v7"], np.arange(7, 1_000_000, 1000))


def test_a_second_import_waits_and_finds_the_work_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: Queue[str] = Queue()
    monkeypatch.setattr(alone.warnings, "warn", lambda text, *_, **__: said.put(text))
    source, manifest = write_torch(tmp_path / "a" / "m.bin", draw()), tmp_path / "manifest.json"
    other = write_torch(tmp_path / "a" / "other.bin", {"a": ARRAY})
    target = target_of(source)
    first = import_torch(source, target, manifest)
    record, content, times = manifest.read_bytes(), target.read_bytes(), target.stat().st_mtime_ns
    for wanted in (source, other):
        target.unlink()
        manifest.unlink()
        with ThreadPoolExecutor(1) as second:
            with writing(target.parent, manifest):
                done = second.submit(import_torch, wanted, target, manifest)
                assert "another process writes" in said.get(timeout=30)
                manifest.write_bytes(record)  # what the first one does meanwhile
                target.write_bytes(content)
                os.utime(target, ns=(times, times))
            if wanted == source:
                assert done.result(timeout=30) == first
                assert target.stat().st_mtime_ns == times  # it was not written again
            else:
                with pytest.raises(UsageError, match="exists already"):
                    done.result(timeout=30)
    assert said.empty()


def test_an_imported_file_is_checked_as_it_lies_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_torch(tmp_path / "m.bin", draw())
    replace = Path.replace

    def meanwhile(self: Path, target: Path) -> Path:
        if target.suffix == ".safetensors":
            self.write_bytes(self.read_bytes() * 2)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", meanwhile)
    with pytest.raises(WeightsError, match="is not what was written"):
        import_torch(source, target_of(source), tmp_path / "manifest.json")
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("name", ["__metadata__", "\udcff"])
def test_a_name_that_safetensors_cannot_hold_is_refused(name: str, tmp_path: Path) -> None:
    source = write_zip(tmp_path / "m.pt", {name: tensor("0", ARRAY)}, {"0": ARRAY.tobytes()})
    with pytest.raises(WeightsError, match="is no name that safetensors can hold"):
        import_torch(source, target_of(source), tmp_path / "manifest.json")
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def patched(content: bytes, offset: int, value: bytes) -> bytes:
    """Change a field of every entry, in the zip's two lists. offset: in the local one."""
    made = bytearray(content)
    for mark, start in ((LOCAL, offset), (CENTRAL, offset + 2)):
        place = made.find(mark)
        while place >= 0:
            made[place + start : place + start + len(value)] = value
            place = made.find(mark, place + 4)
    return bytes(made)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: patched(content, 6, b"\x01\x00"),
        lambda content: patched(content, 6, b"\x41\x20"),
        lambda content: patched(content, 6, b"\xff\xff"),
        lambda content: patched(content, 4, b"\x63\x00"),
        lambda content: patched(content, 6, b"\x00\x08").replace(b"data.pkl", b"dat\xff.pkl"),
        lambda content: content.replace(b"archive/data/0", b"archive/\xff\xfe\x00\n/0"),
        lambda content: patched(content, 18, b"\xff" * 8),
        lambda content: patched(content, 26, b"\xff\xff"),
        lambda content: content.replace(b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 16),
    ],
    ids=[
        "encrypted",
        "strongly encrypted",
        "all flags",
        "version 99",
        "a name that is not UTF-8",
        "a name with a line break",
        "sizes of 4 GB",
        "long names",
        "an end beyond the end",
    ],
)
def test_a_strange_zip_is_refused_in_one_line(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    source = write_torch(tmp_path / "m.bin", draw())
    source.write_bytes(damage(source.read_bytes()))
    with pytest.raises(WeightsError) as caught:
        import_torch(source, target_of(source), tmp_path / "manifest.json")
    assert str(source) in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((0, 1 << 47, 1 << 47), (1, 1, 1)),
        ((1 << 47, 0), (1 << 47, 1 << 47)),
        ((1 << 47,) * 8, (0,) * 8),
        ((0,) * 8, (1 << 47,) * 8),
        ((1 << 40,), (0,)),
    ],
)
def test_an_absurd_shape_is_imported_or_refused_in_one_line(
    shape: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path
) -> None:
    state = {"a": tensor("0", ARRAY, shape=shape, strides=strides)}
    source = write_zip(tmp_path / "m.pt", state, {"0": ARRAY.tobytes()})
    try:
        done = import_torch(source, target_of(source), tmp_path / "manifest.json")
    except WeightsError as error:
        assert str(tmp_path / "m") in str(error) and "\n" not in str(error)
        assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]
    else:
        assert 0 in shape and done.tensors == 1


def test_a_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    source = write_torch(tmp_path / "m.bin", draw())
    for target in ("absent/m.safetensors", f"{'x' * 300}.safetensors"):
        with pytest.raises(WeightsError, match=r"cannot be written \(.*--to") as caught:
            import_torch(source, tmp_path / target, tmp_path / "manifest.json")
        assert "\n" not in str(caught.value)


def test_other_users_may_read_an_imported_file(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run(write_torch(tmp_path / "m.bin", draw()))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m.safetensors").stat().st_mode) == 0o644


def test_a_text_encoder_gets_the_name_its_layout_asks_for() -> None:
    assert target_of(Path("text_encoder/pytorch_model.bin")) == Path(
        "text_encoder/model.safetensors"
    )


# Hostile files. Each is offered as the whole pickle of an otherwise sound zip.

MARK = "the mark that must not appear"
ARRAY = np.ones(4, np.float32)


def _raw(code: bytes) -> bytes:
    return b"\x80\x02" + code + b"."


HOSTILE: dict[str, tuple[object, str]] = {
    "writes a file": (Call(Global("builtins", "open"), MARK, "w"), "asks for 'builtins.open'"),
    "runs a shell": (Call(Global("os", "system"), f"touch '{MARK}'"), "asks for 'os.system'"),
    "runs a shell, posix": (
        Call(Global("posix", "system"), f"touch '{MARK}'"),
        "asks for 'posix.system'",
    ),
    "starts a process": (
        Call(Global("subprocess", "Popen"), ("touch", MARK)),
        "asks for 'subprocess.Popen'",
    ),
    "evaluates": (
        Call(Global("builtins", "eval"), f"open('{MARK}', 'w')"),
        "asks for 'builtins.eval'",
    ),
    "executes": (
        Call(Global("builtins", "exec"), f"open('{MARK}', 'w')"),
        "asks for 'builtins.exec'",
    ),
    "imports": (
        Call(Global("importlib", "import_module"), "antigravity"),
        "asks for 'importlib.import_module'",
    ),
    "reaches for attributes": (
        Call(Global("builtins", "getattr"), Global("torch", "FloatStorage"), "__class__"),
        "asks for 'builtins.getattr'",
    ),
    "reaches through a dotted name": (
        Global("torch._utils", "_rebuild_tensor_v2.__globals__"),
        "_rebuild_tensor_v2.__globals__",
    ),
    "loads another pickle": (Call(Global("torch", "load"), MARK), "asks for 'torch.load'"),
    "loads another library": (
        Call(Global("torch.ops", "load_library"), MARK),
        "asks for 'torch.ops.load_library'",
    ),
    "calls a storage class": (
        Call(Global("torch", "FloatStorage"), 10**9),
        "calls the name torch.FloatStorage",
    ),
    "calls a dictionary": (_raw(b"})R"), "calls a dict"),
    "sets state of a name": (
        _raw(b"ctorch\nFloatStorage\n}b"),
        "sets the state of the name torch.FloatStorage",
    ),
    "instance by INST": (_raw(b"(S'" + MARK.encode() + b"'\nios\nsystem\n"), "opcode INST"),
    "instance by OBJ": (_raw(b"(ctorch\nFloatStorage\no"), "opcode OBJ"),
    "instance by NEWOBJ": (_raw(b"ctorch\nFloatStorage\n)\x81"), "opcode NEWOBJ"),
    "extension registry": (_raw(b"\x82\x01"), "opcode EXT1"),
    "persistent id that is a path": (
        _raw(b"X\x0b\x00\x00\x00/etc/passwdQ"),
        "no storage of scalars",
    ),
    "persistent id as text": (_raw(b"P/etc/passwd\n"), "opcode PERSID"),
    "stack global": (_raw(b"\x8c\x02os\x8c\x06system\x93"), "asks for 'os.system'"),
    "buffer outside": (_raw(b"\x97"), "opcode NEXT_BUFFER"),
    "no end": (b"\x80\x02}", "makes no sense"),
    "empty stack": (_raw(b"0"), "makes no sense"),
    "memo that is not there": (_raw(b"h\x07"), "makes no sense"),
    "a list": ([1, 2, 3], "holds a list"),
    "a string among tensors": (
        {"a": tensor("0", ARRAY), "b": "text"},
        "'b' is a str, not a tensor",
    ),
    "a name among tensors": (
        {"a": Global("torch", "FloatStorage")},
        "'a' is the name torch.FloatStorage",
    ),
    "key that is a tuple": ({("a",): tensor("0", ARRAY)}, "a key that is a tuple"),
    "reads past its storage": (
        {"a": tensor("0", ARRAY, shape=(5,))},
        "reaches to scalar 4 of a storage with 4",
    ),
    "reads before its storage": (
        {"a": tensor("0", ARRAY, offset=-1)},
        "no storage, size and stride",
    ),
    "negative stride": ({"a": tensor("0", ARRAY, strides=(-1,))}, "no storage, size and stride"),
    "a terabyte by stride 0": (
        {"a": tensor("0", ARRAY, shape=(1 << 40,), strides=(0,))},
        "its tensors claim",
    ),
    "storage that is not there": ({"a": tensor("../../0", ARRAY)}, "is not in the zip"),
    "storage of another size": ({"a": tensor("0", ARRAY, count=400)}, "storage '0' has 16 bytes"),
    "one storage as two": (
        {"a": tensor("0", ARRAY), "b": tensor("0", ARRAY.astype(np.float16))},
        "described in two ways",
    ),
    "sizes without strides": ({"a": tensor("0", ARRAY, strides=())}, "1 sizes and 0 strides"),
    "a key whose hash takes years": (
        _raw(b"}(X\x01\x00\x00\x00a" + b"q\x00h\x00\x86" * 60 + b"K\x01u"),
        "a key that is a tuple",
    ),
    "a key whose hash overflows the stack": (
        _raw(b"})" + b"\x85" * 300_000 + b"K\x01s"),
        "a key that is a tuple",
    ),
    "a key of more digits than Python prints": (
        _raw(b"}\x8b" + struct.pack("<i", 3000) + b"\x01" * 3000 + b"K\x01s"),
        "a key that is a int",
    ),
    "a storage of more scalars than Python prints": (
        {"a": tensor("0", ARRAY, count=1 << 20_000)},
        "no storage of scalars",
    ),
    "a memo index of 32 GB": (_raw(b"}r\xff\xff\xff\x7f"), "holds a dict"),
    "a frame of an exabyte": (
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
        "holds a dict",
    ),
    "a text of an exabyte": (_raw(b"\x8d" + struct.pack("<Q", 1 << 60)), "makes no sense"),
    "sets state of a tensor": (
        {"a": Built(tensor("0", ARRAY), {"offset": 1 << 40})},
        "sets the state of a StoredTensor",
    ),
    "sets items of a list": (_raw(b"](K\x00K\x01u"), "sets items of a list"),
    "appends to a dictionary": (_raw(b"}(K\x00K\x01e"), "makes no sense"),
    "calls with what is no tuple": (
        _raw(b"ccollections\nOrderedDict\n}R"),
        "no storage, size and stride",
    ),
    "a dictionary in itself": (_raw(b"}q\x00X\x01\x00\x00\x00ah\x00s"), "'a' is a dict"),
    "an odd number of items": (_raw(b"}(K\x00u"), "makes no sense"),
    "a mark where a value belongs": (_raw(b"}X\x01\x00\x00\x00a(s"), "makes no sense"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_does_nothing_and_is_named(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, named = HOSTILE[what]
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "model.bin"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("archive/data.pkl", value if isinstance(value, bytes) else pickled(value))
        archive.writestr("archive/data/0", ARRAY.tobytes())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError) as caught:
        import_torch(source, target_of(source), tmp_path / "manifest.json")
    message = str(caught.value)
    assert (
        message.startswith(f"{source}: not imported: ") and named in message and "\n" not in message
    )
    assert sorted(tmp_path.iterdir()) == before, "the pickle left something behind"


def test_a_pickle_of_more_opcodes_than_any_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MB of empty dictionaries take 4 GB of memory; a sound file stands for them."""
    source = write_torch(tmp_path / "model.bin", draw())
    with zipfile.ZipFile(source) as archive:
        codes = len(list(pickletools.genops(archive.read("archive/data.pkl"))))
    monkeypatch.setattr(torch_pickle, "MOST_OPCODES", codes - 1)
    with pytest.raises(WeightsError, match="its pickle is longer than that of any checkpoint"):
        import_torch(source, target_of(source), tmp_path / "manifest.json")
    monkeypatch.setattr(torch_pickle, "MOST_OPCODES", codes)
    assert run(source).keys() == draw().keys()


def test_a_pickle_of_more_bytes_than_any_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_torch(tmp_path / "model.bin", draw())
    monkeypatch.setattr(torch_file, "MOST_PICKLE_BYTES", 100)
    with pytest.raises(WeightsError, match="100 are the limit"):
        import_torch(source, target_of(source), tmp_path / "manifest.json")


def test_the_reader_knows_no_opcode_that_runs_anything() -> None:
    """Also where the walk before the reading is passed by: the list is that of the reader."""
    harmful = ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID")
    codes = {op.name: ord(op.code) for op in pickletools.opcodes}
    assert not {codes[name] for name in harmful} & torch_pickle.Reader.dispatch.keys()
    own = [torch_pickle.Reader.dispatch[codes[name]] for name in ("REDUCE", "BUILD", "SETITEMS")]
    assert all(function.__module__ == torch_pickle.__name__ for function in own)


def test_the_hostile_pickles_would_do_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own unpickler writes the file from these bytes: the refused danger is real."""
    monkeypatch.chdir(tmp_path)
    for what in ("writes a file", "runs a shell", "evaluates"):
        assert not (tmp_path / MARK).exists()
        result = pickle.loads(pickled(HOSTILE[what][0]))
        getattr(result, "close", lambda: None)()
        assert (tmp_path / MARK).exists(), what
        (tmp_path / MARK).unlink()


def test_a_hostile_legacy_file_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "model.bin"
    for content in (
        pickled(Call(Global("builtins", "open"), MARK, "w")),
        pickled(0x1950A86A20F9469CFC6C)
        + pickled(1001)
        + pickled({"little_endian": True})
        + pickled(Call(Global("os", "system"), f"touch '{MARK}'"))
        + pickled([]),
    ):
        source.write_bytes(content)
        with pytest.raises(WeightsError, match="asks for"):
            import_torch(source, target_of(source), tmp_path / "manifest.json")
        assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda content: content[: len(content) // 2],
            "neither of the formats|damaged or truncated|makes no sense",
        ),
        (lambda content: b"", "neither of the formats"),
        (lambda content: b"\x80\x02}.", "none that torch.save wrote"),
        (
            lambda content: content.replace(b"archive/byteorder", b"archive/byteOrder", 1),
            "damaged or truncated",
        ),
    ],
    ids=["half", "empty", "bare pickle", "zip entry renamed"],
)
def test_damage_is_told_in_one_line(
    damage: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    source = write_torch(tmp_path / "m.bin", draw())
    source.write_bytes(damage(source.read_bytes()))
    with pytest.raises(WeightsError, match=said) as caught:
        import_torch(source, target_of(source), tmp_path / "manifest.json")
    assert "\n" not in str(caught.value)
    assert not target_of(source).exists()


def test_a_truncated_legacy_file_is_damage(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "m.bin", {"a": np.ones(400, np.float32)})
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="ends after 1,500 of 1,600 bytes"):
        import_torch(source, target_of(source), tmp_path / "manifest.json")


def test_a_compressed_zip_is_refused(tmp_path: Path) -> None:
    """A zip bomb: 100 KB that unpack to 100 MB."""
    array = np.zeros(25_000_000, np.float32)
    source = write_zip(
        tmp_path / "m.bin",
        {"a": tensor("0", array)},
        {"0": array.tobytes()},
        2,
        zipfile.ZIP_DEFLATED,
    )
    with pytest.raises(WeightsError, match="is compressed"):
        import_torch(source, target_of(source), tmp_path / "manifest.json")


def test_command_imports_and_says_both_hashes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    source = write_torch(tmp_path / "m.bin", draw())
    done = command("weights", "import", source)
    assert done.code == 0, done.err
    assert sha256(source) in done.out and sha256(tmp_path / "m.safetensors") in done.out
    stored = json.loads((tmp_path / "weights" / "manifest.json").read_text())
    assert stored["checkpoints"][0]["files"]["m.safetensors"]["source_sha256"] == sha256(source)
    again = command("weights", "import", source)
    assert again.code == 2 and "--force" in again.err
    assert command("weights", "import", source, "--force").code == 0
    missing = command("weights", "import", tmp_path / "absent.bin")
    assert missing.code == 2 and "there is no such file" in missing.err


def test_the_test_writes_what_it_says() -> None:
    codes = {opcode.name for opcode, _, _ in pickletools.genops(pickled({"a": tensor("0", ARRAY)}))}
    assert {"GLOBAL", "REDUCE", "BINPERSID", "STOP"} <= codes
