"""Encoded prompts on disk, by text and by what encoded them: a prompt is encoded once per machine.

One safetensors file each, float32, written whole or not at all and read back against its own hash;
a damaged one is said to be so, and made again.
"""

import contextlib
import hashlib
import warnings
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..checkpoint.find import Checkpoint
from ..checkpoint.manifest import remembered_sha256
from ..checkpoint.tensors import sha256
from ..errors import SdxsWarning
from ..files import user_cache, written_whole

FORMAT = 1  # raised when the encoder's arithmetic changes
MOST_ENTRIES = 500  # at 315 KB for the widest encoder


class EmbeddingCache:
    """The cache of one checkpoint's text encoder. Thread-safe: files appear whole."""

    def __init__(self, checkpoint: Checkpoint, folder: Path | None = None) -> None:
        """folder: by default `sdxs/embeddings/` in the user's cache."""
        self._checkpoint = checkpoint
        self._folder = folder or user_cache() / "embeddings"
        self._encoder = ""

    def read(self, text: str) -> np.ndarray | None:
        """The states of a text, float32 (1, 77, D), or None. Warns of a damaged entry and drops
        it.
        """
        path = self._path(text)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                states = file.get_tensor("states")
                stored = file.metadata() or {}
            shape = (1, 77, self._checkpoint.text_encoder.hidden_size)
            if (
                stored.get("sha256") == _digest(states)
                and states.shape == shape
                and stored.get("text") == _printable(text)
            ):
                return np.asarray(states, np.float32)
            trouble = "its content does not match its hash"
        except (OSError, SafetensorError, ValueError) as error:
            trouble = str(error)
        warnings.warn(
            f"{path}: damaged ({trouble}); the prompt is encoded again", SdxsWarning, stacklevel=2
        )
        path.unlink(missing_ok=True)
        return None

    def write(self, text: str, states: np.ndarray) -> None:
        """Keep the states of a text. Where nothing can be written, nothing is kept: it is only a
        cache.
        """
        path = self._path(text)
        label = {"text": _printable(text), "sha256": _digest(states)}
        # a read-only or full disk costs time, not the session
        with contextlib.suppress(OSError, SafetensorError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path, 0o600) as partial:  # prompts are private
                save_file({"states": states}, partial, label)
            self._drop_oldest(path.parent)

    def _path(self, text: str) -> Path:
        self._encoder = self._encoder or encoder_hash(self._checkpoint)
        return (
            self._folder
            / self._encoder[:16]
            / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        )

    def _drop_oldest(self, folder: Path) -> None:
        entries = sorted(
            folder.glob("[0-9a-f]*.safetensors"), key=lambda path: path.stat().st_mtime_ns
        )
        for path in entries[: max(0, len(entries) - MOST_ENTRIES)]:
            path.unlink(missing_ok=True)


def encoder_hash(checkpoint: Checkpoint) -> str:
    """Hash of everything that decides what a text becomes: weights, config, tokenizer, and our
    arithmetic.
    """
    folder, digest = checkpoint.folder, hashlib.sha256(f"format {FORMAT}".encode())
    digest.update(remembered_sha256(checkpoint.text_encoder_weights).encode())
    for path in sorted(
        [folder / "text_encoder" / "config.json", *(folder / "tokenizer").iterdir()]
    ):
        if path.is_file():
            digest.update(f"{path.name} {sha256(path)}".encode())
    return digest.hexdigest()


def _digest(states: np.ndarray) -> str:
    return hashlib.sha256(
        f"{states.dtype} {states.shape}".encode() + np.ascontiguousarray(states).tobytes()
    ).hexdigest()


def _printable(text: str) -> str:
    return text.encode(
        "unicode_escape"
    ).decode()  # safetensors' header has no room for lone surrogates
