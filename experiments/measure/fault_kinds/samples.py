"""The sound files that faults are made of, each made once in a folder that all workers share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ....common.errors import BackendError
from ....common.locks import locked
from ....common.testing.random_checkpoint import architecture, tiny, write_checkpoint

ARCHITECTURE = "sdxs-512-0.9"
SIZE = 64
FRAMES = 12


class Samples:
    """Sound files by name. Making one is locked: workers share the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def tiny(self) -> Path:
        """A tiny random checkpoint of frames of 64."""
        return self._made("tiny", _checkpoint)

    @property
    def cat(self) -> Path:
        """A picture, as PNG."""
        return self._made("cat.png", _picture)

    @property
    def film(self) -> Path:
        """A film of twelve frames."""
        return self._made("film.mp4", lambda path: _sdxs(self, *_live(self, path)))

    @property
    def still(self) -> Path:
        """A PNG of `sdxs image`, with its record."""
        return self._made("still.png", lambda path: _sdxs(self, *_image(self, path)))

    @property
    def report(self) -> Path:
        """A JSON of `sdxs bench`."""
        return self._made("bench.json", lambda path: _sdxs(self, *_bench(self, path)))

    @property
    def programs(self) -> Path:
        """A folder of weights with a Core ML program of the tiny checkpoint."""
        return self._made("programs", self._with_program)

    @property
    def embeddings(self) -> Path:
        """A user cache with the embedding of the prompt 'x'."""
        return self._made("embeddings", self._with_embedding)

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.folder / name
        if path.exists():
            return path
        with locked(self.folder / f".{name}.lock", lambda: None):
            if not path.exists():
                making = self.folder / "making" / name
                making.parent.mkdir(exist_ok=True)
                make(making)
                making.rename(path)
        return path

    def _with_program(self, path: Path) -> None:
        given = ("--backend", "coreml", "--coreml-runtime", "reference")
        _sdxs(self, *_image(self, path.parent / "program.png"), *given, weights=path)

    def _with_embedding(self, path: Path) -> None:
        _sdxs(self, *_image(self, path.parent / "embedded.png"), cache=path)


def _checkpoint(path: Path) -> None:
    configs = tiny(architecture(ARCHITECTURE))
    configs.pop("vae_large", None)
    write_checkpoint(path, configs, dtype=np.float16)
    (path / "sdxs.json").write_text('{"size": 64}', encoding="utf-8")


def _picture(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(path)


def _live(samples: Samples, path: Path) -> tuple[str, ...]:
    source = ("--source", "synthetic", "--headless", "--frames", str(FRAMES))
    model = ("--model", str(samples.tiny), "--size", "64", "--backend", "identity")
    return ("live", *model, *source, "--prompt", "x", "--out", str(path))


def _image(samples: Samples, path: Path) -> tuple[str, ...]:
    model = ("--model", str(samples.tiny), "--size", "64", "--input", str(samples.cat))
    return ("image", *model, "--prompt", "x", "--out", str(path), "--force")


def _bench(samples: Samples, path: Path) -> tuple[str, ...]:
    model = ("--model", str(samples.tiny), "--size", "64", "--backend", "identity")
    return ("bench", "--quick", "--rounds", "1", *model, "--json", str(path))


def _sdxs(
    samples: Samples, *arguments: str, cache: Path | None = None, weights: Path | None = None
) -> None:
    place, held = cache or samples.folder / "cache", weights or samples.folder / "weights"
    for each in (place, held):
        each.mkdir(exist_ok=True)
    given = os.environ | {
        "XDG_CACHE_HOME": str(place),
        "SDXS_WEIGHTS": str(held),
        "HF_HUB_OFFLINE": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "sdxs.cli", *arguments], env=given, capture_output=True, text=True
    )
    if ran.returncode:
        raise BackendError(f"a sample cannot be made: sdxs {' '.join(arguments)}: {ran.stderr}")
