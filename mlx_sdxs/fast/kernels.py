"""GroupNorm and SiLU in one kernel, for CUDA and Metal.

MLX's own form takes four launches and three passes. Here one block of threads computes one group of
one picture, in two passes. The first sums around a pivot, the group's first value, so that a mean
far from 0 does not swamp the variance. The second normalises. `layers.GroupNorm` is the same
function in plain MLX: the reference of the tests, and the fallback without `custom_kernels`.
"""

import functools
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..networks.layers import GroupNorm, Resnet
from .ops import on_cuda, on_gpu

_THREADS, _AHEAD = 1024, 8
# Target number of blocks in a launch, most parts of a group, and least pixels to use parts.
_BLOCKS, _MOST_PARTS, _LARGE = 128, 4, 512

# In both bodies x is (B, H, W, C) and a group is a run of neighbouring channels. A thread keeps one
# pair of channels and loops over the pixels, loading AHEAD of them at once to hide memory latency.
# Each of a group's `parts` blocks sums the whole group, which is cheap, and writes its share: few
# groups then fill many multiprocessors without synchronisation. SHIFT adds `shift`, a convolution's
# bias, to x. `numbers` are eps, groups and parts. A thread is `worker`: Metal reserves `thread`.
_SETUP = """
  const int channels = x_shape[3], groups = int(numbers[1]), pixels = x_shape[1] * x_shape[2];
  const int wide = channels / groups, pairs = wide / 2, parts = int(numbers[2]);
  const int part = block % parts, group = block / parts % groups, picture = block / parts / groups;
  const int rows = workers / pairs, row = worker / pairs, channel = group * wide + 2 * (worker % pairs);
  const int start = row < rows ? row : pixels;  // the last threads of a block have no pair
  const long first = long(picture) * pixels * channels + channel;
  const float add_a = SHIFT ? float(shift[channel]) : 0.0f, add_b = SHIFT ? float(shift[channel + 1]) : 0.0f;
"""
_STATISTICS = """
  const float size = float(pixels) * wide, away = sums.x / size, spread = sums.y / size - away * away;
"""
_CUDA_HEADER = """
template <typename T> struct alignas(2 * sizeof(T)) Pair { T a, b; };

__device__ inline float2 added_up(float2 v, float2* shared) {
  for (int step = 16; step; step /= 2) {
    v.x += __shfl_down_sync(0xffffffff, v.x, step);
    v.y += __shfl_down_sync(0xffffffff, v.y, step);
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = threadIdx.x < blockDim.x / 32 ? shared[threadIdx.x] : make_float2(0.0f, 0.0f);
    for (int step = 16; step; step /= 2) {
      v.x += __shfl_down_sync(0xffffffff, v.x, step);
      v.y += __shfl_down_sync(0xffffffff, v.y, step);
    }
    if (threadIdx.x == 0) shared[0] = v;
  }
  __syncthreads();
  return shared[0];
}
"""
_CUDA = f"""
  __shared__ float2 shared[32];
  const int worker = threadIdx.x, workers = blockDim.x, block = blockIdx.x;
  {_SETUP}
  const T* from = x + first;
  const int head = channel - group * wide;  // back to the group's first value
  const float pivot = float(from[-head]) + (SHIFT ? float(shift[group * wide]) : 0.0f);
  float2 sums = make_float2(0.0f, 0.0f);
  for (int p = start; p < pixels; p += AHEAD * rows) {{
    Pair<T> v[AHEAD];
    #pragma unroll
    for (int u = 0; u < AHEAD; ++u)
      if (p + u * rows < pixels) v[u] = *reinterpret_cast<const Pair<T>*>(from + long(p + u * rows) * channels);
    #pragma unroll
    for (int u = 0; u < AHEAD; ++u) {{
      if (p + u * rows >= pixels) break;
      const float a = float(v[u].a) + (add_a - pivot), b = float(v[u].b) + (add_b - pivot);
      sums.x += a + b;
      sums.y += a * a + b * b;
    }}
  }}
  sums = added_up(sums, shared);
  {_STATISTICS}
  const float scale = rsqrtf(fmaxf(spread, 0.0f) + numbers[0]);
  const float scale_a = scale * float(weight[channel]), scale_b = scale * float(weight[channel + 1]);
  const float offset_a = (add_a - pivot - away) * scale_a + float(bias[channel]);
  const float offset_b = (add_b - pivot - away) * scale_b + float(bias[channel + 1]);
  const int share = (pixels + parts - 1) / parts, end = min(pixels, (part + 1) * share);
  for (int p = start + part * share; p < end; p += AHEAD * rows) {{
    Pair<T> v[AHEAD];
    #pragma unroll
    for (int u = 0; u < AHEAD; ++u)
      if (p + u * rows < end) v[u] = *reinterpret_cast<const Pair<T>*>(from + long(p + u * rows) * channels);
    #pragma unroll
    for (int u = 0; u < AHEAD; ++u) {{
      if (p + u * rows >= end) break;
      float a = float(v[u].a) * scale_a + offset_a, b = float(v[u].b) * scale_b + offset_b;
      if (ACTIVATE) {{
        a = __fdividef(a, 1.0f + __expf(-a));
        b = __fdividef(b, 1.0f + __expf(-b));
      }}
      *reinterpret_cast<Pair<T>*>(y + first + long(p + u * rows) * channels) = Pair<T>{{T(a), T(b)}};
    }}
  }}
"""
_METAL = f"""
  threadgroup float2 shared[32];
  const int worker = thread_position_in_threadgroup.x, workers = threads_per_threadgroup.x;
  const int block = threadgroup_position_in_grid.x;
  {_SETUP}
  const device T* from = x + first;
  const int head = channel - group * wide;
  const float pivot = float(from[-head]) + (SHIFT ? float(shift[group * wide]) : 0.0f);
  float2 sums = float2(0.0f);
  for (int p = start; p < pixels; p += rows) {{
    const long at = long(p) * channels;
    const float a = float(from[at]) + (add_a - pivot), b = float(from[at + 1]) + (add_b - pivot);
    sums += float2(a + b, a * a + b * b);
  }}
  sums = float2(simd_sum(sums.x), simd_sum(sums.y));
  if (thread_index_in_simdgroup == 0) shared[simdgroup_index_in_threadgroup] = sums;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup_index_in_threadgroup == 0) {{
    sums = worker < workers / 32 ? shared[worker] : float2(0.0f);
    sums = float2(simd_sum(sums.x), simd_sum(sums.y));
    if (worker == 0) shared[0] = sums;
  }}
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sums = shared[0];
  {_STATISTICS}
  const float scale = metal::rsqrt(metal::max(spread, 0.0f) + numbers[0]);
  const float scale_a = scale * float(weight[channel]), scale_b = scale * float(weight[channel + 1]);
  const float offset_a = (add_a - pivot - away) * scale_a + float(bias[channel]);
  const float offset_b = (add_b - pivot - away) * scale_b + float(bias[channel + 1]);
  const int share = (pixels + parts - 1) / parts, end = metal::min(pixels, (part + 1) * share);
  device T* to = y + first;
  for (int p = start + part * share; p < end; p += rows) {{
    const long at = long(p) * channels;
    float a = float(from[at]) * scale_a + offset_a, b = float(from[at + 1]) * scale_b + offset_b;
    if (ACTIVATE) {{
      a = a / (1.0f + metal::exp(-a));
      b = b / (1.0f + metal::exp(-b));
    }}
    to[at] = T(a);
    to[at + 1] = T(b);
  }}
"""
_NAMES = {
    "name": "sdxs_group_norm",
    "input_names": ["x", "weight", "bias", "shift", "numbers"],
    "output_names": ["y"],
}


