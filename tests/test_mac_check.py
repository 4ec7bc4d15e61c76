"""mac-check: its table of questions, its child processes, its file, and a rehearsal."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from command import Command
from sdxs.common.checkpoint.find import find
from sdxs.common.errors import SinkError
from sdxs.common.picture.size import FrameSize
from sdxs.mac_check import children, disk, report, stored, survey
from sdxs.mac_check.children import run_question
from sdxs.mac_check.models import DEMO, FULL, WIDE
from sdxs.mac_check.question import ORDER, Plan, Question
from sdxs.mac_check.questions import table
from sdxs.mac_check.setup import Answer, Setup

STUBS = """
import atexit, os, signal, subprocess, sys, time

def good(setup):
    return {"ok": True, "psnr_db": 48.25, **setup.chosen}

def bad(setup):
    return {"ok": False, "psnr_db": float("nan")}

def fails(setup):
    raise RuntimeError("Error in declaring network.")

def names_folders(setup):
    return {"ok": False, "errors": [f"{setup.scratch}/x cannot be loaded"]}

def aborts(setup):
    os.abort()

def is_killed(setup):
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(setup):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(os.environ["MAC_CHECK_PIDS"], "w") as file:
        file.write(f"{os.getpid()} {other.pid}")
    time.sleep(600)

def holds_the_lock(setup):
    import ctypes
    with open(os.environ["MAC_CHECK_PIDS"], "w") as file:
        file.write(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)  # with the GIL, as Core ML holds it while it loads

def aborts_at_exit(setup):
    atexit.register(os.abort)
    return {"ok": True}

def is_noisy(setup):
    bars = "".join(f"\\rRunning passes: {n}%|##| {n}/9" for n in range(9))
    os.write(2, (bars + "\\n").encode())
    for n in range(60):
        os.write(2, f"line {n}\\n".encode())
    home = os.path.expanduser("~")
    os.write(2, f"E5RT: ANECCompile() FAILED in {setup.scratch}/x of {home}\\n".encode())
    return {"ok": True}

def tells(setup):
    names = ("SDXS_WEIGHTS", "TMPDIR", "XDG_CACHE_HOME")
    open(os.path.join(os.environ["TMPDIR"], "left"), "w").close()
    open(os.path.join(os.environ["SDXS_WEIGHTS"], "built"), "a").close()
    return {"ok": True, "programs": os.listdir(os.environ["SDXS_WEIGHTS"]),
            **{name: os.environ[name] for name in names}, "folder": setup.folder}
"""
DEATHS = ("good", "aborts", "is_killed", "fails", "hangs", "good")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary models lie in; children find the module of stub questions."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mac_check_stubs.py").write_text(STUBS)
    path = os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("MAC_CHECK_PIDS", str(tmp_path / "pids"))
    return tmp_path / "weights"


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def plan(self, questions: int, minutes: float, gigabytes: int) -> None:
        self.said.append(f"plan {questions} {gigabytes} GB")

    def begin(self, number: int, question: Question, limit_s: float) -> None:
        self.said.append(f"begin {number}")

    def end(self, number: int, question: Question, answer: Answer) -> None:
        self.said.append(f"end {number} {answer['ok']}")

    def left(self, size_bytes: int) -> None:
        self.said.append(f"left {size_bytes}")

    def pause(self, seconds: float) -> None:
        self.said.append(f"pause {seconds:g}")


def stub(name: str, number: int = 0) -> Question:
    made = Question(f"{name} {number}", f"mac_check_stubs:{name}", "gpu", DEMO)
    return replace(made, limit_s=1.0 if name == "hangs" else 60.0)


def stubs(*names: str) -> list[Question]:
    return [stub(name, number) for number, name in enumerate(names)]


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie counts."""
    try:
        return f"{pid} (" not in (text := Path(f"/proc/{pid}/stat").read_text()) or ") Z " in text
    except FileNotFoundError:
        if sys.platform == "linux":
            return True
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode != 0


