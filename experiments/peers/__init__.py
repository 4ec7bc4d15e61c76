"""Other implementations, wrapped as backends that bench can measure beside ours."""

from ...common.backend.spec import BackendSpec
from .options import TorchOptions

__all__ = ["SPEC"]

SPEC = BackendSpec(
    name="torch",
    location=f"{__name__}.torch_backend:TorchBackend",
    title="PyTorch",
    options=TorchOptions,
    parameters=frozenset({"seed"}),
    package="torch",
    reference="mlx",
    instrument=f"{__name__}.torch_instrument:TorchInstrument",
    versions=("diffusers",),
    environment=("PYTORCH_", "TORCH"),
    published=("PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_MPS_HIGH_WATERMARK_RATIO"),
)
