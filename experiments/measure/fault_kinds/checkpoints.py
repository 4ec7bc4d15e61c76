"""Faults of checkpoints: weights, configs, tokenizers, shards, Git LFS pointers."""

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from ....api import open_model
from ....common.testing import layouts
from .damage import NOT_JSON, flipped, odd_json, overwritten, shown, write
from .fault import ERROR, FINE, USAGE, Case, Right, kind
from .place import Place
from .samples import SIZE, Samples

VAE = "vae/diffusion_pytorch_model.safetensors"
WEIGHTS = (layouts.UNET, VAE, layouts.TEXT)
CONFIGS = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "sdxs.json",
)
TOKENIZER = ("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json")
REFUSED = (ERROR, USAGE)
EITHER = (FINE, ERROR, USAGE)  # damage that may do no harm
FRAME = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def render(place: Place, right: Right, folder: str = "tiny", prompt: str = "a cat") -> None:
    """Open the checkpoint by the API and render a frame."""

    def opened() -> None:
        with open_model(str(place.folder / folder), "mlx", SIZE) as model:
            picture = model(FRAME, prompt)
            place.demand(picture.std() > 1, "a picture of one colour was handed over")

    place.call(opened, right)


def verify(place: Place, right: Right, folder: str = "tiny") -> None:
    """Let `sdxs weights verify` look at the checkpoint."""
    ran = place.sdxs("weights", "verify", folder, right=right)
    place.demand(ran.code != FINE or "good" in ran.out, "success, and nothing called good")


