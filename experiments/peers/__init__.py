"""Other implementations, wrapped as backends that bench can measure beside ours."""

from ...common.backend.compile_cache import CompileCache
from ...common.backend.spec import BackendSpec
from .options import TorchOptions

__all__ = ["SPEC"]


def _compile_cache() -> CompileCache:
    """Return the folders of torch.compile, of Triton's kernels, and of the driver's."""
    return CompileCache(("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"))


SPEC = BackendSpec(
    name="torch",
    location=f"{__name__}.torch_backend:TorchBackend",
    title="PyTorch",
    options=TorchOptions,
    parameters=frozenset({"seed"}),
    package="torch",
    needs=("torch", "diffusers"),
    extra="parity",
    reference="mlx",
    instrument=f"{__name__}.torch_instrument:TorchInstrument",
    versions=("diffusers",),
    environment=("PYTORCH_", "TORCH"),
    compile_cache=_compile_cache,
    published=("PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_MPS_HIGH_WATERMARK_RATIO"),
)
