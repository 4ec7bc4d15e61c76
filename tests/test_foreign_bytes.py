"""Every reader of foreign bytes, given anything: it reads them, or says so with an SdxsError.

Nothing else is raised, within `WITHIN_S` and in memory bounded by the file. The examples are the
same at every run.
"""

import io
import json
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import bench_samples
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.numpy import save

from sdxs.api.repeat import Places, _placed, _reason, _taken
from sdxs.api.still import stored_in
from sdxs.common.bench.model.compare import compare
from sdxs.common.bench.model.report import read_report
from sdxs.common.bench.show import html, table
from sdxs.common.checkpoint.config.controlnet import ControlNetConfig
from sdxs.common.checkpoint.config.fields import read_json
from sdxs.common.checkpoint.config.frame import FrameConfig
from sdxs.common.checkpoint.config.scheduler import SchedulerConfig
from sdxs.common.checkpoint.config.text_encoder import CLIPTextConfig
from sdxs.common.checkpoint.config.unet import UNetConfig
from sdxs.common.checkpoint.config.vae import read_vae_config
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.checkpoint.manifest import (
    SUMS,
    FileRecord,
    Record,
    read_manifest,
    remembered_sha256,
    verify_hashes,
    write_record,
)
from sdxs.common.checkpoint.tensors import read_header
from sdxs.common.checkpoint.torch_file import open_torch_file
from sdxs.common.errors import SdxsError
from sdxs.common.files import user_cache
from sdxs.common.picture.png_text import SIGNATURE, with_text
from sdxs.common.picture.record import KEYWORD
from sdxs.common.prompt.cache import EmbeddingCache
from sdxs.common.prompt.syntax import foreign_syntax, parse_prompt, read_prompts, split_place
from sdxs.common.prompt.tokenizer import ClipTokenizer

ROOT = Path(__file__).parent.parent
WITHIN_S = 2.0
SLACK_BYTES = 16 << 20  # of memory, besides what a file's size explains

# Every run the same, and few enough for a suite that runs at every commit.
settings.register_profile(
    "foreign",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
foreign = settings.get_profile("foreign")

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [-1, 0, 10**12, 10**400, 1e308, 1e-320, "", "\0", "\ud800", "a" * 300, "../..", "~x", "NaN"]
    )
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
DEEP = "[" * 100_000
ODD_TEXTS = ["", "[]", "null", "{", DEEP, DEEP + "]" * 100_000, '{"a":' * 50_000, "1" * 5000, "NaN"]


@contextmanager
def told(size: int = 0) -> Iterator[None]:
    """Let a reader read, or refuse with an SdxsError on one line; in time, in bounded memory."""
    began = time.process_time()  # the machine may be busy elsewhere
    tracemalloc.start()
    try:
        yield
    except SdxsError as error:
        assert str(error) and "\n" not in str(error)
        assert len(str(error)) < 3000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - began < WITHIN_S
    assert peak < SLACK_BYTES + 40 * size, f"{peak:,} bytes for a file of {size:,}"


def places(value: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return the place of everything within a value of JSON."""
    inner: list[tuple[object, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value[:3]))
    return [at, *(each for key, one in inner for each in places(one, (*at, key)))]


def replaced(value: object, at: tuple[object, ...], new: object) -> object:
    """Return a value of JSON with another one at a place; `...` leaves the place out."""
    if not at:
        return None if new is ... else new
    copy = dict(value) if isinstance(value, dict) else list(value)  # type: ignore[call-overload]
    if len(at) == 1 and new is ...:
        del copy[at[0]]
    else:
        copy[at[0]] = replaced(copy[at[0]], at[1:], new)
    return copy


def damaged_json(sound: object) -> st.SearchStrategy[str]:
    """Texts near a sound JSON: one place or two changed, cut off, or anything else."""
    changed = st.tuples(st.sampled_from(places(sound)), JSON | st.just(...)).map(
        lambda drawn: replaced(sound, *drawn)
    )
    texts = changed.map(json.dumps)
    cut = st.integers(0, 10**6).map(lambda n: json.dumps(sound)[: n % len(json.dumps(sound))])
    return texts | texts | texts | JSON.map(json.dumps) | cut | st.sampled_from(ODD_TEXTS)


def damaged_bytes(sound: bytes) -> st.SearchStrategy[bytes]:
    """Bytes near sound ones: some overwritten, cut off, repeated, or anything else."""
    place = st.integers(0, max(0, len(sound) - 1))

    def overwritten(drawn: list[tuple[int, bytes]]) -> bytes:
        made = bytearray(sound)
        for at, new in drawn:
            made[at : at + len(new)] = new
        return bytes(made)

    odd = st.binary(min_size=1, max_size=4) | st.sampled_from(
        [b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\x80\x02", b"PK\x03\x04"]
    )
    near = st.lists(st.tuples(place, odd), min_size=1, max_size=4).map(overwritten)
    cut = place.map(lambda n: sound[:n])
    return near | near | cut | cut.map(lambda b: b + sound) | st.binary(max_size=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples: one file is written over and over."""
    return tmp_path_factory.mktemp("foreign")


TENSORS = save({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float16)}, {"format": "pt"})


