"""Refusals of the command line, in one line each, and several faults at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command import Command
from sdxs import cli
from sdxs.common.checkpoint.registry import ENTRIES
from sdxs.common.errors import SinkError, first_of
from sdxs.common.io.sources.film import VideoFile

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"
LIVE = ("live", "--model", "demo", "--size", 64, "--headless", "--source", CLIP, "--frames", 2)


def refused(command: Command, code: int, *arguments: object) -> str:
    """The one line with which the command refuses."""
    done = command(*arguments)
    assert done.code == code and not done.out, done
    lines = done.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.err
    return lines[0]


@pytest.mark.parametrize(
    ("says", "arguments"),
    [
        ("--frames 0: expected a whole number of at least 1", ("live", "--frames", 0)),
        ("--frames many: expected a whole number", ("live", "--frames", "many")),
        ("--ema 1.0: expected a number from 0 to 0.99", ("live", "--ema", 1)),
        ("--qqq; see `sdxs live --help`", ("live", "--qqq")),
        ("requires an argument; see `sdxs", ("live", "--out")),
        ("nope'; see `sdxs --help`", ("nope",)),
        ("a b.txt: not readable (No such file", (*LIVE, "--prompts", "a\nb.txt", "--out", "o.mp4")),
        ("--depth 9: a session has at most 8", (*LIVE, "--depth", 9, "--out", "o.mp4")),
        ("model", ("weights", "pull")),
        ("--skip nan: expected a number", (*LIVE, "--skip", "nan", "--out", "o.mp4")),
        ("--blend", (*LIVE, "--blend", "nan", "--out", "o.mp4")),
        ("is empty", (*LIVE, "--out", "")),
    ],
)
def test_the_parsers_own_refusals_are_one_line_and_code_2(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    says: str,
    arguments: tuple[object, ...],
) -> None:
    """Bugs: refusals were a box of five lines; nan passed every range; '' filled the folder."""
    monkeypatch.chdir(tmp_path)
    assert says in refused(command, 2, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [("--help",), ("live", "--help"), ("weights", "--help")])
def test_help_is_no_error(command: Command, arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.code == 0 and "Usage" in done.out and not done.err


@pytest.mark.parametrize("arguments", [(), ("weights",)])
def test_without_a_command_the_help_is_shown(command: Command, arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.code == 2 and "Usage" in done.out + done.err and "error:" not in done.err


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--coreml-runtime", ("--backend", "mlx", "--coreml-runtime", "foo")),
        ("--compute-units", ("--backend", "mlx", "--compute-units", "all")),
        (
            "--attention",
            ("--backend", "identity", "--attention", "sdpa"),
        ),  # the default, but it was asked for
        ("--placement", ("--backend", "mlx", "--placement", "encode=ne,unet=gpu,decode=ne")),
        ("--input", ("--backend", "mlx", "--input", "image")),
        ("--weights", ("--backend", "identity", "--weights", "int8")),
        ("--sizes", ("--backend", "mlx", "--sizes", "256")),
        ("--fixed-noise", ("--backend", "mlx", "--fixed-noise")),
        ("--verbose", ("--backend", "mlx", "--verbose")),
        ("--lanes", ("--backend", "identity", "--lanes", 2)),
        ("--kernels", ("--backend", "identity", "--kernels", "off")),
        ("--kernels", ("--backend", "coreml", "--kernels", "off")),
        ("--strength", ("--backend", "identity", "--strength", 0.5)),
        ("--steps", ("--backend", "identity", "--steps", 2)),
        ("--control", ("--backend", "identity", "--control", "sketch")),
        ("--dtype", ("--backend", "identity", "--dtype", "float16")),
        ("--seed", ("--backend", "identity", "--seed", 0)),
        ("--feedback", ("--backend", "identity", "--compare", "identity", "--feedback", 0.5)),
    ],
)
def test_an_option_that_no_chosen_backend_knows_is_refused(
    command: Command, tmp_path: Path, option: str, arguments: tuple[object, ...]
) -> None:
    """Bug: it was ignored, with exit code 0."""
    said = refused(command, 2, *LIVE, *arguments, "--out", tmp_path / "o.mp4")
    assert said.startswith(f"error: {option}: only for --backend ")
    assert not list(tmp_path.iterdir())


def test_lanes_reach_the_backend(command: Command, tmp_path: Path) -> None:
    said = command(*LIVE, "--lanes", 3, "--out", tmp_path / "o.mp4").out
    assert "lanes 3" in said and "kernels MLX's own" in said
    assert refused(command, 2, *LIVE, "--lanes", 9, "--out", tmp_path / "p.mp4").startswith(
        "error: --lanes 9: expected"
    )


def test_an_option_that_one_of_two_backends_knows_is_taken(
    command: Command, tmp_path: Path
) -> None:
    done = command(
        *LIVE, "--compare", "identity", "--dtype", "float32", "--out", tmp_path / "o.mp4"
    )
    assert done.code == 0, done.err


def test_a_seed_that_makes_no_difference_is_said(command: Command, tmp_path: Path) -> None:
    """Bug: the demo was trained without noise, and --seed was silently without effect."""
    done = command(*LIVE, "--seed", 3, "--out", tmp_path / "o.mp4")
    assert (
        done.code == 0 and done.err.count("warning:") == 1 and "makes no difference" in done.err
    ), done
    assert "warning:" not in command(*LIVE, "--out", tmp_path / "o.mp4").err


def test_a_seed_that_counts_is_not_warned_of(
    command: Command, tmp_path: Path, tiny_folder: Path
) -> None:
    done = command(*LIVE, "--model", tiny_folder, "--seed", 3, "--out", tmp_path / "o.mp4")
    assert done.code == 0 and "warning:" not in done.err, done


@pytest.mark.parametrize(
    ("code", "says", "arguments"),
    [
        (2, "--out names the folder", ("--source", "/tmp")),
        (2, "--source is empty", ("--source", "")),
        (1, "cannot be opened", ("--source", "99999999999999")),
        (2, "expected vae or vae_large", ("--vae", "nope")),
        (1, "is a file", ("--out", "afile")),
        (2, "suffix without a name", ("--out", ".mp4")),
        (2, "is not a list of prompts", ("--prompts", "binary.txt")),
    ],
)
def test_wrong_names_in_the_right_words(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    says: str,
    arguments: tuple[str, ...],
) -> None:
    """Bugs: '/tmp: no such file', OpenCV's own words, 'reinstall sdxs', PNGs in a folder '.mp4'."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_bytes(b"mine")
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\x02\x01\x00\x00prompt")
    live = LIVE[: LIVE.index("--source")] if "--source" in arguments else LIVE
    said = refused(
        command, code, *live, *(() if "--out" in arguments else ("--out", "o.mp4")), *arguments
    )
    assert says in said and "reinstall" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["afile", "binary.txt"]
    assert (tmp_path / "afile").read_bytes() == b"mine"


