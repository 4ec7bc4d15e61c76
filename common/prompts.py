"""Lists of prompts: the ten styles of the gallery, or a text file."""

from pathlib import Path

from .errors import UsageError

GALLERY = (
    "an oil painting", "a watercolor painting", "a pencil sketch", "neon cyberpunk city", "anime style",
    "an HDR photograph", "impressionist painting", "dark fantasy", "ukiyo-e woodblock print", "pop art",
)


def read_prompts(name: str) -> tuple[str, ...]:
    """'gallery', or the path of a text file with one prompt a line; '#' starts a comment. Raises UsageError."""
    if name == "gallery":
        return GALLERY
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {name}: not readable ({error}); expected 'gallery' or a text file") from None
    if any(not character.isprintable() for line in lines for character in line if character != "\t"):
        raise UsageError(f"--prompts {name}: is not text; expected 'gallery' or a text file with one prompt a line")
    prompts = tuple(text for line in lines if (text := line.partition("#")[0].strip()))
    if not prompts:
        raise UsageError(f"--prompts {name}: holds no prompt; write one a line")
    return prompts
