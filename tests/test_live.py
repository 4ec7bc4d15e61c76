"""`sdxs live` end to end: a real clip in, files out, one clear line for every fault."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.io.films.plan import Film
from sdxs.common.io.films.reader import FilmReader
from sdxs.common.io.sources import film
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.picture.opencv import cv2

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"
LIVE = ("live", "--model", "demo", "--size", 64, "--headless")


def read_all(path: Path) -> list[np.ndarray]:
    video, frames = VideoFile(path), []
    while (frame := video.read()) is not None:
        frames.append(frame.copy())  # the next one takes its place
    return frames


def test_clip_to_video_image_and_folder_at_once(command: Command, tmp_path: Path) -> None:
    outs = [tmp_path / "out.mp4", tmp_path / "out.png", tmp_path / "frames"]
    done = command(
        *LIVE, "--source", CLIP, "--frames", 5, *(x for out in outs for x in ("--out", out))
    )
    assert done.code == 0, done.err
    assert "5 frames" in done.out
    frames = read_all(outs[0])
    assert len(frames) == 5 and frames[0].shape == (64, 64, 3)
    pngs = sorted(outs[2].iterdir())
    assert len(pngs) == 5
    assert outs[1].read_bytes() == pngs[-1].read_bytes()
    assert cv2.imread(str(outs[1])).std() > 20, "the picture is flat"


def test_a_clip_ends_the_session_by_itself(command: Command, tmp_path: Path) -> None:
    done = command(*LIVE, "--backend", "identity", "--source", CLIP, "--out", tmp_path / "out.mp4")
    assert done.code == 0 and "60 frames" in done.out
    assert len(read_all(tmp_path / "out.mp4")) == 60


def test_prompts_take_turns_and_the_sheet_shows_each(command: Command, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    prompts = ("--prompt", "a pencil sketch", "--prompt", "neon cyberpunk city", "--hold", 5)
    done = command(*LIVE, "--source", CLIP, *prompts, "--contact-sheet", sheet)
    assert done.code == 0 and "10 frames" in done.out
    assert "neon" in done.err.splitlines()[-1]
    rows = np.split(cv2.imread(str(sheet)).astype(int), 3)
    assert rows[0].shape == (64, 5 * 64, 3)
    assert abs(rows[1] - rows[2]).mean() > 20, "both prompts gave the same picture"


def test_side_by_side_shows_the_camera(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = command(
        *LIVE,
        "--backend",
        "identity",
        "--source",
        CLIP,
        "--frames",
        1,
        "--side-by-side",
        "--out",
        out,
    )
    assert done.code == 0
    picture = cv2.imread(str(out))
    assert picture.shape == (64, 128, 3)
    np.testing.assert_array_equal(picture[:40, :64], picture[:40, 64:])


def test_seed_repeats_a_session_and_another_seed_does_not(
    command: Command, tmp_path: Path, tiny_folder: Path
) -> None:
    pictures = []
    for n, seed in enumerate((7, 7, 8)):
        out = tmp_path / f"{n}.png"
        done = command(
            "live",
            "--model",
            tiny_folder,
            "--size",
            64,
            "--headless",
            "--source",
            "synthetic",
            "--frames",
            1,
            "--seed",
            seed,
            "--out",
            out,
        )
        assert done.code == 0, done.err
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("shape", [(37, 53), (1, 1), (301, 200)])
def test_image_of_odd_size(command: Command, tmp_path: Path, shape: tuple[int, int]) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), np.full((*shape, 3), 128, np.uint8))
    done = command(*LIVE, "--source", tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert done.code == 0 and "1 frames" in done.out
    assert cv2.imread(str(tmp_path / "out.png")).shape == (64, 64, 3)


def test_long_prompt_is_cut_with_a_warning(command: Command, tmp_path: Path) -> None:
    long = "a very long description of a pencil sketch " * 20
    done = command(
        *LIVE,
        "--source",
        "synthetic",
        "--frames",
        1,
        "--prompt",
        long,
        "--out",
        tmp_path / "out.png",
    )
    assert done.code == 0
    assert done.err.count("warning:") == 1 and "75 fit" in done.err


def refuse(command: Command, code: int, says: str, *arguments: object) -> None:
    """The command ends with `code` and exactly one line that holds `says`."""
    done = command(*arguments)
    complaint = [line for line in done.err.splitlines() if "error:" in line]
    assert done.code == code, done
    assert len(complaint) == 1 and says in complaint[0], done.err
    assert "Traceback" not in done.err
    assert not done.out


@pytest.mark.parametrize(
    ("code", "says", "arguments"),
    [
        (2, "did you mean 'demo'", ("--model", "demos")),
        (2, "no checkpoint there", ("--model", "./nowhere")),
        (2, "--backend torchy: expected one of", ("--backend", "torchy")),
        (2, "multiple of 32; the nearest is 96", ("--size", 100)),
        (2, "--dtype float8: expected one of auto", ("--dtype", "float8")),
        (1, "no such file", ("--source", "nowhere.mp4")),
        (1, "--source synthetic", ("--source", 63)),
        (1, "vae_large", ("--vae", "vae_large")),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else None,
)
def test_bad_arguments(
    command: Command, tmp_path: Path, code: int, says: str, arguments: tuple[object, ...]
) -> None:
    refuse(
        command,
        code,
        says,
        *LIVE,
        *(() if "--source" in arguments else ("--source", CLIP)),
        "--frames",
        2,
        "--out",
        tmp_path / "out.mp4",
        *arguments,
    )
    assert not list(tmp_path.iterdir())


def test_options_click_refuses_end_with_2(command: Command, tmp_path: Path) -> None:
    for arguments in (("--frames", 0), ("--frames", "many"), ("--seed", -1), ("--no-such-option",)):
        assert command(*LIVE, "--out", tmp_path / "out.mp4", *arguments).code == 2


def test_half_precision_on_a_cpu(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdxs.mlx_sdxs.backend.on_gpu", lambda: False)  # a Mac's GPU takes it
    refuse(
        command,
        2,
        "use --dtype float32",
        *LIVE,
        "--dtype",
        "float16",
        "--source",
        CLIP,
        "--out",
        tmp_path / "o.mp4",
    )


def test_out_not_writable(command: Command, tmp_path: Path) -> None:
    refuse(
        command,
        1,
        "cannot be written",
        *LIVE,
        "--source",
        CLIP,
        "--out",
        tmp_path / "missing" / "out.mp4",
    )
    refuse(command, 1, "cannot be written", *LIVE, "--source", CLIP, "--out", "/proc/out.mp4")
    refuse(command, 2, "unknown kind", *LIVE, "--source", CLIP, "--out", tmp_path / "out.doc")
    assert not list(tmp_path.iterdir())


def test_headless_without_out(command: Command) -> None:
    refuse(command, 2, "add --out", *LIVE, "--source", CLIP)


def test_unreadable_video_leaves_no_output(command: Command, tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(CLIP.read_bytes()[:20_000])
    refuse(
        command,
        1,
        "cut off before its index",
        *LIVE,
        "--source",
        tmp_path / "in.mp4",
        "--out",
        tmp_path / "out.mp4",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda path: path.unlink(), "file is missing", marks=pytest.mark.thorough),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged or truncated"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)), "is a pickle"),
    ],
    ids=["missing", "truncated", "pickle"],
)
def test_damaged_weights(
    command: Command, tmp_path: Path, tiny_folder: Path, damage: object, says: str
) -> None:
    damage(tiny_folder / "unet" / "diffusion_pytorch_model.safetensors")  # type: ignore[operator]
    out = tmp_path / "out.mp4"
    refuse(
        command,
        1,
        says,
        "live",
        "--model",
        tiny_folder,
        "--size",
        64,
        "--headless",
        "--source",
        CLIP,
        "--out",
        out,
    )
    assert not out.exists()


def test_unknown_config_value(command: Command, tmp_path: Path, tiny_folder: Path) -> None:
    config = tiny_folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"silu"', '"mish"'))
    refuse(
        command,
        1,
        'act_fn is "mish"',
        "live",
        "--model",
        tiny_folder,
        "--headless",
        "--out",
        tmp_path / "out.mp4",
    )


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.thorough), signal.SIGTERM]
    + [pytest.param(signal.SIGHUP, marks=pytest.mark.thorough)],
)
def test_interrupted_session_keeps_a_playable_video(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out.mp4"
    arguments = [*map(str, LIVE), "--source", "synthetic", "--out", str(out), "--frames", "100000"]
    command = [sys.executable, "-m", "sdxs.cli", *arguments]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # also under nohup
    )
    assert process.stderr is not None
    for line in process.stderr:  # the first progress line says that frames are being written
        if line.startswith("frame"):
            break
    process.send_signal(number)
    process.send_signal(number)  # bug: a key that bounced lost the recording
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "wrote" in rest and "Traceback" not in errors
    assert len(read_all(out)) >= 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_closed_terminal_does_not_end_what_runs_under_nohup(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    arguments = [*map(str, LIVE), "--backend", "identity", "--source", "synthetic"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sdxs.cli", *arguments, "--out", str(out), "--frames", "300"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stderr is not None
    next(line for line in process.stderr if "source synthetic" in line)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert len(read_all(out)) == 300


def test_weights_commands(command: Command, tiny_folder: Path) -> None:
    listed = command("weights", "list")
    assert all(name in listed.out for name in ("demo", "sdxs-512-0.9", "pickle only"))
    assert command("weights", "path", "demo").out.strip() == str(ROOT / "weights" / "demo")
    verified = command("weights", "verify", "demo", tiny_folder)
    assert verified.code == 0 and verified.out.count("good") == 2
    (tiny_folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    damaged = command("weights", "verify", "demo", tiny_folder)
    assert damaged.code == 1 and "damaged" in damaged.out


def test_version_and_help(command: Command) -> None:
    assert command("--version").out.strip() == "0.1.0"
    assert "--backend" in command("live", "--help").out


def test_disk_full_while_recording_keeps_what_was_recorded(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxs.common.io.sinks import film as sinks

    free = iter([10**12] + [10**6] * 100)
    monkeypatch.setattr(
        sinks.shutil, "disk_usage", lambda _: type("Usage", (), {"free": next(free)})()
    )
    out = tmp_path / "out.mp4"
    done = command(*LIVE, "--backend", "identity", "--source", CLIP, "--out", out)
    assert done.code == 1 and done.err.count("error:") == 1 and "disk is full" in done.err
    assert len(read_all(out)) == sinks.DISK_CHECK_FRAMES
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_realtime_files_keep_their_pace(command: Command, tmp_path: Path) -> None:
    """A clip of 60 frames at 20 a second takes three seconds, and so does its recording."""
    done = command(
        *LIVE,
        "--backend",
        "identity",
        "--source",
        CLIP,
        "--realtime",
        "--frames",
        20,
        "--out",
        tmp_path / "o.mp4",
        "--stats",
        tmp_path / "s.json",
    )
    assert done.code == 0
    stats = json.loads((tmp_path / "s.json").read_text())
    between_first_and_last_s = 19 / stats["fps"]
    # 19 frames at 20 a second, or more on a machine that cannot keep up.
    assert between_first_and_last_s >= 0.9
    assert len(read_all(tmp_path / "o.mp4")) == pytest.approx(
        20 * between_first_and_last_s + 1, abs=2
    )


def test_stats_hold_the_figures_of_the_summary(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    done = command(*LIVE, "--source", CLIP, "--frames", 10, "--stats", path)
    assert done.code == 0 and "memory" in done.out
    stats = json.loads(path.read_text())
    assert (stats["captured"], stats["inferred"], stats["shown"]) == (10, 10, 10)
    assert stats["latency_ms"]["p99"] >= stats["latency_ms"]["p50"] > 0
    assert stats["memory"][0]["model_bytes"] > 1e6 and stats["backends"][0]["backend"] == "mlx"
    assert stats["flicker"]["pairs"] == 0 and stats["flicker"]["ratio"] is None
    # bug: "output changes 1.98 times as much" on a clip in which everything moves
    assert "flicker: not measured, because the camera never stood still" in done.out


@pytest.mark.parametrize(
    "outputs",
    [
        ("--out", "in.mp4"),
        ("--contact-sheet", "same.png", "--out", "same.png"),
        ("--out", "a.mp4", "--out", "./a.mp4"),
    ],
)
def test_one_file_named_twice_is_refused_before_it_is_overwritten(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: tuple[str, ...]
) -> None:
    """Bug: `--source h.mp4 --out h.mp4` destroyed the user's video."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.mp4").write_bytes(CLIP.read_bytes())
    refuse(command, 2, "overwrite", *LIVE, "--backend", "identity", "--source", "in.mp4", *outputs)
    assert (tmp_path / "in.mp4").read_bytes() == CLIP.read_bytes() and len(
        list(tmp_path.iterdir())
    ) == 1


