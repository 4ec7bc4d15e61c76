"""How a session stands: the figures and lists that a page shows beside the picture."""

from dataclasses import asdict, dataclass

from .prompt_list import PromptList
from .threads.loop import Loop
from .viewer import Viewer

EVERY_S = 0.25
MOST_LISTED = 100  # prompts


@dataclass(frozen=True, slots=True)
class Standing:
    """One moment of a session.

    fps, latency_ms: of the last two seconds. captured, shown, dropped: frames so far. prompt: on
    the screen. coming: the one that is being encoded, or ''. prompts, index: the list and the place
    in it. recording: a film is being written by request. note: what the session said last, while it
    is fresh. loading: there has been no picture yet.
    """

    fps: float
    latency_ms: float
    captured: int
    shown: int
    dropped: int
    prompt: str
    coming: str
    prompts: tuple[str, ...]
    index: int
    recording: bool
    note: str
    loading: bool

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def standing(loop: Loop, viewer: Viewer, prompts: PromptList) -> Standing:
    """Say how a session stands. Main thread."""
    stats, said = loop.stats, viewer.said
    return Standing(
        round(stats.fps, 1),
        round(stats.recent_latency_ms, 1),
        stats.captured,
        stats.shown,
        loop.dropped,
        said.prompt,
        said.coming,
        tuple(prompts.texts[:MOST_LISTED]),
        prompts.index,
        said.recording,
        said.note,
        stats.shown == 0,
    )
