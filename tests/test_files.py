"""Files are written whole or not at all, and no command overwrites a file that it reads."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from command import Command
from sdxs.common import files
from sdxs.common.errors import SinkError, UsageError, WeightsError
from sdxs.common.files import (
    Written,
    refuse_overlaps,
    sweep_partials,
    write_whole,
    written_whole,
)
from sdxs.common.locks import locked
from sdxs.experiments.options import parse
from sdxs.experiments.parity.pictures import PicturesOptions

ROOT = Path(__file__).parent.parent
CAT = ROOT / "docs" / "demo" / "cat.jpg"
LIVE = ("live", "--model", "demo", "--backend", "identity", "--size", "64", "--headless")


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


def grown_old(path: Path) -> Path:
    os.utime(path, ns=(1, 1))
    return path


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    whole, film = tmp_path / "hashes.json", tmp_path / "film.mp4"
    left = files.beside(whole, "0a1b2c3d.partial")
    left.write_bytes(b"half")
    sweep_partials(tmp_path)
    assert left.exists()  # it is young: its writer may not have marked it yet
    grown_old(left)
    kept = [whole, film, tmp_path / "0a1b2c3d.partial.json", tmp_path / ".x.0a1b.partial.json"]
    kept.append(files.beside(film, "f00d.partial"))  # a recording, which can still be rescued
    for path in kept:
        path.touch()
        grown_old(path)
    sweep_partials(tmp_path, tmp_path / "manifest.json")
    assert left.exists()  # it was to be another file
    sweep_partials(tmp_path, whole)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_the_files_of_living_writers_are_not_swept(tmp_path: Path) -> None:
    path = tmp_path / "hashes.json"
    with written_whole(path) as partial:
        partial.write_bytes(b"new")
        grown_old(partial)
        sweep_partials(tmp_path)
        assert partial.exists()
    assert path.read_bytes() == b"new"


def test_the_file_of_a_killed_writer_is_swept(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from sdxs.common.files import written_whole
with written_whole(Path(sys.argv[1])) as partial:
    os.utime(partial, ns=(1, 1))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", code, str(tmp_path / ("a" * 240 + ".json"))]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    sweep_partials(tmp_path, tmp_path / ("a" * 240 + ".json"))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_takes_only_plain_files_and_never_raises(tmp_path: Path) -> None:
    (tmp_path / ".a.00000000.partial.json").mkdir()
    (tmp_path / "mine").touch()
    (tmp_path / ".b.00000000.partial.json").symlink_to(grown_old(tmp_path / "mine"))
    before = sorted(tmp_path.iterdir())
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "mine"):
        sweep_partials(folder)
    assert sorted(tmp_path.iterdir()) == before


def test_a_partial_file_is_not_written_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "00000000")
    (tmp_path / "mine").write_bytes(b"mine")
    files.beside(tmp_path / "a.json", "00000000.partial").symlink_to("mine")
    with pytest.raises(SinkError, match="File exists"):
        write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_lock_that_cannot_be_removed_is_released_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    path, waits = tmp_path / ".lock", list[bool]()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", denied)
        with locked(path, lambda: waits.append(True)) as waited:
            assert not waited
    assert path.exists()
    with locked(path, lambda: waits.append(True)) as waited:
        assert not waited
    assert not waits and not path.exists()


def test_a_lock_of_another_user_can_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder was killed, and left a file that we may only read."""
    opened = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, mode)

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(os, "open", read_only)
    with locked(tmp_path / ".lock", lambda: None) as waited:
        assert not waited


