"""The models that mac-check asks about: the demo, and random weights in real layouts."""

from dataclasses import dataclass
from pathlib import Path

from ..common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from .setup import Answer, Setup


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the JSON.

    name: its key there. architecture: of random weights, '' for a checkpoint of this installation.
    base: the checkpoint's name or folder. vae, control: as on the command line. wide: its frames
    are twice as wide as high.
    """

    name: str
    base: str
    architecture: str = ""
    vae: str = "vae"
    control: str = "none"
    wide: bool = False


DEMO = Model("demo", "demo")
WIDE = Model("demo wide", "demo", wide=True)
SKETCH = Model("demo-sketch", "demo-sketch", control="sketch")
FULL = Model("sdxs-512-0.9-random", "sdxs-512-0.9-random", "sdxs-512-0.9")
LARGE_VAE = Model("sdxs-512-0.9-random vae_large", FULL.base, "sdxs-512-0.9", vae="vae_large")
DREAMSHAPER = Model(
    "sdxs-512-dreamshaper-random", "sdxs-512-dreamshaper-random", "sdxs-512-dreamshaper"
)


def ask_write(setup: Setup) -> Answer:
    """Write a checkpoint with random weights into the setup's folder.

    values: `architecture`, and `tiny`, 1 to narrow it.
    """
    configs = architecture(setup.text("architecture"))
    folder = write_checkpoint(
        Path(setup.folder), tiny(configs) if setup.number("tiny", 0) else configs
    )
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"ok": True, "bytes": written}
