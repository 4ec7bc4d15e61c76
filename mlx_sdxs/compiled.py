"""Where MLX keeps the kernels that it compiles."""

import sys

from ..common.backend.compile_cache import CompileCache


def compile_cache() -> CompileCache:
    """Return the folders of the CUDA build; the CPU's compiles nothing and leaves them empty."""
    if sys.platform == "darwin":
        return CompileCache(why="Metal keeps compiled kernels in a cache of macOS's own")
    # MLX keeps what NVRTC makes, the driver what it makes of that
    return CompileCache(("MLX_PTX_CACHE_DIR", "CUDA_CACHE_PATH"))
