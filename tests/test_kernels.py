"""Where a model uses the custom kernel; the kernel itself needs a GPU (`mac_check.kernel`)."""

import re

import mlx.core as mx
import numpy as np
import pytest

from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from sdxs.experiments.parity.control import tiny_controlled
from sdxs.mac_check import kernel as kernel_check
from sdxs.mlx_sdxs import backend as backend_module
from sdxs.mlx_sdxs import frame
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.fast import host_memory as residency
from sdxs.mlx_sdxs.fast import kernels
from sdxs.mlx_sdxs.fast.kernels import KernelGroupNorm, custom_kernels, use_kernels
from sdxs.mlx_sdxs.fast.ops import on_gpu, silu
from sdxs.mlx_sdxs.networks.layers import GroupNorm, Resnet, load_weights
from sdxs.mlx_sdxs.networks.unet import UNet2DConditionModel
from sdxs.mlx_sdxs.options import MlxOptions


@pytest.mark.parametrize(
    ("gpu", "cuda", "used"),
    [
        (False, False, {"auto": False, "off": False}),
        (True, False, {"auto": False, "on": True, "off": False}),
        (True, True, {"auto": True, "on": True, "off": False}),
    ],
)
def test_on_cuda_by_itself_on_metal_when_asked(
    gpu: bool, cuda: bool, used: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "on_gpu", lambda: gpu)
    monkeypatch.setattr(kernels, "on_cuda", lambda: cuda)
    assert {kind: custom_kernels(kind) for kind in used} == used


@pytest.mark.skipif(on_gpu(), reason="there is one")
def test_without_a_gpu_it_is_refused(tiny_sdxs: Checkpoint) -> None:
    with pytest.raises(UsageError, match="kernels=on: custom kernels need Metal or CUDA"):
        MlxBackend(tiny_sdxs, MlxOptions(64, kernels="on"))


def test_metal_s_own_words_are_no_names_in_its_kernel() -> None:
    """What could be seen without a Mac: `thread` is an address space there."""
    body = re.sub(r"\b(threadgroup float2|const device T\*|device T\*)", "", kernels._METAL)
    words = set(re.findall(r"[A-Za-z_]\w*", body))
    assert not words & {
        "thread",
        "device",
        "constant",
        "threadgroup",
        "kernel",
        "vertex",
        "fragment",
        "half",
        "sampler",
    }
    assert {"thread_position_in_threadgroup", "numbers", "shift", "y"} <= words


@pytest.mark.parametrize("channels", [15, 20, 4 * 2050])
def test_groups_of_an_odd_or_a_great_width_are_refused(channels: int) -> None:
    x, weight = mx.zeros((1, 2, 2, channels)), mx.ones((channels,))
    with pytest.raises(ValueError, match=f"{channels} channels in 4 groups"):
        kernels.group_norm(x, weight, weight, 4, 1e-5, False)


def twin(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    activate: bool,
    shift: mx.array | None = None,
) -> mx.array:
    """What the kernel computes, in plain MLX."""
    norm = GroupNorm(groups, x.shape[-1], eps)
    norm.weight, norm.bias = weight, bias
    y = norm(x if shift is None else x + shift)
    return silu(y) if activate else y


