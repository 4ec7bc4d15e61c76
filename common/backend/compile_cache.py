"""Where a framework keeps what it has compiled, so that `bench` can give it an empty folder."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CompileCache:
    """variables: of the environment, each naming a folder of compiled kernels or programs.

    why: there is none to move, for this reason.
    """

    variables: tuple[str, ...] = ()
    why: str = ""


def unknown() -> CompileCache:
    """Return what holds for a backend that names no cache."""
    return CompileCache(why="the backend names no cache of what it compiles")


def programs() -> CompileCache:
    """Return what holds for a backend whose programs are built ahead and prepared by macOS."""
    return CompileCache(
        why="programs are built ahead, and each new one leaves a copy in a cache of macOS's own"
    )
