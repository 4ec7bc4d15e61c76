"""macOS brings GNU make 3.81 and BSD's tools: the Makefile and CI's commands keep to them."""

import os
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# NEWS of GNU make, 3.82 to 4.4
NEWER_MAKE = (
    r"^\.(ONESHELL|RECIPEPREFIX|SHELLFLAGS|EXTRA_PREREQS|NOTINTERMEDIATE|LOADED)\b",
    r"\.WAIT\b",
    r"^\s*(undefine|private|load|-load)\s",
    r"^\s*define\s+\S+\s*[:+?]*=",
    r"^[\w.-]+\s*(!=|:::?=)",
    r"&::?(\s|$)",
    r"\$[({](file|guile|let|intcmp)\s",
    r"\$\(MAKE\).*\s(-O|-E|--output-sync|--trace|--eval|--shuffle|--jobserver-style)",
    r"MAKE_(TERMOUT|TERMERR|HOST)\b",
)
_OF = r"[^|;&\n]*\s"  # the rest of a command up to an option
GNU_TOOLS = (
    r"\bsed" + _OF + r"-\w*(r|i(?! ''))",
    r"\bdate" + _OF + r"(-d|-I|\+\S*%N)",
    r"\breadlink" + _OF + r"-[efm]",
    r"\bstat" + _OF + r"-\w*[ct]\b",
    r"\bxargs" + _OF + r"-[adr]",
    r"\bgrep" + _OF + r"-\w*P",
    r"\bfind" + _OF + r"-(printf|regextype|executable)\b",
    r"\b(cp|mv|ln)" + _OF + r"-\w*[tTD]\b",
    r"\b(head|tail)" + _OF + r"-[nc] ?[-+]",
    r"\b(du" + _OF + r"-\w*b|base64" + _OF + r"-w)",
    r"\becho -[neE]",
    r"\b(sed|date|readlink|stat|xargs|cp|mv|ln|rm|ls|mkdir|touch|sort|du|df|mktemp|tar)\b"
    + _OF
    + r"--\w",
    r"\b(nproc|tac|timeout|realpath|sha256sum|md5sum|numfmt|setsid|truncate)\b",
)


def commands(text: str) -> str:
    """The text without comments, with continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return re.sub(r"(^|\s)#.*$", "", joined, flags=re.MULTILINE)


def newer(text: str, features: tuple[str, ...]) -> list[str]:
    """What macOS' own make or tools do not know."""
    return [
        match.group().strip()
        for feature in features
        for match in re.finditer(feature, commands(text), re.MULTILINE)
    ]


def test_the_makefile_keeps_to_make_3_81() -> None:
    assert newer((ROOT / "Makefile").read_text(), NEWER_MAKE) == []


@pytest.mark.parametrize("name", ["Makefile", ".ci/run"])
def test_commands_keep_to_what_bsd_knows_too(name: str) -> None:
    assert newer((ROOT / name).read_text(), GNU_TOOLS) == []


@pytest.mark.parametrize(
    "line",
    [
        ".ONESHELL:",
        ".RECIPEPREFIX = >",
        "all: a .WAIT b",
        "undefine X",
        "define X =",
        "X != uname",
        "X ::= y",
        "X :::= y",
        "a b &: c",
        "X := $(file <name)",
        "\t$(MAKE) -j 2 --output-sync test",
    ],
)
def test_the_check_sees_a_newer_make(line: str) -> None:
    assert newer(f"A := b  # {line}\n", NEWER_MAKE) == []
    assert newer(f"A := b\n{line}\n", NEWER_MAKE)


@pytest.mark.parametrize(
    "line",
    [
        "sed -i s/a/b/ file",
        "sed -nr s/a/b/ file",
        "date -d yesterday",
        "date +%s%N",
        "readlink -f .",
        "stat -c %s file",
        "ls | xargs -r rm",
        "grep -oP a file",
        "cp -t folder file",
        "head -n -1 file",
        "echo -e text",
        "rm -rf \\\n\t--one-file-system folder",
        "make -j $(nproc)",
    ],
)
def test_the_check_sees_a_gnu_option(line: str) -> None:
    assert newer(f"\t{line}\n", GNU_TOOLS)


@pytest.mark.parametrize(
    "line",
    ["sed -i '' s/a/b/ file", "sed -nE s/a/b/ file", "date +%s", "ln -sfn a b", "cp -R a b"],
)
def test_the_check_lets_bsd_options_pass(line: str) -> None:
    assert newer(f"\t{line}\n", GNU_TOOLS) == []


def clashing(names: list[str]) -> set[str]:
    """Paths, folders included, that a file system blind to case and to NFC or NFD takes as one."""
    paths = {str(path) for name in names for path in (Path(name), *Path(name).parents)}
    seen: dict[str, str] = {}
    return {
        path
        for path in sorted(paths)
        if seen.setdefault(unicodedata.normalize("NFD", path).casefold(), path) != path
    }


def test_no_two_names_are_one_on_macos() -> None:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    assert clashing(listed.stdout.strip("\0").split("\0")) == set()


def test_the_check_sees_two_names_in_one() -> None:
    assert clashing(["a/b.py", "A/c.py"]) == {"a"}
    assert clashing(["caf\u00e9", "cafe\u0301", "cafe"]) == {"caf\u00e9"}


PYTHON = """#!/bin/sh
case "$*" in
    *obstacle_here*) echo "$OBSTACLE" ;;
    *".[coreai]"*) echo "coreai" >>installed; exit $PIP ;;
    *) echo "others" >>installed ;;
esac
"""


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.parametrize(
    ("obstacle", "pip", "installed", "says"),
    [
        ("", 0, ["coreai", "others"], ""),
        ("needs glibc 2.34, this is 2.31", 0, ["others"], "needs glibc 2.34, this is 2.31"),
        ("", 1, ["coreai", "others"], "coreai-core cannot be installed"),
    ],
)
def test_a_wheel_of_core_ai_that_does_not_fit_stops_nobody(
    obstacle: str, pip: int, installed: list[str], says: str, tmp_path: Path
) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / ".venv" / "run.stamp").touch()
    environment = {**os.environ, "OBSTACLE": obstacle, "PIP": str(pip)}
    done = subprocess.run(
        ["make", ".venv/test.stamp"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "installed").read_text().split() == installed
    said = [line for line in done.stdout.splitlines() if "Core AI" in line]
    assert said == ([f"make goes on without Core AI, and skips its tests: {says}"] if says else [])
