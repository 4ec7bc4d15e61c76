"""Build a checkpoint and a backend from names and settings, for every command and the API."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from ..adapt.loras import Lora, check_loras, read_loras
from ..checkpoint.find import Checkpoint, control_files, find, model_files, with_control
from ..live.parameters import LiveParameters
from ..picture.size import FrameSize, Size, read_size
from ..settings import check_settings, known_settings, repeated, setting
from .options import BackendOptions
from .process.hosted import HostedBackend
from .programs import Prepared, Programs, Progress, Reference
from .protocol import Backend, FrameParams
from .spec import BackendSpec, located, spec_of

DEFAULT_MODEL = "sdxs-512-0.9"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Choose the checkpoint and the size of a frame. Raises UsageError for a value out of range."""

    model: str = setting(DEFAULT_MODEL, "checkpoint by name or path; see `sdxs weights list`")
    vae: str = setting("vae", "folder of the VAE in the checkpoint: vae or vae_large")
    size: FrameSize | None = setting(
        None,
        "size of the picture in pixels: side of a square, as 512, or width x height, as 640x384",
        shown="the checkpoint's",
        read=read_size,
        write=str,
    )
    strength: float | None = repeated(LiveParameters, "strength")
    steps: int | None = setting(
        None, "steps per frame; for models that take several", shown="the checkpoint's"
    )
    control: str = setting(
        "none", "ControlNet that keeps the camera's edges: none, sketch, or its folder"
    )
    lora: tuple[str, ...] = setting(
        (),
        "LoRA and its weight, as style.safetensors:0.8; repeatable; of a folder, prompts name them",
    )
    lora_partial: bool = setting(False, "take a LoRA of which less than 90 % fits the checkpoint")

    def __post_init__(self) -> None:
        if self.size is not None:  # an int is the side of a square
            object.__setattr__(self, "size", FrameSize.of(self.size))
        check_settings(self)

    def reads(self) -> list[tuple[str, Path]]:
        """Return what is read of a checkpoint that is local, for `files.refuse_overlaps`."""
        controls = control_files(self.model, self.control)
        return [
            *(("--model", path) for path in model_files(self.model, self.vae)),
            *(("--control", path) for path in controls),
            *(("--lora", lora.path) for lora in read_loras(self.lora)),
        ]

    def size_of(self, checkpoint: Checkpoint) -> FrameSize:
        """Return the size of the picture: `size`, or the checkpoint's square."""
        return FrameSize.of(checkpoint.frame.size) if self.size is None else self.size


def open_checkpoint_for(options: ModelOptions) -> Checkpoint:
    """Find a checkpoint and apply the options to it.

    Raises UsageError for an option that the checkpoint does not support, WeightsError, ConfigError.
    """
    found = find(options.model, options.vae).at(options.strength, options.steps)
    checkpoint = with_control(found, options.control)
    if options.lora:
        checkpoint = with_loras(checkpoint, read_loras(options.lora, options.lora_partial))
    checkpoint.check_size(options.size_of(checkpoint))
    return checkpoint


def with_loras(checkpoint: Checkpoint, loras: Sequence[Lora]) -> Checkpoint:
    """Return the checkpoint with LoRAs, each checked; warns of layers that are left out.

    Raises UsageError, WeightsError for one that does not fit.
    """
    check_loras(loras)
    changed = replace(checkpoint, loras=tuple(loras))
    if adapters := changed.adapters():
        adapters.tell()
    return changed


def options_for(
    spec: BackendSpec,
    size: Size,
    given: Mapping[str, object] | None = None,
    own: Mapping[str, object] | None = None,
) -> BackendOptions:
    """Build a backend's options.

    given: values by `Setting.parameter` for all selected backends; unknown ones are skipped.
    own: values by field for this backend; an unknown one is an error.
    Raises UsageError.
    """
    own, given = own or {}, given or {}
    known = known_settings(spec.options, own, spec.name).values()
    shared = {each.name: given[each.parameter] for each in known if each.parameter in given}
    make = cast(Callable[..., BackendOptions], spec.options)
    return make(FrameSize.of(size), **(shared | dict(own)))


def make_backend(
    spec: BackendSpec, checkpoint: Checkpoint, options: BackendOptions, isolate: bool = False
) -> Backend:
    """Build a backend without loading it, in a child process if its spec says so.

    isolate: always use a child process. Raises UsageError.
    """
    if isolate or spec.hosted(options):
        return HostedBackend(spec.name, spec.location, checkpoint, options)
    made = cast(Callable[[Checkpoint, BackendOptions], Backend], located(spec.location, spec))
    return made(checkpoint, options)


def programs_of(spec: BackendSpec) -> Programs | None:
    """Return the programs that a backend builds ahead of a session, or None."""
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
    """Build and check the programs that a backend needs before it loads; most need none.

    force: build cached programs again. Raises SdxsError.
    """
    programs = programs_of(spec)
    if programs is None:
        return []
    return programs.prepare(checkpoint, options, _reference(spec, checkpoint), report, force)


def _reference(spec: BackendSpec, checkpoint: Checkpoint) -> Reference:
    """Return a function that renders a probe frame with the reference backend of `spec`."""
    judge = spec_of(spec.reference)

    def render(
        picture: np.ndarray,
        encoder_hidden_states: np.ndarray,
        params: FrameParams,
        edges: np.ndarray | None,
    ) -> np.ndarray:
        renderer = make_backend(judge, checkpoint, judge.options(FrameSize.of_picture(picture)))
        rendered = np.empty_like(picture)
        try:
            renderer.load()
            renderer.set_conditioning(encoder_hidden_states)
            renderer.set_params(params)
            renderer.submit(picture, edges)
            renderer.collect(rendered)
        finally:
            renderer.close()
        return rendered

    return render
