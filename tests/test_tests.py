"""A test that cannot fail is worse than none: each one asserts, or expects an error."""

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("test_*.py"))


def judges(function: ast.FunctionDef, beside: dict[str, ast.FunctionDef]) -> bool:
    """Whether a function, or one of the same file that it calls, asserts anything."""
    others = {name: found for name, found in beside.items() if found is not function}
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("pytest.raises", "pytest.warns", "pytest.fail") or "assert" in called:
                return True
            if called in others and judges(others[called], others):
                return True
    return False


def idle(source: str) -> list[str]:
    """The tests of a file that judge nothing."""
    nodes = ast.walk(ast.parse(source))
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    return [
        name
        for name, function in functions.items()
        if name.startswith("test_") and not judges(function, functions)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_test_asserts_something(path: Path) -> None:
    assert idle(path.read_text(encoding="utf-8")) == []


def test_the_check_sees_an_idle_test() -> None:
    helper = "def check(x):\n    assert x\n\ndef work(x):\n    return work(x)\n"
    judging = (
        "def test_a():\n    check(1)\n\ndef test_b():\n    with pytest.raises(E):\n        f()\n"
    )
    assert idle(helper + judging) == []
    assert idle(helper + "def test_c():\n    work(1)\n") == ["test_c"]
