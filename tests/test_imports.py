"""The house rules that a reader of imports can check: who may know whom, who may print."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "common": {"common"},
    "mlx_sdxs": {"mlx_sdxs", "common"},
    "graphs": {"graphs", "common"},
    "coreml_backend": {"coreml_backend", "graphs", "common"},
    "coreai_backend": {"coreai_backend", "graphs", "common"},
    "api": {"api", "common"},  # backends by name only
    "commands": {"commands", "api", "common", "mlx_sdxs", "coreml_backend", "mac_check"},
    "mac_check": {"mac_check", "common", "mlx_sdxs", "coreml_backend", "coreai_backend", "graphs"},
}
FOREIGN = {  # third-party module -> the places that may import it
    "mlx": ("mlx_sdxs/", "mac_check/", "experiments/"),
    "coremltools": ("coreml_backend/", "experiments/"),
    "ScreenCaptureKit": ("common/io/sources/screen_mac.py",),
    "CoreMedia": ("common/io/sources/screen_mac.py",),
    "objc": (
        "coreml_backend/objc_values.py",
        "common/io/outputs/syphon.py",
        "common/io/sources/screen_mac.py",
        "common/io/sources/syphon.py",
    ),
    "CoreML": ("coreml_backend/objc_values.py",),
    "Foundation": ("coreml_backend/objc_values.py", "common/io/sources/screen_mac.py"),
    "Quartz": ("coreml_backend/objc_values.py", "common/io/sources/screen_mac.py"),
    "coreai": ("coreai_backend/", "experiments/", "mac_check/"),
    "huggingface_hub": ("common/checkpoint/hub.py",),
    # in a process without cv2: each has its own libavdevice
    "av": (
        "common/io/films/decode.py",
        "common/io/films/encode.py",
        "common/io/films/finish.py",
        "common/io/films/writer.py",  # its child's side
        "common/io/outputs/stream.py",
        "common/testing/films.py",
        "experiments/measure/fault_kinds/read_film.py",
        "experiments/measure/inputs.py",
    ),
    "cv2": ("common/picture/opencv.py",),
    "tokenizers": ("common/prompt/tokenizer.py",),
    "torch": ("experiments/",),
    "diffusers": ("experiments/",),
    "transformers": ("experiments/",),
    "starlette": ("common/web/app.py", "common/web/guard.py"),
    "uvicorn": ("common/web/server.py",),
    "websockets": ("common/testing/chromium.py", "experiments/"),
    "segno": ("commands/page.py",),
    "typer": ("cli.py", "commands/"),
    "rich": ("cli.py", "commands/", "common/bench/show/table.py", "experiments/"),
    "pythonosc": ("common/io/inputs/osc_wire.py",),
    "mido": ("common/io/inputs/midi.py",),
    "sounddevice": ("common/io/sound/device.py",),
    "mss": ("common/io/sources/screen_x11.py",),
    "aalink": ("common/io/inputs/link.py",),
    # in processes of their own
    "cyndilib": ("common/io/outputs/ndi.py", "common/io/sources/ndi.py"),
    "syphon": ("common/io/outputs/syphon.py", "common/io/sources/syphon.py"),
    "pyvirtualcam": ("common/io/outputs/vcam.py",),
    "pickle": (
        "common/checkpoint/torch_pickle.py",
        "common/testing/pickles.py",  # writes some
    ),
}
PACKAGE = "sdxs"
PRINTING = {"cli.py", "commands", "experiments"}
FILES = sorted(
    path
    for house in ROOT.iterdir()
    if (house / "__init__.py").is_file()
    for path in house.rglob("*.py")
) + [ROOT / "cli.py"]
PRODUCT = [
    path
    for path in FILES
    if not path.relative_to(ROOT)
    .as_posix()
    # mac-check asks questions of random weights in the real layout
    .startswith(("experiments/", "common/testing/", "mac_check/"))
]
_NAME = re.compile(rf"{PACKAGE}(\.\w+)+(:\w+)?")


def name_of(path: Path, root: Path = ROOT) -> str:
    return path.relative_to(root).with_suffix("").as_posix().removesuffix("/__init__")


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield imported modules: 'common/errors' for the project's own, 'mlx.core' for others.

    Every import counts: at the top, in a function, under TYPE_CHECKING, by `import_module` with a
    literal.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _module(alias.name, path, root)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                separator = "" if base.endswith(".") else "."
                yield _module(f"{base}{separator}{alias.name}", path, root)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            called = node.args[0] if node.args else None
            if isinstance(called, ast.Constant) and isinstance(called.value, str):
                yield _module(called.value, path, root)


def _module(dotted: str, path: Path, root: Path) -> str:
    """Return the module that a name belongs to: `errors.UsageError` belongs to `errors`."""
    level = len(dotted) - len(dotted.lstrip("."))
    parts = [part for part in dotted.split(".") if part]
    if level:
        parts = [*path.relative_to(root).parts[:-level], *parts]
    elif parts[0] == PACKAGE:
        parts = parts[1:]
    else:
        return dotted
    inner = root.joinpath(*parts)
    return "/".join(parts if inner.with_suffix(".py").is_file() or inner.is_dir() else parts[:-1])


def named(path: Path) -> Iterator[str]:
    """Yield modules of the project that a string names, as `HostedBackend` takes a backend."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and _NAME.fullmatch(str(node.value)):
            module = _module(str(node.value).partition(":")[0], path, ROOT)
            yield from [module] if module else []  # "sdxs.json" is a file's name


