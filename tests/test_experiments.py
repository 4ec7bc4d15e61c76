"""The experiments' list, options, help and result files; each measures what its own tests check."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest

from sdxs import mlx_sdxs  # noqa: F401 - puts the BLAS in place before anything imports MLX
from sdxs.common.bench.measure.machine import machine
from sdxs.common.errors import SinkError, UsageError
from sdxs.common.settings import setting, settings_of
from sdxs.experiments import options as options_module
from sdxs.experiments import record
from sdxs.experiments.__main__ import main
from sdxs.experiments.catalogue import ROOMS, Experiment, experiments
from sdxs.experiments.measure.soak import SoakOptions
from sdxs.experiments.options import Options, argument, option, parse, parser_of
from sdxs.experiments.parity import pictures

ROOT = Path(__file__).parent.parent
EXPERIMENTS = experiments()
OF_TORCH = ("torch", "diffusers", "transformers")


def load(found: Experiment) -> ModuleType:
    try:
        return import_module(found.module)
    except ModuleNotFoundError as error:
        if error.name not in OF_TORCH:
            raise
        return pytest.skip(f"{error.name} is not installed")


@pytest.mark.parametrize("found", EXPERIMENTS, ids=lambda found: found.name)
def test_an_experiment_explains_itself_and_every_option(
    found: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(found)
    assert found.summary.endswith((".", ")")) and module.__doc__.startswith(found.summary)
    monkeypatch.setenv("COLUMNS", "1000")  # help wraps nothing
    kind = get_type_hints(module.run)["options"]
    assert issubclass(kind, Options)
    shown = " ".join(parser_of(kind, found.name, module.__doc__).format_help().split())
    known = {each.name: each for each in settings_of(kind)}
    for each in fields(kind):
        declared = known.get(each.name) or each.metadata[options_module._KEY]
        assert len(declared.help) > 3
        pattern = rf" {re.escape(declared.help)} \(([^)]*default: [^)]+|required)\)"
        assert re.search(pattern, shown), each.name
        if not getattr(declared, "positional", False):
            assert f" --{each.name.replace('_', '-')} " in shown.replace(",", " "), each.name


def test_every_room_but_the_peers_has_experiments() -> None:
    assert {each.room for each in EXPERIMENTS} == set(ROOMS) - {"peers"}
    assert len({each.name for each in EXPERIMENTS}) == len(EXPERIMENTS)


def test_without_a_name_everything_is_listed_by_room(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for each in EXPERIMENTS:
        assert any(line.split()[:1] == [each.name] and each.summary in line for line in lines)
    rooms = [line for line in lines if line in ROOMS and line]
    assert rooms == [room for room in ROOMS if room not in ("peers", "")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["soak", "--seconds", "0"], "--seconds 0.0: expected a number of at least 1"),
        (["soak", "--seconds", "long"], "--seconds long: expected a number of at least 1"),
        (["soak", "--mode", "other"], "--mode other: expected one of both, in-process, hosted"),
        (["loop", "--rounds", "1.5"], "--rounds 1.5: expected a whole number of at least 1"),
        (["distill"], "the following arguments are required: photos, out; see "),
        (["soak", "--unknown"], "unrecognized arguments: --unknown; see "),
        (["dance"], "unknown experiment 'dance'; known are diffusers, half-precision, "),
        (["pictures", "--against", "absent.json"], "--against absent.json: cannot be read "),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    taken = capsys.readouterr()
    assert taken.err.startswith(f"error: {message}") and taken.err.count("\n") == 1
    assert not taken.out


def test_a_value_out_of_range_is_refused_in_python_too() -> None:
    with pytest.raises(UsageError, match=r"--seconds 0: expected a number of at least 1"):
        SoakOptions(seconds=0)


@dataclass(frozen=True, slots=True)
class Sample(Options):
    """One of each kind."""

    photos: Path = argument("a folder")
    hold_out: tuple[Path, ...] = option((), "pictures", count="*")
    sizes: tuple[int, ...] = option((512,), "sides", int, count="+")
    tiny: bool = setting(False, "half of it, 50 %")
    seconds: float | None = setting(None, "length", minimum=0)


def test_a_command_line_becomes_the_dataclass() -> None:
    assert parse(Sample, ["p"]) == Sample(Path("p"))
    given = ["p", "--hold-out", "a.jpg", "b.jpg", "--sizes", "64", "--tiny", "--seconds", "2"]
    whole = Sample(Path("p"), (Path("a.jpg"), Path("b.jpg")), (64,), True, 2.0)
    assert parse(Sample, given) == whole


@pytest.mark.parametrize("module", ["distill", "distill.sketch"])
def test_the_commands_in_the_model_cards_work(module: str) -> None:
    command = [sys.executable, "-W", "error", "-m", f"sdxs.experiments.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"usage: python -m sdxs.experiments.{module} " in done.stdout
    assert "--squares" in done.stdout and not done.stderr


_WRITTEN = re.compile(r"python -m sdxs\.experiments((?:\.\w+)*)(?: ([a-z][\w-]*))?")
_TEXTS = [
    path.relative_to(ROOT).as_posix()
    for pattern in (
        *("*.md", "docs/*.md", "weights/demo*/*.md", "experiments/**/*.py"),
        *("Makefile", ".ci/run", ".github/workflows/*.yml"),
    )
    for path in sorted(ROOT.glob(pattern))
]


def written(text: str) -> list[tuple[str, str]]:
    """The module behind `sdxs.experiments`, and the name, of every command line in a text."""
    return _WRITTEN.findall((ROOT / text).read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", [text for text in _TEXTS if written(text)])
def test_a_command_line_that_is_written_down_runs_an_experiment(text: str) -> None:
    """A module without a `__main__` part does nothing, and ends well."""
    names = {each.name for each in EXPERIMENTS}
    for module, name in written(text):
        if not module:
            assert not name or name in names, name
            continue
        place = ROOT.joinpath("experiments", *module.split(".")[1:])
        source = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        assert "sys.exit(call(run, " in source.read_text(encoding="utf-8"), module


# --- result files


@pytest.mark.parametrize(
    ("git", "commit", "changes"),
    [("abc123+changes", "abc123", True), ("abc123", "abc123", False), ("", "", False)],
)
def test_a_result_file_says_what_its_figures_depend_on(
    git: str, commit: str, changes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(machine(), git=git)
    monkeypatch.setattr(record, "machine", lambda: here)
    path = tmp_path / "new folder" / "result.json"
    record.write(path, {"rows": [1, 2]}, Sample(Path("/home/somebody/photos"), seconds=2.0))
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["schema"] == 1 and written["rows"] == [1, 2]
    assert written["machine"]["system"] == here.system and written["machine"]["cores"] == here.cores
    assert written["versions"] == here.versions and "numpy" in written["versions"]
    assert (written["commit"], written["uncommitted_changes"]) == (commit, changes)
    assert written["date"].endswith("+00:00")
    assert written["settings"] == {
        "photos": "photos",
        "hold_out": [],
        "sizes": [512],
        "tiny": False,
        "seconds": 2.0,
    }
    assert "somebody" not in path.read_text(encoding="utf-8")
    assert [each.name for each in path.parent.iterdir()] == ["result.json"]


def test_a_file_that_is_added_to_keeps_its_own_facts(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    record.write(path, {"machine": {"system": "another"}, "rows": []}, Sample(Path("p")))
    assert json.loads(path.read_text(encoding="utf-8"))["machine"] == {"system": "another"}


# --- pictures

_COMMAND = """#!{python}
import json, pathlib, sys
given = sys.argv[1:]
if given[0] == "bench":
    report = {report}
    pathlib.Path(given[given.index("--json") + 1]).write_text(json.dumps(report))