@given(stored=damaged_bytes(TENSORS))
@foreign
def test_safetensors(folder: Path, stored: bytes) -> None:
    path = folder / "a.safetensors"
    path.write_bytes(stored)
    with told(len(stored)):
        assert read_header(path).keys()


@given(
    header=damaged_json(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        }
    )
)
@foreign
def test_headers_of_safetensors(folder: Path, header: str) -> None:
    path = folder / "b.safetensors"
    text = header.encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))
    with told(len(text)):
        read_header(path)


CONFIGS: dict[str, tuple[Callable[[Path], object], Path]] = {
    "unet": (UNetConfig.read, ROOT / "weights/demo/unet/config.json"),
    "vae": (read_vae_config, ROOT / "weights/demo/vae/config.json"),
    "text encoder": (CLIPTextConfig.read, ROOT / "weights/demo/text_encoder/config.json"),
    "scheduler": (SchedulerConfig.read, ROOT / "weights/demo/scheduler/scheduler_config.json"),
    "frame": (lambda path: FrameConfig.read(path, 1000), ROOT / "weights/demo/sdxs.json"),
    "controlnet": (ControlNetConfig.read, ROOT / "weights/demo-sketch/controlnet/config.json"),
}


@pytest.mark.parametrize("kind", CONFIGS)
@given(data=st.data())
@settings(foreign, max_examples=40)
def test_configs(kind: str, folder: Path, data: st.DataObject) -> None:
    read, sound = CONFIGS[kind]
    path = folder / "config.json"
    text = data.draw(damaged_json(json.loads(sound.read_text())))
    path.write_text(text)
    with told(len(text)):
        read(path)


@given(stored=st.binary(max_size=100))
@foreign
def test_configs_that_are_no_text(folder: Path, stored: bytes) -> None:
    path = folder / "config.json"
    path.write_bytes(stored)
    with told(len(stored)):
        read_json(path)


WORDS = ["<|startoftext|>", "<|endoftext|>", "!", "a</w>", "a", "b", "ab</w>", "b</w>"]
VOCAB = {word: number for number, word in enumerate(WORDS)}
MERGES = "#version: 0.2\na b</w>\n"


@given(
    vocab=st.just(json.dumps(VOCAB)) | damaged_json(VOCAB),
    merges=st.just(MERGES.encode()) | damaged_bytes(MERGES.encode()),
    special=damaged_json({"pad_token": {"content": "!"}}),
    prompt=st.text(max_size=40) | st.sampled_from(["ab" * 500, "a " * 500, "\ud800"]),
)
@foreign
def test_tokenizers(folder: Path, vocab: str, merges: bytes, special: str, prompt: str) -> None:
    place = folder / "tokenizer"
    place.mkdir(exist_ok=True)
    (place / "vocab.json").write_text(vocab)
    (place / "merges.txt").write_bytes(merges)
    (place / "special_tokens_map.json").write_text(special)
    with told(len(vocab) + len(merges) + len(special)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ClipTokenizer(place).encode(prompt).shape == (1, 77)


class _Tensor:
    """Pickles as torch's tensors do."""

    def __init__(self, shape: tuple[int, ...], key: str) -> None:
        self.shape, self.key = shape, key


def _torch_pickle() -> bytes:
    """The pickle of a state_dict, of plain opcodes: {"w": a tensor of 2 x 3}."""
    reference = "(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"
    rebuilt = f"ctorch._utils\n_rebuild_tensor_v2\n({reference}K\0K\x02K\x03\x86K\x03K\x01\x86"
    made = "\x80\x02}X\x01\0\0\0w" + rebuilt + "\x89ccollections\nOrderedDict\n)RtRs."
    return made.encode("latin-1")


def _torch_zip(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
    return made.getvalue()


def _torch_legacy(content: bytes) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, system)]
    tail = pickle.dumps(["0"], 2) + struct.pack("<q", 6) + np.arange(6, dtype=np.float32).tobytes()
    return b"".join(head) + content + tail


PICKLE = _torch_pickle()


def read_torch(path: Path) -> list[np.ndarray]:
    with open_torch_file(path) as opened:
        return [scalars for _, scalars in opened.by_storage()]


