"""A session whose loop only writes down what it is told: no thread, no backend, no file."""

from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np

from sdxs.common.backend.protocol import FrameParams
from sdxs.common.io.inputs.controls import Input
from sdxs.common.live.look import Look
from sdxs.common.live.options import SessionFiles
from sdxs.common.live.parameters import OF_CONTROL, LiveParameters, with_prompt
from sdxs.common.live.parts import SessionParts
from sdxs.common.live.prompt_list import PromptList
from sdxs.common.live.session import NO_EDGES, Session
from sdxs.common.live.stage import Stage
from sdxs.common.live.stats import Stats
from sdxs.common.live.viewer import Viewer

SIZE = 64


class FakeLoop:
    """Keeps the calls that change a running loop."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.stats = Stats()
        self.dropped = 0
        self.display = SimpleNamespace(wait_s=0.0)

    def set_prompt(self, text: str) -> "Future[None]":
        self.calls.append(("prompt", text))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def set_params(self, params: FrameParams) -> None:
        self.calls.append(("params", params))

    def set_edges(self, kind: str) -> None:
        self.calls.append(("edges", kind))

    def set_skip(self, threshold: float) -> None:
        self.calls.append(("skip", threshold))

    def set_transition(self, seconds: float) -> None:
        self.calls.append(("transition", seconds))

    def set_mirror(self, mirror: bool) -> None:
        self.calls.append(("mirror", mirror))

    def pause(self, paused: bool) -> None:
        self.calls.append(("pause", paused))

    def stop(self) -> None:
        self.calls.append(("stop", None))


class FakeSession(Session):
    """Takes keys as text; `calls` are what the loop was told, `notes` what the window says."""

    def __init__(
        self,
        *prompts: str,
        control: bool = False,
        inputs: Sequence[Input] = (),
        stage: Stage | None = None,
        **values: object,
    ) -> None:
        texts = prompts or ("a", "b", "c")
        made = with_prompt(LiveParameters(**values), texts[0])  # type: ignore[arg-type]
        loop, self.notes = FakeLoop(), list[str]()
        viewer = Viewer(SIZE, Look(), loop.stats, [], None, made)
        viewer.say = lambda note, seconds=0.0: self.notes.append(note)  # type: ignore[method-assign]
        parts = SessionParts(
            None,  # type: ignore[arg-type]
            loop,  # type: ignore[arg-type]
            viewer,
            PromptList(texts),
            SessionFiles(),
            lambda text: np.zeros((1, 77, 4), np.float32),
            {} if control else dict.fromkeys(OF_CONTROL, NO_EDGES),
            inputs=inputs,
            stage=stage,
        )
        super().__init__(parts, made)
        self.calls = loop.calls
        self.look = viewer.look

    def press(self, keys: str | int) -> None:
        for key in [keys] if isinstance(keys, int) else map(ord, keys):
            self._press(key)

    @property
    def typed(self) -> str | None:
        return self._keys.typed
