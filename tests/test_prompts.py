"""Lists of prompts from the gallery and from files."""

from pathlib import Path

import pytest

from sdxs.common.errors import UsageError
from sdxs.common.prompts import GALLERY, read_prompts


def test_gallery_has_ten_styles() -> None:
    assert read_prompts("gallery") == GALLERY and len(set(GALLERY)) == 10


def test_file_with_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("# tonight\n\nneon city  # first\n  ink wash \n", encoding="utf-8")
    assert read_prompts(str(path)) == ("neon city", "ink wash")


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe\x00"])
def test_files_that_hold_no_prompts(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "set.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--prompts"):
        read_prompts(str(path))
