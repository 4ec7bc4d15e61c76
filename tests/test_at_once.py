"""One thing done twice at once: a few rounds, and that the experiment sees what is wrong."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sdxs.common.checkpoint.manifest import add_imported
from sdxs.common.checkpoint.tensors import sha256
from sdxs.experiments.measure.at_once import Round, one_round, summed
from sdxs.experiments.measure.at_once_work import MODEL, works


def test_two_pulls_of_which_one_is_killed_while_it_writes(tmp_path: Path) -> None:
    with works("pull", tmp_path) as work:
        done = one_round(work, "trace", 0.05, 0)
    assert not done.wrong and done.codes[1] == 0
    assert done.codes[0] in (0, -signal.SIGKILL)


def test_two_imports_at_once(tmp_path: Path) -> None:
    with works("import", tmp_path) as work:
        done = one_round(work, "", 0.0, 0)
    assert not done.wrong and 0 in done.codes


def _doubled(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


@pytest.mark.parametrize(
    ("damage", "named"),
    [(_doubled, "unet"), (Path.unlink, "is missing"), (lambda path: None, "manifest.json")],
)
def test_a_false_success_of_an_import_is_seen(
    damage: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    with works("import", tmp_path) as work:
        folder = tmp_path / "model" / "unet"
        target = folder / "diffusion_pytorch_model.safetensors"
        assert work.amiss() == f"{target.name} is missing" and not work.half()
        target.write_bytes((tmp_path / "other.safetensors").read_bytes())
        damage(target)
        assert named.replace("unet", target.name) in work.amiss()
        if damage is not _doubled:
            return
        assert work.half()
        target.write_bytes((tmp_path / "other.safetensors").read_bytes())
        manifest, name = tmp_path / "weights" / "manifest.json", f"unet/{target.name}"
        add_imported(manifest, tmp_path / "model", name, sha256(target), "")
        assert not work.amiss() and not work.half()


def test_a_false_success_of_a_pull_is_seen(tmp_path: Path) -> None:
    with works("pull", tmp_path) as work:
        assert "unet/config.json" in work.amiss() and not work.half()
        config = tmp_path / "weights" / MODEL / "unet" / "config.json"
        config.parent.mkdir(parents=True)
        config.write_text("{}")
        assert work.half() == "unet/config.json"


def test_rounds_are_counted() -> None:
    rounds = [
        Round("pull", "", 0.0, (0, 0), 1, 1.0, ()),
        Round("pull", "start", 0.5, (-9, 0), 0, 1.0, ("said success: a",)),
        Round("import", "", 0.0, (0, 2), 0, 1.0, ()),
    ]
    assert summed(rounds, "pull") == {
        "rounds": 2,
        "rounds_with_a_kill": 1,
        "killed_in_time": 1,
        "said_success": 3,
        "told_of_waiting": 1,
        "false_or_half": 1,
    }
