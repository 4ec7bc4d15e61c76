"""The documents say what is so: links, files, commands and samples in them are tried."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml

from sdxs import cli
from sdxs.common.io.sources.registry import SOURCES, open_source
from sdxs.common.picture.opencv import cv2
from sdxs.common.picture.size import FrameSize
from sdxs.common.settings import setting, settings_of

ROOT = Path(__file__).parent.parent
DOCS = sorted(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")) + sorted(
    (ROOT / "docs").glob("*.md")
)
RESULTS = ROOT / "docs" / "results"
WRITTEN_BY_COMMANDS = {"mac-check.json", "conv-table.json", "session.json", "a.json", "b.json"}
SAMPLE_BACKEND = "dim"  # known only where its package is installed
SIZE = 64


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language, without the indent of a list around them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text_of(path), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def code(path: Path) -> list[str]:
    """Everything a reader may type: lines of indented blocks, and what stands in backticks."""
    prose = re.sub(r"^ *```.*?^ *```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    indented = [line[4:] for line in prose.splitlines() if line.startswith("    ")]
    spans = re.findall(r"`([^`]+)`", "\n".join(x for x in prose.splitlines() if x[:4] != "    "))
    return indented + [" ".join(span.split()) for span in spans]


def sdxs_lines(path: Path) -> list[list[str]]:
    """The arguments of every `sdxs ...` command line."""
    typed = [line.removeprefix(".venv/bin/") for line in code(path)]
    lines = [shlex.split(line, comments=True)[1:] for line in typed if line.startswith("sdxs ")]
    return [line for line in lines if SAMPLE_BACKEND not in " ".join(line)]


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))


def test_the_readme_is_an_entrance() -> None:
    text = text_of(ROOT / "README.md")
    assert len(text.splitlines()) <= 110
    assert len(text.split()) <= 1000
    assert text.count("```python\n") == 1


@pytest.mark.parametrize("path", DOCS, ids=names(DOCS))
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(path))
    assert links or path.name == "settings.md"  # written from the code
    for link in links:
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{path.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text_of(target), re.MULTILINE)
            assert anchor in map(slug, headings), f"{path.name}: {link}"


def test_every_figures_file_is_there_and_every_file_is_named() -> None:
    named = set()
    for page in ("results.md", "performance.md"):
        named |= set(re.findall(r"`([\w.-]+\.(?:json|jpg))`", text_of(ROOT / "docs" / page)))
    held = {path.name for path in RESULTS.iterdir() if path.is_file()}
    assert named - held <= WRITTEN_BY_COMMANDS
    assert held - named == set()


@pytest.mark.parametrize("path", DOCS, ids=names(DOCS))
def test_every_file_of_this_repository_is_there(path: Path) -> None:
    houses = ("common", "commands", "mlx_sdxs", "coreml_backend", "mac_check", "api")
    houses += ("coreai_backend", "graphs", "experiments", "tests")
    for span in code(path):
        is_path = re.fullmatch(r"[\w./-]+", span) and "/" in span and "NAME" not in span
        if is_path and span.split("/")[0] in houses:
            assert (ROOT / span).exists(), f"{path.name}: {span}"


@pytest.mark.parametrize("path", DOCS, ids=names(DOCS))
def test_every_make_target_is_there(path: Path) -> None:
    for span in code(path):
        if span.startswith("make "):
            assert span.split()[1] in targets(), f"{path.name}: {span}"


@pytest.mark.parametrize("path", DOCS, ids=names(DOCS))
def test_every_command_line_parses(path: Path) -> None:
    for line in sdxs_lines(path):
        parse(line)


def parse(line: list[str]) -> None:
    """Let typer take a command line apart, down to its last option, and run nothing."""
    rest = [each for each in line if each != "--help"]  # which would show it and end
    command, context = typer.main.get_command(cli.app()), None
    while hasattr(command, "commands"):
        context = command.make_context("sdxs", list(rest), parent=context)
        rest = [*context._protected_args, *context.args]
        if not rest:
            return  # a group by itself, which shows its help
        assert rest[0] in command.commands, f"sdxs {shlex.join(line)}"
        command, rest = command.commands[rest[0]], rest[1:]
    if rest or not any(param.required for param in command.params):
        command.make_context(command.name, list(rest), parent=context)


def test_the_parser_refuses_what_is_not_there() -> None:
    for line in (["live", "--no-such-option"], ["no-such-command"], ["weights", "no-such"]):
        with pytest.raises((AssertionError, typer.TyperException)):
            parse(line)


@pytest.mark.parametrize("path", DOCS, ids=names(DOCS))
def test_every_option_is_an_option_of_some_command(path: Path) -> None:
    known: set[str] = set()
    todo = [typer.main.get_command(cli.app())]
    while todo:
        command = todo.pop()
        todo += getattr(command, "commands", {}).values()
        known |= {name for param in command.params for name in [*param.opts, *param.secondary_opts]}
    for span in code(path):
        if span.startswith("--"):
            assert set(span.split()[0].split("/")) <= known, f"{path.name}: {span}"


def runnable() -> list[list[str]]:
    """Lines of the README that need no network, no camera and a few seconds."""
    lines = sdxs_lines(ROOT / "README.md")
    quick = [["doctor"], ["weights", "list"]]
    rendering = [
        line + ["--size", str(SIZE)]
        for line in lines
        if line[0] == "image" or (line[0] == "live" and "--headless" in line and "--out" in line)
    ]
    return [line for line in lines if line in quick] + rendering


@pytest.mark.parametrize("line", runnable(), ids=lambda line: " ".join(line[:2]))
def test_a_line_of_the_readme_runs(line: list[str], tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    frames = ["--frames", "2"] if line[0] == "live" else []
    run(tmp_path, *line, *frames)
    if "--out" in line:
        assert (tmp_path / line[line.index("--out") + 1]).stat().st_size > 0


def test_the_readme_has_lines_that_run() -> None:
    assert {line[0] for line in runnable()} == {"doctor", "weights", "image", "live"}


def run(folder: Path, *arguments: str, packages: Path | None = None) -> str:
    """Run the command as a user does; return what it printed."""
    start = "import sys; from sdxs.cli import main; sys.argv[0] = 'sdxs'; main()"
    environment = os.environ | ({"PYTHONPATH": str(packages)} if packages else {})
    done = subprocess.run(
        [sys.executable, "-c", start, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The samples of CONTRIBUTING.md.

GUIDE = ROOT / "CONTRIBUTING.md"


def sample(containing: str) -> str:
    (found,) = (block for block in blocks(GUIDE, "python") if containing in block)
    return found


def test_the_sample_backend_renders(tmp_path: Path) -> None:
    (group,) = tomllib.loads(blocks(GUIDE, "toml")[0])["project"]["entry-points"].items()
    (entry,) = group[1].items()
    package = tmp_path / entry[1].partition(":")[0]
    record = tmp_path / f"{package.name}-1.0.dist-info"
    for folder in (package, record):
        folder.mkdir()
    (package / "__init__.py").write_text(sample("SPEC = "))
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.name}\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[{group[0]}]\n{entry[0]} = {entry[1]}\n")
    white = tmp_path / "white.png"
    cv2.imwrite(str(white), np.full((SIZE, SIZE, 3), 255, np.uint8))
    live = ["live", "--model", "demo", "--size", str(SIZE), "--headless", "--source", str(white)]
    for options, brightest in (([], 128), (["--ceiling", "90"], 90)):
        chosen = ["--backend", entry[0], *options, "--out", "out.png"]
        run(tmp_path, *live, "--frames", "1", *chosen, packages=tmp_path)
        assert cv2.imread(str(tmp_path / "out.png")).max() == brightest


def test_the_sample_source_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    place: dict[str, object] = {"np": np, "FrameSize": FrameSize}
    exec(sample("class Noise"), place)
    (line,) = re.findall(r'`("noise": .*),`', text_of(GUIDE))
    kind, opener = eval(f"({line.replace(':', ',', 1)})", place)
    monkeypatch.setitem(SOURCES, kind, opener)
    source = open_source(f"{kind}:", 8)
    picture = source.read()
    source.close()
    assert picture is not None and picture.shape == (8, 8, 3) and picture.dtype == np.uint8
    assert source.fps > 0 and source.length is None and source.paced


def test_the_sample_parameter_is_a_setting() -> None:
    place: dict[str, object] = {"setting": setting, "dataclass": dataclass}
    field = textwrap.indent(sample("saturation"), "    ")
    exec(f"@dataclass(frozen=True)\nclass Sample:\n{field}", place)
    (row,) = settings_of(place["Sample"])  # type: ignore[arg-type]
    assert (row.name, row.flag, row.default, row.glides) == (
        "saturation",
        "--saturation",
        1.0,
        True,
    )


# What runs elsewhere: the workflow and the hooks.


def test_the_workflow_runs_what_is_there_and_may_write_nothing() -> None:
    text = text_of(ROOT / ".github" / "workflows" / "ci.yml")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"} and "secrets" not in text
    jobs = workflow["jobs"]
    matrix = jobs["check"]["strategy"]["matrix"]["include"]
    assert {each["os"] for each in matrix} == {"ubuntu-latest", "macos-15"}
    assert {each["python"] for each in matrix} == {"3.11", "3.13"}
    steps = [step for job in jobs.values() for step in job["steps"]]
    runs = [step["run"] for step in steps if "run" in step]
    expected = {"demo", "test", "test-slow", "test-faults", "lint", "mac-check"}
    assert set(runs) == {f"make {target}" for target in expected}
    assert {line.split()[1] for line in runs} <= targets()
    assert all(job["timeout-minutes"] <= 120 for job in jobs.values())
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", s["uses"]) for s in steps if "uses" in s)


def test_a_macs_answers_are_kept_also_when_a_question_failed() -> None:
    workflow = yaml.safe_load(text_of(ROOT / ".github" / "workflows" / "ci.yml"))
    job = workflow["jobs"]["mac-check"]
    assert job["runs-on"] == "macos-15"
    asked, kept = job["steps"][-2:]
    assert asked["run"] == "make mac-check"
    assert kept["if"] == "always()" and kept["with"]["path"] == "mac-check.json"


def test_the_hooks_are_those_of_the_lint_extra() -> None:
    (repository,) = yaml.safe_load(text_of(ROOT / ".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    linters = {re.split("[^a-z]", each)[0] for each in extras["lint"]}
    assert {Path(hook["entry"].split()[0]).name for hook in repository["hooks"]} <= linters
