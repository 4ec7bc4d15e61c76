"""The tokenizer equals transformers' CLIPTokenizer, and reports prompts it cannot encode."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.errors import ConfigError, SdxsError, SdxsWarning, UsageError
from sdxs.common.prompt.tokenizer import ClipTokenizer
from sdxs.common.testing.layouts import pointer
from sdxs.mac_check.fixtures import TOKENIZER, padded_tokenizer, read_tokenizer, token_rows

START, END, BANG = 8190, 8191, 0  # the demo's vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer(TOKENIZER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(TOKENIZER, tmp_path / "tokenizer"))


def test_equals_transformers_on_3000_texts() -> None:
    texts, expected = read_tokenizer("<|endoftext|>")
    assert len(set(texts)) == 3000 and "" in texts and max(map(len, texts)) > 900
    ours = token_rows(texts, TOKENIZER)
    assert [text for text, a, b in zip(texts, ours, expected, strict=True) if (a != b).any()] == []


def test_equals_transformers_where_the_padding_is_an_exclamation_mark(tmp_path: Path) -> None:
    """Bug: '!!!' inside a prompt became one token; only start and end marks counted as special."""
    texts, expected = read_tokenizer("!")
    ours = token_rows(texts, padded_tokenizer(tmp_path, "!"))
    assert [text for text, a, b in zip(texts, ours, expected, strict=True) if (a != b).any()] == []


def test_a_mark_in_capitals_is_split_as_transformers_splits_it(tokenizer: ClipTokenizer) -> None:
    """Bug: the second split inside transformers' byte-level step was switched off."""
    vocabulary = json.loads((TOKENIZER / "vocab.json").read_text(encoding="utf-8"))
    ids = tokenizer.encode("<|ENDOFTEXT|>")[0].tolist()
    assert vocabulary["|</w>"] in ids and vocabulary["text</w>"] in ids


@pytest.mark.parametrize("text", ["", "   ", "\t\n"])
def test_an_empty_prompt_is_the_two_marks_and_padding(tokenizer: ClipTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64 and ids.tolist() == [[START] + [END] * 76]


def test_seventy_five_tokens_fit(tokenizer: ClipTokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = tokenizer.encode("cat " * 75)
    assert ids[0, 0] == START and ids[0, 76] == END and len(set(ids[0, 1:76].tolist())) == 1


def test_a_longer_prompt_is_cut_with_a_warning_and_keeps_its_end_mark(
    tokenizer: ClipTokenizer,
) -> None:
    with pytest.warns(
        SdxsWarning, match="prompt has 77 tokens and 75 fit; ignored from 'dog house' on"
    ):
        ids = tokenizer.encode("cat " * 75 + "dog house")
    assert ids.shape == (1, 77) and ids[0, 76] == END
    assert (ids == tokenizer.encode("cat " * 75)).all()


def test_the_warning_shows_what_was_written_and_not_its_bytes(tokenizer: ClipTokenizer) -> None:
    with pytest.warns(SdxsWarning, match="ignored from '\U0001f600 na\u00efve' on"):
        tokenizer.encode("cat " * 75 + "\U0001f600 na\u00efve")


def test_white_space_case_and_composition_make_no_difference(tokenizer: ClipTokenizer) -> None:
    assert (tokenizer.encode("A  Caf\u00e9\n") == tokenizer.encode("a cafe\u0301")).all()


@pytest.mark.parametrize("pad", ["!", {"content": "!", "__type": "AddedToken"}])
def test_padding_is_what_special_tokens_map_says(folder: Path, pad: str | dict[str, str]) -> None:
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": pad}), encoding="utf-8"
    )
    assert ClipTokenizer(folder).encode("").tolist() == [[START, END] + [BANG] * 75]


def test_padding_falls_back_to_tokenizer_config_and_then_to_the_end_mark(folder: Path) -> None:
    (folder / "special_tokens_map.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"pad_token": "!"}', encoding="utf-8")
    assert ClipTokenizer(folder).encode("")[0, 76] == BANG
    (folder / "tokenizer_config.json").unlink()
    assert ClipTokenizer(folder).encode("")[0, 76] == END


def test_bytes_that_are_no_text_are_refused(tokenizer: ClipTokenizer) -> None:
    """Bug: a prompt from a shell in another encoding ended in a TypeError of the library."""
    with pytest.raises(UsageError, match="not UTF-8 text"):
        tokenizer.encode("caf\udce9")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}.*missing"):
        ClipTokenizer(folder)


def test_files_that_do_not_fit_together_are_refused(folder: Path) -> None:
    with (folder / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("zzz qqq\n")
    with pytest.raises(ConfigError, match="do not fit together"):
        ClipTokenizer(folder)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_pointer_of_git_lfs_is_called_that(folder: Path, name: str) -> None:
    """Bug: in the place of merges.txt it was files that do not fit together."""
    pointer(folder / name)
    with pytest.raises(SdxsError, match=f"{name}.*Git LFS pointer"):
        ClipTokenizer(folder)


def test_a_folder_in_the_place_of_a_file_is_no_errno(folder: Path) -> None:
    (folder / "merges.txt").unlink()
    (folder / "merges.txt").mkdir()
    with pytest.raises(ConfigError, match=r"merges.txt: not readable \(Is a directory\); pull"):
        ClipTokenizer(folder)


def test_a_vocabulary_without_the_marks_is_refused(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    del vocabulary["<|startoftext|>"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.raises(ConfigError, match="startoftext"):
        ClipTokenizer(folder)