@pytest.mark.parametrize("error", [SinkError, WeightsError])
def test_trouble_is_told_as_the_callers_error(
    error: type[SinkError | WeightsError], tmp_path: Path
) -> None:
    with pytest.raises(error, match="cannot be written .No such file") as caught:
        write_whole(tmp_path / "absent" / "file", b"", error)
    assert "\n" not in str(caught.value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `a.txt`, a symbolic link and a hard link to it, and `out/`."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("an oil painting\n")
    Path("link.txt").symlink_to("a.txt")
    os.link("a.txt", "hard.txt")
    Path("out").mkdir()
    return tmp_path


def met(read: str | None, *writes: tuple[str, str]) -> str:
    """What `refuse_overlaps` says; '' if nothing."""
    try:
        refuse_overlaps(
            [("--in", Path(read) if read else None)],
            [Written("--out", Path(path), names) for path, names in writes],
        )
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["a.txt", "./a.txt", "out/../a.txt", "link.txt", "hard.txt"])
def test_a_file_that_is_read_is_known_under_every_name(name: str, here: Path) -> None:
    said = met("a.txt", (name, ""))
    assert said.startswith(f"--out {Path(name)}: is also --in a.txt") and "overwrite" in said
    assert "name another file" in said and "is also --in" in met(name, (str(here / "a.txt"), ""))


@pytest.mark.parametrize(
    ("read", "writes"),
    [
        (None, [("a.txt", "")]),
        ("a.txt", [("b.txt", ""), ("c.txt", ""), ("out", "frame-*.png")]),
        ("a.txt", [("out/a.txt", "")]),
        ("out/p.txt", [("out", "frame-*.png"), ("out/stats.json", "")]),
        ("out", [("out/new.json", ""), ("out", "frame-*.png")]),
        ("absent", [("b.txt", "")]),
    ],
)
def test_what_does_not_meet_is_admitted(
    read: str | None, writes: list[tuple[str, str]], here: Path
) -> None:
    Path("out/p.txt").touch()
    assert met(read, *writes) == ""


@pytest.mark.parametrize(
    "writes",
    [
        [("b.txt", ""), ("./b.txt", "")],
        [("out", "frame-*.png"), ("out/frame-000003.png", "")],
        [("out/frame-000003.png", ""), ("out", "frame-*.png")],
        [("new", "frame-*.png"), ("new/frame-000003.png", "")],
        [("out", "frame-*.png"), ("./out", "frame-*.png")],
        [("link.txt", ""), ("hard.txt", "")],
    ],
)
def test_no_file_is_written_twice(writes: list[tuple[str, str]], here: Path) -> None:
    assert "one would overwrite the other" in met(None, *writes)


def test_a_file_inside_a_folder_counts_where_it_would_be_overwritten(here: Path) -> None:
    Path("out/frame-000001.png").touch()
    Path("out/p.png").touch()
    frames = ("out", "frame-*.png")
    assert "name another folder" in met("out/frame-000001.png", frames)
    assert met("out/p.png", frames) == ""
    assert "is a file of --in out" in met("out", ("out/p.png", ""))
    os.link("out/p.png", "elsewhere.png")
    assert "is a file of --in out" in met("out", ("elsewhere.png", ""))


