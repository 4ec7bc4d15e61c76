"""Faults of how checkpoints lie on disks: layouts that must load, and others that are refused."""

import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from ....api import open_model
from ....common.testing import layouts
from .checkpoints import FRAME, REFUSED, render
from .fault import FINE, USAGE, Case, Right, kind
from .place import Place
from .samples import SIZE


@kind("layouts of checkpoints")
def folders(draw: Random) -> Iterator[Case]:
    """Variants, shards, old names, links: the same picture. Float8, single files: refused."""
    for what, lay in layouts.SAME.items():
        if what != "old attention":  # of the full VAE, which the sample has not
            yield f"{what}: the same picture", partial(_same, lay=lay)
    yield "bfloat16 in every part", partial(_same, lay=layouts.bfloat16, as_=layouts.rounded)
    yield "a variant and its shards", partial(_same, lay=_sharded_variant)
    yield "weights of float8", _float8
    yield "a single file", _single
    yield "a snapshot in a folder above", partial(_above, to="snapshots/abc")
    yield "a checkpoint one folder down", partial(_above, to="inner")
    for part in draw.sample(("unet", "vae", "text_encoder", "tokenizer", "scheduler"), 3):
        yield f"no folder {part}", partial(_without, part=part)
    yield "two variants and no plain file", _two_variants
    yield "a pickle beside no safetensors", _pickle_only


def _picture(folder: Path) -> np.ndarray:
    with open_model(str(folder), "mlx", SIZE) as model:
        return model(FRAME, "a cat")


def _same(
    place: Place,
    lay: Callable[[Path], object],
    as_: Callable[[Path], object] = lambda folder: None,
) -> None:
    expected = place.checkpoint("plain")
    as_(expected)
    folder = place.checkpoint("laid/tiny")
    lay(folder)

    def rendered() -> None:
        same = np.array_equal(_picture(folder), _picture(expected))
        place.demand(same, "another picture than that of the plain layout")

    place.call(rendered, Right((FINE,)))


def _sharded_variant(folder: Path) -> None:
    for path in layouts.weights_of(folder):
        layouts.shard(path, "fp16")


def _float8(place: Place) -> None:
    path = place.checkpoint() / layouts.UNET
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    size = 0
    for name in sorted(set(header) - {"__metadata__"}):
        count = int(np.prod(header[name]["shape"]))
        offsets = [size, size + count]
        header[name] |= {"dtype": "F8_E4M3", "data_offsets": offsets}
        size += count
    stored = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(stored)) + stored + bytes(size))
    render(place, Right(REFUSED, says="F8_E4M3"))


def _single(place: Place) -> None:
    folder = place.checkpoint("whole")
    (folder / layouts.UNET).rename(place.folder / "model.safetensors")
    place.sdxs(
        *("image", "--model", "./model.safetensors", "--prompt", "x", "--out", "a.png"),
        right=Right((USAGE,), says="model.safetensors"),
    )


def _above(place: Place, to: str) -> None:
    place.checkpoint(f"tiny/{to}")
    render(place, Right(REFUSED, says=to))


def _without(place: Place, part: str) -> None:
    folder = place.checkpoint()
    (folder / part).rename(place.folder / "away")
    render(place, Right(REFUSED, says=part))


def _two_variants(place: Place) -> None:
    path = place.checkpoint() / layouts.UNET
    stem = path.name.removesuffix(".safetensors")
    for name in ("fp16", "bf16"):
        path.with_name(f"{stem}.{name}.safetensors").write_bytes(path.read_bytes())
    path.unlink()
    render(place, Right(REFUSED, says="fp16"))


def _pickle_only(place: Place) -> None:
    path = place.checkpoint() / layouts.UNET
    path.rename(path.with_suffix(".bin"))
    render(place, Right(REFUSED, says="pickle"))
