"""Commands whose streams, locale or working folder are not there still do their work."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdxs.commands import streams
from sdxs.commands.streams import ANY_TEXT, Unfailing
from sdxs.common import files
from sdxs.common.files import can_write, home_folder, user_cache, working_folder_is_gone

LIVE = ("live", "--model", "demo", "--backend", "identity", "--size", "64", "--headless")
LIVE += ("--source", "synthetic", "--frames", "3", "--out")

REMOVED = pytest.mark.skipif(sys.platform != "linux", reason="a Mac's answer to this is not known")


def run(
    shell: str, *arguments: str, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `sdxs` by a shell; `shell` is what it does before and after, around '@'."""
    before, after = shell.split("@")
    return subprocess.run(
        ["bash", "-c", f'{before} exec "$0" -m sdxs.cli "$@" {after}', sys.executable, *arguments],
        env=os.environ | variables,
        capture_output=True,
        cwd=folder,
        check=False,
    )


def test_an_ascii_locale_takes_accents_in_words_and_names(tmp_path: Path) -> None:
    out = tmp_path / "é.mp4"
    bare = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run("@", *LIVE, str(out), "--prompt", "café", PYTHONCOERCECLOCALE="0", **bare)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size and b"wrote " in done.stdout and b"\\xe9.mp4" in done.stdout


def test_closed_streams_do_not_keep_a_film_from_being_written(tmp_path: Path) -> None:
    done = run("@ <&- >&- 2>&-", *LIVE, str(tmp_path / "a.mp4"))
    assert done.returncode == 0 and (tmp_path / "a.mp4").stat().st_size


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
def test_a_full_output_is_told_after_the_work_is_done(tmp_path: Path) -> None:
    done = run("@ >/dev/full", *LIVE, str(tmp_path / "a.mp4"))
    assert done.returncode == 1 and (tmp_path / "a.mp4").stat().st_size
    *_, last = done.stderr.decode().splitlines()
    assert last.startswith("error: standard output cannot be written (No space left on device)")
    assert b"Traceback" not in done.stderr and b"ignored" not in done.stderr


@REMOVED
def test_a_removed_working_folder_is_no_matter_to_whole_paths(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    away = 'rmdir "$PWD"; @'
    done = run(away, *LIVE, str(tmp_path / "a.mp4"), folder=tmp_path / "gone")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.mp4").stat().st_size


@REMOVED
def test_a_removed_working_folder_is_named_where_a_path_is_relative(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = run('rmdir "$PWD"; @', *LIVE, "a.mp4", folder=tmp_path / "gone")
    *_, last = done.stderr.decode().splitlines()
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert last.startswith("error: the working folder has been removed") and "cd to" in last


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_stream_that_fails_goes_on_and_remembers() -> None:
    stream = Unfailing(Full())
    assert print("a", file=stream) is None  # type: ignore[call-overload]
    stream.flush()
    assert stream.lost and stream.lost.errno == errno.ENOSPC
    assert "No space left" in streams.lost_output(stream.lost)


def test_nobody_listening_still_ends_a_command() -> None:
    class Broken(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        Unfailing(Broken()).write("a")


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("ascii", b"\\xe9\\u2026\xff a"), ("latin-1", b"\xe9\\u2026\xff a"), ("utf-8", None)],
)
def test_any_text_can_be_written(encoding: str, written: bytes | None) -> None:
    text = "é…\udcff a"
    buffer = io.BytesIO()
    stream = Unfailing(io.TextIOWrapper(buffer, encoding=encoding))
    stream.write(text)
    stream.flush()
    assert buffer.getvalue() == (written or "é…".encode() + b"\xff a")
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", ANY_TEXT)


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(unknown))
    assert not can_write(user_cache()) and not can_write(home_folder() / "a")


def test_a_removed_working_folder_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    assert not working_folder_is_gone()
    monkeypatch.setattr(files.Path, "cwd", classmethod(gone))
    assert working_folder_is_gone()
