"""A film, encoded in a process of its own and renamed when it is whole."""

import secrets
import shutil
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...errors import SdxsWarning, SinkError, UsageError
from ...files import beside, check_writable, free_name
from ..films.formats import CONTAINERS
from ..films.plan import Film, FilmPlan, Sound
from ..films.reader import plays
from ..films.writer import FilmWriter

DISK_CHECK_FRAMES = 30
LEAST_FREE_BYTES = 50_000_000
MOST_WAITING_BYTES = 100_000_000  # of pictures, while the encoder starts or falls behind
LONG_S = 2.0  # of finishing a film, after which a line says so


class VideoFileSink:
    """A film, playable however it was closed. written: the file, once it is finished.

    A film that is not whole takes no other's place: it gets a name beside it, and SinkError says
    so.

    Only a kill that cannot be caught, and a second Ctrl-C, leave the temporary file, which plays as
    well.

    realtime: repeat or leave out pictures so that the video lasts as long as the session did; a
    slow encoder gets fewer pictures. Otherwise every picture becomes one frame.
    """

    def __init__(self, path: Path, fps: float, realtime: bool = False, codec: str = "") -> None:
        """Raise SinkError unless the folder is writable; the first picture makes the file.

        codec: one of the container's, or '' for its usual one. Raises UsageError for another.
        """
        self._path = path
        self._partial = beside(path, f"{secrets.token_hex(2)}.partial")
        self._fps = fps
        self._codec = codec
        self._realtime = realtime
        self._own_times = False
        self._sound: Callable[[], Sound | None] = _silence
        self.written: list[Path] = []
        self._kept: Path | None = None  # of a recording whose process has died
        self._finishing_s = 0.0
        self._began_ns = 0
        self._written = 0
        self._began = self._opened = False
        self._waiting: deque[tuple[np.ndarray, int]] = deque()
        self._since_look = self._looked_ns = 0
        known = CONTAINERS[path.suffix.lower()].video
        if codec and codec not in known:
            raise UsageError(
                f"--video-codec {codec}: {path.name} takes {' or '.join(known)}; name another "
                "container: .mov takes all"
            )
        check_writable(path, path.absolute().parent)
        self._writer: FilmWriter | None = FilmWriter(str(path), self._say_that_it_takes_time)

    def place_by_time(self, sound: Callable[[], Sound | None] | None) -> None:
        """Let `write` place pictures by a source's own time.

        A container that keeps no times of frames gets pictures repeated or left out: each is within
        half a frame of its time. sound: called at the end, for what goes beside the pictures; what
        the container does not take is left out.
        """
        self._own_times, self._sound = True, sound or _silence

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        writer = self._writer
        if writer is None:
            return
        self._look_at_disk(shown_ns)
        if not self._began:
            self._began, self._began_ns = True, shown_ns
        waiting = self._waiting
        if not self._realtime:
            self._place(writer, picture, shown_ns)
            return
        # The display thread never waits for an encoder.
        while waiting and writer.ready():
            self._place(writer, *waiting.popleft())
        if not waiting and writer.ready():
            self._place(writer, picture, shown_ns)
        elif len(waiting) * picture.nbytes < MOST_WAITING_BYTES:
            waiting.append((picture.copy(), shown_ns))  # one too many: the next fills the gap

    def _place(self, writer: FilmWriter, picture: np.ndarray, shown_ns: int) -> None:
        """Encode a picture as often as its time asks for."""
        if not self._opened:
            height, width = picture.shape[:2]
            writer.open(
                FilmPlan(str(self._path), self._partial, self._codec, self._fps, height, width)
            )
            self._opened = True
        passed_s = (shown_ns - self._began_ns) / 1e9
        if self._own_times and CONTAINERS[self._path.suffix.lower()].own_times:
            writer.write(picture, passed_s)
            self._written += 1
            return
        due = 1
        if self._realtime or self._own_times:
            early = 0.5 if self._own_times else 0.0
            due = int(passed_s * self._fps + early) + 1 - self._written
        for _ in range(due):
            writer.write(picture, self._written / self._fps)
            self._written += 1

    def _look_at_disk(self, shown_ns: int) -> None:
        """Raise SinkError if the disk is full: every 30 pictures, in real time every second."""
        self._since_look += 1
        late = self._realtime and shown_ns - self._looked_ns >= 1e9
        if self._began and self._since_look < DISK_CHECK_FRAMES and not late:
            return
        self._since_look, self._looked_ns = 0, shown_ns
        try:
            free = shutil.disk_usage(self._path.absolute().parent).free
        except OSError as error:
            raise SinkError(
                f"{self._path}: its folder cannot be reached any more ({error.strerror}); record "
                "elsewhere"
            ) from None
        if free < LEAST_FREE_BYTES:
            raise SinkError(
                f"{self._path}: the disk is full ({free / 1e6:.0f} MB left); what was recorded "
                "until now is kept; free space or record elsewhere"
            )

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            try:
                while self._waiting:
                    self._place(writer, *self._waiting.popleft())
            finally:
                if self._opened:
                    self._finishing_s = time.monotonic()
                    writer.finish(self._path, self._sound())
        except SinkError as error:
            kept = self._rescued() if writer.path is None else None
            if kept:
                raise SinkError(f"{error}; what was recorded until then is {kept}") from None
            raise
        finally:
            self.written = [path for path in (writer.path or self._rescued(),) if path]
            writer.close()

    def _rescued(self) -> Path | None:
        """Give a recording whose process has died its name, or one beside an earlier film.

        A process that died early leaves no picture; that is no film, and is removed.
        """
        if self._kept is None and self._partial.exists():
            if plays(Film(str(self._partial), self._path.name, (0, 0, 0))):
                self._kept = free_name(self._path)
                self._partial.replace(self._kept)
            else:
                self._partial.unlink()
        return self._kept

    def _say_that_it_takes_time(self, _step: str, _done: float) -> None:
        if self._finishing_s and time.monotonic() - self._finishing_s > LONG_S:
            self._finishing_s = 0.0
            warnings.warn(
                f"{self._path}: its index and its sound are put in place, which takes a while",
                SdxsWarning,
                stacklevel=2,
            )


def _silence() -> Sound | None:
    return None