def _header(content: bytes) -> tuple[bytes, bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def _joined(header: bytes, rest: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


def _edit(place: Place, name: str, edit: Callable[[bytes], bytes], right: Right) -> None:
    path = place.checkpoint() / name
    path.write_bytes(edit(path.read_bytes()))
    render(place, right)


@kind("headers of safetensors")
def headers(draw: Random) -> Iterator[Case]:
    """Bits of a header flipped, its length, dtypes, shapes and offsets."""
    for _ in range(8):
        name, share, bit = draw.choice(WEIGHTS), draw.random(), draw.randrange(8)

        def flip(content: bytes, share: float = share, bit: int = bit) -> bytes:
            header, rest = _header(content)
            return _joined(flipped(header, share, bit), rest)

        yield (
            f"bit {bit} at {share:.1%} of the header of {name} is flipped",
            partial(_edit, name=name, edit=flip, right=Right(EITHER)),
        )
    for length in (0, 1, 2**40, 2**64 - 1, draw.randrange(2**20)):
        name = draw.choice(WEIGHTS)
        yield (
            f"the header of {name} says it is {length:,} bytes long",
            partial(
                _edit,
                name=name,
                edit=lambda b, n=length: struct.pack("<Q", n) + b[8:],
                right=Right(says=name.rpartition("/")[2]),
            ),
        )
    for old, new in (
        (b'"F16"', b'"F8"'),
        (b'"F16"', b'"I16"'),
        (b'"F16"', b'"BF16"'),
        (b'"shape":[', b'"shape":[9,'),
        (b'"data_offsets":[0,', b'"data_offsets":[2,'),
        (b'"shape":[', b'"shape":[-'),
        (b'"shape":[', b'"shape":[1e3,'),
        (b'weight"', b'weight\\ud800"'),
    ):
        name = draw.choice(WEIGHTS)

        def swap(content: bytes, old: bytes = old, new: bytes = new) -> bytes:
            header, rest = _header(content)
            return _joined(header.replace(old, new, 1), rest)

        codes = EITHER if new == b'"BF16"' else REFUSED
        what = f"{old.decode()} becomes {new.decode()} in the header of {name}"
        yield what, partial(_edit, name=name, edit=swap, right=Right(codes))


@kind("bytes of safetensors")
def contents(draw: Random) -> Iterator[Case]:
    """Files cut off, emptied, continued, or of another kind."""
    for name in WEIGHTS:
        share = draw.uniform(0.02, 0.98)
        yield (
            f"{name} is cut off at {share:.1%}",
            partial(
                _edit,
                name=name,
                edit=lambda b, s=share: b[: int(s * len(b))],
                right=Right(says=name.rpartition("/")[2]),
            ),
        )
    others: dict[str, bytes] = {
        "nothing": b"",
        "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a zip": b"PK\x03\x04" + bytes(200),
        "a pickle": b"\x80\x02}q\0.",
        "a web page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
        "seven bytes": b"\x01" * 7,
        "zeros": bytes(4096),
    }
    for what, content in others.items():
        name = draw.choice(WEIGHTS)
        yield (
            f"{name} is {what}",
            partial(_edit, name=name, edit=lambda _, c=content: c, right=Right(says=name[:4])),
        )
    name = draw.choice(WEIGHTS)
    yield (
        f"{name} has a megabyte behind its end",
        partial(_edit, name=name, edit=lambda b: b + bytes(1 << 20), right=Right(REFUSED)),
    )
    for name in draw.sample(WEIGHTS, 2):
        yield f"{name} is a folder", partial(_folder_in_place, name=name, right=Right(REFUSED))
        yield f"{name} is a link to itself", partial(_linked_to_itself, name=name)


def _folder_in_place(place: Place, name: str, right: Right) -> None:
    path = place.checkpoint() / name
    path.unlink()
    path.mkdir()
    render(place, right)


def _linked_to_itself(place: Place, name: str) -> None:
    path = place.checkpoint() / name
    path.unlink()
    path.symlink_to(path.name)
    render(place, Right(REFUSED))


@kind("values of weights")
def values(draw: Random) -> Iterator[Case]:
    """NaN, infinities and zeros, which `weights verify` finds, and no picture comes of."""
    for value in (float("nan"), float("inf"), float("-inf"), 0.0):
        for name in draw.sample(WEIGHTS, 2):
            yield (
                f"a tensor of {name} holds {value}: weights verify",
                partial(_spoilt, name=name, value=value),
            )


def _spoilt(place: Place, name: str, value: float) -> None:
    layouts.spoil(place.checkpoint() / name, value)
    verify(place, Right(says="tiny"))


@kind("pictures that are none")
def no_pictures(draw: Random) -> Iterator[Case]:
    """Weights whose picture is NaN or black: an error of `image` and API, a warning of `live`."""
    for name in (layouts.UNET, VAE, layouts.TEXT):
        yield f"all of {name} is NaN: API", partial(_nan_by_api, name=name)
    yield "all of the UNet is NaN: image", _nan_by_image
    for more in ((), ("--feedback", "0.5")):
        what = f"all of the UNet is NaN: live {' '.join(more)}".strip()
        yield what, partial(_nan_by_live, more=more)
    yield "the last layer of the VAE is zero: image", _black_by_image


def _fill(path: Path, value: float, part: str = "") -> None:
    layouts.change(
        path,
        lambda tensors: {
            name: np.full_like(each, value) if part in name else each
            for name, each in tensors.items()
        },
    )


def _nan_by_api(place: Place, name: str) -> None:
    _fill(place.checkpoint() / name, float("nan"))
    render(place, Right())


def _nan_by_image(place: Place) -> None:
    _fill(place.checkpoint() / layouts.UNET, float("nan"))
    image(place, Right(whole=("a.png",)))


def _black_by_image(place: Place) -> None:
    folder = place.checkpoint()
    last = sorted(
        (name for name in _names(folder / VAE) if name.startswith("decoder.layers.")),
        key=lambda name: int(name.split(".")[2]),
    )[-1].rpartition(".")[0]
    _fill(folder / VAE, 0.0, last)
    image(place, Right(whole=("a.png",)))


def _names(path: Path) -> list[str]:
    return [name for name in json.loads(_header(path.read_bytes())[0]) if name != "__metadata__"]


def _nan_by_live(place: Place, more: tuple[str, ...]) -> None:
    _fill(place.checkpoint() / layouts.UNET, float("nan"))
    ran = place.sdxs(
        *("live", "--model", "tiny", "--backend", "mlx", "--size", "64", "--source", "synthetic"),
        *("--headless", "--frames", "5", "--prompt", "x", "--out", "a.mp4", *more),
        right=Right((FINE, ERROR), whole=("a.mp4",)),
    )
    place.demand(ran.code != FINE or "warning:" in ran.err, "no warning of pictures that are none")


def image(place: Place, right: Right, *more: str) -> None:
    """Run `sdxs image` over the sample picture, to a.png."""
    place.sdxs(
        *("image", "--model", "tiny", "--backend", "mlx", "--size", "64", "--prompt", "x"),
        *("--input", str(place.samples.cat), "--out", "a.png", *more),
        right=right,
    )


def _sound(samples: Samples, name: str) -> str:
    return (samples.tiny / name).read_text(encoding="utf-8")


@kind("configs")
def configs(draw: Random) -> Iterator[Case]:
    """Values of wrong types, absurd counts, NaN; texts that are no JSON."""
    for number in range(18):
        name = CONFIGS[number % len(CONFIGS)]
        yield f"{name}: something odd", partial(_odd_config, name=name)
    for key, value in (
        ("block_out_channels", [10**9] * 3),
        ("layers_per_block", 10**9),
        ("attention_head_dim", [0, 0, 0]),
        ("norm_num_groups", 0),
        ("cross_attention_dim", -64),
        ("in_channels", 10**15),
        ("layers_per_block", [1] * 10**5),
    ):
        yield (
            f"unet/config.json: {key} is {shown(value)}",
            partial(_set, name="unet/config.json", key=key, value=value),
        )
    for key, value in (("num_hidden_layers", 10**9), ("vocab_size", 10**12), ("hidden_size", 0)):
        name = "text_encoder/config.json"
        yield f"{name}: {key} is {value}", partial(_set, name=name, key=key, value=value)
    for key, value in (
        ("size", float("nan")),
        ("size", 10**9),
        ("timestep", -1),
        ("timestep", "x"),
    ):
        what = f"sdxs.json: {key} is {value}"
        yield what, partial(_set, name="sdxs.json", key=key, value=value)
    for text in draw.sample(NOT_JSON, 5):
        name = draw.choice(CONFIGS)
        what = f"{name} is {text[:6]!r}, {len(text):,} characters"
        codes = EITHER if text == "\ufeff{}" else REFUSED
        yield what, partial(_texted, name=name, text=text, right=Right(codes))


def _odd_config(place: Place, name: str) -> None:
    path = place.checkpoint() / name
    what, text = odd_json(json.loads(path.read_text(encoding="utf-8")), place.draw)
    place.note(what)
    write(path, text)
    render(place, Right(EITHER))


def _set(place: Place, name: str, key: str, value: object) -> None:
    path = place.checkpoint() / name
    given = json.loads(path.read_text(encoding="utf-8"))
    write(path, json.dumps(given | {key: value}))
    render(place, Right(REFUSED, says=key if key != "layers_per_block" else ""))


def _texted(place: Place, name: str, text: str, right: Right) -> None:
    write(place.checkpoint() / name, text)
    render(place, right)


@kind("tokenizers")
def tokenizers(draw: Random) -> Iterator[Case]:
    """Vocabularies and merges that are damaged, of another model, or no text."""
    for text in ("", "{}", "[]", '{"a": "b"}', '{"a": -1, "b": 1e99}', "{", DEEP_VOCAB):
        what = f"vocab.json is {text[:20]!r}"
        yield what, partial(_texted, name=TOKENIZER[0], text=text, right=Right(REFUSED))
    for text in ("", "#version: 0.2\n", "a b c d\n" * 3, "\0", "one\n", "zz qq\n" * 5):
        what = f"merges.txt is {text[:20]!r}"
        yield what, partial(_texted, name=TOKENIZER[1], text=text, right=Right(EITHER))
    for text in ("[]", '{"pad_token": 5}', '{"pad_token": {"content": []}}', "null"):
        what = f"special_tokens_map.json is {text}"
        yield what, partial(_texted, name=TOKENIZER[2], text=text, right=Right(EITHER))
    for name in TOKENIZER[:2]:
        share = draw.random()
        yield (
            f"{name} is cut off at {share:.1%}",
            partial(
                _edit,
                name=name,
                edit=lambda b, s=share: b[: int(s * len(b))],
                right=Right(REFUSED if name.endswith("json") else EITHER),
            ),
        )
        yield (
            f"{name}: bytes that are no UTF-8",
            partial(
                _edit,
                name=name,
                edit=lambda b, s=share: overwritten(b, s, b"\xff\xfe"),
                right=Right(REFUSED),
            ),
        )
        yield f"{name} is a folder", partial(_folder_in_place, name=name, right=Right(REFUSED))


DEEP_VOCAB = '{"a":' * 50_000


@kind("shards")
def shards(draw: Random) -> Iterator[Case]:
    """Indexes that lead elsewhere or nowhere, shards that are missing or cut off."""
    maps: dict[str, object] = {
        "no map": {},
        "a list": [],
        "names outside": {"weight_map": {"conv_in.weight": "../../etc/passwd"}},
        "an absolute name": {"weight_map": {"conv_in.weight": "/etc/passwd.safetensors"}},
        "itself": {"weight_map": {"a": "diffusion_pytorch_model.safetensors.index.json"}},
        "numbers": {"weight_map": {"conv_in.weight": 5}},
        "a name of 5000": {"weight_map": {"conv_in.weight": f"{'a' * 5000}.safetensors"}},
        "a zero byte": {"weight_map": {"conv_in.weight": "a\0.safetensors"}},
        "nothing there": {"weight_map": {"conv_in.weight": "absent.safetensors"}},
    }
    for what, index in maps.items():
        yield f"the index of the UNet names {what}", partial(_indexed, index=index)
    yield "one of two shards is missing", partial(_sharded, spoil=lambda path: path.unlink())
    share = draw.random()
    yield (
        f"a shard is cut off at {share:.1%}",
        partial(_sharded, spoil=lambda p: p.write_bytes(p.read_bytes()[: int(share * 4e5)])),
    )
    yield "a shard is a Git LFS pointer", partial(_sharded, spoil=layouts.pointer)


def _indexed(place: Place, index: object) -> None:
    folder = place.checkpoint()
    path = layouts.shard(folder / layouts.UNET)
    write(path, json.dumps(index))
    render(place, Right(REFUSED, says="diffusion_pytorch_model"))


def _sharded(place: Place, spoil: Callable[[Path], object]) -> None:
    layouts.shard(place.checkpoint() / layouts.UNET)
    shard = place.draw.choice(sorted((place.folder / "tiny/unet").glob("*-of-*.safetensors")))
    spoil(shard)
    render(place, Right(REFUSED, says=shard.name))


@kind("Git LFS pointers")
def pointers(draw: Random) -> Iterator[Case]:
    """A pointer in the place of each file: called that, and nothing else."""
    for name in (*WEIGHTS, *CONFIGS, *TOKENIZER[:2]):
        yield f"{name} is a Git LFS pointer", partial(_pointed, name=name)


def _pointed(place: Place, name: str) -> None:
    layouts.pointer(place.checkpoint() / name)
    render(place, Right(REFUSED, says="Git LFS pointer"))
