"""Run Python on Linux in the shape of macOS: `python tests/macos_shape [--gpu] ARGUMENTS`.

ARGUMENTS are Python's own, such as `-m pytest`. The shape is what sdxs' modules and tests can ask
of a system, in this process and its children:

- what macOS' Python lacks is removed (shape_lacking.py);
- names of shared memory, socket pairs, files of the kernel, memory figures (shape_kernel.py);
- `sys.platform` and `platform` say Darwin on arm64 (shape_names.py);
- the commands sw_vers, pmset, sysctl and caffeinate (bin/), and a temporary folder behind a link;
- VideoToolbox' encoders are Linux's; with --gpu, MLX's backend takes its GPU's ways, computed by
  MLX's CPU (shape_modules.py). Operations are fused only if SDXS_MACOS_SHAPE_COMPILE=1 is set,
  which takes g++ and minutes.

Core ML, Metal, AppKit and XNU are not here: only a Mac shows what they do.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def shaped(temporary: str, gpu: bool) -> dict[str, str]:
    """Return the environment of a shaped process. temporary: a folder that exists."""
    before = os.environ
    # MLX's CPU would have g++ compile each fused operation for a second, in every new folder
    uncompiled = (
        {"MLX_DISABLE_COMPILE": "1"} if gpu and not before.get("SDXS_MACOS_SHAPE_COMPILE") else {}
    )
    return (
        before
        | uncompiled
        | {
            "SDXS_MACOS_SHAPE": "gpu" if gpu else "cpu",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER), before.get("PYTHONPATH")])),
            "PYTEST_PLUGINS": ",".join(
                filter(None, ["shape_plugin", before.get("PYTEST_PLUGINS")])
            ),
            "PATH": os.pathsep.join([str(FOLDER / "bin"), before.get("PATH", os.defpath)]),
            "TMPDIR": temporary,
        }
    )


def main(arguments: list[str]) -> int:
    """Run one shaped Python to its end and return its exit code."""
    if sys.platform != "linux":
        sys.exit("error: the shape of macOS is for Linux; on a Mac, `make test` is the real thing")
    gpu = arguments[:1] == ["--gpu"]
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "var")  # macOS: /var is a link to /private/var
        link.symlink_to("private")
        link.resolve().mkdir()
        command = [sys.executable, *arguments[gpu:]]
        return subprocess.run(command, env=shaped(str(link), gpu), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
