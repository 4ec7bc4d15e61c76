"""A backend from a foreign package: every command runs it, and no file of sdxs names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdxs.common.bench.model.report import read_report

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"
SIZE = 64

FILES = {
    "inverse_backend/__init__.py": """
from dataclasses import dataclass
from typing import Literal

from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.spec import BackendSpec
from sdxs.common.settings import setting


@dataclass(frozen=True, slots=True)
class InverseOptions(BackendOptions):
    dtype: Literal["auto", "float32"] = setting("auto", "precision")
    form: Literal["subtract", "xor"] = setting("subtract", "how a picture is inverted")


SPEC = BackendSpec(
    name="inverse",
    location="inverse_backend.backend:InverseBackend",
    title="Inverse",
    options=InverseOptions,
    rank=5,
    parameters=frozenset({"seed"}),
    package="inverse-backend",
    hosted=lambda options: options.form == "xor",
    doctor="inverse_backend.backend:checks",
)
""",
    "inverse_backend/backend.py": """
import numpy as np

from sdxs.common.backend.description import Description
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.doctor import Check


class InverseBackend(IdentityBackend):
    name = "inverse"

    def __init__(self, checkpoint, options):
        super().__init__(checkpoint, options)
        self._form = options.form

    def set_params(self, params):
        self._seed = params.seed

    def collect(self, out):
        times = super().collect(out)
        np.copyto(out, out ^ 255 if self._form == "xor" else 255 - out)
        return times

    def describe(self):
        facts = (("form", self._form), ("seed", str(getattr(self, "_seed", None))))
        return Description(self.name, "none", "float32", facts)


def checks():
    return [Check("inverse", True, "inverts here")]
""",
    "inverse_backend-1.0.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: inverse-backend\nVersion: 1.0\n"
    ),
    "inverse_backend-1.0.dist-info/entry_points.txt": (
        "[sdxs.backends]\ninverse = inverse_backend:SPEC\n"
    ),
}
API = f"""
import sys
import numpy as np
from sdxs.api import backends, open_model
from sdxs.common.errors import UsageError

assert backends()[0] == "mlx" and "inverse" in backends(), backends()
frame = np.random.default_rng(0).integers(0, 256, ({SIZE}, {SIZE}, 3), dtype=np.uint8)
for form in ("subtract", "xor"):
    with open_model("demo", "inverse", {SIZE}, dtype="float32", settings={{"form": form}}) as model:
        np.testing.assert_array_equal(model(frame, "a cat", seed=3), 255 - frame)
        said = model.describe()
        assert said["form"] == form and ("process" in said) == (form == "xor"), said
try:
    open_model("demo", "inverse", {SIZE}, settings={{"form": "fold"}})
except UsageError as error:
    assert str(error) == "--form fold: expected one of subtract, xor", error
else:
    raise AssertionError("not refused")
assert "inverse_backend.backend" in sys.modules and "coremltools" not in sys.modules
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH, with the package and its entry point."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def python(package: Path, *arguments: object, code: int = 0) -> tuple[str, str]:
    """Run Python with the package installed; return both streams."""
    command = [sys.executable, *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(package)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def sdxs(package: Path, *arguments: object, code: int = 0) -> tuple[str, str]:
    start = "import sys; from sdxs.cli import main; sys.argv[0] = 'sdxs'; main()"
    return python(package, "-c", start, *arguments, code=code)


def live(package: Path, out: Path, *arguments: object, code: int = 0) -> tuple[str, str]:
    common = ("--model", "demo", "--size", SIZE, "--headless", "--source", CLIP, "--frames", 2)
    given = ("--backend", "inverse", *common, "--out", out, *arguments)
    return sdxs(package, "live", *given, code=code)


def test_the_api_opens_it(package: Path) -> None:
    python(package, "-c", API)


def test_live_runs_it_with_options_that_nobody_listed(package: Path, tmp_path: Path) -> None:
    shown, _ = live(package, tmp_path / "o.png", "--seed", 3, "--dtype", "float32")
    assert "backend inverse" in shown and "form subtract" in shown
    _, said = live(package, tmp_path / "p.png", "--feedback", 0.5, code=2)
    feeding = "--backend mlx and --backend coreml and --backend coreai"
    assert f"--feedback: only for {feeding}; inverse" in said


def test_live_takes_its_own_options(package: Path, tmp_path: Path) -> None:
    shown, _ = live(package, tmp_path / "o.png", "--form", "xor")
    assert "form xor" in shown and "process" in shown
    _, said = live(package, tmp_path / "p.png", "--form", "fold", code=2)
    assert "--form" in said and "subtract" in said


def test_bench_measures_it(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    chosen = ("--backend", "inverse:form=xor", "--backend", "identity", "--json", path)
    sdxs(package, "bench", "--quick", "--rounds", 1, "--no-profile", "--size", SIZE, *chosen)
    report = read_report(path)
    inverse = report.backends[0]
    assert inverse.settings == {"form": "xor"} and inverse.frames
    assert inverse.describe == {
        "backend": "inverse",
        "device": "none",
        "dtype": "float32",
        "form": "xor",
        "seed": "0",
        "in flight": "1",
    }
    _, said = sdxs(package, "bench", "--backend", "inverse:form=fold", code=2)
    assert "inverse:form=fold: expected one of subtract, xor" in said


def test_doctor_asks_it(package: Path) -> None:
    report = json.loads(sdxs(package, "doctor", "--json")[0])
    findings = {check["name"]: check["finding"] for check in report["checks"]}
    assert findings["inverse"] == "inverts here" and "inverse-backend 1.0" in findings["packages"]
