"""Say where a checkpoint may be that is not where it was looked for."""

from pathlib import Path

from .weights_file import holds

LAYOUT = "(unet/, vae/, text_encoder/, tokenizer/, scheduler/)"


def no_checkpoint(model: str, path: Path) -> str:
    """Return the message for a `--model` without a checkpoint: what is there, what would help."""
    expected = (
        f"expected a folder in the diffusers layout {LAYOUT}, or a name from `sdxs weights list`"
    )
    if not path.is_dir():
        return f"--model {model}: no checkpoint there; {expected}"
    if inner := checkpoints_in(path):
        return (
            f"--model {model}: no checkpoint there, but one in {inner[0]}; use --model {inner[0]}"
        )
    return f"--model {model}: no checkpoint there; it holds {holds(path)}; {expected}"


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder or in its `snapshots/`, newest first."""
    found = [
        each
        for place in (folder, folder / "snapshots")
        if place.is_dir()
        for each in _folders(place)
        if (each / "unet" / "config.json").is_file()
    ]
    return sorted(found, key=lambda each: (-_time(each), each.name))


def _folders(place: Path) -> list[Path]:
    try:
        return [each for each in place.iterdir() if each.is_dir()]
    except OSError:
        return []


def _time(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
