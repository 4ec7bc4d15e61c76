"""`sdxs live`: a camera, a video or an image under a prompt, live."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from ..common.backend.assembly import (
    ModelOptions,
    make_backend,
    open_checkpoint_for,
    options_for,
)
from ..common.backend.kept import KeptBackend, end_all
from ..common.backend.options import BackendOptions
from ..common.backend.process.hosted import HostedBackend
from ..common.backend.protocol import Backend
from ..common.backend.spec import BackendSpec, lora_fixed, spec_of, specs
from ..common.errors import SdxsWarning, UsageError
from ..common.files import expanded
from ..common.io.outputs.registry import check_outputs
from ..common.io.sinks.registry import names_a_folder
from ..common.io.sources.permission import ask_for_camera
from ..common.io.sources.registry import source_camera, source_path
from ..common.io.sources.screen import check_screen
from ..common.live.inputs import InputOptions, check_inputs
from ..common.live.options import SessionFiles, SessionOptions, two_sources
from ..common.live.parameters import DEFAULT_PROMPT, OF_CONTROL, LiveParameters
from ..common.live.sound import sound_path
from ..common.prompt.syntax import read_prompts, refuse_negative
from ..common.settings import changed_texts, setting
from ..common.web.address import WebOptions
from .console import err
from .options import BackendChoice, Given, with_settings
from .page import page_for, present
from .programs import build, quality
from .sessions import run_session, run_shoot

if TYPE_CHECKING:
    from ..common.checkpoint.find import Checkpoint
    from ..common.live.session import Session
    from ..common.live.shoot import Take
    from ..common.picture.record import Recipe
    from ..common.web.server import PageServer


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What only the command knows of a session."""

    outs: tuple[str, ...] = setting((), "video, image or folder to write, or window:", flag="--out")
    to: tuple[str, ...] = setting(
        (),
        "where to show it live, such as ndi:NAME, mjpeg:8513 or rtmp://HOST/APP/KEY; a slow or "
        "dead one holds up nobody",
        flag="--to",
    )
    prompts: str | None = setting(
        None,
        "'gallery' (ten styles) or a text file, a prompt a line; keys 1 to 9 lead to the first "
        "nine",
    )
    negative_prompt: str = setting("", "refused, with the reason: these models have no use for one")
    contact_sheet: Path | None = setting(None, "image to write, with a row for each prompt")
    stats: Path | None = setting(None, "file to write the session's figures to, as JSON")
    compare: str | None = setting(None, "second backend on the same frames, beside the first")
    isolate: bool = setting(False, "run the backend in a process of its own")
    fixed_noise: bool = setting(False, "build the noise of --seed into the program")
    verbose: bool = setting(False, "say which compute unit runs how many operations")


@with_settings(
    specs().values(),
    repeatable=("prompt", "source"),
    concerns={
        "fixed_noise": lambda spec: spec.obeys("noise_seed"),
        "verbose": lambda spec: bool(spec.programs),
    },
)
def live(
    choice: BackendChoice,
    session: SessionOptions,
    model: ModelOptions,
    start: LiveParameters,
    stage: InputOptions,
    more: LiveOptions,
    web: WebOptions,
    given: Given,
) -> None:
    """Render a camera, a video or an image under a prompt, live. Key h shows the keys."""
    _refuse_contradictions(session, start, more, web)
    if session.camera is not None and "source" in given:
        raise two_sources(session.camera, session.source)  # also where it is the default
    chosen = [spec_of(choice.backend)]
    if more.compare:
        chosen.append(spec_of(more.compare, "--compare"))
    given.refuse_ignored(chosen)
    _refuse_depth(given)
    refuse_negative(more.negative_prompt, model.model)
    prompts = _prompts(given, more)
    _refuse_edges(model, given)
    takes = _takes(given.all_texts("source"), session, more)
    if takes and web.web:
        raise UsageError("--web shows one session, and --source names several files; drop it")
    if takes and more.to:
        raise UsageError("--to shows one session, and --source names several files; drop it")
    files = SessionFiles(more.outs, more.contact_sheet, more.stats, more.to)
    _refuse_overlaps(session.reads, files, model, more, stage, takes)
    check_inputs(stage)
    check_outputs(more.to)
    _ask_for_camera(session, takes)
    with nullcontext() if takes else page_for(web, session, files) as page:
        _render(chosen, session, model, start, stage, more, given, prompts, files, takes, page)


