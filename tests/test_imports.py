"""The house rules that a reader of imports can check: who may know whom, who may print."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "common": {"common"},
    "mlx_sdxs": {"mlx_sdxs", "common"},
    "coreml_backend": {"coreml_backend", "common"},
    "api": {"api", "common"},  # backends by name only
    "commands": {"commands", "api", "common", "mlx_sdxs", "coreml_backend"},
}
FOREIGN = {  # third-party module -> the places that may import it
    "mlx": ("mlx_sdxs/", "experiments/"),
    "coremltools": ("coreml_backend/", "experiments/"),
    "huggingface_hub": ("common/checkpoint/hub.py",),
    "cv2": ("common/picture/opencv.py",),
    "tokenizers": ("common/prompt/tokenizer.py",),
    "torch": ("experiments/",),
    "diffusers": ("experiments/",),
    "transformers": ("experiments/",),
    "typer": ("cli.py", "commands/"),
    "rich": ("cli.py", "commands/", "common/bench/show/table.py", "experiments/"),
    "pickle": (),
}
PRINTING = {"cli.py", "commands", "experiments"}
FILES = sorted(
    path
    for folder in ("common", "mlx_sdxs", "coreml_backend", "api", "commands", "experiments")
    for path in (ROOT / folder).rglob("*.py")
) + [ROOT / "cli.py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Yield imported modules: 'common/errors' for the project's own, 'mlx.core' for others."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = path.relative_to(ROOT).parts[: -node.level]
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                inner = ROOT.joinpath(*module, alias.name)
                is_module = inner.with_suffix(".py").is_file() or inner.is_dir()
                yield "/".join([*module, alias.name] if is_module else module)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_allowed_arrows(path: Path) -> None:
    home = path.relative_to(ROOT).parts[0]
    for module in imports(path):
        top = module.split("/")[0].split(".")[0]
        if (ROOT / top).is_dir() and home in ALLOWED:
            assert top in ALLOWED[home], f"{path.name} imports {module}"
        if top in FOREIGN:
            allowed = FOREIGN[top]
            assert path.relative_to(ROOT).as_posix().startswith(allowed or ("nowhere",)), (
                f"{path} imports {module}"
            )


def test_no_import_cycle() -> None:
    graph = {name_of(path): set(imports(path, top_level_only=True)) for path in FILES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail, name])}"
        if name not in done:
            for inner in graph[name] & graph.keys():
                visit(inner, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    "path", [p for p in FILES if not PRINTING & set(p.relative_to(ROOT).parts)], ids=name_of
)
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {
                "print",
                "exit",
                "sys.exit",
                "quit",
                "os._exit",
            }, f"line {node.lineno}"


def test_the_check_sees_a_forbidden_arrow(tmp_path: Path) -> None:
    source = ROOT / "common" / "__init__.py"
    assert not list(imports(source))
    bad = tmp_path / "bad.py"
    bad.write_text("import mlx.core as mx\nfrom torch import nn\n")
    assert list(imports(bad)) == ["mlx.core", "torch.nn"]


def test_no_python_file_at_the_root_beside_the_command() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["cli.py"]
