"""The wheel: what it holds, and that it works where a foreign `common` package is in the way."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that no build folder appears in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=not_needed)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-v",
        "--no-deps",
        "--wheel-dir",
        folder,
        folder / "source",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "absent from the `packages` configuration" not in done.stdout + done.stderr
    return next(folder.glob("sdxs-*.whl"))


def not_needed(folder: str, names: list[str]) -> set[str]:
    """What a wheel is not built from; pulled weights and what was built of them are gigabytes."""
    patterns = (".venv", ".git", "demo.mp4", "*.egg-info", "build", "__pycache__", ".partial-*")
    skip = set(shutil.ignore_patterns(*patterns)(folder, names))
    return skip | (
        set(names) - {"demo", "demo-sketch"} if Path(folder) == ROOT / "weights" else set()
    )


def test_pulled_weights_are_not_copied_to_build_a_wheel() -> None:
    assert not_needed(
        str(ROOT / "weights"), ["demo", "demo-sketch", "sdxs-512-0.9", "coreml", "manifest.json"]
    ) == {"sdxs-512-0.9", "coreml", "manifest.json"}
    assert not_needed(str(ROOT / "weights" / "demo"), ["unet", "vae"]) == set()


def test_wheel_holds_one_import_name_and_the_demo(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "sdxs",
        next(n for n in names if ".dist-info" in n).split("/")[0],
    }
    held = set(names)
    houses = ("common", "mlx_sdxs", "graphs", "coreml_backend", "mac_check", "api", "commands")
    for path in [ROOT / "cli.py", *(p for house in houses for p in (ROOT / house).rglob("*.py"))]:
        assert f"sdxs/{path.relative_to(ROOT).as_posix()}" in held
    for path in (
        p
        for name in ("demo", "demo-sketch")
        for p in (ROOT / "weights" / name).rglob("*")
        if p.is_file()
    ):
        assert f"sdxs/{path.relative_to(ROOT).as_posix()}" in held
    for path in (ROOT / "common" / "web" / "page").iterdir():
        assert f"sdxs/common/web/page/{path.name}" in held
    assert not [name for name in names if "/tests/" in name or name.endswith(".mp4")]


def install_beside_ours(wheel: Path, environment: Path) -> None:
    """The wheel alone, in an environment that sees what this one has installed but not `sdxs`.

    A .pth file names our folders; the editable `sdxs` is found by a .pth file inside them, and
    those are not read there.
    """
    venv.create(environment, with_pip=False)
    (folder,) = environment.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("-packages") and Path(path).is_dir()]
    (folder / "ours.pth").write_text("\n".join(ours))
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    options = ["--quiet", "--no-index", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, "install", *options, wheel], check=True, capture_output=True)
    # what it declares to need is there, in the versions that it asks for
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True)
    assert not [line for line in checked.stdout.splitlines() if line.startswith("sdxs ")]
    assert (folder / "sdxs" / "cli.py").exists()


def install_with_dependencies(wheel: Path, environment: Path) -> None:
    venv.create(environment, with_pip=True)
    python, constraints = environment / "bin" / "python", ROOT / "constraints.txt"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel]
    subprocess.run(install, check=True, capture_output=True)


@pytest.mark.parametrize(
    "install",
    [install_beside_ours, pytest.param(install_with_dependencies, marks=pytest.mark.slow)],
)
def test_installed_command_ignores_a_foreign_common(
    wheel: Path, tmp_path: Path, install: Callable[[Path, Path], None]
) -> None:
    install(wheel, tmp_path / "env")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "common").mkdir(parents=True)
    (elsewhere / "common" / "__init__.py").write_text(
        "raise SystemExit('the foreign common was imported')"
    )
    environment = {
        key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "SDXS_WEIGHTS"}
    }
    environment |= {"PYTHONPATH": str(elsewhere), "HOME": str(tmp_path)}

    def sdxs(*arguments: str) -> str:
        command = [str(tmp_path / "env" / "bin" / "sdxs"), *arguments]
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    assert "live" in sdxs("--help")
    rendering = (
        "live",
        "--model",
        "demo",
        "--source",
        "synthetic",
        "--headless",
        "--frames",
        "2",
        "--out",
        "out.png",
    )
    assert "2 frames" in sdxs(*rendering, "--size", "64")
    assert (elsewhere / "out.png").stat().st_size > 0
