"""Files are written whole or not at all, with the mode and under the error that were asked for."""

import os
import stat
from pathlib import Path

import pytest

from sdxs.common.errors import SinkError, WeightsError
from sdxs.common.files import write_whole, written_whole


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    with written_whole(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old" and partial.parent == tmp_path
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with written_whole(path) as first, written_whole(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with written_whole(tmp_path / "weights.safetensors") as partial:
        assert partial.suffix == ".safetensors" and partial.name.startswith(".")


@pytest.mark.parametrize(("asked", "found"), [(None, 0o640), (0o644, 0o644), (0o600, 0o600)])
def test_the_mode_is_the_umasks_or_the_one_asked_for(
    asked: int | None, found: int, tmp_path: Path
) -> None:
    before = os.umask(0o027)
    try:
        with written_whole(tmp_path / "file", asked) as partial:
            partial.write_bytes(b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == found


@pytest.mark.parametrize("error", [SinkError, WeightsError])
def test_trouble_is_told_as_the_callers_error(
    error: type[SinkError | WeightsError], tmp_path: Path
) -> None:
    with pytest.raises(error, match="cannot be written .No such file") as caught:
        write_whole(tmp_path / "absent" / "file", b"", error)
    assert "\n" not in str(caught.value)