def ends_soon(pids: Sequence[int]) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until and not all(map(is_gone, pids)):
        time.sleep(0.05)
    return all(map(is_gone, pids))


# The table


def test_the_order_is_from_harmless_to_risky() -> None:
    units = [
        each.unit for each in table(Plan()) if each.group not in ("random weights", "exact picture")
    ]
    assert units == sorted(units, key=ORDER.index) and set(units) == set(ORDER)
    core_ml = [each.unit for each in table(Plan()) if each.ask.endswith(".coreml:ask_variant")]
    assert list(dict.fromkeys(core_ml)) == ["gpu", "cpu", "all", "ne"]


def test_what_a_question_needs_is_asked_before_it() -> None:
    written: set[str] = set()
    exact: set[str] = set()
    for each in table(Plan()):
        if each.model and each.group == "random weights":
            written.add(each.model.base)
        elif each.model:
            assert not each.model.architecture or each.model.base in written, each.label
            assert not each.needs_exact or each.model.name in exact, each.label
            exact |= {each.model.name} if each.group == "exact picture" else set()


def test_every_question_of_the_table_is_there_and_each_label_differs() -> None:
    from importlib import import_module

    asked = table(Plan())
    for each in asked:
        module, name = each.ask.split(":")
        assert callable(getattr(import_module(module), name)), each.ask
        assert each.limit >= each.expected_s, each.label
    assert len({each.label for each in asked}) == len(asked)


@pytest.mark.parametrize(
    ("size", "sizes"), [(None, "128,256"), (64, "64,128"), (128, "64,128"), (192, "192,384")]
)
def test_the_question_of_sizes_asks_the_rehearsed_one_and_another_that_exists(
    size: int | None, sizes: str
) -> None:
    """Bug: rehearsed at 64, it asked for 32, at which no model is asked anything else."""
    asked = [each for each in table(Plan(size=size), 27) if "sizes" in each.chosen]
    assert len(asked) == 2 and {each.chosen["sizes"] for each in asked} == {sizes}
    demo = find("demo", download=False)
    for side in map(int, sizes.split(",")):
        demo.check_size(side)


def test_macos_14_gets_the_matmul_form_and_skips_what_needs_15() -> None:
    old = table(Plan(), macos=14)
    asked = [each for each in old if not each.skip]
    assert "sdpa" not in {each.chosen.get("attention") for each in asked}
    assert not any("sizes" in each.chosen or each.values.get("hint") for each in asked)
    formless = [each for each in asked if each.group in ("soak", "gil", "exact picture")]
    assert {each.chosen["attention"] for each in formless} == {"matmul"}
    # palettes in macOS 14's operations
    assert any(each.chosen.get("weights") == "palettize6" for each in asked)
    of_core_ai = {"needs macOS 26", "needs macOS 27"}
    assert {each.skip for each in old} == {"", "needs macOS 15", *of_core_ai}
    assert {each.skip for each in table(Plan(), macos=15)} == {"", *of_core_ai}


def test_core_ai_is_asked_from_macos_27_and_its_package_from_26() -> None:
    def asked(macos: int | None) -> set[str]:
        return {
            each.unit for each in table(Plan(), macos) if ".coreai:" in each.ask and not each.skip
        }

    assert asked(25) == set() and asked(26) == {"cpu"}
    assert asked(27) == asked(None) == {"gpu", "cpu", "all", "ne"}
    assert not any(each.skip for each in table(Plan(), macos=27))
    quick = [each.group for each in table(Plan(quick=True), 27) if ".coreai:" in each.ask]
    assert quick == ["core ai", "core ai"]


def test_units_of_core_ai_share_a_program() -> None:
    forms: dict[str, set[str]] = {}
    for each in table(Plan()):
        if each.group == "core ai" and each.model is DEMO:
            forms.setdefault(each.form, set()).add(each.unit)
    assert {"gpu", "all"} in forms.values() and {"gpu", "cpu", "ne"} in forms.values()


