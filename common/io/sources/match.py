"""Find what a user means among names that others have given."""

from collections.abc import Sequence


def named(names: Sequence[str], text: str) -> str | None:
    """Return the one name that a text means: whole, in brackets, or a part of only one.

    'left' means 'HALL-PC (left)' also beside 'HALL-PC (left wing)'. '' means the only one.
    """
    wanted = text.casefold()
    for fits in (
        [name for name in names if name == text],
        [name for name in names if text and name.casefold().endswith(f"({wanted})")],
        [name for name in names if wanted in name.casefold()],
    ):
        if len(fits) == 1:
            return fits[0]
    return None
