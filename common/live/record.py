"""The records of a session's PNGs: the run's recipe, and what was so for that very frame."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..backend.description import Description
from ..backend.protocol import FrameParams
from ..checkpoint.tensors import sha256
from ..errors import SinkError
from ..picture.record import OF_SESSION, Recipe, Stamp, facts_of, stamped
from .parameters import LiveParameters
from .threads.frames import LiveFrame


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The source as a record names it. path: of the file that is read, or None."""

    kind: str
    name: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """How one frame was rendered and shown; unlike the frame, it is not used again.

    values: of the display. params, skip, mirror, edges: those that the frame was rendered with.
    view: what the picture shows.
    """

    number: int
    source_ns: int | None
    prompt: str
    turning: bool
    similar: bool
    params: FrameParams
    skip: float
    mirror: bool
    edges: str
    values: LiveParameters
    view: str

    @classmethod
    def of(cls, frame: LiveFrame, values: LiveParameters, view: str) -> "Moment":
        return cls(
            frame.id,
            frame.source_ns,
            frame.prompt,
            frame.turning,
            frame.similar,
            frame.params,
            frame.skip,
            frame.mirrored,
            frame.edge_kind or values.edges,
            values,
            view,
        )


class SessionRecord:
    """Makes the record of each PNG of a session. Main thread only.

    described: the backends, which say so once they are loaded. enlarged: the size of what is shown,
    if it is not that of the frames.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: SourceFacts,
        described: Callable[[], Sequence[Description]],
        enlarged: str = "",
    ) -> None:
        self._recipe = recipe
        self._source = source
        self._described = described
        self._enlarged = enlarged
        self._source_hash: Future[str] | None = None

    def prepare(self) -> None:
        """Hash weights and source beside the session, if that was not begun; it may take long."""
        if self._source_hash is None:
            self._source_hash = Future()
            work = partial(self._hash, self._source_hash)
            threading.Thread(target=work, name="sdxs-record", daemon=True).start()

    def stamp(self, moment: Moment) -> Stamp:
        """Return what puts the record of a moment into its PNG. Raises SinkError when called."""
        return partial(self._stamp, moment)

    def _stamp(self, moment: Moment, png: bytes, picture: np.ndarray) -> bytes:
        self.prepare()
        assert self._source_hash is not None
        digest = self._source_hash.result()
        described = self._described()
        request = replace(
            self._recipe.request,
            prompt=moment.prompt,
            seed=moment.params.seed,
            edges=moment.edges,
            lora_scale=moment.params.lora_scale,
            control_scale=moment.params.control_scale if self._recipe.checkpoint.control else None,
        )
        more = {"source": self._source_of(moment), "live": self._live(moment, described[1:])}
        return stamped(png, self._recipe.record(request, described[0], picture, digest, more))

    def _source_of(self, moment: Moment) -> dict[str, object]:
        found = {"kind": self._source.kind, "name": self._source.name, "frame": moment.number}
        return found | ({} if moment.source_ns is None else {"time_s": moment.source_ns / 1e9})

    def _hash(self, done: "Future[str]") -> None:
        try:
            assert self._recipe.hashes
            done.set_result(sha256(self._source.path) if self._source.path else "")
        except OSError as error:
            done.set_exception(
                SinkError(
                    f"{error.filename}: cannot be read again for the record of a picture "
                    f"({error.strerror}); leave model and source in place while a session runs"
                )
            )
        except BaseException as error:
            done.set_exception(error)

    def _live(self, moment: Moment, others: Sequence[Description]) -> dict[str, object]:
        """Return the live parameters that are no part of the request, and what else was so."""
        rendered = {
            "feedback": moment.params.feedback,
            "skip": moment.skip,
            "mirror": moment.mirror,
        }
        live = {name: rendered.get(name, getattr(moment.values, name)) for name in OF_SESSION}
        live |= {"enlarged": self._enlarged} if self._enlarged else {}
        live |= {"view": moment.view, "gliding": moment.turning, "reused": moment.similar}
        return live | ({"beside": [facts_of(each) for each in others]} if others else {})
