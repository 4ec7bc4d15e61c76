"""The BLAS that MLX's CPU build is given: order of search, remedy, and that it is really used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdxs.common.errors import BackendError, SdxsWarning
from sdxs.mlx_sdxs import blas

linux_cpu = pytest.mark.skipif(
    not blas.is_needed(), reason="only MLX's CPU build on Linux needs a BLAS"
)


def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not imported MLX yet."""
    monkeypatch.setattr(blas, "_loaded", None)
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)


@linux_cpu
def test_a_blas_is_loaded_in_every_process_that_imports_the_package() -> None:
    assert blas.loaded() is not None


@linux_cpu
def test_mlx_multiplies_through_it() -> None:
    """`cblas_sgemm`, looked up the way MLX's library looks it up, lies in the library we loaded."""
    library = blas.loaded()
    assert library is not None
    script = (
        "import sdxs.mlx_sdxs, ctypes, mlx.core\n"
        "class Info(ctypes.Structure):\n"
        "    _fields_ = [('file', ctypes.c_char_p), ('base', ctypes.c_void_p),\n"
        "                ('name', ctypes.c_char_p), ('at', ctypes.c_void_p)]\n"
        "info = Info()\n"
        "everything = ctypes.CDLL(None)\n"
        "address = ctypes.cast(everything.cblas_sgemm, ctypes.c_void_p)\n"
        "everything.dladdr(address, ctypes.byref(info))\n"
        "print(info.file.decode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert "openblas" in done.stdout


@linux_cpu
def test_no_blas_warns_once_and_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch)
    monkeypatch.setattr(blas, "candidates", lambda: iter(()))
    with pytest.warns(SdxsWarning, match="pip install"):
        blas.load()
    assert blas.loaded() is None


@linux_cpu
def test_a_candidate_that_does_not_load_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch)
    real = list(blas.candidates())[-1]
    monkeypatch.setattr(
        blas, "candidates", lambda: iter([("cmeel-openblas", "/nowhere/libopenblas.so"), real])
    )
    blas.load()
    library = blas.loaded()
    assert library is not None
    assert library.origin == real[0]


@linux_cpu
def test_a_named_library_that_does_not_load_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fresh(monkeypatch)
    broken = tmp_path / "libopenblas.so"
    broken.write_text("not a library")
    monkeypatch.setenv("SDXS_BLAS", str(broken))
    assert next(blas.candidates()) == ("$SDXS_BLAS", str(broken))
    with pytest.raises(BackendError, match="SDXS_BLAS"):
        blas.load()


@linux_cpu
def test_importing_mlx_first_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "_loaded", None)
    monkeypatch.setitem(sys.modules, "mlx.core", sys.modules[__name__])
    with pytest.warns(SdxsWarning, match="imported before"):
        blas.load()


def test_core_is_named_for_chips_an_old_openblas_does_not_know() -> None:
    avx2 = {"avx2", "fma"}
    assert (
        blas._core_for({"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"} | avx2)
        == "SkylakeX"
    )
    assert blas._core_for(avx2 | {"avx512f"}) == "Haswell"
    assert blas._core_for({"sse2"}) is None


ORDERS = {
    "OpenCV first": "import sdxs.common.picture.opencv",
    "MLX first": "import sdxs.mlx_sdxs.backend",
    "the API first": "import sdxs.api",
    "the command line first": "import sdxs.cli, sdxs.common.live.session",
}


@linux_cpu
@pytest.mark.parametrize("first", ORDERS.values(), ids=ORDERS)
def test_whatever_is_imported_first_the_blas_comes_before_it(first: str) -> None:
    """In a fresh process: it is loaded before `cv2` and `mlx.core`, whoever asks for them."""
    script = (
        "import sys, ctypes\n"
        "seen, load = [], ctypes.CDLL\n"
        "class Noting(load):\n"
        "    def __init__(self, name, *others, **named):\n"
        "        super().__init__(name, *others, **named)\n"
        "        if 'openblas' in str(name):\n"
        "            seen.append([m for m in ('cv2', 'mlx.core') if m in sys.modules])\n"
        "ctypes.CDLL = Noting\n"
        f"{first}\n"
        "import sdxs.common.picture.opencv, sdxs.mlx_sdxs.backend\n"
        "print(seen, sdxs.mlx_sdxs.blas.loaded() is not None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[[]] True\n"


@linux_cpu
@pytest.mark.parametrize("first", ORDERS.values(), ids=ORDERS)
def test_none_is_loaded_where_pytorch_is(first: str) -> None:
    script = (
        "import sys, types\n"
        "sys.modules['torch'] = types.ModuleType('torch')\n"
        f"{first}\n"
        "import sdxs.common.picture.opencv, sdxs.mlx_sdxs.backend\n"
        "print(sdxs.mlx_sdxs.blas.loaded())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "None\n"


def test_the_peers_process_gets_none_before_pytorch() -> None:
    """What a bench child imports before the peer's module must load no backend."""
    script = (
        "import sys\n"
        "import sdxs.cli, sdxs.common.bench.measure.worker, sdxs.experiments.peers.options\n"
        "print([m for m in ('sdxs.mlx_sdxs', 'cv2', 'mlx.core') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_a_backend_that_cannot_be_imported_does_not_break_opencv(tmp_path: Path) -> None:
    broken = tmp_path / "broken_backend-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-backend\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[sdxs.backends]\nbroken = no_such_module:SPEC\n")
    script = (
        "from sdxs.common.picture.opencv import cv2\n"
        "from sdxs.common.backend.spec import specs\n"
        "try: specs()\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert "broken" in done.stdout and "pip uninstall" in done.stdout
