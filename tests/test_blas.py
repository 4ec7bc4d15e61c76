"""The BLAS that MLX's CPU build is given: order of search, remedy, and that it is really used."""

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
