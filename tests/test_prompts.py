"""Lists of prompts from the gallery and from files."""

from pathlib import Path

import pytest

from sdxs.common.errors import UsageError
from sdxs.common.live.prompt_list import MOST_TYPED, PromptList
from sdxs.common.prompt.syntax import (
    GALLERY,
    ParsedPrompt,
    Part,
    parse_prompt,
    read_prompts,
    read_seconds,
    refuse_negative,
    split_place,
    with_place,
)


def test_gallery_has_ten_styles() -> None:
    assert read_prompts("gallery") == GALLERY and len(set(GALLERY)) == 10


def test_file_with_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("# tonight\n\nneon city  # first\n  ink wash \n  # off\n", encoding="utf-8")
    assert read_prompts(str(path)) == ("neon city  # first", "ink wash")


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe\x00"])
def test_files_that_hold_no_prompts(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "set.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--prompts"):
        read_prompts(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "an oil painting",
        "a portrait (oil)",
        "(very) old town",
        "a cat and a dog",
        "",
        "time 10:30",
        "[ugly]",
        "a (small) cat and (one) dog",
        "C:\\new\\table",
        ":)",
        "a@b",
        "(a: b) c",
    ],
)
def test_plain_text_stays_plain(text: str) -> None:
    assert parse_prompt(text) == ParsedPrompt(((Part(text),),))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("(oil painting:1.3) and (neon:0.7)", (Part("oil painting", 1.3), Part("neon", 0.7))),
        ("  ( a : 2 )  and (b)and more", None),
        ("(a) and (b)", (Part("a"), Part("b"))),
        ("(a:.5) and (b:2.) and (c:1)", (Part("a", 0.5), Part("b", 2), Part("c"))),
        ("(salt and pepper:1) and (b:2)", (Part("salt and pepper"), Part("b", 2))),
        (r"(a smile \:\):1) and (\(b\):2)", (Part("a smile :)"), Part("(b)", 2))),
        ("(a:1)", (Part("a"),)),
    ],
)
def test_blends(text: str, parts: tuple[Part, ...] | None) -> None:
    if parts is None:
        with pytest.raises(UsageError):
            parse_prompt(text)
    else:
        assert parse_prompt(text) == ParsedPrompt((parts,))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(oil:1.3 and (neon:0.7)", "expected (TEXT:WEIGHT)"),
        ("(oil:1.3) (neon:0.7)", "expected ' and '"),
        ("(oil:1.3) or (neon:0.7)", "expected ' and '"),
        ("(oil:1.3) and neon", "expected (TEXT:WEIGHT)"),
        ("oil and (neon:0.7)", "expected (TEXT:WEIGHT)"),
        ("(oil:1.3) and ", "expected ' and '"),
        ("(:1.3) and (b:1)", "a part without text"),
        ("(oil:) and (b:1)", "weight ''"),
        ("(oil:lots) and (b:1)", "weight 'lots'"),
        ("(oil:1,3) and (b:1)", "weight '1,3'"),
        ("(oil:1e3) and (b:1)", "weight '1e3'"),
        ("(oil:nan) and (b:1)", "weight 'nan'"),
        ("(oil:-1) and (b:1)", "a number above 0; a distilled model"),
        ("(oil:0) and (b:1)", "a number above 0; a distilled model"),
        ("(oil:1000) and (b:1)", "at most 100"),
        ("(oil:1.3)", "two parts or more"),
        ("a >> ", "nothing before or after"),
        (">> a", "nothing before or after"),
        ("a >> b @ 1.1", "0 to 1"),
        ("a >> b @ middle", "'middle' after '@'"),
        ("a >> b @ -1", "'-1' after '@'"),
        ("a >> (b:2) @ 0.5", "two parts or more"),
    ],
)
def test_malformed_syntax_is_quoted(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_prompt(text)
    message = str(caught.value)
    assert said in message and message.startswith("prompt ") and "\n" not in message


def test_banks_have_a_place() -> None:
    parsed = parse_prompt("a cat >> (b:1) and (c:3) >> d @ 1.25")
    assert (
        parsed.stops == ((Part("a cat"),), (Part("b"), Part("c", 3)), (Part("d"),))
        and parsed.position == 1.25
    )
    assert parsed.texts == ("a cat", "b", "c", "d")
    assert parse_prompt("a >> b").position == 0


def test_a_bank_and_its_place_come_apart_and_together() -> None:
    assert split_place("a >> b @ 0.1") == ("a >> b", 0.1, 0.0)
    assert split_place("a >> b") == ("a >> b", 0.0, 0.0)
    assert split_place("me@home >> b") == ("me@home >> b", 0.0, 0.0)
    assert split_place("me@home") == ("me@home", 0.0, 0.0)
    assert with_place("a >> b", 0.1) == "a >> b @ 0.1"
    assert with_place("a >> b", 0.0) == "a >> b"
    with pytest.raises(UsageError, match="the number of the last stop"):
        split_place("a >> b @ 1.5")


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2), ("500ms", 0.5), ("2", 2), (".5 s", 0.5), ("0s", 0)]
)
def test_times(text: str, seconds: float) -> None:
    assert read_seconds("--transition", text) == seconds


@pytest.mark.parametrize("text", ["", "fast", "-1s", "2m", "9999s", "nan", "2ss"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--transition"):
        read_seconds("--transition", text)


def test_a_negative_prompt_is_refused_with_the_reason() -> None:
    refuse_negative("", "demo")
    with pytest.raises(
        UsageError, match="demo renders a frame in one pass without classifier-free guidance"
    ):
        refuse_negative("ugly", "demo")


def test_new_prompts_of_a_long_session_are_forgotten_and_the_given_ones_are_not() -> None:
    prompts = PromptList(["first", "last"])
    for number in range(MOST_TYPED + 50):
        prompts.use(f"typed {number}")
        assert prompts.texts[prompts.index] == f"typed {number}"
    prompts.rewrite("typed elsewhere")
    assert len(prompts.texts) == MOST_TYPED + 2
    assert prompts.texts[:2] == ["first", "typed 50"]
    assert prompts.texts[-2:] == ["typed elsewhere", "last"]
    for number in range(MOST_TYPED):
        prompts.use(f"again {number}")
    assert "typed elsewhere" not in prompts.texts
