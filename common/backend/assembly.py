"""From names and settings to a checkpoint and a backend: the same for every command and the API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from ..checkpoint.find import Checkpoint, find, with_control
from ..live.parameters import LiveParameters
from ..settings import check_settings, known_settings, repeated, setting
from .hosted import HostedBackend
from .options import BackendOptions
from .programs import Prepared, Programs, Progress, Reference
from .protocol import Backend, FrameParams
from .spec import BackendSpec, located, spec_of

DEFAULT_MODEL = "sdxs-512-0.9"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which checkpoint renders, and at which size. Raises UsageError for what is out of range."""

    model: str = setting(DEFAULT_MODEL, "checkpoint by name or path; see `sdxs weights list`")
    vae: str = setting("vae", "folder of the VAE in the checkpoint: vae or vae_large")
    size: int | None = setting(
        None, "side of the square picture", unit="pixels", shown="the checkpoint's"
    )
    strength: float | None = repeated(LiveParameters, "strength")
    steps: int | None = setting(
        None, "steps per frame; for models that take several", shown="the checkpoint's"
    )
    control: str = setting(
        "none", "ControlNet that keeps the camera's edges: none, sketch, or its folder"
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def size_of(self, checkpoint: Checkpoint) -> int:
        """The side of the picture: as asked for, or the checkpoint's."""
        return checkpoint.frame.size if self.size is None else self.size


def open_checkpoint_for(options: ModelOptions) -> Checkpoint:
    """Find a checkpoint and set it up. Raises UsageError for what it was not made for,
    WeightsError, ConfigError.
    """
    found = find(options.model, options.vae).at(options.strength, options.steps)
    checkpoint = with_control(found, options.control)
    checkpoint.check_size(options.size_of(checkpoint))
    return checkpoint


def options_for(
    spec: BackendSpec,
    size: int,
    given: Mapping[str, object] | None = None,
    own: Mapping[str, object] | None = None,
) -> BackendOptions:
    """Build a backend's options.

    given: values by `Setting.parameter`, which may be meant for several backends: those that this
    one does not know are left out. own: values by field, for this backend alone: one that it does
    not know is an error. Raises UsageError.
    """
    own, given = own or {}, given or {}
    known = known_settings(spec.options, own, spec.name).values()
    shared = {each.name: given[each.parameter] for each in known if each.parameter in given}
    make = cast(Callable[..., BackendOptions], spec.options)
    return make(size, **(shared | dict(own)))


def make_backend(
    spec: BackendSpec, checkpoint: Checkpoint, options: BackendOptions, isolate: bool = False
) -> Backend:
    """Build a backend, in a process of its own if it is hosted by default; nothing is loaded yet.

    isolate: host it in any case. Raises UsageError.
    """
    if isolate or spec.hosted(options):
        return HostedBackend(spec.name, spec.location, checkpoint, options)
    made = cast(Callable[[Checkpoint, BackendOptions], Backend], located(spec.location, spec))
    return made(checkpoint, options)


def programs_of(spec: BackendSpec) -> Programs | None:
    """The programs that a backend builds ahead; None for one that builds none."""
    if not spec.programs:
        return None
    return cast(Callable[[], Programs], located(spec.programs, spec))()


def prepare(
    spec: BackendSpec,
    checkpoint: Checkpoint,
    options: BackendOptions,
    report: Progress,
    force: bool = False,
) -> list[Prepared]:
    """Build and check what a backend needs before it is opened; most need nothing.

    force: build it again. Raises SdxsError.
    """
    programs = programs_of(spec)
    if programs is None:
        return []
    return programs.prepare(checkpoint, options, _reference(spec, checkpoint), report, force)


def _reference(spec: BackendSpec, checkpoint: Checkpoint) -> Reference:
    """A probe frame by the backend that `spec` names as its reference."""
    judge = spec_of(spec.reference)

    def render(
        picture: np.ndarray, states: np.ndarray, params: FrameParams, edges: np.ndarray | None
    ) -> np.ndarray:
        renderer = make_backend(judge, checkpoint, judge.options(picture.shape[0]))
        rendered = np.empty_like(picture)
        try:
            renderer.load()
            renderer.set_conditioning(states)
            renderer.set_params(params)
            renderer.submit(picture, edges)
            renderer.collect(rendered)
        finally:
            renderer.close()
        return rendered

    return render
