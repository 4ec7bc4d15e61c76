"""Every error a user can meet, in one tree.

A message says what happened, where, what was expected and what to do about it.
`exit_code` is what the command line ends with; nothing below `cli.py` prints or exits.
"""


class SdxsError(Exception):
    """Base of everything sdxs raises on purpose."""

    exit_code = 1


class UsageError(SdxsError):
    """The user asked for something that cannot be: an unknown name, a value out of range."""

    exit_code = 2


class ConfigError(SdxsError):
    """A checkpoint's json asks for something this code does not implement."""


class WeightsError(SdxsError):
    """Weights are missing, damaged, misshapen or of a kind that is never loaded."""


class SourceError(SdxsError):
    """Frames cannot be read."""


class SourceLost(SourceError):
    """A source that worked has gone for good in the middle of a session."""

    exit_code = 3


class SinkError(SdxsError):
    """Frames cannot be written or shown."""


class BackendError(SdxsError):
    """A backend cannot load, or failed on a frame."""


def first_of(errors: list[BaseException]) -> BaseException:
    """Return the first error, to be raised; what came after it becomes notes, so that nothing is
    lost.
    """
    first, *others = errors
    for other in others:
        if other is not first:
            first.add_note(f"and then: {other or repr(other)}")
    return first


class SdxsWarning(UserWarning):
    """Something was adjusted, and the user is told; the command line shows it in one line."""
