"""Faults of what sdxs keeps itself: manifests, sums, the cache of prompts, Core ML programs."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

from ....common.testing import layouts
from .checkpoints import EITHER
from .damage import NOT_JSON, flipped, odd_json, write
from .fault import ERROR, FINE, Case, Right, kind
from .place import How, Place

HASH = "ab" * 32


@kind("manifests")
def manifests(draw: Random) -> Iterator[Case]:
    """A manifest.json that is damaged, of other types, unreadable, or says another hash."""
    for number in range(6):
        yield f"something odd in it, {number + 1}", _odd_manifest
    for text in draw.sample(NOT_JSON, 3):
        yield f"it is {text[:6]!r}, {len(text):,} characters", partial(_manifest, text=text)
    yield "another hash of the UNet", _other_hash
    yield "it is a folder", _manifest_folder


def _sound_manifest(place: Place) -> dict[str, object]:
    path = place.base / "weights" / "tiny" / layouts.UNET
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    about = {"sha256": digest, "bytes": path.stat().st_size, "mtime_ns": 5, "source_sha256": ""}
    record = {"folder": "tiny", "repo": "a/b", "revision": "c", "files": {layouts.UNET: about}}
    return {"schema": 1, "checkpoints": [record]}


def _keep(place: Place) -> Path:
    """Put the checkpoint into the folder of weights; return the manifest's place."""
    shutil.copytree(place.samples.tiny, place.base / "weights" / "tiny")
    return place.base / "weights" / "manifest.json"


def _verify(place: Place, right: Right) -> None:
    ran = place.sdxs("weights", "verify", str(place.base / "weights" / "tiny"), right=right)
    place.demand(ran.code != FINE or "good" in ran.out, "success, and nothing called good")


def _odd_manifest(place: Place) -> None:
    path = _keep(place)
    what, text = odd_json(_sound_manifest(place), place.draw)
    place.note(what)
    write(path, text)
    _verify(place, Right(EITHER))


def _manifest(place: Place, text: str) -> None:
    write(_keep(place), text)
    _verify(place, Right(EITHER, says="manifest.json"))


def _other_hash(place: Place) -> None:
    path = _keep(place)
    write(
        path, json.dumps(_sound_manifest(place)).replace('"sha256": "', '"sha256": "0')[:-1] + "}"
    )
    given = _sound_manifest(place)
    given["checkpoints"][0]["files"][layouts.UNET]["sha256"] = HASH  # type: ignore[index]
    write(path, json.dumps(given))
    _verify(place, Right(says="diffusion_pytorch_model"))


def _manifest_folder(place: Place) -> None:
    _keep(place).mkdir()
    _verify(place, Right(says="manifest.json"))


@kind("SHA256SUMS")
def sums(draw: Random) -> Iterator[Case]:
    """Sums that are emptied, odd, of other files, or wrong: none is called verified."""
    lines = {
        "emptied": "",
        "a comment alone": "# none\n",
        "no sums": "hello\n",
        "another hash": f"{HASH}  {layouts.UNET}\n",
        "a file outside": f"{HASH}  ../../etc/passwd\n",
        "an absolute file": f"{HASH}  /etc/passwd\n",
        "a name of 5000": f"{HASH}  {'a' * 5000}\n",
        "a zero byte": f"{HASH}  a\0b\n",
        "a file that is not there": f"{HASH}  unet/absent.safetensors\n",
        "a folder": f"{HASH}  unet\n",
    }
    for what, text in lines.items():
        yield what, partial(_sums, text=text)
    yield "bytes that are no text", partial(_sums, text=None)


def _sums(place: Place, text: str | None) -> None:
    path = place.checkpoint() / "SHA256SUMS"
    write(path, b"\xff\xfe\xfd" if text is None else text)
    place.sdxs("weights", "verify", "tiny", right=Right((ERROR,), says="tiny"))


