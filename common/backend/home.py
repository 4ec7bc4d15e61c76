"""The process that something was loaded in: a fork of it has none of its threads."""

import os

from ..errors import BackendError


class Home:
    """Remembers this process."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def here(self) -> bool:
        """Tell whether this is still the same process, and no fork of it."""
        return os.getpid() == self._pid

    def check(self, name: str) -> None:
        """Raise BackendError in a fork. name: of the backend."""
        if not self.here:
            raise BackendError(
                f"{name}: was loaded in process {self._pid}, and this is its fork {os.getpid()}, "
                "which has none of the threads that compute; load models in processes that "
                "multiprocessing starts by 'spawn', or fork before any is loaded"
            )
