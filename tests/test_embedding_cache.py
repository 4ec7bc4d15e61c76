"""Encoded prompts on disk: by text and encoder, written whole, never believed when damaged."""

import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.errors import SdxsWarning
from sdxs.common.prompt import cache as embedding_cache
from sdxs.common.prompt import text_encoder
from sdxs.common.prompt.cache import EmbeddingCache, encoder_hash
from sdxs.common.prompt.text_encoder import TextEncoder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each text that is really encoded."""
    count: list[int] = []
    real = text_encoder.encode_tokens
    monkeypatch.setattr(text_encoder, "encode_tokens", lambda *args: count.append(1) or real(*args))
    return count


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_a_prompt_is_encoded_once_for_all_sessions(
    tiny_sdxs: Checkpoint, folder: Path, encoded: list[int]
) -> None:
    first = TextEncoder(tiny_sdxs).encode("a cat")
    again = TextEncoder(tiny_sdxs).encode("a cat")
    np.testing.assert_array_equal(again, first)
    assert len(encoded) == 1 and again.dtype == np.float32
    TextEncoder(tiny_sdxs).encode("a dog")
    assert len(encoded) == 2 and len(entries(folder)) == 2
    assert not [path for path in folder.rglob("*") if path.name.startswith(".partial")]


def test_no_other_user_can_read_a_prompt(tiny_sdxs: Checkpoint, folder: Path) -> None:
    TextEncoder(tiny_sdxs).encode("a cat")
    assert [stat.S_IMODE(path.stat().st_mode) for path in entries(folder)] == [0o600]


def test_another_encoder_has_entries_of_its_own(
    tiny_folder: Path, folder: Path, encoded: list[int]
) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    TextEncoder(checkpoint).encode("a cat")
    before = encoder_hash(checkpoint)
    tensors = load_file(checkpoint.text_encoder_weights)
    tensors["final_layer_norm.bias"] += 1
    save_file(tensors, checkpoint.text_encoder_weights)
    assert encoder_hash(checkpoint) != before
    TextEncoder(checkpoint).encode("a cat")
    assert len(encoded) == 2


def test_a_changed_vocabulary_makes_another_encoder(tiny_folder: Path) -> None:
    checkpoint = open_checkpoint(tiny_folder)
    before = encoder_hash(checkpoint)
    merges = tiny_folder / "tokenizer" / "merges.txt"
    merges.write_text(merges.read_text() + "\n")
    assert encoder_hash(checkpoint) != before


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04."),
        lambda path: save_file({"states": np.ones((1, 77, 8), np.float32)}, path),
    ],
    ids=["one bit", "truncated", "empty", "pickle", "another shape"],
)
def test_a_damaged_entry_is_named_ignored_and_made_again(
    damage: Callable[[Path], None], tiny_sdxs: Checkpoint, folder: Path, encoded: list[int]
) -> None:
    expected = TextEncoder(tiny_sdxs).encode("a cat")
    (entry,) = entries(folder)
    damage(entry)
    with pytest.warns(SdxsWarning, match="damaged .*encoded again"):
        found = TextEncoder(tiny_sdxs).encode("a cat")
    np.testing.assert_array_equal(found, expected)
    assert len(encoded) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(TextEncoder(tiny_sdxs).encode("a cat"), expected)
    assert len(encoded) == 2


def test_an_entry_under_another_texts_name_is_not_believed(
    tiny_sdxs: Checkpoint, folder: Path
) -> None:
    cache = EmbeddingCache(tiny_sdxs)
    cache.write("a cat", TextEncoder(tiny_sdxs).encode("a cat"))
    (entry,) = entries(folder)
    other = cache._path("a dog")
    entry.replace(other)
    with pytest.warns(SdxsWarning, match="does not match"):
        assert cache.read("a dog") is None


def test_where_nothing_can_be_written_prompts_are_still_encoded(
    tiny_sdxs: Checkpoint, folder: Path, encoded: list[int]
) -> None:
    folder.write_text("a file where the folder should be")
    states = TextEncoder(tiny_sdxs).encode("a cat")
    assert states.shape == (1, 77, 64) and len(encoded) == 1


def test_a_long_prompt_warns_from_the_cache_too(tiny_sdxs: Checkpoint, folder: Path) -> None:
    for _ in range(2):
        with pytest.warns(SdxsWarning, match="75 fit"):
            TextEncoder(tiny_sdxs).encode("cat " * 100)


def test_the_oldest_entries_go(
    tiny_sdxs: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "MOST_ENTRIES", 3)
    cache = EmbeddingCache(tiny_sdxs)
    for number in range(5):
        cache.write(f"prompt {number}", np.full((1, 77, 64), number, np.float32))
        os.utime(cache._path(f"prompt {number}"), ns=(number, number))
    assert len(entries(folder)) == 3
    assert cache.read("prompt 0") is None and cache.read("prompt 4") is not None


def held(encoder: TextEncoder) -> int:
    return sum(array.nbytes for array in encoder._recent._kept.values())


def test_what_is_kept_in_memory_is_bounded_and_the_latest(
    tiny_sdxs: Checkpoint, folder: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: 2,000 prompts at width 1024 held 0.6 GB."""
    encoder = TextEncoder(tiny_sdxs)
    each = encoder.encode("prompt 0").nbytes
    monkeypatch.setattr(text_encoder, "MOST_BYTES", 3 * each)
    reads: list[str] = []
    read = EmbeddingCache.read
    monkeypatch.setattr(
        EmbeddingCache, "read", lambda self, text: reads.append(text) or read(self, text)
    )
    for number in range(1, 8):
        encoder.encode(f"prompt {number}")
        encoder.encode("prompt 0")  # in use: stays
        assert held(encoder) <= 3 * each and encoder._recent._bytes == held(encoder)
    assert reads == [f"prompt {number}" for number in range(1, 8)]
    encoder.encode("prompt 1")  # gone from memory, not from disk
    assert len(encoded) == 8


def test_the_texts_of_one_blend_stay_together_however_many(
    tiny_sdxs: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blend whose weights change with every frame must not read the disk for each."""
    encoder = TextEncoder(tiny_sdxs)
    monkeypatch.setattr(text_encoder, "MOST_BYTES", 2 * encoder.encode("something").nbytes)
    reads: list[str] = []
    read = EmbeddingCache.read
    monkeypatch.setattr(
        EmbeddingCache, "read", lambda self, text: reads.append(text) or read(self, text)
    )
    for weight in range(1, 5):
        encoder.encode(" and ".join(f"(part {n}:{weight + n})" for n in range(6)))
    assert reads == [f"part {n}" for n in range(6)]
    encoder.encode("something")
    encoder.encode("else")
    assert len(encoder._recent._kept) == 2
