"""Lay a checkpoint out as people have checkpoints; the weights stay the same, bit for bit.

Each maker changes a folder in the plain layout, as `write_checkpoint` writes it. `spoil` alone
changes a value. `bfloat16` rounds every weight; `rounded` rounds them the same way to float32.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]
UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
VAES = ("vae/diffusion_pytorch_model.safetensors", "vae_large/diffusion_pytorch_model.safetensors")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{:064x}\nsize {}\n"
_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def weights_of(folder: Path) -> list[Path]:
    """Return the weights files of a checkpoint in the plain layout."""
    return [path for name in (UNET, *VAES, TEXT) if (path := folder / name).is_file()]


def change(path: Path, edit: Callable[[Tensors], Tensors]) -> None:
    """Write a safetensors file again with its tensors changed."""
    save_file(edit(load_file(path)), path, {"format": "pt"})


def variant(folder: Path, name: str = "fp16") -> None:
    """Name every weights file as `save_pretrained(variant=name)` does."""
    for path in weights_of(folder):
        path.rename(path.with_suffix(f".{name}.safetensors"))


def shard(path: Path, name: str = "") -> Path:
    """Split a weights file in two, with an index; return the index. name: of a variant, or ''."""
    tensors = load_file(path)
    places: dict[str, str] = {}
    names, stem = sorted(tensors), path.name.removesuffix(".safetensors")
    for i, part in enumerate((names[::2], names[1::2])):
        dotted = f".{name}" if name else ""
        file = f"{stem}{dotted}-0000{i + 1}-of-00002.safetensors"
        save_file({each: tensors[each] for each in part}, path.with_name(file), {"format": "pt"})
        places |= dict.fromkeys(part, file)
    path.unlink()
    index = path.with_name(f"{path.name}.index{f'.{name}' if name else ''}.json")
    total = sum(tensor.nbytes for tensor in tensors.values())
    index.write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": places}), encoding="utf-8"
    )
    return index


def sharded(folder: Path) -> None:
    """Split every weights file in two, with an index."""
    for path in weights_of(folder):
        shard(path)


def old_attention(folder: Path) -> None:
    """Name the attention of the full VAE as diffusers did before 0.12."""

    def renamed(name: str) -> str:
        for new, old in _OLD.items() if ".attentions." in name else ():
            name = name.replace(f".{new}.", f".{old}.")
        return name

    for path in weights_of(folder):
        if path.parent.name.startswith("vae"):
            change(path, lambda tensors: {renamed(name): t for name, t in tensors.items()})


def beside(folder: Path) -> None:
    """Add what diffusers and transformers leave out: buffers, averages, a projection."""
    decay = {"model_ema.decay": np.array(0.999, np.float32)}
    change(folder / UNET, lambda tensors: tensors | decay)
    width = 64
    more: Tensors = {
        "text_projection.weight": np.eye(width, dtype=np.float32),
        "embeddings.position_ids": np.arange(77)[None],
        "logit_scale": np.array(4.6, np.float32),
    }
    change(folder / TEXT, lambda tensors: tensors | more)


def linked(folder: Path) -> None:
    """Put every file into `blobs/` beside the folder, and a link in its place, as the hub's cache.

    Links are relative.
    """
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if path.is_file():
            depth = len(path.relative_to(folder).parts)
            path.rename(blobs / str(number))
            path.symlink_to(Path(*[".."] * depth, "blobs", str(number)))


def rounded(folder: Path) -> None:
    """Round every weight to bfloat16 and store it as float32."""
    for path in weights_of(folder):
        change(
            path,
            lambda tensors: {
                name: (_bfloat16(t).astype(np.uint32) << 16).view(np.float32)
                for name, t in tensors.items()
            },
        )


def bfloat16(folder: Path) -> None:
    """Store every weight as bfloat16."""
    for path in weights_of(folder):
        bits = {name: _bfloat16(tensor) for name, tensor in load_file(path).items()}
        save_file(bits, path, {"format": "pt"})
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = content[8:end].replace(b'"U16"', b'"BF16"')
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def spoil(path: Path, value: float, name: str = "") -> str:
    """Set the last scalar of a tensor, or all of them to zero for 0; return the tensor's name."""
    with safe_open(path, framework="numpy") as file:
        chosen = name or sorted(each for each in file.keys() if each.endswith("weight"))[0]  # noqa: SIM118 - not a mapping

    def spoilt(tensors: Tensors) -> Tensors:
        tensor = tensors[chosen].copy()
        tensor.reshape(-1)[0 if value == 0 else -1 :] = value
        return tensors | {chosen: tensor}

    change(path, spoilt)
    return chosen


def pointer(path: Path) -> None:
    """Put the text of Git LFS in a file's place."""
    path.write_text(POINTER.format(7, path.stat().st_size), encoding="utf-8")


def _bfloat16(tensor: np.ndarray) -> np.ndarray:
    """Return the upper half of each float32: bfloat16, rounded towards zero."""
    return (np.ascontiguousarray(tensor, np.float32).view(np.uint32) >> 16).astype(np.uint16)


SAME: dict[str, Callable[[Path], None]] = {
    "fp16 variant": variant,
    "sharded": sharded,
    "old attention": old_attention,
    "beside": beside,
    "linked": linked,
}
