"""The judge of faults: what is not survived is called that; faults are drawn, mixed and shared."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from sdxs.common.errors import SinkError, UsageError
from sdxs.experiments.measure.fault_kinds import damage, pickles
from sdxs.experiments.measure.fault_kinds.command import How
from sdxs.experiments.measure.fault_kinds.every import faults
from sdxs.experiments.measure.fault_kinds.fault import Fault, Outcome, Ran, Right
from sdxs.experiments.measure.fault_kinds.judge import complaints, fingerprints, whole
from sdxs.experiments.measure.fault_kinds.place import Place
from sdxs.experiments.measure.fault_kinds.pool import attempt_all
from sdxs.experiments.measure.fault_kinds.samples import Samples
from sdxs.experiments.measure.fault_kinds.worker import attempt
from sdxs.experiments.measure.faults import FaultsOptions, chosen, counts, mixed, page, said

GOOD = "error: a.png: is a folder, expected a file name; add one\n"


def ran(code: int | None = 1, out: str = "", err: str = GOOD, **more: object) -> Ran:
    return Ran(code, out, err, 0.1, **more)  # type: ignore[arg-type]


def wrong(folder: Path, one: Ran, right: Right | None = None, **before: str) -> str:
    return "; ".join(complaints(one, right or Right(), folder, before))


def test_an_error_in_one_line_with_a_remedy_is_survived(tmp_path: Path) -> None:
    assert not wrong(tmp_path, ran(), Right(says="a.png"))
    assert not wrong(tmp_path, ran(0, "fine\n", ""), Right((0, 1)))
    assert not wrong(tmp_path, ran(130, err="interrupted\n", sent=(2,)), Right((130,)))
    assert not wrong(tmp_path, ran(-15, err="", sent=(15,)), Right((143,)))
    starting = "Fatal Python error: init_import_site: x\nTraceback (most recent call last):\n"
    assert not wrong(tmp_path, ran(1, err=starting, sent=(2,)), Right((130,)))
    assert wrong(tmp_path, ran(1, err=starting), Right((130,)))
    importing = "Traceback (most recent call last):\nKeyboardInterrupt\n"
    assert not wrong(tmp_path, ran(-2, err=importing, sent=(2,)), Right((130,)))
    assert wrong(tmp_path, ran(130, err=importing, sent=(2,)), Right((130,)))


@pytest.mark.parametrize(
    ("one", "complaint"),
    [
        (ran(err=f"Traceback (most recent call last):\n{GOOD}"), "said 'Traceback'"),
        (ran(0, out="Exception ignored in: <a>\n", err=""), "said 'Exception ignored'"),
        (ran(None), "hung: no end within 40 s"),
        (ran(-11), "died of signal 11"),
        (ran(-9, sent=(2,)), "died of signal 9"),
        (ran(134), "exit code 134, expected 1"),
        (ran(2), "exit code 2, expected 1"),
        (ran(0, err=""), "exit code 0, expected 1"),
        (ran(err=""), "0 error lines, expected one"),
        (ran(err=GOOD + GOOD), "2 error lines, expected one"),
        (ran(err="error:\n"), "an empty error line"),
        (ran(err="error: 'a.png'\n"), "an error line of 1 words"),
        (ran(err="error: it did not work out as it should\n"), "without a remedy"),
        (ran(err="error: KeyError('a'): name another file with it\n"), "a bare error"),
        (ran(err="error: a.png: [Errno 2] No such file; name another\n"), "a bare error"),
        (ran(err="error: b.png is a folder; name another file\n"), "does not name 'a.png'"),
        (ran(left_running=True), "left a process running"),
        (ran(peak_mb=5000.0), "took 5000 MB, at most 1000"),
        (Ran(1, "", GOOD, 50.0), "took 50.0 s, at most 40"),
    ],
)
def test_what_is_not_survived_is_called_that(tmp_path: Path, one: Ran, complaint: str) -> None:
    assert complaint in wrong(tmp_path, one, Right(says="a.png"))


def picture(path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


def tensors(path: Path) -> None:
    save_file({"a": np.ones(3, np.float32)}, path)


@pytest.mark.parametrize(
    ("name", "make"), [("a.png", picture), ("a.safetensors", tensors), ("a.json", None)]
)
def test_success_over_a_file_that_is_not_whole_is_no_success(
    tmp_path: Path, name: str, make: Callable[[Path], None] | None
) -> None:
    path = tmp_path / name
    path.write_text("{}") if make is None else make(path)
    told = ran(0, f"wrote {name}: x\n", "")
    right = Right((0,), whole=(name,))
    assert not wrong(tmp_path, told, right)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    assert f"said 'wrote {name}:' over a file that is not whole" in wrong(tmp_path, told, right)
    assert f"left in the place of {name} a file that is not whole" in wrong(tmp_path, told, right)
    path.unlink()
    assert "not there" in wrong(tmp_path, told, right)
    assert f"success, and no {name}" in wrong(tmp_path, ran(0, "", ""), right)


def test_a_film_that_ends_within_a_frame_is_no_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(b"no film")
    assert whole(path) and whole(path, cut=True)


def test_a_hash_that_the_file_has_not_is_a_false_claim(tmp_path: Path) -> None:
    tensors(tmp_path / "a.safetensors")
    (digest,) = fingerprints(tmp_path).values()
    line = "a.safetensors: 1 tensors, sha256 {}; the pickle's was x\n"
    assert not wrong(tmp_path, ran(0, line.format(digest), ""), Right((0,)))
    assert "said a sha256 that a.safetensors has not" in wrong(
        tmp_path, ran(0, line.format("0" * 64), ""), Right((0,))
    )


def test_an_earlier_file_that_is_gone_or_changed_is_lost(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    before = fingerprints(tmp_path)
    right = Right(whole=("a.png",), kept=("b.txt",))
    assert "b.txt was changed" in wrong(tmp_path, ran(), right, **{"b.txt": "0"}, **before)
    assert not wrong(tmp_path, ran(), Right(whole=("a.png",)), **before)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert "a failure took the earlier a.png" in wrong(tmp_path, ran(), right, **before)
    (tmp_path / "a.png").unlink()
    assert "the earlier a.png is gone" in wrong(tmp_path, ran(), right, **before)


def test_a_partial_file_that_stays_is_no_tidy_end(tmp_path: Path) -> None:
    (tmp_path / ".a.1234.partial.mp4").touch()
    assert "left .a.1234.partial.mp4 behind" in wrong(tmp_path, ran())
    assert not wrong(tmp_path, ran(), Right(leaves=True))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place", Samples(tmp_path), Random(0))


def program(text: str, **more: object) -> How:
    return How(program=("-c", text), **more)  # type: ignore[arg-type]


def test_commands_are_run_judged_and_killed_at_their_limit(place: Place) -> None:
    place.sdxs(right=Right((0,)), how=program("print('fine')"))
    assert not place.wrong and place.last and place.last.last_line == "fine"
    place.sdxs(
        right=Right((0,), seconds=1), how=program("input()\nwhile 1: pass", stdin="a\n", limit_s=1)
    )
    assert place.wrong == ["hung: no end within 1 s"]


def test_a_signal_is_sent_after_words_and_a_child_that_stays_is_seen(place: Place) -> None:
    text = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('ready', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    how = program(text, signals=(("ready", 15),))
    found = place.sdxs(right=Right((143,)), how=how)
    assert found.code == -15 and place.wrong == ["left a process running"]


def test_a_limit_reaches_the_command(place: Place) -> None:
    text = "open('a', 'wb', buffering=0).write(bytes(100)); import os; print(os.stat('a').st_size)"
    found = place.sdxs(right=Right((0,)), how=program(text, lacks={"limits": {"FSIZE": 10}}))
    assert found.out == "10\n" and not place.wrong
    closed = program("import sys; sys.exit(sys.stdout is not None)", lacks={"close": [1]})
    assert place.sdxs(right=Right((0,)), how=closed).code == 0


def test_calls_of_the_api_are_judged_as_commands(place: Place) -> None:
    def refused() -> None:
        raise SinkError("a.png: is a folder, expected a file name; add one")

    def broken() -> None:
        raise KeyError("a")

    place.call(refused, Right(says="a.png"))
    assert not place.wrong and place.last and place.last.code == 1
    place.call(broken)
    assert "said 'Traceback'" in place.wrong


def test_a_canary_and_a_fault_that_fails_itself_are_not_survived(tmp_path: Path) -> None:
    def sing(place: Place) -> None:
        place.canary().touch()
        place.note("and sung")

    fault = Fault("a-01", "a", "sing", sing)
    outcome = attempt(fault, tmp_path / "a", Samples(tmp_path), 0)
    assert outcome.wrong == ("something was executed: the canary is there",)
    assert outcome.what == "sing, and sung" and not outcome.survived

    def fall(place: Place) -> None:
        raise RuntimeError("ours")

    outcome = attempt(Fault("a-02", "a", "fall", fall), tmp_path / "b", Samples(tmp_path), 0)
    assert "the fault itself failed" in outcome.wrong[0] and "ours" in outcome.wrong[0]


def test_the_payloads_sing_where_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    monkeypatch.chdir(tmp_path)
    call = pickles.CALLS["builtins.exec"]
    pickle.loads(pickles.state(("w", call)))
    assert (tmp_path / pickles.CANARY).exists()


def test_the_sound_pickle_is_one(tmp_path: Path) -> None:
    from sdxs.common.checkpoint.torch_file import open_torch_file

    for pack in (pickles.packed, pickles.legacy):
        path = tmp_path / pack.__name__
        path.write_bytes(pack(pickles.SOUND))
        with open_torch_file(path) as opened:
            assert opened.tensors["w"].shape == (2, 3)


def test_a_seed_draws_the_same_faults_and_another_draws_others() -> None:
    drawn = [faults(seed) for seed in (0, 0, 1)]
    ids, texts = ([[getattr(f, n) for f in each] for each in drawn] for n in ("id", "what"))
    assert ids[0] == ids[1] and texts[0] == texts[1] != texts[2]
    assert len(ids[0]) == len(set(ids[0])) >= 300
    assert len({fault.kind for fault in drawn[0]}) >= 30


def test_a_share_gives_every_kind_its_turn() -> None:
    found = faults(0)
    order = mixed(found, 0)
    kinds = {each.kind for each in found}
    assert sorted(each.id for each in order) == sorted(each.id for each in found)
    assert {each.kind for each in order[: len(kinds)]} == kinds


def test_faults_are_chosen_by_their_id() -> None:
    (one,) = chosen(FaultsOptions(only="pickles-that-are-odd-03"))
    assert one.id == "pickles-that-are-odd-03"
    kinds = {each.kind for each in chosen(FaultsOptions(only="films,pictures-0"))}
    assert kinds == {"films", "pictures"}
    with pytest.raises(UsageError, match=r"--only banana: no fault has this id; kinds are "):
        chosen(FaultsOptions(only="banana"))


def outcome(id: str, *wrong: str) -> Outcome:
    return Outcome(id, id[:-3], "a | b", 1, "error: x", 0.1, wrong)


def test_the_page_counts_and_names_what_is_not_survived() -> None:
    outcomes = [outcome("films-01"), outcome("films-02", "hung"), outcome("zips-01")]
    assert counts(outcomes) == [("films", 2, 1), ("zips", 1, 1)]
    text = page(outcomes, 0)
    assert "| films | 2 | 1 |" in text and "| **all** | **3** | **2** |" in text
    assert "| films-02 | a \\| b | hung |" in text
    assert "Not survived" not in page(outcomes[:1], 0)
    assert "faults --seed 7 --only films-02" in said(outcomes[1], 7)


FAKE_WORKER = """
import json, os, sys
answers = os.fdopen({descriptor}, "w")
for line in sys.stdin:
    id = line.strip()
    if id == "dies-01":
        os.abort()
    if id == "hangs-01":
        sys.stdin.read()
    row = dict(id=id, kind="k", what="w", code=0, line="", seconds=0.0, wrong=[])
    print(json.dumps(row), file=answers, flush=True)
