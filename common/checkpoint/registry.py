"""The checkpoints known by name, at pinned revisions."""

import difflib
from dataclasses import dataclass

from ..errors import UsageError
from .config.fields import JsonValue

_TOKENIZER = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True, slots=True)
class Entry:
    """Describe one known checkpoint.

    repo: '' if the checkpoint ships with the code.
    revision: full commit id, so later commits do not change the downloaded bytes.
    pickle_only: reason why it cannot be pulled, or ''.
    frame: values of `FrameConfig`, for a repository without sdxs.json.
    controls: name of the checkpoint that a ControlNet fits.
    """

    name: str
    repo: str
    revision: str
    licence: str
    note: str
    pickle_only: str = ""
    frame: tuple[tuple[str, JsonValue], ...] = ()
    controls: str = ""

    def files(self, vae_folder: str = "vae") -> tuple[str, ...]:
        """Return the files to pull, relative to the repository: those that a session needs."""
        return (
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            *(f"tokenizer/{name}" for name in _TOKENIZER),
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            f"{vae_folder}/config.json",
            f"{vae_folder}/diffusion_pytorch_model.safetensors",
        )


_PICKLE = (
    "published as a pickle only, and unpickling a download can run any code; copy the repository's "
    "files into weights/NAME yourself and convert each pickle to safetensors with "
    "`sdxs weights import FILE`, which runs no code from it"
)

ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "demo",
            "",
            "",
            "MIT",
            "12 MB, in this repository: the SDXS architecture, small, for 256 x 256",
        ),
        Entry(
            "demo-sketch",
            "",
            "",
            "MIT",
            "in this repository: the demo at SDXS' own timestep, with its own ControlNet for "
            "--control sketch",
        ),
        Entry(
            "sdxs-512-0.9",
            "IDKiro/sdxs-512-0.9",
            "c332f05f60eb4b453de513be52c2a18c48d8cfe6",
            "openrail++",
            "the paper's model, 512 x 512, 2.7 GB",
        ),
        Entry(
            "sdxs-512-dreamshaper",
            "IDKiro/sdxs-512-dreamshaper",
            "76f720262bb051da75666b22c902a78c8e16c763",
            "openrail++",
            "better pictures and faster, 512 x 512, 1.8 GB",
        ),
        Entry(
            "sdxs-512-dreamshaper-sketch",
            "IDKiro/sdxs-512-dreamshaper-sketch",
            "cd341678087336ed72c05660ac84d765896b48e7",
            "openrail++",
            "sketch ControlNet for dreamshaper",
            _PICKLE,
            controls="sdxs-512-dreamshaper",
        ),
        Entry(
            "sd-turbo",
            "stabilityai/sd-turbo",
            "b335f733db09ff60444334351a3bbf6ab4b64332",
            "Stability AI community licence: commercial use is restricted, read it before you "
            "publish pictures",
            "512 x 512, full VAE, 5.2 GB",
            frame=(("timesteps", [0, 999]), ("max_steps", 4)),
        ),
        Entry(
            "tiny-sd",
            "segmind/tiny-sd",
            "",
            "creativeml-openrail-m",
            "compact SD 1.5, 323 M UNet",
            _PICKLE,
        ),
        Entry(
            "small-sd",
            "segmind/small-sd",
            "",
            "creativeml-openrail-m",
            "compact SD 1.5, 579 M UNet",
            _PICKLE,
        ),
    )
}


def entry(name: str) -> Entry:
    """Look up a checkpoint by name. Raises UsageError that suggests the nearest known name."""
    if name in ENTRIES:
        return ENTRIES[name]
    near = difflib.get_close_matches(name.lower(), ENTRIES, 1, cutoff=0.45)  # low enough for "sdxs"
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(
        f"unknown model {name!r}: {hint}known are {', '.join(ENTRIES)}; name a folder by its "
        f"path, such as ./{name}"
    )
