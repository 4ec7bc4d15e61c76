"""Cache encoded prompts on disk, by text and encoder: each prompt is encoded once per machine.

Each entry is one safetensors file, float32, written atomically and checked against its hash when
read. A damaged entry causes a warning and is encoded again.
"""

import hashlib
import warnings
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..checkpoint.find import Checkpoint
from ..checkpoint.manifest import remembered_sha256
from ..checkpoint.tensors import sha256
from ..errors import SdxsWarning, in_a_line
from ..files import best_effort, sweep_partials, user_cache, written_whole

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
        """Return the encoder_hidden_states of a text, float32 (1, 77, D), or None.

        Deletes a damaged entry with a warning.
        """
        path = self._path(text)
        try:
            with safe_open(path, framework="numpy") as file:
                encoder_hidden_states = file.get_tensor("states")
                stored = file.metadata() or {}
            shape = (1, 77, self._checkpoint.text_encoder.hidden_size)
            if (
                stored.get("sha256") == _digest(encoder_hidden_states)
                and encoder_hidden_states.shape == shape
                and stored.get("text") == _printable(text)
            ):
                return np.asarray(encoder_hidden_states, np.float32)
            trouble = "damaged (its content does not match its hash)"
        except FileNotFoundError:
            return None
        except OSError as error:
            if not _is_there(path):
                return None
            trouble = f"cannot be read ({in_a_line(error)})"
        except (SafetensorError, ValueError) as error:
            trouble = f"damaged ({in_a_line(error)})"
        warnings.warn(f"{path}: {trouble}; the prompt is encoded again", SdxsWarning, stacklevel=2)
        with best_effort():
            path.unlink()
        return None

    def write(self, text: str, encoder_hidden_states: np.ndarray) -> None:
        """Store the encoder_hidden_states of a text; skip it if the disk cannot be written."""
        path = self._path(text)
        label = {"text": _printable(text), "sha256": _digest(encoder_hidden_states)}
        with best_effort(SafetensorError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path, 0o600) as partial:  # prompts are private
                save_file({"states": encoder_hidden_states}, partial, label)
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
            with best_effort():
                path.unlink()
        sweep_partials(folder)


def encoder_hash(checkpoint: Checkpoint) -> str:
    """Return the hash of the encoder: its weights, config, tokenizer and `FORMAT`."""
    folder, digest = checkpoint.folder, hashlib.sha256(f"format {FORMAT}".encode())
    digest.update(remembered_sha256(checkpoint.text_encoder_weights).encode())
    for path in sorted(
        [folder / "text_encoder" / "config.json", *(folder / "tokenizer").iterdir()]
    ):
        if path.is_file():
            digest.update(f"{path.name} {sha256(path)}".encode())
    return digest.hexdigest()


def _is_there(path: Path) -> bool:
    """Tell whether an entry is there; in a folder that cannot be looked into, there is none."""
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _digest(encoder_hidden_states: np.ndarray) -> str:
    return hashlib.sha256(
        f"{encoder_hidden_states.dtype} {encoder_hidden_states.shape}".encode()
        + np.ascontiguousarray(encoder_hidden_states).tobytes()
    ).hexdigest()


def _printable(text: str) -> str:
    # a safetensors header cannot hold lone surrogates
    return text.encode("unicode_escape").decode()