def _render(
    chosen: Sequence[BackendSpec],
    session: SessionOptions,
    model: ModelOptions,
    start: LiveParameters,
    stage: InputOptions,
    more: LiveOptions,
    given: Given,
    prompts: Sequence[str],
    files: SessionFiles,
    takes: "Sequence[Take]",
    page: "PageServer | None",
) -> None:
    """Open the model and the session, or one for each file, and run it."""
    checkpoint = open_checkpoint_for(model)
    size = model.size_of(checkpoint)
    _warn_of_seed(checkpoint, start, given)
    values = given.for_backends() | ({"noise_seed": start.seed} if more.fixed_noise else {})
    options = [options_for(spec, size, values) for spec in chosen]
    _build_all(chosen, checkpoint, options, more.verbose)
    from ..common.live.opening import open_session

    def opened(
        one: SessionOptions, written: SessionFiles, backends: Sequence[Backend]
    ) -> "Session":
        recipe = _recipe_of(checkpoint, options[0], chosen[0], model, one)
        of_all = (size, checkpoint, backends, prompts, recipe, stage, page, lora_fixed(chosen))
        return open_session(one, start, written, *of_all)

    if takes:
        fed_back = start.feedback > 0 or stage.schedule is not None  # which may set feedback
        kept = [
            KeptBackend(HostedBackend(spec.name, spec.location, checkpoint, own), fed_back)
            for spec, own in zip(chosen, options, strict=True)
        ]
        run_shoot(takes, lambda take: opened(*_one_of(take, session), kept), lambda: end_all(kept))
        return
    renderers = [
        make_backend(spec, checkpoint, own, more.isolate or more.compare is not None)
        for spec, own in zip(chosen, options, strict=True)
    ]
    one = opened(session, files, renderers)
    err.print(
        escape(f"{checkpoint.name} ({checkpoint.origin}) at {size.words}; source {one.source.name}")
    )
    for place in one.outputs.places:
        err.print(escape(place))
    if page:
        present(page, one, checkpoint, renderers, session)
    run_session(one)


def _prompts(given: Given, more: LiveOptions) -> tuple[str, ...]:
    """Return the prompts of options and list, or the default one. Raises UsageError."""
    listed = read_prompts(more.prompts) if more.prompts else ()
    return (*given.all_texts("prompt"), *listed) or (DEFAULT_PROMPT,)


def _ask_for_camera(session: SessionOptions, takes: "Sequence[Take]") -> None:
    """Ask for the camera before minutes of download; refuse its options where there is none."""
    camera = source_camera(session.reads) if not takes else None
    request = session.request
    if camera is None:
        request.refuse_for(session.reads)
        if not takes:
            check_screen(session.reads)
    else:
        ask_for_camera(camera)


def _takes(sources: Sequence[str], session: SessionOptions, more: LiveOptions) -> "list[Take]":
    """Return the files of a shoot, or none where there is one source. Raises UsageError."""
    from ..common.live.shoot import is_shoot, takes_of

    if not is_shoot(sources):
        return []
    if not session.headless:
        raise UsageError("--source names several files, which no window shows; add --headless")
    if more.contact_sheet or more.stats:
        raise UsageError(
            "--contact-sheet and --stats are of one session, and --source names several files; "
            "drop them"
        )
    if len(more.outs) != 1 or not names_a_folder(more.outs[0]):
        raise UsageError(
            "--source names several files: --out names the folder for theirs, once; add --out "
            "folder/"
        )
    takes, passed = takes_of(sources, expanded(more.outs[0]), session.video_codec or "")
    if passed:
        err.print(escape(f"passed over: {', '.join(path.name for path in passed)}"), style="dim")
    return takes


def _one_of(take: "Take", session: SessionOptions) -> tuple[SessionOptions, SessionFiles]:
    """Return the session of one file of a shoot."""
    written = take.out if take.out.is_absolute() else f"./{take.out}"
    return replace(session, source=str(take.source.absolute())), SessionFiles((str(written),))


