"""What a backend says of itself, as a report and a window need it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Description:
    """Device, dtype and whatever else a result must be reported with.

    facts: (label, text) in the order in which they are shown. processes: (label, process id) of
    those that it runs in besides the caller's. stand_in: what computes in the place of what the
    backend is named for, such as an interpreter; '' for none. A window shows it all the time.
    """

    backend: str
    device: str = ""
    dtype: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    processes: tuple[tuple[str, int], ...] = ()
    stand_in: str = ""

    @property
    def process_ids(self) -> tuple[int, ...]:
        return tuple(pid for _, pid in self.processes)

    def as_dict(self) -> dict[str, str]:
        """The same by label, as a report's JSON and the command line show it."""
        named = {"backend": self.backend, "device": self.device, "dtype": self.dtype}
        shown = {label: text for label, text in named.items() if text}
        return shown | dict(self.facts) | {label: str(pid) for label, pid in self.processes}
