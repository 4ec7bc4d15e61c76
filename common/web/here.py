"""Whether a page can be served on this machine, for `sdxs doctor` and the command."""

from importlib.util import find_spec

from ..io.inputs.here import State

NEEDS = ("starlette", "uvicorn", "websockets", "segno")
INSTALL = "pip install 'sdxs[web]'"


def missing() -> list[str]:
    """Return the packages that a page needs and that are not installed."""
    return [each for each in NEEDS if find_spec(each) is None]


def page_here() -> State:
    """Look for what a page needs."""
    if lacking := missing():
        return None, f"not installed: {', '.join(lacking)}", f"{INSTALL}, for --web"
    return True, "sdxs live --web 8512", ""