def test_every_form_names_its_attention() -> None:
    """Whatever the backend takes for itself, an answer says what it is about."""
    for each in table(Plan()):
        if each.chosen:
            assert "attention" in each.chosen, each.label


def test_a_wide_model_is_asked_about_with_frames_that_are_not_square(tmp_path: Path) -> None:
    asked = [each for each in table(Plan()) if each.model is WIDE]
    assert {each.unit for each in asked} == {"machine", "mlx", "gpu", "ne"}
    interview = survey._Interview(Plan(runtime="reference"), tmp_path, asked)
    made = interview._setup(asked[-1])
    assert made.size == "128x64" and made.frame == FrameSize(128, 64)
    assert made.options().size == FrameSize(128, 64)
    demo = next(each for each in table(Plan()) if each.model is DEMO and each.chosen)
    assert interview._setup(demo).size == 64
    # no form is shared with the square's: the packages differ
    forms = {each.form for each in table(Plan()) if each.model is DEMO}
    assert not forms - {""} & {each.form for each in asked}


def test_a_quick_check_takes_minutes_and_only_the_demo() -> None:
    quick = table(Plan(quick=True))
    assert sum(each.expected_s for each in quick) < 5 * 60
    assert {each.model for each in quick} == {DEMO, None}
    assert {each.unit for each in quick} >= {"mlx", "gpu", "cpu", "ne"}
    assert FULL in {each.model for each in table(Plan())}


def test_the_soak_is_as_long_as_asked() -> None:
    (soak,) = (each for each in table(Plan(soak_s=700)) if each.group == "soak")
    assert soak.values["soak_s"] == 700 and soak.limit > 700
    assert Plan(quick=True).soak_seconds < Plan().soak_seconds < 300


# Child processes


def ask(name: str, scratch: Path, limit_s: float = 60.0) -> Answer:
    setup = Setup("", "demo", str(scratch))
    return run_question(f"mac_check_stubs:{name}", setup, limit_s, {}, scratch)


