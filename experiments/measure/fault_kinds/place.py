"""Where one fault happens: a folder of its own, commands and calls in it, and their judgement."""

import os
import shutil
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from ....common.errors import SdxsError
from .command import Command, How
from .fault import FINE, Ran, Right
from .judge import complaints, fingerprints
from .samples import Samples

NOBODY = 65534
CANARY = "canary"


class Place:
    """A folder for one fault, and what was found wrong in it."""

    def __init__(self, folder: Path, samples: Samples, draw: Random) -> None:
        self.base, self.samples, self.draw = folder, samples, draw
        self.folder = folder / "work"
        for each in (self.folder, folder / "home", folder / "cache", folder / "weights"):
            each.mkdir(parents=True)
        self.wrong: list[str] = []
        self.noted: list[str] = []
        self.last: Ran | None = None

    def environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """The environment of a command: this one's paths, a home and a cache of its own."""
        kept = (
            "PATH",
            "PYTHONPATH",
            "LD_LIBRARY_PATH",
            "VIRTUAL_ENV",
            "TMPDIR",
            "DYLD_LIBRARY_PATH",
        )
        made = {name: os.environ[name] for name in kept if name in os.environ}
        made |= {
            "HOME": str(self.base / "home"),
            "XDG_CACHE_HOME": str(self.base / "cache"),
            "SDXS_WEIGHTS": str(self.base / "weights"),
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "COLUMNS": "200",
            # a limit of a file's size would cut off what Python keeps of this code
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name, value in changes.items():
            if value is None:
                made.pop(name, None)
            else:
                made[name] = value
        return made

    def start(self, *arguments: str, how: How | None = None) -> Command:
        """Start `sdxs` with these arguments, or what `how` names."""
        how = how or How()
        if how.lacks.get("user") is not None and os.getuid() == 0:
            self._hand_over()
        return Command(arguments, how, self.folder, self.environment(how.environment))

    def sdxs(self, *arguments: str, right: Right | None = None, how: How | None = None) -> Ran:
        """Run `sdxs` with these arguments to its end, and judge it."""
        before = fingerprints(self.folder)
        return self.judge(self.start(*arguments, how=how).wait(), right or Right(), before)

    def judge(self, ran: Ran, right: Right, before: Mapping[str, str]) -> Ran:
        """Note what is wrong with what a command did."""
        self.last = ran
        self.wrong += complaints(ran, right, self.folder, before)
        return ran

    def call(self, function: Callable[[], object], right: Right | None = None) -> object:
        """Call a function of the API here, and judge it as a command; return what it returned."""
        before, right = fingerprints(self.folder), right or Right()
        began, err, code, found = time.monotonic(), "", FINE, None
        peak = _PeakMemory()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = function()
        except SdxsError as error:
            code, err = error.exit_code, f"error: {error}"
        except BaseException:
            code, err = 1, traceback.format_exc()
        seconds = time.monotonic() - began
        self.judge(Ran(code, "", err, seconds, peak.grown_mb()), right, before)
        return found

    def note(self, what: str) -> None:
        """Say what is done, where that is drawn here: it is added to the words of the fault."""
        self.noted.append(what)

    def demand(self, true: bool, wrong: str) -> None:
        """Note `wrong` unless it is true."""
        if not true:
            self.wrong.append(wrong)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of the files here by name, as `judge` takes them."""
        return fingerprints(self.folder)

    def checkpoint(self, name: str = "tiny") -> Path:
        """Copy the tiny checkpoint into the folder; return its folder there."""
        folder = self.folder / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copytree(self.samples.tiny, folder))

    def canary(self) -> Path:
        """The file that executed code would make."""
        return self.folder / CANARY

    def finish(self) -> None:
        """Look for a canary."""
        self.demand(not self.canary().exists(), "something was executed: the canary is there")

    def _hand_over(self) -> None:
        for path in (self.base, *self.base.rglob("*")):
            with suppress(OSError):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


class _PeakMemory:
    """How far the resident memory of this process rises, where Linux tells."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = self._peak()

    def grown_mb(self) -> float:
        return max(0.0, self._peak() - self._before)

    def _peak(self) -> float:
        try:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
        except OSError:
            return 0.0
        (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
        return int(line.split()[1]) / (1 << 10)


def threads() -> int:
    """Count the threads of this process, with those of libraries where Linux tells."""
    task = Path("/proc/self/task")
    return len(list(task.iterdir())) if task.is_dir() else threading.active_count()