def test_names_that_differ_in_case_alone_meet_where_the_folder_ignores_case(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files that are not there yet; only an attempt tells whether they would be one."""
    Path("probe").touch()
    ignores = Path("PROBE").exists()
    assert bool(met(None, ("b.png", ""), ("B.png", ""))) is ignores

    def exists(path: Path) -> bool:
        return path.name.casefold() in {each.name.casefold() for each in path.parent.iterdir()}

    monkeypatch.setattr(files.Path, "exists", exists)
    assert "is also --out b.png" in met(None, ("b.png", ""), ("B.png", ""))
    assert met(None, ("b.png", ""), ("c.png", "")) == ""
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(".")) == []


def refused(command: Command, *arguments: object) -> str:
    """The one line of a refusal; it changes no file of the current folder."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    done = command(*arguments)
    assert done.code == 2 and done.err.count("\n") == 1, done
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return done.err


@pytest.mark.parametrize("place", ["p.txt", "./p.txt", "link.txt", "hard.txt"])
@pytest.mark.parametrize("option", ["--stats", "--contact-sheet", "--out"])
def test_live_does_not_write_over_its_prompts(
    option: str, place: str, command: Command, here: Path
) -> None:
    """Bug: `--prompts p.txt --stats p.txt` turned the user's prompts into JSON."""
    suffix = ".txt" if option == "--stats" else ".png"
    for name in ("a.txt", "link.txt", "hard.txt"):
        Path(name).rename(name.replace("a.txt", "p.txt").replace(".txt", suffix))
    if place == "link.txt":
        Path(f"link{suffix}").unlink()
        Path(f"link{suffix}").symlink_to(f"p{suffix}")
    written = place.replace(".txt", suffix)
    given = ("--prompts", f"p{suffix}", option, written, "--frames", 1, "--source", CAT)
    said = refused(command, *LIVE, *given, *(() if option == "--out" else ("--out", "new.png")))
    assert f"is also --prompts p{suffix}" in said


def test_live_reads_prompts_from_the_folder_that_it_writes(command: Command, here: Path) -> None:
    Path("out/p.txt").write_text("pop art\n")
    given = ("--prompts", "out/p.txt", "--out", "out", "--stats", "out/s.json")
    done = command(*LIVE, "--source", CAT, "--frames", 1, *given)
    assert done.code == 0, done.err
    assert Path("out/p.txt").read_text() == "pop art\n" and Path("out/frame-000001.png").exists()


@pytest.fixture
def model(here: Path) -> Path:
    return Path(shutil.copytree(ROOT / "weights" / "demo", here / "model"))


@pytest.mark.parametrize(
    "arguments",
    [
        lambda folder: (*LIVE[3:], "--out", "new.png", "--stats", folder / "sdxs.json"),
        lambda folder: (*LIVE[3:], "--stats", folder / "unet" / "config.json"),
    ],
)
def test_live_does_not_write_over_its_checkpoint(
    arguments: Callable[[Path], tuple[object, ...]], command: Command, model: Path
) -> None:
    said = refused(command, "live", "--model", model, *arguments(model))
    assert "--model" in said and "overwrite" in said


def test_a_file_beside_the_parts_of_a_checkpoint_may_be_written_again(
    command: Command, model: Path
) -> None:
    given = ("live", "--model", model, *LIVE[3:], "--source", CAT, "--frames", 1, "--stats")
    for _ in range(2):
        assert command(*given, model / "stats.json").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--compare", "a.json", "b.json", "--html", "b.json"),
        ("--show", "a.json", "--html", "hard.json"),
        ("--show", "a.json", "--json", "link.json"),
        ("--quick", "--json", "new.html", "--html", "./new.html"),
        ("--quick", "--html", "out/rates.png", "--png", "out"),
        ("--quick", "--model", "model", "--json", "model/unet/config.json"),
    ],
)
def test_bench_does_not_write_over_what_it_reads(
    arguments: tuple[str, ...], command: Command, model: Path
) -> None:
    for name in ("a.json", "b.json"):
        Path(name).write_text("{}")
    Path("link.json").symlink_to("a.json")
    os.link("a.json", "hard.json")
    assert "overwrite" in refused(command, "bench", *arguments)


def test_an_import_does_not_write_over_a_pickle_or_another_import(
    command: Command, here: Path
) -> None:
    for name in ("model.bin", "pytorch_model.bin"):
        Path(name).write_bytes(b"pickle")
    os.link("model.bin", "hard.safetensors")
    given = ("weights", "import", "--force", "model.bin")
    said = refused(command, *given, "--to", "hard.safetensors")
    assert "--to hard.safetensors: is also FILES model.bin" in said
    said = refused(command, *given, "pytorch_model.bin")
    assert "is also the import of model.bin: model.safetensors" in said


def test_mac_check_does_not_write_over_the_checkpoint_that_it_asks(
    command: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(model.parent))
    model.rename(model.with_name("demo"))
    said = refused(command, "mac-check", "--json", "demo/unet/config.json")
    assert "is a file of the checkpoint demo" in said


def test_an_image_does_not_write_over_its_checkpoint(command: Command, model: Path) -> None:
    given = ("image", "--model", model, "--backend", "identity", "--input", CAT, "--force")
    (model / "unet" / "x.png").write_bytes(b"part of it")
    assert "is a file of --model" in refused(command, *given, "--out", model / "unet" / "x.png")


def test_an_experiment_does_not_write_over_what_it_reads(here: Path) -> None:
    with pytest.raises(UsageError, match="--json hard.txt: is also --against a.txt"):
        parse(PicturesOptions, ["--against", "a.txt", "--json", "hard.txt"])
    assert parse(PicturesOptions, ["--against", "a.txt", "--json", "b"]).against == Path("a.txt")
