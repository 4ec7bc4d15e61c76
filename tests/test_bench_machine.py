"""What a report says of its machine."""

import pytest

from sdxs.common.bench.measure.machine import machine


def test_variables_that_change_speed_are_told_and_folders_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLX_USE_CUDA_GRAPHS", "0")
    monkeypatch.setenv("MLX_PTX_CACHE_DIR", "/home/somebody/cache")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    told = machine().environment
    assert (
        told["MLX_USE_CUDA_GRAPHS"],
        told["MLX_PTX_CACHE_DIR"],
        told["OPENBLAS_NUM_THREADS"],
    ) == ("0", "a path", "2")
    assert "SECRET_TOKEN" not in told and "somebody" not in str(told)