def test_a_unet_with_kernels_is_the_same_unet(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def watched(x: mx.array, *others: object) -> mx.array:
        calls.append((others[4], others[5] is not None))
        return twin(x, *others)

    monkeypatch.setattr(kernels, "group_norm", watched)
    checkpoint = open_checkpoint(
        write_checkpoint(tmp_path / "c", tiny(architecture("sdxs-512-0.9"))), "sdxs-512-0.9"
    )
    plain, other = (UNet2DConditionModel(checkpoint.unet) for _ in range(2))
    for unet in (plain, other):
        load_weights(unet, checkpoint.unet_weights, mx.float32)
    use_kernels(other)
    resnets = [module for module in other.modules() if isinstance(module, Resnet)]
    assert all(
        "bias" not in resnet.conv1 and isinstance(resnet.norm1, KernelGroupNorm)
        for resnet in resnets
    )
    generator = np.random.default_rng(1)
    sample = mx.array(
        generator.standard_normal((2, 16, 16, checkpoint.unet.in_channels), dtype=np.float32)
    )
    states = mx.array(
        generator.standard_normal((1, 77, checkpoint.unet.cross_attention_dim), dtype=np.float32)
    )
    expected, made = (unet.features(sample, 999.0, states) for unet in (plain, other))
    assert float(mx.abs(made - expected).max() / mx.abs(expected).max()) < 1e-5
    # every resnet twice, its second norm with the convolution's bias; the transformers' norms
    # without SiLU; the last
    assert (
        calls.count((True, True)) == len(resnets) and calls.count((True, False)) == len(resnets) + 1
    )
    assert (False, False) in calls and (False, True) not in calls


def test_a_backend_with_kernels_renders_the_same(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded, and with a ControlNet."""
    checkpoint = tiny_controlled(tmp_path, "sdxs-512-dreamshaper")
    calls: list[bool] = []

    def watched(x: mx.array, *others: object) -> mx.array:
        calls.append(True)
        return twin(x, *others)

    monkeypatch.setattr(kernels, "group_norm", watched)
    monkeypatch.setattr(frame, "fold_convolutions", lambda network: None)  # a GPU has none of them
    picture, edges = (
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),
        np.eye(64, dtype=np.uint8) * 255,
    )
    made = []
    for custom in (False, True):
        monkeypatch.setattr(backend_module, "custom_kernels", lambda kind, custom=custom: custom)
        backend = MlxBackend(checkpoint, MlxOptions(64))
        backend.load()
        backend.set_params(FrameParams(control_scale=1.0))
        out = np.empty_like(picture)
        backend.submit(picture, edges)
        backend.collect(out)
        assert (
            bool(calls) == custom
            and ("group norm" in dict(backend.describe().facts)["kernels"]) == custom
        )
        made.append(out.astype(int))
        backend.close()
    assert np.abs(made[0] - made[1]).max() <= 1


def test_groups_of_an_odd_width_keep_mlx_s_form(demo: Checkpoint) -> None:
    unet = UNet2DConditionModel(demo.unet)
    use_kernels(unet)
    norms = {
        type(module)
        for module in unet.modules()
        if isinstance(module, (GroupNorm, KernelGroupNorm))
    }
    assert GroupNorm in norms
    for module in unet.modules():
        if isinstance(module, GroupNorm):
            assert module.weight.size // module.num_groups % 2 == 1
        if isinstance(module, Resnet):
            assert ("bias" in module.conv1) == isinstance(module.norm2, GroupNorm)


def test_the_check_tells_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_check, "SHAPES", ((2, 4, 16, 4),))
    monkeypatch.setattr(kernel_check, "LIMITS", {"float32": 1e-5})
    monkeypatch.setattr(kernels, "group_norm", twin)
    assert [shape["ok"] for shape in kernel_check.compare()] == [True]
    monkeypatch.setattr(kernels, "group_norm", lambda x, *others: 1.001 * twin(x, *others))
    assert [shape["ok"] for shape in kernel_check.compare()] == [False]


class Driver:
    """CUDA's driver, as far as it is asked."""

    def __init__(self, code: int) -> None:
        self.code, self.calls = code, []

    def cuMemAdvise_v2(self, address: object, size: object, advice: int, place: object) -> int:
        self.calls.append((address.value, size.value, advice, place.type))
        return self.code


def test_memory_is_advised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, array = Driver(0), np.zeros(7, np.uint8)
    monkeypatch.setattr(residency, "_driver", lambda: driver)
    monkeypatch.setattr(residency, "_advised", set())
    residency.keep_on_host(array)
    residency.keep_on_host(array)
    assert driver.calls == [(array.ctypes.data, 7, 3, 2), (array.ctypes.data, 7, 5, 1)]
    residency.forget()
    residency.keep_on_host(array)
    assert len(driver.calls) == 4


def test_refused_advice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_driver", lambda: Driver(801))
    monkeypatch.setattr(residency, "_advised", set())
    with pytest.raises(BackendError, match="error 801"):
        residency.keep_on_host(np.zeros(7, np.uint8))


@pytest.mark.skipif(mx.default_device() == mx.Device(mx.gpu), reason="there may be one")
def test_without_cuda_there_is_nothing_to_advise() -> None:
    assert residency._driver() is None
    residency.keep_on_host(np.zeros(7, np.uint8))
    assert not residency._advised
