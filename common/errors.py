"""The errors of sdxs, in one tree.

A message names the problem, the place, the expected value and the remedy. `exit_code` is the exit
status of the command line. Only `cli.py` prints or exits.
"""


class SdxsError(Exception):
    """Base of every error that sdxs raises on purpose."""

    exit_code = 1


class UsageError(SdxsError):
    """The user's input is invalid: an unknown name, a value out of range."""

    exit_code = 2


class ConfigError(SdxsError):
    """A checkpoint's json holds a value that this code does not implement."""


class WeightsError(SdxsError):
    """Weights are missing, damaged, of the wrong shape or in an unsafe format."""


class SourceError(SdxsError):
    """Frames cannot be read."""


class SourceLost(SourceError):
    """A working source has failed permanently during a session."""

    exit_code = 3


class SinkError(SdxsError):
    """Frames cannot be written or shown."""


class SinkLost(SinkError):
    """An output cannot be reached now; the next try may succeed."""


class BackendError(SdxsError):
    """A backend cannot load or has failed on a frame."""


class PictureError(BackendError):
    """What was rendered is no picture; the backend goes on with the next frame."""


class SensorError(SdxsError):
    """A sensor of energy is not available, or no longer answers."""


class ShortageError(SdxsError):
    """The system has no more memory, threads, processes or open files to give; see `limits`."""


def in_a_line(value: object) -> str:
    """Return a value as a message shows it: one line, and not all of a long one."""
    try:
        text = str(value)
    except ValueError:  # Python writes no int of more than 4,300 digits
        text = f"a {type(value).__name__} too long to show"
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def reason(error: BaseException) -> str:
    """Return what an error of the system or of a library says, in a line."""
    said = error.strerror if isinstance(error, OSError) else ""
    return in_a_line(said or str(error) or type(error).__name__)


def first_of(errors: list[BaseException]) -> BaseException:
    """Return the first error, with the later ones attached as notes."""
    first, *others = errors
    for other in others:
        if other is not first:
            first.add_note(f"and then: {other or repr(other)}")
    return first


class SdxsWarning(UserWarning):
    """An adjustment that the user should know of; the command line shows it on one line."""