@kind("the cache of prompts")
def embeddings(draw: Random) -> Iterator[Case]:
    """Entries that are damaged, folders in their place, a cache that cannot be used: none fails."""
    for _ in range(3):
        share, bit = draw.random(), draw.randrange(8)
        yield (
            f"bit {bit} at {share:.1%} of the entry is flipped",
            partial(_entry, edit=lambda p, s=share, b=bit: write(p, flipped(p.read_bytes(), s, b))),
        )
    share = draw.random()
    edits: dict[str, Callable[[Path], object]] = {
        f"the entry is cut off at {share:.1%}": lambda p: write(
            p, p.read_bytes()[: int(share * p.stat().st_size)]
        ),
        "a folder in the entry's place": lambda p: (p.unlink(), p.mkdir()),
        "a full folder in the entry's place": lambda p: (p.unlink(), write(p / "a" / "b", "c")),
        "the entry is a link to itself": lambda p: (p.unlink(), p.symlink_to(p.name)),
        "the entry is a device": lambda p: (p.unlink(), p.symlink_to("/dev/zero")),
        "nobody may read the entry": lambda p: p.chmod(0),
        "nobody may read or change its folder": lambda p: p.parent.chmod(0),
        "a file in the folder's place": lambda p: (
            shutil.rmtree(p.parent.parent),
            write(p.parent.parent, "x"),
        ),
        "hashes.json is a folder": lambda p: (
            (p.parents[2] / "hashes.json").unlink(missing_ok=True),
            (p.parents[2] / "hashes.json").mkdir(),
        ),
        "hashes.json is no JSON": lambda p: write(p.parents[2] / "hashes.json", "[" * 100_000),
    }
    for what, edit in edits.items():
        yield what, partial(_entry, edit=edit)


def _entry(place: Place, edit: Callable[[Path], object]) -> None:
    place.checkpoint()
    shutil.copytree(place.samples.embeddings, place.base / "cache", dirs_exist_ok=True)
    (path,) = (place.base / "cache").rglob("embeddings/*/*.safetensors")
    edit(path)
    place.sdxs(
        *("image", "--model", "tiny", "--backend", "mlx", "--size", "64", "--prompt", "x"),
        *("--input", str(place.samples.cat), "--out", "a.png"),
        right=Right((FINE,), whole=("a.png",)),
        how=How(lacks={"mortal": True}),
    )
    for each in (path, path.parent):
        if each.exists():
            each.chmod(0o755)


@kind("Core ML programs")
def programs(draw: Random) -> Iterator[Case]:
    """A cached program that is damaged, or whose place another thing has: built again, and said."""
    edits: dict[str, Callable[[Path], object]] = {
        "a folder in the record's place": lambda p: _replaced_by_folder(next(p.glob("*.json"))),
        "its record is emptied": lambda p: write(next(p.glob("*.json")), ""),
        "its weights are cut off": lambda p: _cut(next(p.rglob("weight.bin"))),
        "its weights are gone": lambda p: next(p.rglob("weight.bin")).unlink(),
        "a file in its place": lambda p: (shutil.rmtree(p), write(p, "x")),
    }
    for what, edit in edits.items():
        yield what, partial(_program, edit=edit)
    yield "the folder of programs is a file", partial(_program, edit=_no_folder, codes=EITHER)


def _replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _cut(path: Path) -> None:
    write(path, path.read_bytes()[: path.stat().st_size // 2])


def _no_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    write(path.parent, "x")


def _program(
    place: Place, edit: Callable[[Path], object], codes: tuple[int, ...] = (FINE,)
) -> None:
    place.checkpoint()
    shutil.copytree(place.samples.programs, place.base / "weights", dirs_exist_ok=True)
    (folder,) = (p for p in (place.base / "weights" / "coreml").iterdir() if p.is_dir())
    edit(folder)
    place.sdxs(
        *("image", "--model", "tiny", "--backend", "coreml", "--coreml-runtime", "reference"),
        *("--size", "64", "--prompt", "x", "--input", str(place.samples.cat), "--out", "a.png"),
        right=Right(codes, whole=("a.png",), seconds=90),
        how=How(limit_s=90),
    )


@kind("weights that cannot be written")
def read_only(draw: Random) -> Iterator[Case]:
    """A folder of weights that nobody may write: caches are not written, and nothing fails."""
    yield "weights verify", partial(_read_only, coreml=False)
    yield "Core ML's programs", partial(_read_only, coreml=True)


def _read_only(place: Place, coreml: bool) -> None:
    _keep(place)
    weights = place.base / "weights"
    weights.chmod(0o555)
    how = How(lacks={"mortal": True}, limit_s=90)
    model = str(weights / "tiny")
    if coreml:
        place.sdxs(
            *("image", "--model", model, "--backend", "coreml", "--coreml-runtime", "reference"),
            *("--size", "64", "--prompt", "x", "--input", str(place.samples.cat), "--out", "a.png"),
            right=Right(EITHER, whole=("a.png",), seconds=90),
            how=how,
        )
    else:
        place.sdxs("weights", "verify", model, right=Right((FINE,)), how=how)
    weights.chmod(0o755)
