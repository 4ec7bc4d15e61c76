"""What moves a session, from the command line: options, refusals, and a film by a schedule."""

import json
import sys
from pathlib import Path

import pytest

from command import Command

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"
LIVE = ("live", "--model", "demo", "--backend", "identity", "--size", 64, "--headless")


def test_a_film_by_the_schedule_of_the_docs(command: Command, tmp_path: Path) -> None:
    out, stats = tmp_path / "out.mp4", tmp_path / "s.json"
    done = command(
        *(*LIVE, "--source", CLIP, "--out", out, "--stats", stats),
        *("--schedule", ROOT / "docs" / "demo" / "show.txt", "--tempo", 150),
    )
    assert done.code == 0 and "60 frames" in done.out
    values = json.loads(stats.read_text())["parameters"]
    # 59 frames of 20 a second are 7.375 beats of 150 a minute.
    assert values["prompt"].startswith("neon") and values["blend"] == 0
    assert values["feedback"] == 0.4 and values["mirror"] is False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--schedule", "none.txt"), "--schedule none.txt: not readable"),
        (("--schedule", "bad.txt"), "bad.txt, line 2: blend 2.0: expected a number from 0 to 1"),
        (
            ("--schedule", "prompts.txt", "--prompt", "a", "--prompt", "b"),
            "prompts.txt sets prompts, and the prompts given take turns by themselves",
        ),
        (("--schedule", "control.txt"), "line 1: nothing reads edges in this session"),
        (("--schedule", "bad.txt", "--out", "bad.txt"), "would overwrite"),
        (("--tempo", "999"), "--tempo 999.0: expected a number from 20 to 400"),
        (("--on-beat", "-1"), "--on-beat -1.0: expected a number from 0 to 64"),
        (("--osc", "x"), "--osc x: expected a port"),
        (("--osc-to", "9000"), "--osc-to: is part of --osc"),
        (("--midi-map", "x.json"), "--midi-map: is part of --midi"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    says: str,
) -> None:
    if "--osc" in options:
        pytest.importorskip("pythonosc", reason="python-osc is not installed")
    monkeypatch.chdir(tmp_path)
    Path("bad.txt").write_text("0 blend 1\n1 blend 2\n")
    Path("prompts.txt").write_text("0 prompt x\n")
    Path("control.txt").write_text("0 control_scale 1\n")
    outs = () if "--out" in options else ("--out", "o.mp4")
    done = command(*LIVE, "--source", "synthetic", "--frames", 2, *outs, *options)
    assert done.code == 2 and done.err.count("error:") == 1 and says in done.err
    assert not Path("o.mp4").exists() and Path("bad.txt").read_text().startswith("0 blend")


@pytest.mark.parametrize(
    ("option", "package", "remedy"),
    [("--osc", "pythonosc", "pip install 'sdxs[osc]'"), ("--midi", "mido", "sdxs[midi]")],
)
def test_without_its_package_an_option_says_how_to_get_it(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    package: str,
    remedy: str,
) -> None:
    for name in [*sys.modules]:
        if name.split(".")[0] == package or name.endswith(("inputs.osc_wire", "inputs.midi")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    done = command(*LIVE, "--source", "synthetic", "--out", tmp_path / "o.mp4", option, "9000")
    assert done.code == 2 and f"{option}: {package!r} is not installed" in done.err
    assert remedy in done.err
