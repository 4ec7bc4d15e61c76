"""What a backend is built with: a frozen dataclass per backend, which itself travels.

A backend that has settings of its own subclasses `BackendOptions` and declares them by
`common.settings.setting`; see `mlx_sdxs/options.py`.
"""

from dataclasses import dataclass

from ..settings import check_settings


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What every backend is built with. size: side of the square frame in pixels.

    Raises UsageError for a setting out of its range.
    """

    size: int

    def __post_init__(self) -> None:
        check_settings(self)
