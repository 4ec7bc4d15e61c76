"""What a session is put together from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..io.inputs.controls import Input
from ..io.sheet import Sheet
from ..io.sinks.window import Window
from ..io.sources.protocol import Source
from .options import SessionFiles
from .prompt_list import PromptList
from .stage import Stage
from .threads.loop import Loop
from .viewer import Viewer


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What a session is put together from.

    total: frames that the session will have, if that is known. follows: prompts take turns by
    themselves. unusable: parameters and events without effect, each with the reason. encode: keeps
    what it has encoded, so that a prompt's second turn costs nothing. inputs: besides the keys.
    stage: beat and schedule, by default a beat without one.
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
    stage: Stage | None = None