def custom_kernels(kind: str) -> bool:
    """Tell whether frames use the kernel: "on", "off", or "auto", which is on with CUDA only.

    "auto" can include Metal once a Mac has passed `make mac-check`. Raises ValueError for "on"
    without a GPU.
    """
    if kind == "on" and not on_gpu():
        raise ValueError("custom kernels need Metal or CUDA; there is neither")
    return kind == "on" or (kind == "auto" and on_cuda())


def group_norm(
    x: mx.array,
    weight: mx.array,
    bias: mx.array,
    groups: int,
    eps: float,
    activate: bool,
    shift: mx.array | None = None,
) -> mx.array:
    """Normalise groups of neighbouring channels of x + shift, (B, H, W, C), on a GPU.

    weight, bias, shift: (C,), of the dtype of x. activate: apply SiLU afterwards. Sums are float32
    in every dtype. Raises ValueError unless C / groups is even and at most 2,048, two per thread.
    """
    channels = x.shape[-1]
    if channels % groups or channels // groups % 2 or channels // groups > 2 * _THREADS:
        raise ValueError(
            f"{channels} channels in {groups} groups: expected an even number in each, at most "
            f"{2 * _THREADS}"
        )
    parts = (
        max(1, min(_MOST_PARTS, _BLOCKS // (x.shape[0] * groups)))
        if x.shape[1] * x.shape[2] >= _LARGE
        else 1
    )
    (y,) = _kernel()(
        inputs=[
            x,
            weight,
            bias,
            bias if shift is None else shift,
            mx.array([eps, groups, parts], dtype=mx.float32),
        ],
        template=[
            ("T", x.dtype),
            ("AHEAD", _AHEAD),
            ("ACTIVATE", activate),
            ("SHIFT", shift is not None),
        ],
        grid=(x.shape[0] * groups * parts * _THREADS, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return y


class KernelGroupNorm(nn.Module):
    """`layers.GroupNorm` in one kernel, which also adds the bias of the convolution before it."""

    def __init__(self, norm: GroupNorm, shift: mx.array | None = None) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        if shift is not None:
            self.shift = shift
        self._groups, self._eps = norm.num_groups, norm.eps

    def __call__(self, x: mx.array) -> mx.array:
        return self._normalised(x, False)

    def then_silu(self, x: mx.array) -> mx.array:
        return self._normalised(x, True)

    def _normalised(self, x: mx.array, activate: bool) -> mx.array:
        return group_norm(
            x, self.weight, self.bias, self._groups, self._eps, activate, self.get("shift")
        )


def use_kernels(model: nn.Module) -> None:
    """Replace every GroupNorm in `model` that fits `group_norm`, in place.

    The bias of a resnet's first convolution moves into the norm after it.
    """
    for resnet in model.modules():
        if isinstance(resnet, Resnet) and _fits(resnet.norm2):
            resnet.norm2 = KernelGroupNorm(resnet.norm2, resnet.conv1.pop("bias"))
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    norms = [
        (name, KernelGroupNorm(leaf))
        for name, leaf in leaves
        if isinstance(leaf, GroupNorm) and _fits(leaf)
    ]
    model.update_modules(tree_unflatten(norms))


def _fits(norm: GroupNorm) -> bool:
    wide = norm.weight.size // norm.num_groups
    return wide % 2 == 0 and wide <= 2 * _THREADS


@functools.cache
def _kernel() -> Callable[..., list[mx.array]]:
    if on_cuda():
        return mx.fast.cuda_kernel(**_NAMES, source=_CUDA, header=_CUDA_HEADER)
    return mx.fast.metal_kernel(**_NAMES, source=_METAL)
