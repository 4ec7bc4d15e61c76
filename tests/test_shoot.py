"""A folder or several files as `--source`: each its own output, and one bad file stops no other."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.backend.kept import KeptBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.errors import UsageError
from sdxs.common.live.shoot import is_shoot, takes_of
from sdxs.common.picture.opencv import cv2
from sdxs.common.picture.size import FrameSize

LOCATION = "sdxs.common.backend.identity:IdentityBackend"
CLIP = Path(__file__).parent.parent / "docs" / "demo" / "clip.mp4"
SHOOT = ("live", "--backend", "identity", "--model", "demo", "--size", 64, "--headless")


def picture(path: Path, level: int) -> Path:
    cv2.imwrite(str(path), np.full((70, 70, 3), level, np.uint8))
    return path


@pytest.fixture
def shoot(tmp_path: Path) -> Path:
    """A folder with three pictures, a film, a cut picture, a hidden file and notes."""
    folder = tmp_path / "shoot"
    folder.mkdir()
    for number, level in ((10, 100), (9, 90), (1, 10)):
        picture(folder / f"photo-{number}.png", level)
    whole = picture(folder / "bad.jpg", 50).read_bytes()
    (folder / "bad.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "clip.mp4").write_bytes(CLIP.read_bytes())
    (folder / "notes.txt").write_text("later")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_every_file_becomes_its_own_and_a_bad_one_is_named_at_the_end(
    command: Command, shoot: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    done = command(*SHOOT, "--frames", 2, "--source", shoot, "--out", out)
    assert done.code == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "clip.mp4",
        "photo-1.png",
        "photo-10.png",
        "photo-9.png",
    ]
    assert "rendered 4 of 5 files" in done.out and "failed: bad.jpg\n" in done.out
    assert done.err.count("bad.jpg") == 1
    assert "passed over: notes.txt" in done.err and "Traceback" not in done.err
    assert "5 of 5: photo-10.png" in done.err, "progress over all"
    for number, level in ((10, 100), (9, 90), (1, 10)):
        assert (cv2.imread(str(out / f"photo-{number}.png")) == level).all()


def test_several_sources_are_rendered_in_their_order(command: Command, tmp_path: Path) -> None:
    files = [picture(tmp_path / name, level) for name, level in (("b.png", 20), ("a.png", 30))]
    out = tmp_path / "out"
    done = command(*SHOOT, *(x for file in files for x in ("--source", file)), "--out", out)
    assert done.code == 0, done.err
    assert done.out.index("b.png") < done.out.index("a.png")


def test_the_pictures_are_those_of_single_sessions(
    command: Command, tmp_path: Path, tiny_folder: Path
) -> None:
    """One backend renders all files, and no file sees the one before."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(files[-1]), rng.integers(0, 255, (64, 64, 3), np.uint8))
    live = ("live", "--model", tiny_folder, "--size", 64, "--headless")
    for feedback in (0.0, 0.5):
        out = tmp_path / f"out{feedback}"
        many = [x for file in files for x in ("--source", file)]
        done = command(*live, *many, "--out", out, "--feedback", feedback)
        assert done.code == 0, done.err
        alone = tmp_path / f"alone{feedback}.png"
        done = command(*live, "--source", files[2], "--out", alone, "--feedback", feedback)
        assert done.code == 0, done.err
        assert (cv2.imread(str(alone)) == cv2.imread(str(out / "2.png"))).all()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--out", "x.mp4"), "--out names the folder"),
        (("--out", "a", "--out", "b"), "--out names the folder"),
        (("--out", "out", "--stats", "s.json"), "of one session"),
        (
            ("--source", "rtsp://me:secret@host/1", "--out", "new"),
            "--source rtsp://host/1: several",
        ),
        (("--source", "0", "--out", "new"), "--source 0: several sources are files"),
        (("--out", "old"), "2 of the files are there already, first clip.mp4"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    command: Command,
    shoot: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    for name in ("clip.mp4", "photo-9.png"):
        (tmp_path / "old" / name).write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    done = command(*SHOOT, "--source", shoot, *more)
    assert done.code == 2 and says in done.err, done.err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "old" / "clip.mp4").read_bytes() == b"mine"


def test_a_window_shows_one_source(command: Command, shoot: Path) -> None:
    done = command("live", "--model", "demo", "--source", shoot, "--out", "out")
    assert done.code == 2 and "add --headless" in done.err


def test_names_that_meet_are_numbered(tmp_path: Path) -> None:
    files = [picture(tmp_path / name, 1) for name in ("a.png", "A.jpg", "a.bmp", "12.png")]
    takes, passed = takes_of([str(each) for each in files], tmp_path / "out", "prores")
    assert [take.out.name for take in takes] == ["a.png", "A-2.png", "a-3.png", "12.png"]
    assert not passed
    film, _ = takes_of([str(CLIP), str(files[0])], tmp_path / "out", "prores")
    assert film[0].out.name == "clip.mov"
    with pytest.raises(UsageError, match="holds no pictures or films"):
        (tmp_path / "empty").mkdir()
        takes_of([str(tmp_path / "empty")], tmp_path / "out", "")


def test_one_file_is_no_shoot(tmp_path: Path) -> None:
    assert not is_shoot(["a.mp4"]) and not is_shoot(["0"]) and not is_shoot([])
    assert not is_shoot([""]), "which is no folder"
    assert is_shoot([str(tmp_path)]) and is_shoot(["a.mp4", "b.mp4"])


def test_ctrl_c_ends_all_and_keeps_what_was_rendered(shoot: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*map(str, SHOOT), "--source", str(CLIP), "--source", str(shoot)]
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "sdxs.cli", *arguments, "--out", str(out), "--frames", "9999"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    for line in running.stderr:  # the first of them is being rendered
        if "1 of 6: clip.mp4, frame" in line:
            break
    os.kill(running.pid, signal.SIGINT)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted in 1 of 6: clip.mp4" in said and "rendered 0 of 6 files" in said
    assert [path.name for path in out.iterdir()] == ["clip.mp4"]


def kept(fresh: bool = False) -> KeptBackend:
    options = BackendOptions(FrameSize(8, 8))
    return KeptBackend(HostedBackend("identity", LOCATION, None, options), fresh)


def session(backend: KeptBackend, levels: list[int], collected: int) -> list[int]:
    """Render some frames and leave the rest in flight."""
    backend.load()
    backend.set_conditioning(np.zeros((1, 77, 4), np.float32))
    backend.set_params(FrameParams())
    out, seen = np.zeros((8, 8, 3), np.uint8), []
    for level in levels:
        backend.submit(np.full((8, 8, 3), level, np.uint8))
    for _ in range(collected):
        backend.collect(out)
        seen.append(int(out[0, 0, 0]))
    backend.close()
    return seen


@pytest.mark.parametrize("fresh", [False, True])
def test_a_kept_backend_is_loaded_once_and_leaves_nothing_in_flight(fresh: bool) -> None:
    backend = kept(fresh)
    pids = []
    try:
        for levels, collected, expected in (([1, 2, 3], 1, [1]), ([4, 5], 2, [4, 5])):
            assert session(backend, levels, collected) == expected, "no frame of the one before"
            pids.append(dict(backend.describe().processes))
    finally:
        backend.end()
        backend.end()
    assert (pids[0] == pids[1]) is not fresh