def test_a_death_is_an_answer(weights: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    aborted = ask("aborts", scratch)
    assert aborted["ok"] is False and aborted["died"] == "SIGABRT" and "hung" not in aborted
    # the line of the program that was running
    assert any("in aborts" in line for line in aborted["stderr"])  # type: ignore[attr-defined]
    assert ask("is_killed", scratch)["died"] == "SIGKILL"
    at_exit = ask("aborts_at_exit", scratch)
    assert at_exit["ok"] is False and at_exit["after_answer"] and at_exit["died"] == "SIGABRT"


def test_what_hangs_is_killed_with_all_that_it_started(weights: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    answer = ask("hangs", scratch, limit_s=1.5)
    assert answer["ok"] is False and answer["hung"] and answer["limit_s"] == 1.5
    assert 1.5 <= answer["seconds"] < 20  # type: ignore[operator]
    assert ends_soon([int(pid) for pid in (tmp_path / "pids").read_text().split()])


def test_an_exception_and_a_figure_that_json_lacks_are_answers(
    weights: Path, tmp_path: Path
) -> None:
    failed = ask("fails", tmp_path)
    assert failed["error"] == "RuntimeError: Error in declaring network." and not failed["ok"]
    assert any("Traceback" in line for line in failed["stderr"])  # type: ignore[attr-defined]
    assert ask("bad", tmp_path)["psnr_db"] == "nan"
    assert ask("names_folders", tmp_path)["errors"] == ["SCRATCH/x cannot be loaded"]


def test_the_last_lines_of_a_child_are_kept_without_bars_and_own_folders(
    weights: Path, tmp_path: Path
) -> None:
    lines = ask("is_noisy", tmp_path)["stderr"]
    assert isinstance(lines, list) and len(lines) == children.LAST_LINES
    assert lines[0] == "line 21" and not any("%|" in line for line in lines)
    assert lines[-1] == "E5RT: ANECCompile() FAILED in SCRATCH/x of ~"
    assert survey.failed_compile({"ok": True, "stderr": lines})
    assert not survey.failed_compile({"ok": True}) and survey.failed_compile({"ok": False})


def test_the_parent_loads_no_framework() -> None:
    code = (
        "import sys; from sdxs.mac_check import children, questions, survey; "
        "questions.table(questions.Plan()); "
        "print([name for name in ('mlx.core', 'coremltools', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# The survey


def test_what_dies_costs_one_answer_and_the_file_holds_the_others(
    weights: Path, tmp_path: Path
) -> None:
    path, notes = tmp_path / "mac.json", Notes()
    plan = Plan(runtime="reference", size=64)
    assert not survey.survey(plan, path, notes, stubs(*DEATHS))
    content = json.loads(path.read_text())
    assert content["schema"] == 2 and content["finished"] and "NOT Core ML" in content["rehearsal"]
    answers = content["models"]["demo"]
    assert answers.pop("size") == 64
    assert [answer["ok"] for answer in answers.values()] == [True, *[False] * 4, True]
    assert [answer.get("died") for answer in answers.values()] == [
        *(None, "SIGABRT", "SIGKILL", None, "SIGKILL", None)
    ]
    assert answers["hangs 4"]["hung"] and answers["fails 3"]["error"].startswith("RuntimeError")
    steps = [f"{what} {n}" for n in range(1, 7) for what in ("begin", "end")]
    assert [" ".join(line.split()[:2]) for line in notes.said[1:-1]] == steps
    assert list(weights.iterdir()) == []


def test_the_file_is_whole_after_every_answer(weights: Path, tmp_path: Path) -> None:
    path, seen = tmp_path / "mac.json", []

    class Reader(Notes):
        def end(self, number: int, question: Question, answer: Answer) -> None:
            content = json.loads(path.read_text())
            seen.append((len(content["models"]["demo"]) - 1, content["finished"]))

    survey.survey(Plan(runtime="reference"), path, Reader(), stubs("good", "good"))
    assert seen == [(1, False), (2, False)]
    assert json.loads(path.read_text())["finished"] is True


def test_variants_share_an_answer_and_the_cpus_time_stands_beside_each(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(ask: str, setup: Setup, *_: object) -> Answer:
        fast = setup.chosen["compute_units"] != "cpu_only"
        return {"ok": fast, "frame_ms": {"p50": 5.0 if fast else 50.0}}

    monkeypatch.setattr(survey, "run_question", answered)
    asked = [
        Question(
            "core ml", "a:b", "gpu", DEMO, {"attention": form, "compute_units": units}, variant=True
        )
        for form, units in (("sdpa", "cpu_and_gpu"), ("matmul", "all"), ("sdpa", "cpu_only"))
    ]
    path = tmp_path / "mac.json"
    survey.survey(Plan(runtime="reference"), path, Notes(), asked)
    answer = json.loads(path.read_text())["models"]["demo"]["core ml"]
    assert answer["ok"] is False and len(answer["variants"]) == 3
    assert [each.get("cpu_only_ms") for each in answer["variants"]] == [50.0, None, None]
    assert answer["variants"][0]["attention"] == "sdpa"


def test_everything_is_written_into_the_temporary_folder_and_dropped(
    weights: Path, tmp_path: Path
) -> None:
    """Programs last as long as a question needs them; the demo is still found."""
    path = tmp_path / "mac.json"
    forms = ("sdpa", "sdpa", "matmul", "sdpa")
    asked = [replace(stub("tells", n), chosen={"attention": form}) for n, form in enumerate(forms)]
    held: list[int] = []

    class Counting(Notes):
        def begin(self, number: int, question: Question, limit_s: float) -> None:
            (scratch,) = weights.iterdir()
            held.append(len(list(scratch.glob("programs-*"))))

    assert survey.survey(Plan(runtime="reference"), path, Counting(), asked)
    answers = [a for a in json.loads(path.read_text())["models"]["demo"].values() if a != 64]
    for answer in answers:
        for name in ("SDXS_WEIGHTS", "TMPDIR", "XDG_CACHE_HOME"):
            assert answer[name].startswith("SCRATCH/"), name
        assert Path(answer["folder"], "unet", "config.json").is_file()
    assert answers[0]["SDXS_WEIGHTS"] == answers[3]["SDXS_WEIGHTS"] != answers[2]["SDXS_WEIGHTS"]
    assert held == [0, 1, 1, 1] and list(weights.iterdir()) == []


def test_after_a_failed_compile_for_the_neural_engine_comes_a_pause(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    asked = [replace(each, unit="ne") for each in stubs("bad", "good")]
    monkeypatch.setattr(survey, "refuse_elsewhere", lambda runtime: None)
    monkeypatch.setattr(survey, "run_question", lambda ask, *_: {"ok": ask.endswith("good")})
    plan = Plan(quick=True)
    survey.survey(plan, tmp_path / "mac.json", Notes(), asked, waited.append)
    assert waited == [survey.PAUSE_S]
    waited.clear()
    survey.survey(
        replace(plan, runtime="reference"), tmp_path / "mac.json", Notes(), asked, waited.append
    )
    assert waited == []


def test_a_process_that_cannot_start_is_an_answer(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(children.subprocess, "Popen", refuses)
    # the facts of the machine ask other programs, which must start
    monkeypatch.setattr("sdxs.mac_check.report.system", dict)
    monkeypatch.setattr("sdxs.mac_check.report.environment", dict)
    monkeypatch.setattr("sdxs.mac_check.report.power", dict)
    path = tmp_path / "mac.json"
    assert not survey.survey(Plan(runtime="reference"), path, Notes(), stubs("good", "good"))
    answers = json.loads(path.read_text())["models"]["demo"]
    error = "BlockingIOError: Resource temporarily unavailable"
    assert answers["good 0"]["error"] == answers["good 1"]["error"] == error


def test_a_unit_on_which_two_questions_hung_is_given_less_time(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit of the Neural Engine, twenty questions that hang would last five hours."""
    limits: list[float] = []

    def hangs(ask: str, setup: Setup, limit_s: float, *_: object) -> Answer:
        limits.append(limit_s)
        return {"ok": False, "hung": True}

    monkeypatch.setattr(survey, "run_question", hangs)
    units = ("ne", "ne", "ne", "gpu")
    asked = [replace(stub("bad", n), unit=unit, limit_s=900.0) for n, unit in enumerate(units)]  # type: ignore[arg-type]
    survey.survey(Plan(runtime="reference"), tmp_path / "mac.json", Notes(), asked)
    assert limits == [900, 900, survey.SHORT_S, 900]


INTERRUPTED = """
import os, signal, threading
from pathlib import Path
from test_mac_check import Notes, Plan, stubs, survey

class Impatient(Notes):
    def begin(self, number, question, limit_s):
        def interrupt():
            while not Path("pids").exists():
                pass
            os.kill(os.getpid(), signal.SIGINT)
        if number == 2:
            threading.Thread(target=interrupt, daemon=True).start()

from dataclasses import replace
asked = [replace(each, limit_s=60.0) for each in stubs("good", "hangs", "good")]
try:
    survey.survey(Plan(runtime="reference"), Path("mac.json"), Impatient(), asked)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_the_child_writes_the_answers_and_cleans(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])
    monkeypatch.setenv("PYTHONPATH", path)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "interrupted\n", done.stderr
    content = json.loads((tmp_path / "mac.json").read_text())
    answers = content["models"]["demo"]
    assert list(answers) == ["size", "good 0", "hangs 1"] and not content["finished"]
    assert answers["good 0"]["ok"] and answers["hangs 1"] == {"ok": False, "interrupted": True}
    assert list(weights.iterdir()) == []
    assert ends_soon([int(pid) for pid in (tmp_path / "pids").read_text().split()])


# Disk


def test_a_full_disk_is_refused_before_any_question(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = disk.shutil.disk_usage(tmp_path)._replace(free=3 * disk.GB)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SinkError, match=r"3\.0 GB of disk are free, expected 10 GB.*--quick"):
        disk.scratch_folder(disk.FULL_GB).__enter__()
    assert list(weights.iterdir()) == []
    with disk.scratch_folder(disk.QUICK_GB) as scratch:
        assert scratch.parent == weights


def test_the_folder_of_a_killed_check_is_removed_by_the_next(weights: Path) -> None:
    weights.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old, living = (weights / f"{disk.PREFIX}{pid}-x" for pid in (ended.pid, os.getpid()))
    for folder in (old, living):
        (folder / "deep").mkdir(parents=True)
    with disk.scratch_folder(0):
        assert living.exists() and not old.exists()


# The command


@pytest.mark.skipif(sys.platform == "darwin", reason="it runs there")
def test_elsewhere_one_clear_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdxs.cli", "mac-check"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: mac-check asks Core ML and Metal what only they can tell, so it needs macOS; run "
        "it on a Mac"
    ]


@pytest.fixture
def asks(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the command ask these questions."""

    def choose(*asked: Question) -> None:
        monkeypatch.setattr(survey, "table", lambda plan, macos: list(asked))

    return choose


@pytest.mark.parametrize("name", ["good", "aborts"])
def test_the_command_says_each_question_and_its_answer(
    asks: Callable[..., None], tmp_path: Path, command: Command, name: str
) -> None:
    asks(stub(name), replace(stub("good", 1), skip="needs macOS 15"))
    path = tmp_path / "mac.json"
    done = command("mac-check", "--runtime", "reference", "--quick", "--json", path)
    assert done.code == (0 if name == "good" else 1), done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("2 questions, about 1 min if nothing hangs")
    assert "1 GB of disk" in lines[0] and "Ctrl-C" in lines[0]
    assert lines[1] == f"[1/2] demo, {name} 0 ..."
    expected = " s, ok, 48.2 dB" if name == "good" else " s, FAILED: its process died (SIGABRT)"
    assert lines[2].startswith(f"[1/2] demo, {name} 0: ") and lines[2].endswith(expected)
    assert lines[4] == "[2/2] demo, good 1: not asked: needs macOS 15"
    assert lines[5] == f"wrote {path}; please attach it to an issue of this project"
    assert json.loads(path.read_text())["models"]["demo"]["good 1"]["asked"] is False


def test_ctrl_c_is_exit_code_130_and_the_answers_so_far(
    asks: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def interrupted(ask: str, *_: object) -> Answer:
        if ask.endswith("bad"):
            raise KeyboardInterrupt
        return {"ok": True, "seconds": 1.0}

    monkeypatch.setattr(survey, "run_question", interrupted)
    asks(*stubs("good", "bad", "good"))
    path = tmp_path / "mac.json"
    done = command("mac-check", "--runtime", "reference", "--json", path)
    assert done.code == 130 and f"wrote the answers so far to {path}" in done.out
    assert list(json.loads(path.read_text())["models"]["demo"]) == ["size", "good 0", "bad 1"]


def test_a_wheel_lacks_the_stored_outputs_and_the_error_says_so(
    asks: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    asks(stub("good"))
    monkeypatch.setattr(stored, "FIXTURES", tmp_path / "tests" / "fixtures")
    path = tmp_path / "mac.json"
    done = command("mac-check", "--runtime", "reference", "--json", path)
    assert done.code == 2 and not path.exists()
    assert done.err.startswith("error: parity.safetensors: not found in ")
    assert "an installed wheel does not hold" in done.err and "clone the repository" in done.err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--json", "no/mac.json"), 1, "cannot be written"),
        (("--size", "100"), 2, "needs a multiple"),
    ],
)
def test_what_cannot_be_is_refused_before_any_question(
    asks: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    options: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    asks(stub("good"))
    done = command("mac-check", "--runtime", "reference", *options)
    assert done.code == code and said in done.err and "[1/1]" not in done.out


def test_a_rehearsal_of_the_whole_machinery(
    asks: Callable[..., None], tmp_path: Path, command: Command
) -> None:
    """Real questions in real children, in the forms of macOS 14."""
    wanted = {"exact picture", "core ml", "group norm"}
    asked = [each for each in table(Plan(quick=True), macos=14) if each.group in wanted]
    asked = [each for each in asked if each.unit in ("machine", "gpu")]
    assert len(asked) == 4
    asks(*asked)
    path = tmp_path / "mac.json"
    done = command(
        *("mac-check", "--runtime", "reference", "--size", 64, "--frames", 2, "--json", path)
    )
    assert done.code == 0, done.out
    content = json.loads(path.read_text())
    matmul, sdpa = content["models"]["demo"]["core ml"]["variants"]
    assert matmul["psnr_db"] > 45 and matmul["frame_ms"]["count"] == 1
    assert matmul["compute_plan"] == [] and matmul["build_s"] > 0
    assert matmul["footprint_at_end_bytes"] > 1e7 and sdpa["note"] == "needs macOS 15"
    assert content["device"]["group norm"]["variants"][0]["error"]["std 20"] < 1e-3
    assert content["environment"]["coremltools"] and content["system"]["wheels"]["mlx"]
    assert content["plan"]["frames"] == 2


def test_the_shown_terminal_line_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from sdxs.commands import mac_check as command_module

    shown = io.StringIO()
    monkeypatch.setattr(command_module, "err", Console(file=shown, force_terminal=True, width=120))
    watcher = command_module.ConsoleWatcher(tmp_path / "mac.json")
    watcher.plan(3, 1.0, 1)
    watcher.begin(2, stub("good"), 900.0)
    watcher.end(2, stub("good"), {"ok": True, "seconds": 2.0})
    assert "[2/3] demo, good 0 ..." in shown.getvalue()
    assert "of at most 15 min" in shown.getvalue() and "0:00:00" in shown.getvalue()


def test_what_core_ml_keeps_for_good_is_measured_and_said(
    asks: Callable[..., None],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug: gigabytes in Core ML's own cache, of paths that never come again, without a word."""
    sizes = [1_000_000_000, 3_500_000_000]
    monkeypatch.setattr(report, "core_ml_cache_bytes", lambda: sizes.pop(0))
    asks(stub("good"))
    path = tmp_path / "mac.json"
    done = command("mac-check", "--runtime", "reference", "--json", path)
    assert "cache has grown by 2.5 GB" in done.out
    stored = json.loads(path.read_text())["core_ml_cache"]
    assert stored == {"at_start": 1_000_000_000, "at_end": 3_500_000_000}


@pytest.mark.skipif(sys.platform == "darwin", reason="SIGIO of a pipe was not seen on macOS yet")
def test_a_child_that_holds_pythons_lock_ends_with_its_parent(
    weights: Path, tmp_path: Path
) -> None:
    """Bug: a watching thread needs the lock, so an orphan went on for ever."""
    script = (
        "from pathlib import Path\n"
        "from test_mac_check import Setup, run_question\n"
        f"scratch = Path({str(tmp_path / 'scratch')!r}); scratch.mkdir()\n"
        "setup = Setup('', '', str(scratch))\n"
        "run_question('mac_check_stubs:holds_the_lock', setup, 600.0, {}, scratch)\n"
    )
    tests = str(Path(__file__).parent)
    path = os.pathsep.join([tests, os.environ["PYTHONPATH"]])
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}
    )
    until = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
        assert time.monotonic() < until and parent.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)  # for the child to be in the call
    parent.kill()
    parent.wait()
    assert ends_soon([int((tmp_path / "pids").read_text())])
