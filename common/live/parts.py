"""What a session is put together from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..io.inputs.controls import Input
from ..io.sheet import Sheet
from ..io.sinks.window import Window
from ..io.sources.protocol import Source
from .options import SessionFiles
from .prompt_list import PromptList
from .stage import Stage
from .standing import Standing
from .threads.frames import LiveFrame
from .threads.loop import Loop
from .viewer import Viewer


class Page(Input, Protocol):
    """An input that shows the session too, to whoever looks. Main thread; never waits.

    replaces_window: no window can be shown.
    """

    replaces_window: bool

    def show(self, frame: LiveFrame) -> None:
        """Take a frame after smoothing; its pictures are only valid during the call."""

    def tell(self, standing: Standing) -> None:
        """Take how the session stands, a few times a second."""


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What a session is put together from.

    total: frames that the session will have, if that is known. follows: prompts take turns by
    themselves. unusable: parameters and events without effect, each with the reason. encode: keeps
    what it has encoded, so that a prompt's second turn costs nothing. inputs: besides the keys and
    the page. stage: beat and schedule, by default a beat without one.
    """

    source: Source
    loop: Loop
    viewer: Viewer
    prompts: PromptList
    files: SessionFiles
    encode: Callable[[str], np.ndarray]
    unusable: Mapping[str, str]
    window: Window | None = None
    sheet: Sheet | None = None
    total: int | None = None
    follows: bool = False
    inputs: Sequence[Input] = ()
    page: Page | None = None
    stage: Stage | None = None
