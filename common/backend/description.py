"""The description of a backend for reports and the window."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Description:
    """Describe the device, dtype and other facts that a report states.

    facts: (label, text) in display order.
    processes: (label, process id) of its child processes.
    stand_in: name of a substitute for the real runtime, such as an interpreter, or ''. The window
    always shows it.
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
        """Return the facts by label, for a report's JSON and the command line."""
        named = {"backend": self.backend, "device": self.device, "dtype": self.dtype}
        shown = {label: text for label, text in named.items() if text}
        return shown | dict(self.facts) | {label: str(pid) for label, pid in self.processes}