def _refuse_contradictions(
    session: SessionOptions, start: LiveParameters, more: LiveOptions, web: WebOptions
) -> None:
    """Raise UsageError for options that leave nothing to do or exclude each other."""
    if not all(out.strip() for out in more.outs):
        raise UsageError("--out is empty; name a file or a folder")
    if session.headless and not (
        more.outs or more.contact_sheet or more.stats or web.web or more.to
    ):
        raise UsageError(
            "--headless shows nothing and there is no --out; add --out FILE, or drop --headless"
        )
    if session.loop == "sequential" and (start.skip > 0 or session.realtime):
        raise UsageError(
            "--loop sequential renders every frame in turn, as the paper does; drop --skip and "
            "--realtime"
        )


def _refuse_depth(given: Given) -> None:
    """Raise UsageError for more frames in flight than a session takes."""
    from ..common.live.threads.pipeline import MOST_IN_FLIGHT

    depth = given.value("depth") if "depth" in given else None
    if isinstance(depth, int) and depth > MOST_IN_FLIGHT:
        raise UsageError(
            f"{given.settings['depth'].spelling} {depth}: a session has at most {MOST_IN_FLIGHT} "
            f"frames in flight; use {MOST_IN_FLIGHT}, or `sdxs bench` for more"
        )


def _refuse_overlaps(
    source: str,
    files: SessionFiles,
    model: ModelOptions,
    more: LiveOptions,
    inputs: InputOptions,
    takes: "Sequence[Take]",
) -> None:
    """Raise UsageError if a file would be written that the session reads, or written twice."""
    from ..common.live.opening import refuse_one_file_twice

    if takes:  # none of its outputs is there yet
        return

    prompts = more.prompts if more.prompts != "gallery" else None
    listed = expanded(prompts) if prompts else None
    reads = [
        ("--prompts", listed),
        ("--schedule", inputs.schedule),
        ("--audio", sound_path(inputs.audio)),
    ]
    refuse_one_file_twice(source, files, [*reads, *model.reads()])


def _refuse_edges(model: ModelOptions, given: Given) -> None:
    """Raise UsageError for what concerns edges where no ControlNet reads them."""
    for name in OF_CONTROL:
        if model.control == "none" and name in given:
            raise UsageError(
                f"{given.settings[name].spelling} {given.texts[name]}: nothing reads edges in this "
                "session; add --control sketch"
            )


def _warn_of_seed(checkpoint: "Checkpoint", start: LiveParameters, given: Given) -> None:
    if "seed" in given and checkpoint.frame.noise_scale == 0:
        warnings.warn(
            f"--seed {start.seed} makes no difference: {checkpoint.name} was trained without noise "
            "(noise_scale 0 in its sdxs.json)",
            SdxsWarning,
            stacklevel=2,
        )


def _recipe_of(
    checkpoint: "Checkpoint",
    own: BackendOptions,
    spec: BackendSpec,
    model: ModelOptions,
    session: SessionOptions,
) -> "Recipe":
    """What the records of a session's PNGs say of model and backend."""
    from ..common.picture.record import Recipe, Still

    settings = changed_texts(own)
    request = Still(
        checkpoint.name,
        "",
        size=own.size.json,
        source=str(source_path(session.reads) or ""),
        backend=spec.name,
        dtype=settings.pop("dtype", "auto"),
        vae=model.vae,
        strength=model.strength,
        steps=model.steps,
        control=model.control,
        background=session.background,
        fit=session.fit,
    )
    return Recipe(checkpoint, spec, settings, request)


def _build_all(
    chosen: Sequence[BackendSpec],
    checkpoint: "Checkpoint",
    options: Sequence[BackendOptions],
    verbose: bool,
) -> None:
    """Build the programs that the backends need, and say what compression cost."""
    for spec, own in zip(chosen, options, strict=True):
        for program in build(spec, checkpoint, own, verbose=verbose):
            if program.weights_error:
                err.print(escape(f"{spec.title} program: {quality(spec, program)}"))