@pytest.mark.parametrize("packed", [_torch_zip, _torch_legacy], ids=["zip", "legacy"])
def test_the_sound_pickle_is_one(folder: Path, packed: Callable[[bytes], bytes]) -> None:
    path = folder / "sound.bin"
    path.write_bytes(packed(PICKLE))
    (found,) = read_torch(path)
    np.testing.assert_array_equal(found.view(np.float32), np.arange(6))


@pytest.mark.parametrize("packed", [_torch_zip, _torch_legacy], ids=["zip", "legacy"])
@given(data=st.data())
@settings(foreign, max_examples=150)
def test_pickles(packed: Callable[[bytes], bytes], folder: Path, data: st.DataObject) -> None:
    path = folder / "a.bin"
    whole = damaged_bytes(packed(PICKLE))
    stored = data.draw(whole | damaged_bytes(PICKLE).map(packed))
    path.write_bytes(stored)
    with told(len(stored)):
        read_torch(path)


HASH = "ab" * 32
MANIFEST = {
    "schema": 1,
    "checkpoints": [
        {
            "folder": "tiny",
            "repo": "a/b",
            "revision": "c",
            "files": {
                "unet/a.safetensors": {
                    "sha256": HASH,
                    "bytes": 3,
                    "mtime_ns": 5,
                    "source_sha256": "",
                }
            },
        }
    ],
}


@given(text=damaged_json(MANIFEST))
@foreign
def test_manifests(folder: Path, text: str) -> None:
    path, model = folder / "manifest.json", folder / "tiny"
    model.mkdir(exist_ok=True)
    path.write_text(text)
    with told(len(text)):
        verify_hashes(model, path)
    with told(len(text)):
        read_manifest(path)
        write_record(path, Record("other", "a", "b", {"c": FileRecord(HASH, 1, 2)}))
        assert "other" in read_manifest(path)


@given(
    stored=damaged_bytes(f"{HASH}  a.safetensors\n".encode())
    | st.text(max_size=20).map(lambda name: f"{HASH}  {name}\n".encode("utf-8", "ignore"))
    | st.just(f"{HASH}  {'a' * 5000}\n".encode())
    | st.just(f"{HASH}  a\0b\n".encode())
)
@foreign
def test_sums(folder: Path, stored: bytes) -> None:
    model = folder / "summed"
    model.mkdir(exist_ok=True)
    (model / SUMS).write_bytes(stored)
    with told(len(stored)):
        verify_hashes(model, folder / "absent.json")


@given(
    text=damaged_json({"/a": {"sha256": HASH, "bytes": 3, "mtime_ns": 5, "source_sha256": ""}})
    | st.sampled_from(["a" * 300, "a\0", "\ud800"]).map(lambda name: json.dumps({name: {}}))
)
@foreign
def test_remembered_hashes_are_a_cache_and_never_fail(folder: Path, text: str) -> None:
    path, memory = folder / "hashed.bin", user_cache() / "hashes.json"
    path.write_bytes(b"abc")
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(text)
    import os

    os.utime(path, (1, 1))  # old enough to be remembered
    assert remembered_sha256(path).startswith("ba7816bf")
    assert remembered_sha256(path).startswith("ba7816bf")