def executed(path: Path, root: Path = ROOT) -> set[str]:
    """Return the project's modules that a file's imports execute, with the `__init__`s around them.

    The packages around the file itself are left out: they are being executed already.
    """
    me = name_of(path, root)
    found = {module for module in imports(path, root) if "." not in module}
    packages = {str(package) for module in found for package in Path(module).parents}
    around = {str(package) for package in Path(me).parents}
    return found | (packages - around)


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle, the first again at the end; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for inner in sorted(graph[name] & graph.keys() - {name}):
            if found := visit(inner, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_allowed_arrows(path: Path) -> None:
    home = path.relative_to(ROOT).parts[0]
    by_name = () if home == "api" else named(path)
    for module in [*imports(path), *by_name]:
        top = module.split("/")[0].split(".")[0]
        if (ROOT / top).is_dir() and home in ALLOWED:
            assert top in ALLOWED[home], f"{path.name} imports {module}"
        if top in FOREIGN:
            allowed = FOREIGN[top]
            assert path.relative_to(ROOT).as_posix().startswith(allowed or ("nowhere",)), (
                f"{path} imports {module}"
            )


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_the_product_imports_no_experiment_and_no_stand_in(path: Path) -> None:
    for module in imports(path):
        assert not f"{module}/".startswith(("experiments/", "common/testing/")), module


def test_no_import_cycle() -> None:
    found = cycle_in({name_of(path): executed(path) for path in FILES})
    assert not found, f"import cycle: {' -> '.join(found)}"


@pytest.mark.parametrize(
    "back",
    [
        "from .. import a",
        "from ..a import x",
        "from sdxs.common.a import x",
        "import sdxs.common.a",
        "def late():\n    from ..a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..a import x",
        'import importlib\nimportlib.import_module("sdxs.common.a")',
    ],
)
@pytest.mark.parametrize("where", ["__init__", "b"])
def test_the_check_sees_a_cycle(where: str, back: str, tmp_path: Path) -> None:
    """`where`: a module is executed by its own name, a package by that of a module in it."""
    package = tmp_path / "common" / "inner"
    package.mkdir(parents=True)
    for path in (package.parent / "__init__.py", package / "__init__.py", package / "b.py"):
        path.write_text("")
    (package.parent / "a.py").write_text("def late():\n    from .inner import b\n")
    files = list(tmp_path.rglob("*.py"))
    assert not cycle_in({name_of(path, tmp_path): executed(path, tmp_path) for path in files})
    (package / f"{where}.py").write_text(f"{back}\n")
    found = cycle_in({name_of(path, tmp_path): executed(path, tmp_path) for path in files})
    other = {"__init__": "common/inner", "b": "common/inner/b"}[where]
    assert found == ["common/a", other, "common/a"]


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


def test_no_file_of_common_is_longer_than_a_few_pages() -> None:
    lengths = {name_of(p): len(p.read_text().splitlines()) for p in (ROOT / "common").rglob("*.py")}
    assert max(lengths.values()) < 350, max(lengths, key=lambda name: lengths[name])


def names_a_backend(path: Path) -> list[str]:
    """Return the string constants of a file that are exactly a backend's name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in ("mlx", "coreml", "coreai")
    ]


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in FILES
        if path.relative_to(ROOT).parts[0] in ("cli.py", "commands", "common", "api")
        and path.name != "mac_check.py"  # it asks one backend what only a Mac can tell
    ],
    ids=name_of,
)
def test_nobody_but_the_backends_names_one(path: Path) -> None:
    assert names_a_backend(path) == []


def test_the_check_sees_a_named_backend(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text('"""coreml"""\nspec = spec_of("coreml")\n')
    assert names_a_backend(tmp_path / "bad.py") == ["coreml", "coreml"]