elif "dark fantasy" in given and {broken}:
    sys.exit("it broke")
else:
    folder = pathlib.Path(given[given.index("--out") + 1])
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text(name + ("{ink}" if "pop art" in given else ""))
"""


def fake_command(
    folder: Path, ink: str = "", report: object = {"a": [1]}, broken: bool = False
) -> Path:
    path = folder / "sdxs"
    text = _COMMAND.format(python=sys.executable, report=report, ink=ink, broken=broken)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def before(tmp_path: Path) -> Path:
    path = tmp_path / "before.json"
    assert main(["pictures", "--sdxs", str(fake_command(tmp_path)), "--json", str(path)]) == 0
    written = json.loads(path.read_text(encoding="utf-8"))
    assert len(written["pictures"]) == 12 and written["bench_shape"] == {"a": ["number"]}
    assert all(len(hashes) == 2 for hashes in written["pictures"].values())
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        pytest.param({"report": {"a": [2.5]}}, [], marks=pytest.mark.thorough),
        (
            {"ink": "x"},
            [
                f"DIFFERS pictures / {backend}: demo, {name} [{number}]: "
                for backend in ("coreml", "mlx")
                for name in ("feedback and smoothing", "two prompts, gliding")
                for number in (0, 1)
            ],
        ),
        pytest.param(
            {"report": {"a": ["b"]}},
            ["DIFFERS bench_shape / a [0]: number, now str"],
            marks=pytest.mark.thorough,
        ),
        (
            {"report": {"b": 1}},
            [
                "DIFFERS bench_shape / a [0]: number, now absent",
                "DIFFERS bench_shape / b: absent, now number",
            ],
        ),
    ],
)
def test_pictures_names_what_differs(
    change: dict[str, object],
    said: list[str],
    before: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = fake_command(tmp_path, **change)  # type: ignore[arg-type]
    assert main(["pictures", "--sdxs", str(command), "--against", str(before)]) == bool(said)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("DIFFERS")]
    for line, start in zip(lines, said, strict=True):
        assert line.startswith(start)


def test_pictures_fails_where_the_command_fails(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = fake_command(tmp_path, broken=True)
    assert main(["pictures", "--sdxs", str(command), "--against", str(before)]) == 1
    out = capsys.readouterr().out
    name = "mlx: demo-sketch, soft, scale 0.6, seed 7"
    assert f"FAILED {name}: exit code 1; it broke" in out
    assert f"DIFFERS pictures / {name} [0]: " in out and "now absent" in out


def test_pictures_without_a_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pictures", "--sdxs", "/nowhere/sdxs"]) == 2
    assert capsys.readouterr().err.startswith("error: --sdxs /nowhere/sdxs: cannot be run")


def test_the_shape_of_a_document_has_no_figures() -> None:
    shape = pictures.shape_of({"b": [1.5, 2], "a": None, "c": True, "d": "text", "e": []})
    assert shape == {"a": "NoneType", "b": ["number"], "c": "bool", "d": "str", "e": []}


def test_a_folder_that_cannot_be_made_is_one_error_of_ours(tmp_path: Path) -> None:
    """Bug: a bare OSError came after a long measurement, against the docstring."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="its folder cannot be made"):
        record.write(tmp_path / "file" / "r.json", {}, SoakOptions())