@given(data=st.data())
@foreign
def test_embeddings_are_a_cache_and_never_fail(
    tiny_sdxs: Checkpoint, folder: Path, data: st.DataObject
) -> None:
    cache = EmbeddingCache(tiny_sdxs, folder / "embeddings")
    states = np.ones((1, 77, tiny_sdxs.text_encoder.hidden_size), np.float32)
    cache.write("a cat", states)
    (path,) = (folder / "embeddings").rglob("*.safetensors")
    sound = path.read_bytes()
    head = 8 + struct.unpack("<Q", sound[:8])[0]
    near = damaged_bytes(sound[:head]).map(lambda b: b + sound[head:])
    odd = st.sampled_from(
        [
            save({"states": np.ones(3, np.int8)}, {"text": "a cat"}),
            save({"other": states}, {"text": "a cat"}),
            sound.replace(b'"F32"', b'"I32"'),
            sound.replace(b'"F32"', b'"U32"'),
        ]
    )
    stored = data.draw(near | damaged_bytes(sound) | odd)
    path.write_bytes(stored)
    with told(len(stored)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cache.read("a cat")
        assert found is None or found.shape == states.shape


def _record() -> dict[str, object]:
    request = {
        "model": "demo", "prompt": "a cat", "seed": 0, "size": 64, "source": "a.png",
        "backend": "mlx", "dtype": "auto", "vae": "vae", "strength": None, "steps": None,
        "control": "none", "edges": "soft", "control_scale": None, "background": "black",
        "fit": "crop",
    }  # fmt: skip
    live = {
        "feedback": 0.0, "ema": 0.0, "blend": 0.0, "skip": 0.0, "mirror": False,
        "view": "output", "gliding": False, "reused": False,
    }  # fmt: skip
    return {
        "schema": 1, "sdxs": "0.1.0", "prompt": "a cat", "seed": 0, "model": "demo",
        "origin": "path", "size": 64, "backend": {"backend": "mlx"}, "hashes": {"unet": HASH},
        "request": request, "settings": [["dtype", "auto"]],
        "source": {"kind": "image", "name": "a.png", "frame": 3}, "live": live,
    }  # fmt: skip


PNG = (
    SIGNATURE
    + struct.pack(">I", 13)
    + b"IHDR"
    + struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    + bytes(4)
    + b"\0\0\0\0IEND\xaeB`\x82"
)


def read_as_image_does(path: Path) -> None:
    """Everything of a repeat before a model is opened."""
    stored, _ = stored_in(path)
    _reason(stored)
    _taken(stored)
    _placed(path, stored.request, Places(), stored.origin)


def test_the_sound_record_is_one(folder: Path) -> None:
    path = folder / "sound.png"
    path.write_bytes(with_text(PNG, KEYWORD, json.dumps(_record())))
    stored, whole = stored_in(path)
    assert whole == _record() and stored.request.prompt == "a cat" and not _reason(stored)


@given(text=damaged_json(_record()))
@settings(foreign, max_examples=150)
def test_records_of_pictures(folder: Path, text: str) -> None:
    path = folder / "a.png"
    path.write_bytes(with_text(PNG, KEYWORD, text))
    with told(len(text)):
        read_as_image_does(path)


@given(stored=damaged_bytes(with_text(PNG, KEYWORD, json.dumps(_record()))))
@foreign
def test_pictures_with_records(folder: Path, stored: bytes) -> None:
    path = folder / "b.png"
    path.write_bytes(stored)
    with told(len(stored)):
        read_as_image_does(path)


def test_a_record_that_unpacks_to_much_is_not_unpacked(folder: Path) -> None:
    path, text = folder / "bomb.png", zlib.compress(bytes(100 << 20))
    content = KEYWORD.encode() + b"\0\1\0\0\0" + text
    chunk = struct.pack(">I", len(content)) + b"iTXt" + content
    path.write_bytes(PNG[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + PNG[33:])
    with told(len(text)), pytest.raises(SdxsError):
        read_as_image_does(path)


def shortened(value: object) -> object:
    """Return a value of JSON with three of each list: what fails does so in a small report."""
    if isinstance(value, dict):
        return {name: shortened(each) for name, each in value.items()}
    return [shortened(each) for each in value[:3]] if isinstance(value, list) else value


REPORT = shortened(json.loads(bench_samples.report().as_json()))


@given(text=damaged_json(REPORT))
@settings(foreign, max_examples=80)
def test_reports_of_bench(folder: Path, text: str) -> None:
    sound, path = folder / "sound.json", folder / "a.json"
    sound.write_text(json.dumps(REPORT))
    path.write_text(text)
    with told(len(text)):
        read_report(path)
    with suppress(SdxsError):  # what was read can be shown and compared
        report = read_report(path)
        console = Console(file=io.StringIO())
        console.print(table.render(report))
        assert html.render(report)
        console.print(table.changes(compare(report, read_report(sound), across_machines=True)))


SIGNS = st.lists(
    st.sampled_from(
        ["(", ")", ":", "\\", " and ", " ", ">>", " // ", "@", "1", ".", "-", "a", "\n", "\u0661"]
    ),
    max_size=30,
).map("".join)
REPEATED = st.tuples(
    st.sampled_from(["(a:1) and (", "((a:1", "{", "[a:", "<lora:", ""]), SIGNS
).map(lambda drawn: drawn[0] + drawn[1] * 400)


@given(text=st.text(max_size=60) | SIGNS | SIGNS | REPEATED | st.just("(a:1) and (" + " " * 20_000))
@settings(foreign, max_examples=150)
def test_prompts(text: str) -> None:
    with told(len(text)):
        foreign_syntax(text)
        parsed = parse_prompt(text)
        assert parsed.texts and 0 <= parsed.position <= parsed.last and 0 <= parsed.position_y <= 1
        split_place(text)


@given(stored=damaged_bytes("an oil painting\n# off\ncaf\u00e9\n".encode("utf-8-sig")))
@foreign
def test_lists_of_prompts(folder: Path, stored: bytes) -> None:
    path = folder / "list.txt"
    path.write_bytes(stored)
    with told(len(stored)):
        assert all(text.strip() for text in read_prompts(str(path)))
