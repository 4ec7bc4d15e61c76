"""What `at_once` does twice at once: a pull, an import, a conversion and a recording."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...common.checkpoint.manifest import read_manifest
from ...common.checkpoint.registry import ENTRIES
from ...common.checkpoint.tensors import sha256
from ...common.checkpoint.torch_import import import_torch
from ...common.errors import SdxsError
from ...common.io.sources.film import VideoFile
from ...common.testing.hub import FakeHub, serve
from ...common.testing.pickles import write_torch
from ...common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from ...coreml_backend import cache

MODEL = "sdxs-512-0.9"
SIZE, FRAMES = 64, 60
SLOWLY_S = 0.002  # between two pieces of a download, so that pulls meet
KINDS = ("pull", "import", "convert", "record")


@dataclass(frozen=True, slots=True)
class Work:
    """A command of `sdxs`, and what it must have left.

    again: the command of the run after it. amiss: what is wrong with the result of a success, or
    ''. half: what lies half-written under a final name, or ''. watched: the folder that it writes
    to. refusal: the exit code of one that came too late, and says so.
    """

    kind: str
    command: Sequence[str]
    again: Sequence[str]
    amiss: Callable[[], str]
    half: Callable[[], str]
    watched: Path
    environment: dict[str, str]
    refusal: int = 0

    def traces(self, old: bool = False) -> list[str]:
        """Name the hidden files of writers; old: also what young ones may leave for the next."""
        found = [path.name for path in self.watched.rglob(".*")]
        # what a killed writer left is swept once it is older than a minute
        return [name for name in found if not (old and ".partial." in name)]


@contextmanager
def works(kind: str, folder: Path) -> Iterator[Work]:
    """Prepare one round in an empty folder."""
    environment = {
        "SDXS_WEIGHTS": str(folder / "weights"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    if kind == "pull":
        with _pulling(folder, environment) as work:
            yield work
    else:
        made = {"import": _importing, "convert": _converting, "record": _recording}[kind]
        yield made(folder, environment)


@contextmanager
def _pulling(folder: Path, environment: dict[str, str]) -> Iterator[Work]:
    weights = folder / "weights"
    hub = FakeHub(ENTRIES[MODEL], write_checkpoint(folder / "hub", tiny(architecture(MODEL))))
    hub.pause_s = SLOWLY_S
    names = ENTRIES[MODEL].files()

    def differing() -> list[str]:
        lying = {name: weights / MODEL / name for name in names}
        return [n for n, p in lying.items() if p.exists() and p.read_bytes() != hub.files[n]]

    def amiss() -> str:
        missing = [name for name in names if not (weights / MODEL / name).is_file()]
        recorded = read_manifest(weights / "manifest.json").get(MODEL)
        hashes = {n: file.sha256 for n, file in recorded.files.items()} if recorded else {}
        true = hashes == {name: sha256(weights / MODEL / name) for name in names if not missing}
        wrong = [*missing, *differing(), *([] if true else ["manifest.json"])]
        return ", ".join(wrong)

    with serve(hub):
        environment |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.port}",
            "HF_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        command = ("weights", "pull", MODEL)
        half = lambda: ", ".join(differing())  # noqa: E731
        yield Work("pull", command, command, amiss, half, weights, environment)


def _importing(folder: Path, environment: dict[str, str]) -> Work:
    generator = np.random.default_rng(0)
    tensors = {
        f"{number}.weight": generator.standard_normal((1024, 1024), np.float32)
        for number in range(8)
    }
    source = write_torch(folder / "model" / "unet" / "diffusion_pytorch_model.bin", tensors)
    target, manifest = source.with_suffix(".safetensors"), folder / "weights" / "manifest.json"
    whole = import_torch(source, folder / "other.safetensors", folder / "other.json").sha256

    def half() -> str:
        return target.name if target.exists() and sha256(target) != whole else ""

    def amiss() -> str:
        if not target.exists():
            return f"{target.name} is missing"
        records = read_manifest(manifest).values()
        hashes = [file.sha256 for each in records for file in each.files.values()]
        return half() or ("" if hashes == [whole] else "manifest.json")

    command = ("weights", "import", str(source))
    again = (*command, "--force")
    return Work("import", command, again, amiss, half, folder, environment, refusal=2)


def _converting(folder: Path, environment: dict[str, str]) -> Work:
    checkpoint = write_checkpoint(folder / "tiny", tiny(architecture(MODEL)))
    built = folder / "weights" / "coreml"

    def half() -> str:
        damaged = [cache.find_damage(each) for each in _visible(built)]
        # without a record a folder is known to be unfinished, and built again
        return ", ".join(what for what in damaged if what and what != "it was not finished")

    def amiss() -> str:
        if len(_visible(built)) != 1:
            return f"{len(_visible(built))} programs"
        (program,) = _visible(built)
        try:
            checked = bool(cache.read_record(program).gate_db)
        except cache.UNREADABLE:
            return "its record is damaged"
        return cache.find_damage(program) or ("" if checked else "no gate")

    command = ("convert", "--model", str(checkpoint), "--size", str(SIZE))
    return Work("convert", command, command, amiss, half, folder / "weights", environment)


def _visible(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*"))


def _recording(folder: Path, environment: dict[str, str]) -> Work:
    film = folder / "films" / "same.mp4"
    film.parent.mkdir()

    def half() -> str:
        if not film.exists():
            return ""
        try:
            video, count = VideoFile(film), 0
            while video.read() is not None:
                count += 1
        except SdxsError as error:
            return str(error)
        return "" if count == FRAMES else f"{count} of {FRAMES} frames"

    def amiss() -> str:
        return half() if film.exists() else f"{film.name} is missing"

    command = [
        *("live", "--backend", "identity", "--model", "demo", "--size", str(SIZE), "--headless"),
        *("--source", "synthetic", "--frames", str(FRAMES), "--out", str(film)),
    ]
    return Work("record", command, command, amiss, half, film.parent, environment)
