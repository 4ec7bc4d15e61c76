"""The options of a backend: one frozen, picklable dataclass per backend.

A backend with settings of its own subclasses `BackendOptions` and declares them with
`common.settings.setting`; see `mlx_sdxs/options.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..picture.size import FrameSize
from ..settings import check_settings


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Hold the options of every backend. size: of the frame; an int is the side of a square.

    Raises UsageError for a setting out of range.
    """

    size: FrameSize

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", FrameSize.of(self.size))
        check_settings(self)

    def in_flight(self) -> int | None:
        """Return the frames in flight, as far as the options tell; None: the backend chooses."""
        return None

    def remedies(self) -> Mapping[int, str]:
        """Return what to do about a killed process of this backend, by signal.

        A signal that is not named has the remedy of `common.backend.process.child`.
        """
        return {}