"""


def test_a_worker_that_dies_or_hangs_loses_one_fault_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxs.experiments.measure.fault_kinds import pool

    def command(seed: int, folder: Path, descriptor: int) -> list[str]:
        return [sys.executable, "-c", FAKE_WORKER.format(descriptor=descriptor)]

    monkeypatch.setattr(pool, "command_of", command)
    monkeypatch.setattr(pool, "WORKER_LIMIT_S", 2.0)
    found = [Fault(id, "k", "w", print) for id in ("a-01", "dies-01", "hangs-01", "b-01")]
    told: list[str] = []
    outcomes = attempt_all(found, 0, tmp_path, 1, None, lambda one: told.append(one.id))
    assert told == [one.id for one in outcomes] == [each.id for each in found]
    assert [one.survived for one in outcomes] == [True, False, False, True]
    assert outcomes[1].wrong == ("the process of the API ended with -6",)
    assert outcomes[2].wrong == ("hung: no end within 2 s",)
    assert attempt_all(found, 0, tmp_path, 1, 0.0, print) == []  # its time is over


def test_damaged_json_is_json_and_says_what_was_done() -> None:
    sound = {"a": [1, {"b": 2}], "c": "d"}
    draw = Random(3)
    drawn = [damage.odd_json(sound, draw) for _ in range(50)]
    assert all(
        json.loads(text) is not None and text != json.dumps(sound) and what for what, text in drawn
    )
    assert damage.flipped(b"\0\0", 0.9, 3) == b"\0\x08"
    assert damage.overwritten(b"abcdef", 0.5, b"X") == b"abcXef"
