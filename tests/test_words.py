"""What people type and how they name files: prompts as others write them, names of every length."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import SdxsWarning, SinkError, UsageError
from sdxs.common.files import beside, check_writable, write_whole
from sdxs.common.io.sinks.film import VideoFileSink
from sdxs.common.prompt.syntax import MOST_LIST_BYTES, foreign_syntax, read_prompts
from sdxs.common.prompt.text_encoder import TextEncoder

PERSIAN = "\u0646\u0642\u0627\u0634\u06cc\u200c\u0647\u0627"  # with a zero-width non-joiner
FAMILY = "\U0001f469\u200d\U0001f467 \u2764\ufe0f"  # joined, and with a variation selector
ROOT = Path(__file__).parent.parent
CAT = ROOT / "docs" / "demo" / "cat.jpg"
LONGEST = 255  # bytes of a name


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_lists_are_read_as_editors_write_them(tmp_path: Path, mark: bytes, end: str) -> None:
    lines = ["an oil\u00a0painting", PERSIAN, FAMILY, "#1 dad", "  # off", "C# code", "caf\u00e9"]
    path = tmp_path / "list.txt"
    path.write_bytes(mark + end.join(lines).encode())
    assert read_prompts(str(path)) == (lines[0], PERSIAN, FAMILY, "C# code", "caf\u00e9")


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ("an oil painting".encode("utf-16"), "save it as UTF-8"),
        ("caf\u00e9".encode("latin-1"), "save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "save it as UTF-8"),
        (b"oil\x00ink", "not a list of prompts"),
        (b"a" * (MOST_LIST_BYTES + 1), "not a list of prompts"),
        ("\ufeff".encode(), "holds no prompt"),
    ],
)
def test_lists_that_are_none_are_refused_in_one_line(
    tmp_path: Path, stored: bytes, said: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(stored)
    with pytest.raises(UsageError, match=said) as caught:
        read_prompts(str(path))
    assert "\n" not in str(caught.value)


def test_a_list_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(UsageError, match="not a list of prompts"):
        read_prompts("/dev/zero")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a cat <lora:ink:0.8>", ()),  # which is understood
        ("a cat BREAK a dog", ("BREAK",)),
        ("[a cat:a dog:.5]", ("[a:b:.5]",)),
        ("{a|b} BREAK", ("BREAK", "{a|b}")),
        ("break of day, [ugly], {x}, a|b, <b>, [12:30]", ()),
        ("BREAKFAST", ()),
    ],
)
def test_what_others_take_for_an_instruction_is_known(text: str, found: tuple[str, ...]) -> None:
    assert foreign_syntax(text) == found


def test_each_instruction_is_warned_of_once(tiny_sdxs: Checkpoint) -> None:
    encoder = TextEncoder(tiny_sdxs)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        encoder.encode("[a cat:a fox:.5] BREAK a dog")
        encoder.encode("a dog BREAK")
        encoder.encode("{a|b}")
        encoder.encode("a cat")
    assert [str(each.message).partition(": ")[2][:28] for each in told] == [
        "BREAK, [a:b:.5] are read as ",
        "{a|b} is read as words here,",
    ]
    assert all(each.category is SdxsWarning for each in told)


@pytest.mark.parametrize("name", ["a.png", "a" * 251 + ".png", "\u0646" * 125 + "x.png", "b" * 255])
def test_a_name_of_any_length_is_written(tmp_path: Path, name: str) -> None:
    assert len(os.fsencode(name)) <= LONGEST
    path = tmp_path / name
    check_writable(path, tmp_path)
    for content in (b"one", b"two"):
        write_whole(path, content)
    assert path.read_bytes() == b"two" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("length", [5, 40, 64, 100, 143, 254, 255])
@pytest.mark.parametrize("letter", ["a", "\u00e9", "\U0001f469"])
def test_no_name_beside_a_file_is_longer_than_its_own(length: int, letter: str) -> None:
    size = len(os.fsencode(letter))
    path = Path("x" * ((length - 4) % size) + letter * ((length - 4) // size) + ".mp4")
    found = beside(path, "12345678.partial")
    assert len(os.fsencode(found.name)) <= max(64, length) and found.suffix == ".mp4"
    assert found.name.startswith(".") and found != beside(path, "whole")
    assert beside(path.with_stem(f"{path.stem}!"), "whole") != beside(path, "whole")


def test_two_long_names_with_one_beginning_have_two_beside_them() -> None:
    one, other = Path("a" * 250 + "1.mp4"), Path("a" * 250 + "2.mp4")
    assert beside(one, "partial") != beside(other, "partial")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_has_a_name_of_any_length(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("f" * (LONGEST - len(suffix)) + suffix)
    sink = VideoFileSink(path, 10)
    for number in range(3):
        sink.write(np.full((64, 64, 3), 60 * number, np.uint8), number * 10**8)
    sink.close()
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_size > 500


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="too long"):
        check_writable(tmp_path / ("a" * 252 + ".png"), tmp_path)
    with pytest.raises(SinkError, match="no name of a file"):
        check_writable(tmp_path / "a\0.png", tmp_path)
