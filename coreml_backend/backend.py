"""The Core ML backend: one program per frame, or three stages on separate compute units.

With `--placement`, encode, UNet and decode are separate programs. Compute units overlap only across
processes, so there is one process per unit: this one for the unit of encode, a child for every
other. `submit` encodes a frame while the UNet computes the frame before; `collect` decodes. The x0
for feedback stays in the process of the UNet, so the pipeline gives the result of one program.
"""

import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from ..common.backend.description import Description
from ..common.backend.process.hosted import HostedBackend
from ..common.backend.protocol import (
    Backend,
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_control,
    check_frame,
    check_loras,
    check_picture,
)
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError, PictureError
from .options import (
    DEFAULT_UNITS,
    STAGES,
    WHOLE,
    CoreMLOptions,
    Stage,
    placement_text,
    refuse_steps,
)
from .prepare import refuse_without_runtime
from .stages import StagesBackend

PIPELINE_DEPTH = 3
HOSTED_LOCATION = f"{StagesBackend.__module__}:{StagesBackend.__name__}"


REMEDY = "check the weights with `sdxs weights verify`, or try --backend mlx --dtype float32"


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive stages on one compute unit.

    made: buffer of their result for the next section.
    """

    stages: tuple[Stage, ...]
    runs: StagesBackend | HostedBackend
    made: np.ndarray

    @property
    def wants_prompt(self) -> bool:
        return not {"frame", "unet"}.isdisjoint(self.stages)


@dataclass(slots=True)
class InFlight:
    """A submitted frame. given: None if it is ignored. trouble: what a section said of it."""

    given: np.ndarray | None
    submitted_ns: int
    controlled: StagesBackend | None = None
    bridge_ns: int = 0
    trouble: PictureError | None = None


class CoreMLBackend:
    """Render on Core ML (macOS), or on the reference interpreter if the options name it."""

    name = "coreml"

    def __init__(self, checkpoint: Checkpoint, options: CoreMLOptions) -> None:
        """Check the options; build nothing yet. Raises UsageError for impossible options."""
        self.options = options
        for size in self.options.sizes or (options.size,):
            # the interpreter computes in float32
            checkpoint.check_size(size, 4 if options.runtime == "reference" else 2)
        self.checkpoint = checkpoint
        refuse_steps(checkpoint)
        if checkpoint.control:
            controlled(options)  # raises if these options exclude control
        self._units = split(self.options)
        self.depth = (
            PIPELINE_DEPTH if any(unit != self._units[0][0] for unit, _ in self._units) else 1
        )
        self._sections: list[Section] = []
        self._controlled: StagesBackend | None = None
        self._params = FrameParams()
        self._in_flight: deque[InFlight] = deque()
        self._forgets = False  # whether the next frame has no feedback

    def load(self) -> None:
        """Build uncached programs, start the processes, load, and render a blank frame.

        Raises SdxsError.
        """
        self.close()
        refuse_without_runtime(self.options)
        self._sections = [self._section(unit, stages) for unit, stages in self._units]
        try:
            for section in self._sections:
                section.runs.load()
            if self.checkpoint.control:
                self._controlled = StagesBackend(self.checkpoint, controlled(self.options))
                self._controlled.load()
        except BaseException:
            self.close()
            raise

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        check_conditioning(encoder_hidden_states, self.checkpoint.unet.cross_attention_dim)
        for section in self._loaded():
            if section.wants_prompt:
                section.runs.set_conditioning(encoder_hidden_states)
        if self._controlled:
            self._controlled.set_conditioning(encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        sections = self._loaded()
        check_control(params, self._controlled is not None)
        check_loras("coreml", params, tuple(each.weight for each in self.checkpoint.loras))
        for section in sections:
            if section.wants_prompt:
                section.runs.set_params(params)
        if self._controlled:
            self._controlled.set_params(params)
            # the other program takes over, and its last frame is old
            if bool(params.control_scale) != bool(self._params.control_scale):
                self._controlled.forget()
                for section in sections:
                    if isinstance(section.runs, StagesBackend):
                        section.runs.forget()
        self._params = params

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._loaded()
        if not self._forgets:
            self._submit(frame, edges)
            return
        params, self._forgets = self._params, False
        self.set_params(replace(params, feedback=0.0))
        try:
            self._submit(frame, edges)
        finally:
            self.set_params(params)

    def _submit(self, frame: np.ndarray, edges: np.ndarray | None) -> None:
        sections = self._sections
        each = InFlight(None if self._params.text_only else frame, time.perf_counter_ns())
        if self._controlled and self._params.control_scale > 0:
            # control scale 0 uses the program without a ControlNet, at no cost
            self._controlled.submit(frame, edges)
            each.controlled = self._controlled
        else:
            check_frame(frame, (*self.options.size.shape, 3))
            sections[0].runs.submit(frame)
            if len(sections) > 1:
                self._hand_on(each, 0)
        self._in_flight.append(each)

    def _hand_on(self, each: InFlight, number: int) -> None:
        """Collect a frame from a section and submit it to the next one."""
        section, following = self._sections[number : number + 2]
        try:
            each.bridge_ns += section.runs.collect(section.made).bridge_ns
        except PictureError as error:  # `collect` raises it
            each.trouble = error
            return
        following.runs.submit(section.made)

    def collect(self, out: np.ndarray) -> StageTimes:
        sections = self._loaded()
        if not self._in_flight:
            raise BackendError("coreml: collect() without a submitted frame")
        each = self._in_flight.popleft()
        if each.controlled:
            times = each.controlled.collect(out)
        else:
            for number in range(1, len(sections) - 1):
                if not each.trouble:
                    self._hand_on(each, number)
            if each.trouble:
                raise each.trouble
            each.bridge_ns += sections[-1].runs.collect(out).bridge_ns
            times = StageTimes(time.perf_counter_ns() - each.submitted_ns, each.bridge_ns)
        try:
            check_picture("coreml", out, each.given, True, REMEDY)
        except PictureError:
            self._forgets = True  # x0 is finite, so its runner remembers it
            raise
        return times

    def memory(self) -> MemoryUse:
        """Return the packages' bytes as model_bytes; Core ML's own memory is only in footprints."""
        return MemoryUse(0, 0, 0, sum(backend.memory().model_bytes for backend in self._all()))

    def describe(self) -> Description:
        said = StagesBackend(self.checkpoint, self.options).describe()
        placement = placement_text(self.options.placement)
        processes = tuple(
            (f"process of {'+'.join(section.stages)}", section.runs.pid)
            for section in self._sections
            if isinstance(section.runs, HostedBackend)
        )
        facts = (*said.facts, ("placement", placement)) if placement else said.facts
        return replace(said, facts=facts, processes=processes)

    def close(self) -> None:
        backends = self._all()
        self._sections, self._controlled, self._params = [], None, FrameParams()
        self._in_flight.clear()
        self._forgets = False
        failure: BaseException | None = None
        for backend in backends:
            try:
                backend.close()
            except Exception as error:  # the other processes must still end
                failure = failure or error
        if failure:
            raise failure

    def _all(self) -> list[StagesBackend | HostedBackend]:
        return [
            *(section.runs for section in self._sections),
            *([self._controlled] if self._controlled else []),
        ]

    def _loaded(self) -> list[Section]:
        if not self._sections:
            raise BackendError("coreml: backend is not loaded; call load() first")
        return self._sections

    def _section(self, unit: str, stages: tuple[Stage, ...]) -> Section:
        options = replace(self.options, section=stages)
        local = StagesBackend(self.checkpoint, options)
        made = np.zeros(local.gives.shape, local.gives.dtype)
        if unit == self._units[0][0]:
            return Section(stages, local, made)
        name = f"coreml {'+'.join(stages)} on {unit}"
        hosted = HostedBackend(
            name, HOSTED_LOCATION, self.checkpoint, options, local.takes, local.gives
        )
        return Section(stages, hosted, made)


def controlled(options: CoreMLOptions) -> CoreMLOptions:
    """Return these options for the program with the ControlNet. Raises UsageError."""
    return replace(options, control=True)


def split(options: CoreMLOptions) -> list[tuple[str, tuple[Stage, ...]]]:
    """Cut the stages where the compute unit changes.

    Returns for example [('ne', ('encode',)), ('gpu', ('unet',)), ('ne', ('decode',))].
    """
    if not options.placement:
        return [(options.compute_units or DEFAULT_UNITS, WHOLE)]
    sections: list[tuple[str, tuple[Stage, ...]]] = []
    for stage, unit in zip(STAGES, options.placement, strict=True):
        if sections and sections[-1][0] == unit:
            sections[-1] = (unit, (*sections[-1][1], stage))
        else:
            sections.append((unit, (stage,)))
    return sections


_KEPT: type[Backend] = CoreMLBackend  # mypy holds it to the protocol