def test_licences_are_whole_in_a_narrow_terminal(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: at 80 columns the table cut `creativeml-openrail-m`, and licences are named there."""
    monkeypatch.setattr(cli.out, "_width", 80)
    listed = command("weights", "list").out
    assert max(map(len, listed.splitlines()[:-1])) <= 80
    joined = "".join(
        line.split("\u2502")[3].strip() for line in listed.splitlines() if line.count("\u2502") == 5
    )
    for known in ENTRIES.values():
        assert known.licence.replace(" ", "") in joined.replace(" ", "")


# Several things go wrong at once.


def test_first_of_keeps_the_others_as_notes() -> None:
    first, second = SinkError("first"), ValueError("second")
    assert first_of([first, second, first]) is first and first.__notes__ == ["and then: second"]


def test_figures_that_cannot_be_written_do_not_hide_why_the_session_failed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a full disk ended the recording, and only the statistics were complained of."""
    from sdxs.common.io.sinks import film, image
    from sdxs.common.live import stats_file

    def full(path: Path, _: bytes) -> None:
        raise SinkError(f"{path.name}: cannot be written")

    free = iter([10**12] + [10**6] * 100)
    monkeypatch.setattr(
        film.shutil, "disk_usage", lambda _: type("Usage", (), {"free": next(free)})()
    )
    monkeypatch.setattr(stats_file, "write_whole", full)
    monkeypatch.setattr(image, "write_whole", full)
    outputs = (
        "--out",
        tmp_path / "o.mp4",
        "--out",
        tmp_path / "o.png",
        "--stats",
        tmp_path / "s.json",
    )
    done = command(
        "live",
        "--model",
        "demo",
        "--size",
        64,
        "--headless",
        "--source",
        CLIP,
        "--backend",
        "identity",
        *outputs,
    )
    assert done.code == 1 and done.err.count("error:") == 1
    said = done.err[done.err.index("error:") :].splitlines()
    assert "the disk is full" in said[0]
    assert said[1:] == ["and then: o.png: cannot be written", "and then: s.json: cannot be written"]
    assert VideoFile(tmp_path / "o.mp4").read() is not None


STALLING = """
import functools, sys, threading
from sdxs import cli
from sdxs.commands import live
from sdxs.common.io.sources import synthetic as source
from sdxs.common.live import opening

class Stalling(source.Synthetic):
    name, paced = "camera 0", False

    def read(self):
        if self._number == 5:
            threading.Event().wait()
        return super().read()

live.ask_for_camera = lambda index: None
opening.open_source = lambda spec, size, *_: Stalling(size)
opening.LoopOptions = functools.partial(opening.LoopOptions, stall_s=2.0)
sys.argv = ["sdxs", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize(
    "mode",
    [
        (),
        *(
            pytest.param(each, marks=pytest.mark.thorough)
            for each in (("--every-frame",), ("--loop", "sequential"))
        ),
    ],
    ids=str,
)
def test_a_camera_whose_read_never_returns_ends_with_code_3(
    tmp_path: Path, mode: tuple[str, ...]
) -> None:
    """In a process of its own, which has to leave a thread behind."""
    out = tmp_path / "frames"
    arguments = (
        "live",
        "--model",
        "demo",
        "--backend",
        "identity",
        "--size",
        "64",
        "--headless",
        "--source",
        "0",
        "--out",
        str(out),
        *mode,
    )
    command = [sys.executable, "-c", STALLING, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ
    )
    assert done.returncode == 3, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "camera 0 has delivered no frame for" in errors[0]
    assert f"wrote {out}" in done.stdout and 1 <= len(list(out.iterdir())) <= 5


def test_an_import_that_was_interrupted_is_an_interruption(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: SIGINT inside an import came out as ImportError, with a traceback and exit code 1."""

    def examine(_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy._core.multiarray failed to import") from None

    monkeypatch.setattr("sdxs.common.doctor.examine", examine)
    done = command("doctor")
    assert (
        done.code == 130
        and done.err.strip().endswith("interrupted")
        and "Traceback" not in done.err
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
