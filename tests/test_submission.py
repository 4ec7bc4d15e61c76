"""A run for others: what is in its file, what must never be, and the page that lists such files."""

import getpass
import json
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bench_samples
import pytest

from command import Command
from sdxs.commands import community
from sdxs.common.bench.measure.machine import machine
from sdxs.common.bench.model import public, submission
from sdxs.common.bench.model.energy import Energy, EnergyChannel
from sdxs.common.bench.model.report import Report, read_report
from sdxs.common.bench.model.start import COLD, KEPT, Start, Starts
from sdxs.common.bench.model.submission import Submission, read_submission, submission_of
from sdxs.common.bench.model.submitted import Drawn, EnergyUse, StartsOfKind
from sdxs.common.errors import UsageError
from sdxs.common.files import home_folder

USER, HOST, HOME = "annabelle", "annabelles-macbook", "/home/annabelle"
NAMES = frozenset({USER, HOST, f"{HOST}.local"})


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine and its user have names that nobody may read."""
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    monkeypatch.setattr(socket, "gethostname", lambda: f"{HOST}.local")
    monkeypatch.setattr(public, "home_folder", lambda: Path(HOME))


def sample() -> Report:
    report = bench_samples.report()
    report.backends[0].label = "mlx:lanes=2"
    report.backends[0].settings = {"lanes": "2"}
    report.backends[1].label = "torch (2)"
    report.machine = replace(report.machine, git="0123456789ab", chip="Apple M9 Pro")
    gpu = EnergyChannel("GPU", "NVML", "the whole board", 300.0, 100.0, 0.6, 0.4)
    lost = EnergyChannel("DRAM", "", "", reason="lost after 3.0 s: it cannot be read")
    report.backends[0].energy = Energy(12.0, 6000, 10.0, [gpu, lost])
    starts = [
        Start(COLD, {"process": took / 4, "warm-up": 3 * took / 4}, took, 20.0, resident)
        for took, resident in ((1600.0, 0.0), (1800.0, 0.01), (1500.0, 0.0))
    ]
    starts += [Start(KEPT, {"process": 900.0}, 900.0, 20.0, 1.0), Start(COLD, error="it cannot")]
    emptied = "the weights' files are dropped; libraries stay"
    report.backends[0].starts = Starts(emptied, "kept: MLX compiles nothing on a CPU", starts)
    return report


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "submission.json"
    path.write_text(submission_of(sample()).as_json())
    return path


def test_the_figures_of_a_run_come_back_from_its_file(written: Path) -> None:
    found = read_submission(written)
    assert found == submission_of(sample()) and len(written.read_bytes()) < submission.MOST_BYTES
    mlx, torch = found.results
    assert (mlx.backend, mlx.settings, torch.backend) == ("mlx", {"lanes": "2"}, "torch")
    assert len(mlx.round_ms) == 8 and mlx.median == pytest.approx(20.2, abs=0.3)
    assert mlx.picture is not None and mlx.picture.passed and mlx.picture.worst_db == 54.2
    assert mlx.memory["footprint"] == 10**8 and mlx.copies["source"] == 2764800
    assert mlx.account is not None and mlx.account.device_bytes == 3 * 10**8
    assert mlx.stolen is not None and mlx.stolen.traffic == pytest.approx(0.8)
    assert mlx.peak_flops_per_s == 1e12 and mlx.stages_ms["unet"] == pytest.approx(12)
    assert mlx.energy == EnergyUse(12, 6000, 10, [Drawn("GPU", "NVML", 300, 0.6, 100, 0.4)])
    assert mlx.starts is not None and mlx.starts.page_cache.startswith("the weights' files are")
    phases = {"process": 400.0, "warm-up": 1200.0}
    cold = StartsOfKind(COLD, 3, 1600, 1500, 1800, phases, 20, 0.01)
    assert mlx.starts.of(COLD) == cold
    assert mlx.starts.kinds[1] == StartsOfKind(KEPT, 1, 900, 900, 900, {"process": 900}, 20, 1)
    assert torch.energy is None and torch.starts is None
    assert found.load == 0.1 and not found.busy
    assert (found.machine.chip, found.machine.git) == ("Apple M9 Pro", "0123456789ab")
    assert found.model == submission.ANOTHER and found.date == "2026-01-01"


def planted(report: Report) -> Report:
    """Private data in every text of a report that a user or the system can fill."""
    report.machine = replace(
        report.machine,
        system=f"Linux-6.1.102-{HOST}-x86_64",
        chip=f"a chip of {HOME}/chips",
        accelerator=f"{HOST} GPU",
        python=f"3.12.0+{USER}",
        versions={"mlx": f"0.30.1+{USER}", "torch": "2.9.0+cu128", USER: "1", "numpy": HOME},
        environment={
            "MLX_ENABLE_TF32": f"{HOME}/x",
            "MLX_CONV_WINOGRAD": USER,
            "MLX_SECRET": "1",
            "PYTORCH_TOKEN": "hunter2",
            f"MLX_{USER.upper()}": "1",
            "OMP_NUM_THREADS": "2",
        },
        git=f"0123456789ab {HOME}",
    )
    report.work.model, report.work.prompt = f"{HOME}/models/secret", f"a portrait of {USER}"
    first, second = report.backends
    first.label, first.location = f"mlx:weights={HOME}/w", f"{HOME}.module:Backend"
    first.settings = {"lanes": "2", "depth": f"{HOME}/w", USER: "1", "batch": "192.168.7.9"}
    first.describe = {"dtype": "float16", "blas": f"{HOME}/lib/libopenblas.so", "device": HOST}
    first.describe |= {f"process of {USER}": "1", "mode": f"mail {USER}@example.org"}
    assert first.energy and first.starts
    first.energy.channels[0].source = f"{HOME}/sensor"
    first.energy.channels.append(EnergyChannel(f"{HOST} GPU", "NVML", "", 1.0, 1.0, 1.0, 1.0))
    first.starts.page_cache = f"{HOME}/w is dropped"
    first.starts.starts[0].phases_ms[f"process of {USER}"] = 1.0
    second.label, second.describe = f"{USER}s-own", {"device": f"{HOST}.local", "dtype": "float16"}
    first.copies[f"{HOME}/x"] = 1.0
    first.stages_ms[USER] = [1.0]
    first.notes = [f"loaded {HOME}/w"]
    first.rounds[0].error = f"{HOME}/w: no such file"
    report.failures = [f"mlx: {HOME}/w cannot be read by {USER} on {HOST}"]
    report.warnings = [f"look into {HOME}"]
    report.conditions[0] |= {"power": f"battery of {HOST}", "gpu": f"{USER}, 1"}
    return report


def test_nothing_private_gets_into_the_file(tmp_path: Path) -> None:
    found = submission_of(planted(sample()))
    text = found.as_json()
    for private in (
        USER,
        HOST,
        HOME,
        "/",
        "secret",
        "hunter2",
        "portrait",
        "192.168",
        "@",
        "cannot",
    ):
        assert private.lower() not in text.lower(), private
    machine_ = found.machine
    assert (machine_.system, machine_.chip, machine_.git) == ("Linux-6.1.102", "", "")
    assert machine_.versions == {"mlx": "0.30.1", "torch": "2.9.0+cu128"}
    assert machine_.environment == {"OMP_NUM_THREADS": "2"}
    assert found.failures == 1 and found.results[0].settings == {"lanes": "2"}
    assert found.results[0].describe == {"dtype": "float16"}
    assert found.results[1].backend == submission.ANOTHER
    (tmp_path / "s.json").write_text(text)
    assert read_submission(tmp_path / "s.json") == found  # what was dropped leaves a sound file


def test_the_names_are_those_of_this_user_and_machine() -> None:
    assert public.own_names() == NAMES
    assert public.shown(f"runs on {HOST}", NAMES) == public.REMOVED
    assert public.shown("Annabelle's", NAMES) == public.REMOVED
    assert public.shown("annabellesque", NAMES) == "annabellesque"


def test_this_machines_own_facts_pass_and_hold_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    report = sample()
    report.machine = machine()
    found = submission_of(report).machine
    assert found.chip == report.machine.chip and found.cores and found.memory_bytes > 2**30
    assert re.fullmatch(r"(Linux|macOS)-[\d.]+", found.system)
    assert found.versions["numpy"] == report.machine.versions["numpy"]
    assert str(home_folder()) not in json.dumps(found.environment) or str(home_folder()) == "/"


def test_a_chip_named_as_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "apple")
    assert submission_of(sample()).machine.chip == "Apple M9 Pro"


def test_a_run_without_a_result_is_no_submission() -> None:
    report = sample()
    for backend in report.backends:
        backend.summary = None
    with pytest.raises(UsageError, match="no result to pass on"):
        submission_of(report)


# Reading


def edited(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(submission=3), "submission 3, expected 1 or 2"),
        (lambda v: v.pop("submission"), "submission None, expected 1 or 2"),
        (lambda v: v.update(more=1), "has an unknown 'more'"),
        (lambda v: v.pop("machine"), "submission.machine is missing"),
        (lambda v: v.update(failures="none"), "submission.failures is str, expected int"),
        (lambda v: v.update(date="<b>"), "submission.date is not as sdxs writes it"),
        (lambda v: v.update(model="[x](https://example.org)"), "submission.model is not"),
        (lambda v: v.update(size="9x9"), "submission.size is not"),
        (lambda v: v.update(results=[]), "0 results, expected 1 to 32"),
        (lambda v: v.update(results=v["results"] * 20), "40 results"),
        (lambda v: v["machine"].update(chip="a | b"), "submission.machine.chip is not"),
        (lambda v: v["machine"].update(cores=0), "0 cores"),
        (lambda v: v["machine"].update(system="Plan 9"), "submission.machine.system is not"),
        (lambda v: v["machine"]["environment"].update(A="<x>"), "machine.environment is not"),
        (lambda v: v["machine"]["versions"].update(mlx="new"), "machine.versions is not"),
        (lambda v: v["results"][0].update(median=-1.0), "median is -1, expected a time above 0"),
        (lambda v: v["results"][0].update(p95=1e99), "is no measurement"),
        (lambda v: v["results"][0].update(round_ms=[]), "results[0] is not"),
        (lambda v: v["results"][1]["describe"].update(device="`x`"), "results[1] is not"),
        (lambda v: v["results"][0]["copies"].update({"a|b": 1.0}), "results[0] is not"),
        (lambda v: v["results"][0]["memory"].update(footprint=-5), "expected 0 or more"),
        (lambda v: v["results"][0]["energy"]["channels"][0].update(source="<b>"), "results[0] is"),
        (lambda v: v["results"][0]["energy"]["channels"][0].update(joules=-1), "expected 0 or mor"),
        (lambda v: v["results"][0]["energy"].update(how="x"), "has an unknown 'how'"),
        (lambda v: v["results"][0]["starts"].update(page_cache="a/b"), "results[0] is not"),
        (lambda v: v["results"][0]["starts"]["kinds"][0].update(kind="warm"), "results[0] is not"),
        (lambda v: v["results"][0]["starts"]["kinds"][0].update(number=0), "results[0] is not"),
    ],
)
def test_a_file_of_another_form_is_refused_in_a_line(
    written: Path, change: Callable[[dict[str, object]], object], said: str
) -> None:
    edited(written, change)
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        read_submission(written)
    assert str(written) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_submission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for text, said in (
        ("{", "not readable as json"),
        ("[1]", "submission None"),
        (bench_samples.report().as_json(), "submission None, expected 1 or 2; it is no file of"),
        (" " * (submission.MOST_BYTES + 1), "expected at most 200,000"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=said):
            read_submission(path)
    with pytest.raises(UsageError, match="not readable as json"):
        read_submission(tmp_path / "missing.json")


def without_news(values: dict[str, object]) -> None:
    """Make of a file one of the first version."""
    values["submission"] = 1
    for result in values["results"]:  # type: ignore[attr-defined]
        del result["energy"], result["starts"]


def test_files_of_the_first_version_are_read_as_ever(written: Path) -> None:
    edited(written, without_news)
    found, now = read_submission(written), submission_of(sample())
    now.submission = 1
    now.results[0].energy = now.results[0].starts = None
    assert found == now


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe\xfa", b"[" * 200_000, b"", None])
@pytest.mark.parametrize(
    ("read", "option"), [(read_submission, "--submit"), (read_report, "--json")]
)
def test_what_is_no_json_is_refused_alike(
    data: bytes | None, read: Callable[[Path], object], option: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    if data is not None:
        path.write_bytes(data[: submission.MOST_BYTES])
    with pytest.raises(UsageError, match=rf"not readable as json \(.+\n?.*`sdxs bench {option}`"):
        read(path)


# The command


def test_the_command_writes_it_from_a_report(tmp_path: Path, command: Command) -> None:
    (tmp_path / "r.json").write_text(sample().as_json())
    done = command("bench", "--show", tmp_path / "r.json", "--submit", tmp_path / "s.json")
    assert done.code == 0 and "no names, paths or prompts are in it" in done.out
    assert read_submission(tmp_path / "s.json") == submission_of(sample())
    done = command("bench", "--show", tmp_path / "r.json", "--submit", tmp_path / "r.json")
    assert done.code == 2 and "would overwrite" in done.err.replace("\n", " ")


# The page


def test_the_page_is_what_the_files_say() -> None:
    assert community.PAGE.read_text(encoding="utf-8") == community.render()
    held = {path.name for path in community.FOLDER.iterdir()}
    named = set(re.findall(r"\]\(([\w.-]+\.json)\)", community.render()))
    assert held == named | {"README.md"} and named


def submitted(folder: Path, name: str, change: Callable[[Submission], object]) -> None:
    made = submission_of(sample())
    change(made)
    (folder / name).write_text(made.as_json())


def test_the_page_lists_by_chip_and_gives_a_failed_picture_no_rate(tmp_path: Path) -> None:
    def fails(made: Submission) -> None:
        made.machine.chip = "Apple M1"
        assert made.results[0].picture
        made.results[0].picture.passed = False

    submitted(tmp_path, "one.json", lambda made: setattr(made, "load", 4.1))
    submitted(tmp_path, "two.json", fails)
    page = community.render(tmp_path)
    heads = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert heads == ["Apple M1, 8 cores, 16 GiB", "Apple M9 Pro, 8 cores, 16 GiB"]
    rows = [line for line in page.splitlines() if ".json](" in line]
    assert len(rows) == 4 and [row.count(" | ") for row in rows] == [11] * 4
    assert "| GPU 0.6 J | 1.60 s of 3 |" in rows[2] and "MB |  |  |" in rows[3]
    assert "GPU 0.6" not in rows[0]
    assert "| picture failed |  | 54 dB |" in rows[0] and "| 49." in rows[2]
    assert "beside other programs" in rows[2] and "beside" not in rows[0]  # 4.1 of 8 cores
    (tmp_path / "three.json").write_text("{}")
    with pytest.raises(UsageError, match=r"three\.json: submission None"):
        community.render(tmp_path)