def test_a_video_that_does_not_say_its_length_is_rendered_whole(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: such a file gave one frame and exit code 0."""

    class Uncounted(FilmReader):
        def __init__(self, asked: Film) -> None:
            super().__init__(asked)
            self.facts = replace(self.facts, count=0, duration_s=0.0)

    monkeypatch.setattr(film, "FilmReader", Uncounted)
    done = command(*LIVE, "--backend", "identity", "--source", CLIP, "--out", tmp_path / "out.mp4")
    assert done.code == 0 and "60 frames" in done.out


def test_a_realtime_clip_is_captured_whole_and_accounted_for(
    command: Command, tmp_path: Path
) -> None:
    """That it waits for the model is shown in test_loop.py."""
    done = command(
        *LIVE,
        "--isolate",
        "--source",
        CLIP,
        "--realtime",
        "--out",
        tmp_path / "out.mp4",
        "--stats",
        tmp_path / "s.json",
    )
    assert done.code == 0
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["captured"] == 60 and stats["shown"] >= 1
    assert (
        stats["captured"]
        == stats["shown"] + stats["dropped_before_inference"] + stats["dropped_before_display"]
    )


def test_figures_are_kept_when_a_session_fails(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxs.common.backend.identity import IdentityBackend
    from sdxs.common.backend.protocol import StageTimes
    from sdxs.common.errors import BackendError

    class Failing(IdentityBackend):
        count = 0

        def collect(self, out: np.ndarray) -> StageTimes:
            self.count += 1
            if self.count == 10:
                raise BackendError("planted")
            return super().collect(out)

    monkeypatch.setattr("sdxs.common.backend.identity.IdentityBackend", Failing)
    outputs = ("--out", tmp_path / "o.mp4", "--stats", tmp_path / "s.json")
    done = command(*LIVE, "--backend", "identity", "--source", CLIP, *outputs)
    assert done.code == 1 and "planted" in done.err and "9 frames" in done.out
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["shown"] == 9 and stats["ended"] == "failed"


def test_comparing_equal_backends_says_that_they_are_equal(
    command: Command, tmp_path: Path
) -> None:
    """Bug: identical pictures were reported at 0.0 dB."""
    done = command(
        *LIVE,
        "--backend",
        "identity",
        "--compare",
        "identity",
        "--source",
        CLIP,
        "--frames",
        5,
        "--blend",
        0.5,
        "--out",
        tmp_path / "o.mp4",
    )
    assert done.code == 0 and "rendered 5 frames identically" in done.out and "dB" not in done.out


def test_a_session_that_leaves_a_thread_behind_fails_its_test(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: the command ended the whole test run half-way, with exit code 0 and without a word."""
    monkeypatch.setattr("sdxs.common.live.threads.loop.Loop.abandoned", True)
    with pytest.raises(pytest.fail.Exception, match="left a thread behind"):
        command(
            *LIVE,
            "--backend",
            "identity",
            "--source",
            CLIP,
            "--frames",
            2,
            "--out",
            tmp_path / "o.mp4",
        )


def test_a_slow_close_of_two_backends_is_waited_for(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: with 0.6 s in all, comparing backends lost their memory and killed the process."""
    options = (
        *LIVE,
        "--backend",
        "identity",
        "--compare",
        "identity",
        "--source",
        CLIP,
        "--frames",
        2,
    )
    monkeypatch.setattr("command.PATIENCE_S", 0.0)
    done = command(*options, "--out", tmp_path / "o.mp4", "--stats", tmp_path / "s.json")
    assert done.code == 0, done
    assert len(json.loads((tmp_path / "s.json").read_text())["memory"]) == 2


def test_sequential_refuses_what_it_would_ignore(command: Command, tmp_path: Path) -> None:
    refuse(
        command,
        2,
        "--loop sequential",
        *LIVE,
        "--loop",
        "sequential",
        "--skip",
        2,
        "--out",
        tmp_path / "o.mp4",
    )
    refuse(command, 2, "--compare nope", *LIVE, "--compare", "nope", "--out", tmp_path / "o.mp4")
