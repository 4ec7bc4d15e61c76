"""Minutes of rendering without a pause: does heat slow a backend down?"""

from dataclasses import dataclass

from .statistics import Interval, unpaired_ratio

MINUTE_S = 60.0
BLOCKS = 6  # of a minute: what the interval is made from


@dataclass(slots=True)
class Sustained:
    """seconds: since the start, one a second. frame_ms: the median frame of each second.

    heat: what macOS called its thermal state at the start and at the end; '' where nothing tells.
    """

    seconds: list[float]
    frame_ms: list[float]
    heat: list[str]

    @property
    def change(self) -> Interval | None:
        """The last minute's frame time over the first's; None in less than three minutes.

        Blocks of ten seconds are the unit of chance, resampled in each minute by itself.
        """
        if not self.seconds or self.seconds[-1] < 3 * MINUTE_S:
            return None
        first = [each for each in self._pairs() if each[0] <= MINUTE_S]
        last = [each for each in self._pairs() if each[0] > self.seconds[-1] - MINUTE_S]
        return unpaired_ratio(_blocks(last), _blocks(first))

    def _pairs(self) -> list[tuple[float, float]]:
        return list(zip(self.seconds, self.frame_ms, strict=True))


def _blocks(minute: list[tuple[float, float]]) -> list[list[float]]:
    """Cut a minute into blocks, in order."""
    begin = minute[0][0]
    blocks: list[list[float]] = [[] for _ in range(BLOCKS)]
    for at, frame_ms in minute:
        blocks[min(BLOCKS - 1, int((at - begin) / MINUTE_S * BLOCKS))].append(frame_ms)
    return blocks
