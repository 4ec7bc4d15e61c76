"""The `sdxs` command: parses, shows, exits. Everything that works is imported inside the
commands.
"""

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer import Option
from typer.exceptions import TyperException

from .common.errors import SdxsError, SdxsWarning, UsageError, WeightsError

if TYPE_CHECKING:
    from .common.backend.options import BackendOptions
    from .common.backend.programs import Prepared
    from .common.backend.spec import BackendSpec
    from .common.bench.model.report import Report
    from .common.checkpoint.find import Checkpoint
    from .common.live.stats import Summary

# Names alone: a child process imports this module again, and must not load every backend.
BACKENDS = ", ".join(entry.name for entry in metadata.entry_points(group="sdxs.backends"))
# Options whose parameter here is not named after the setting's flag.
SPELLED = {"input_form": "input", "fixed_noise": "noise_seed"}
DEFAULT_PROMPT = "an oil painting"
DEFAULT_MODEL = "sdxs-512-0.9"
PLAIN_PROGRESS_S = 2.0
ATTENTION_HELP = "sdpa (macOS 15), matmul (14) or split_einsum, the Neural Engine's layout."
WEIGHTS_HELP = "float16, int8, palettize8, palettize6, palettize4 or palettize2."

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a live camera into a diffusion-rendered picture.",
)
weights_app = typer.Typer(no_args_is_help=True, help="List, pull and verify checkpoints.")
app.add_typer(weights_app, name="weights")
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class _State:
    """What `main` must know: whether a thread of the session hangs in a call that does not return,
    and of a Ctrl-C.
    """

    abandoned = False
    interrupted = False


_state = _State()


def main() -> None:
    """Entry point: every sdxs error becomes one line on stderr and its exit code."""
    warnings.simplefilter("always", SdxsWarning)
    warnings.showwarning = _show_warning
    code: object = 1
    _state.interrupted = False
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        code = app(standalone_mode=False) or 0
    except TyperException as error:  # what it refuses itself: one line, too
        if said := " ".join(
            error.format_message().split()
        ):  # nothing where the help was shown instead
            err.print(f"[bold red]error:[/] {escape(said)}")
        code = error.exit_code
    except SystemExit as end:
        code = end.code
    except SdxsError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}")
        for note in getattr(error, "__notes__", ()):
            err.print(escape(note), style="dim")
        code = error.exit_code
    except KeyboardInterrupt:
        err.print("interrupted")
        code = 130
    except Exception:
        # A library whose import was interrupted says so with an error of its own (NumPy:
        # ImportError).
        if _state.interrupted:
            err.print("interrupted")
            code = 130
        else:  # a mistake of ours: show all of it, but still end
            err.print_exception()
    finally:
        signal.signal(signal.SIGINT, before)
    if _state.abandoned:
        # A thread that never returns would keep the interpreter from ending, or crash it on the
        # way out.
        _leave_at_once(code if isinstance(code, int) else 1)
    sys.exit(code)  # type: ignore[arg-type]


def _interrupt(_number: int, _frame: object) -> None:
    _state.interrupted = True
    raise KeyboardInterrupt


def _leave_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _refuse_what_no_backend_knows(context: typer.Context, chosen: "list[BackendSpec]") -> None:
    """Raise UsageError for an option that was given and concerns none of the chosen backends."""
    from .common.backend.spec import specs

    for option in context.command.params:
        name = SPELLED.get(option.name or "", option.name or "")

        def concerns(spec: "BackendSpec", name: str = name) -> bool:
            return bool(spec.programs) if name == "verbose" else spec.obeys(name)

        known = [spec.name for spec in specs().values() if concerns(spec)]
        if known and _was_given(context, option.name or "") and not any(map(concerns, chosen)):
            raise UsageError(
                f"{option.opts[0]}: only for "
                f"{' and '.join(f'--backend {name}' for name in known)}; "
                f"{' and '.join(spec.name for spec in chosen)} would ignore it; drop it or name "
                "another backend"
            )


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and not source.name.startswith("DEFAULT")


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not finite")
    return value


def _named_path(text: str) -> Path:
    if not text.strip():
        raise typer.BadParameter("is empty; name a file or a folder")
    return Path(text)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    err.print(f"[yellow]warning:[/] {escape(str(message))}")


def _version(wanted: bool) -> None:
    if wanted:
        out.print(metadata.version("sdxs"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


@app.command()
def live(
    context: typer.Context,
    backend: Annotated[str, Option(help=f"Who renders: {BACKENDS}.")] = "mlx",
    source: Annotated[str, Option(help="Camera number, video, image, or 'synthetic'.")] = "0",
    outs: Annotated[
        list[Path] | None,
        Option(
            "--out",
            parser=_named_path,
            metavar="PATH",
            help="Video, image or folder to write; repeatable.",
        ),
    ] = None,
    model: Annotated[
        str, Option(help="Checkpoint by name or path; see `sdxs weights list`.")
    ] = "sdxs-512-0.9",
    prompt: Annotated[
        list[str] | None,
        Option(help=f"What to paint; repeatable. [default: {DEFAULT_PROMPT}]", show_default=False),
    ] = None,
    prompts: Annotated[
        str | None,
        Option(
            help="'gallery' (ten styles) or a text file, a prompt a line; keys 1 to 9 lead to the "
            "first nine."
        ),
    ] = None,
    negative_prompt: Annotated[
        str, Option(help="Refused, with the reason: these models have no use for one.")
    ] = "",
    strength: Annotated[
        float | None,
        Option(
            min=0,
            max=1,
            callback=_finite,
            show_default=False,
            help="How far to leave the camera; for models trained for it.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        Option(help="Steps per frame; for models that take several.", show_default=False),
    ] = None,
    control: Annotated[
        str,
        Option(
            help="Hold the camera's structure by its edges: none, sketch, or the folder of a "
            "ControlNet."
        ),
    ] = "none",
    edges: Annotated[
        str | None,
        Option(
            help="What the control reads: soft, or canny as in the paper. [default: soft]",
            show_default=False,
        ),
    ] = None,
    control_scale: Annotated[
        float | None,
        Option(
            min=0,
            max=2,
            callback=_finite,
            help="How strongly it holds. [default: 1]",
            show_default=False,
        ),
    ] = None,
    transition: Annotated[
        str, Option(help="Time from one prompt to the next, such as 2s or 500ms.")
    ] = "0s",
    hold: Annotated[
        int | None,
        Option(
            min=1,
            help="Frames until the next prompt's turn. [default: without a window, one pass of "
            "a video, else 48; in a window, never]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, Option(min=0, help="Of the noise; the same seed gives the same picture.")
    ] = 0,
    size: Annotated[
        int | None,
        Option(help="Side of the square picture. [default: the checkpoint's]", show_default=False),
    ] = None,
    frames: Annotated[int | None, Option(min=1, help="Stop after so many.")] = None,
    headless: Annotated[bool, Option("--headless", help="Show no window.")] = False,
    dtype: Annotated[str, Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    vae: Annotated[
        str, Option(help="Folder of the VAE in the checkpoint: vae or vae_large.")
    ] = "vae",
    realtime: Annotated[
        bool | None,
        Option(
            "--realtime/--every-frame",
            show_default=False,
            help="Files: keep their pace and drop what "
            "comes too fast, or render every frame. [default: realtime in a window]",
        ),
    ] = None,
    feedback: Annotated[
        float,
        Option(
            min=0,
            max=1,
            callback=_finite,
            help="Share of the last picture in the next one's latents.",
        ),
    ] = 0.0,
    ema: Annotated[
        float,
        Option(min=0, max=0.99, callback=_finite, help="Smoothing over time: weight of the past."),
    ] = 0.0,
    blend: Annotated[
        float,
        Option(min=0, max=1, callback=_finite, help="Share of the camera mixed into the picture."),
    ] = 0.0,
    skip: Annotated[
        float,
        Option(
            callback=_finite,
            help="Reuse the picture while the camera changes by no more than so many levels of 255 "
            "on average; 0: only if nothing changed; -1: never.",
        ),
    ] = 0.0,
    side_by_side: Annotated[
        bool, Option("--side-by-side/--output-only", help="Show the camera too.")
    ] = False,
    overlay: Annotated[
        bool, Option("--overlay/--no-overlay", help="Figures and prompt in the window.")
    ] = True,
    contact_sheet: Annotated[
        Path | None, Option(help="Write an image with a row for each prompt.")
    ] = None,
    compare: Annotated[
        str | None, Option(help="A second backend on the same frames, beside the first.")
    ] = None,
    isolate: Annotated[
        bool, Option("--isolate", help="Run the backend in a process of its own.")
    ] = False,
    loop: Annotated[
        str, Option(help="threaded, or sequential as in the paper, to compare with.")
    ] = "threaded",
    lanes: Annotated[
        int | None,
        Option(
            show_default=False,
            help="MLX: frames in flight at once; more frames a second, each of them later. "
            "[default: a CPU's cores, at most 4; 1 on a GPU]",
        ),
    ] = None,
    kernels: Annotated[
        str | None,
        Option(
            show_default=False,
            help="MLX: its norms by a kernel of our own: on, off or auto, which is on with "
            "CUDA. [default: auto]",
        ),
    ] = None,
    coreml_runtime: Annotated[
        str,
        Option(
            help="coreml, or reference: a NumPy interpreter of the program, which is no Core ML "
            "and no speed."
        ),
    ] = "coreml",
    attention: Annotated[str, Option(help=f"Core ML: {ATTENTION_HELP}")] = "sdpa",
    compute_units: Annotated[
        str | None,
        Option(
            show_default=False,
            help="Core ML: cpu_and_gpu, cpu_and_ne, all or cpu_only. [default: cpu_and_gpu]",
        ),
    ] = None,
    placement: Annotated[
        str | None,
        Option(
            help="Core ML: a unit for each stage, as encode=ne,unet=gpu,decode=ne, which then "
            "overlap."
        ),
    ] = None,
    input_form: Annotated[
        str, Option("--input", help="Core ML: pictures as float32 or as image.")
    ] = "float32",
    weights: Annotated[str, Option(help=f"Core ML: {WEIGHTS_HELP}")] = "float16",
    sizes: Annotated[
        str | None, Option(help="Core ML: use the package that holds these sizes, as 256,512.")
    ] = None,
    fixed_noise: Annotated[
        bool, Option("--fixed-noise", help="Core ML: build the noise of --seed into the program.")
    ] = False,
    verbose: Annotated[
        bool, Option("--verbose", help="Core ML: say which unit runs how many operations.")
    ] = False,
    stats: Annotated[Path | None, Option(help="Write the session's figures as JSON.")] = None,
) -> None:
    """Render a camera, a video or an image under a prompt, live. In the window, h shows the
    keys.
    """
    if headless and not (outs or contact_sheet or stats):
        raise UsageError(
            "--headless shows nothing and there is no --out; add --out FILE, or drop --headless"
        )
    if loop not in ("threaded", "sequential"):
        raise UsageError(f"--loop {loop}: expected threaded or sequential")
    if loop == "sequential" and (skip > 0 or realtime):
        raise UsageError(
            "--loop sequential renders every frame in turn, as the paper does; drop --skip and "
            "--realtime"
        )
    from .common.backend.assembly import (
        ModelOptions,
        make_backend,
        open_checkpoint_for,
        options_for,
    )
    from .common.backend.spec import spec_of
    from .common.live.session import Plan, open_session
    from .common.picture.edges import check_kind
    from .common.prompt.syntax import read_prompts, read_seconds, refuse_negative

    specs = [spec_of(backend), *([spec_of(compare, "--compare")] if compare else [])]
    _refuse_what_no_backend_knows(context, specs)
    refuse_negative(negative_prompt, model)
    transition_s = read_seconds("--transition", transition)
    texts = (*(prompt or ()), *(read_prompts(prompts) if prompts else ())) or (DEFAULT_PROMPT,)
    check_kind(edges or "soft")
    for option, value in (("--control-scale", control_scale), ("--edges", edges)):
        if control == "none" and value is not None:
            raise UsageError(
                f"{option} {value}: nothing reads edges in this session; add --control sketch"
            )
    asked = ModelOptions(model, vae, size, strength, steps, control)
    checkpoint = open_checkpoint_for(asked)
    size = asked.size_of(checkpoint)
    if _was_given(context, "seed") and checkpoint.frame.noise_scale == 0:
        warnings.warn(
            f"--seed {seed} makes no difference: {checkpoint.name} was trained without noise "
            "(noise_scale 0 in its sdxs.json)",
            SdxsWarning,
            stacklevel=2,
        )
    given = _settings(
        dtype=dtype,
        coreml_runtime=coreml_runtime,
        attention=attention,
        compute_units=compute_units,
        placement=placement,
        input=input_form,
        weights=weights,
        sizes=sizes,
        noise_seed=str(seed) if fixed_noise else None,
        lanes=lanes,
        kernels=kernels,
    )
    options = [options_for(spec, size, _read(spec, given)) for spec in specs]
    for spec, chosen in zip(specs, options, strict=True):
        for program in _build(spec, checkpoint, chosen, verbose=verbose):
            if program.weights_error:
                err.print(escape(f"{spec.title} program: {_quality(spec, program)}"))
    renderers = [
        make_backend(spec, checkpoint, chosen, isolate or compare is not None)
        for spec, chosen in zip(specs, options, strict=True)
    ]
    plan = Plan(
        source,
        size,
        texts,
        tuple(path.expanduser() for path in outs or ()),
        frames,
        hold,
        headless,
        realtime,
        loop == "sequential",
        seed,
        feedback,
        ema,
        blend,
        skip,
        side_by_side,
        overlay,
        contact_sheet.expanduser() if contact_sheet else None,
        stats.expanduser() if stats else None,
        transition_s,
        edges or "soft",
        1.0 if control_scale is None else control_scale,
    )
    session = open_session(plan, checkpoint, renderers)
    err.print(
        escape(
            f"{checkpoint.name} ({checkpoint.origin}) at {size} x {size}; source "
            f"{session.source.name}"
        )
    )
    with _interrupts(session.loop.stop) as caught:
        try:
            with _progress(session.total) as report:
                session.run(report)
        finally:
            _state.abandoned = session.loop.abandoned
            if session.loop.summary:
                _show_summary(session.loop.summary)
            for path in session.files:
                out.print(f"wrote {escape(str(path))}")
    if caught:
        raise typer.Exit(128 + caught[0])


def _settings(**chosen: str | int | None) -> dict[str, str]:
    """The settings that were given, as texts by parameter."""
    return {name: str(value) for name, value in chosen.items() if value is not None}


def _read(spec: "BackendSpec", given: dict[str, str]) -> dict[str, object]:
    """The values of those settings that a backend knows."""
    from .common.settings import settings_of

    known = {each.parameter: each for each in settings_of(spec.options)}
    return {name: known[name].parse(text) for name, text in given.items() if name in known}


def _build(
    spec: "BackendSpec",
    checkpoint: "Checkpoint",
    options: "BackendOptions",
    force: bool = False,
    verbose: bool = False,
) -> "list[Prepared]":
    """Make sure that the programs are built, checked and met before a backend asks for them,
    showing progress.
    """
    from .common.backend.assembly import prepare
    from .common.backend.spec import spec_of

    if not spec.programs:
        return []
    try:
        with _steps(f"{spec.title} program") as report:
            programs = prepare(spec, checkpoint, options, report, force)
    except KeyboardInterrupt:
        err.print("interrupted; nothing half-built is left")
        raise typer.Exit(130) from None
    for program in programs:
        if program.news:
            against = spec_of(spec.reference).title
            err.print(
                escape(
                    f"{spec.title} program built and checked against {against} ({program.news}): "
                    f"{program.folder}"
                )
            )
        for line in program.plan() if verbose else ():
            err.print(escape(line))
    return programs


def _quality(spec: "BackendSpec", program: "Prepared") -> str:
    from .common.backend.spec import spec_of

    return program.quality(spec_of(spec.reference).title)


@contextmanager
def _steps(what: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal that says what is being done; anywhere else a line for what takes
    long.
    """
    if err.is_terminal:
        with Progress(
            TextColumn(f"{what}: {{task.description}}"), BarColumn(), console=err, transient=True
        ) as progress:
            task = progress.add_task("looking", total=1.0)
            yield lambda step, done: progress.update(task, description=escape(step), completed=done)
        return
    said: list[str] = []

    def plain(step: str, _: float) -> None:
        if step not in said and not step.startswith("done"):
            said.append(step)
            err.print(escape(f"{what}: {step}"), style="dim")

    yield plain


@app.command()
def convert(
    model: Annotated[str, Option(help="Checkpoint by name or path.")] = "sdxs-512-0.9",
    size: Annotated[
        int | None,
        Option(help="Side of the picture. [default: the checkpoint's]", show_default=False),
    ] = None,
    sizes: Annotated[
        str | None, Option(help="Several sides in one package that shares its weights, as 256,512.")
    ] = None,
    attention: Annotated[str, Option(help=ATTENTION_HELP)] = "sdpa",
    weights: Annotated[str, Option(help=WEIGHTS_HELP)] = "float16",
    input_form: Annotated[
        str, Option("--input", help="Pictures as float32 or as image.")
    ] = "float32",
    compute_units: Annotated[
        str | None, Option(help="Whom to prepare and check it for; see `sdxs live`.")
    ] = None,
    placement: Annotated[
        str | None, Option(help="Three programs for compute units of their own; see `sdxs live`.")
    ] = None,
    fixed_noise: Annotated[
        int | None, Option(min=0, help="Build the noise of this seed into the program.")
    ] = None,
    vae: Annotated[
        str, Option(help="Folder of the VAE in the checkpoint: vae or vae_large.")
    ] = "vae",
    force: Annotated[bool, Option("--force", help="Build it again.")] = False,
    list_built: Annotated[
        bool, Option("--list", help="Show what is built, and build nothing.")
    ] = False,
    verbose: Annotated[
        bool, Option("--verbose", help="Say which unit runs how many operations.")
    ] = False,
) -> None:
    """Build the Core ML program of a checkpoint ahead of a session, from its safetensors, and
    check it against MLX.
    """
    from .common.backend.assembly import options_for, programs_of
    from .common.backend.spec import spec_of
    from .common.checkpoint.find import find

    spec = spec_of("coreml")
    if list_built:
        programs = programs_of(spec)
        assert programs is not None
        _list_programs(spec, programs.listed())
        return
    checkpoint = find(model, vae)
    given = _settings(
        attention=attention,
        weights=weights,
        coreml_runtime="coreml" if spec.runs_here() else "reference",
        input=input_form,
        sizes=sizes,
        placement=placement,
        noise_seed=fixed_noise,
        compute_units=compute_units,
    )
    sides = [int(part) for part in (sizes or "").split(",") if part.isdecimal()]
    default = min(sides) if sides else checkpoint.frame.size
    options = options_for(spec, default if size is None else size, _read(spec, given))
    (program,) = _build(spec, checkpoint, options, force, verbose)
    out.print(
        f"the Core ML program of {escape(checkpoint.name)} is ready; {program.judge} rendered a "
        "probe frame as MLX does"
    )
    out.print(
        escape(
            f"{program.size_bytes / 1e6:.0f} MB, built in {program.seconds:.1f} s; "
            f"{_quality(spec, program)}"
        )
    )


def _list_programs(spec: "BackendSpec", programs: "list[Prepared]") -> None:
    table = Table(
        "model",
        "variant",
        "size",
        "built in",
        "against MLX",
        "weights off by",
        "folder",
        title=f"{spec.title} programs",
        title_justify="left",
    )
    for program in programs:
        size = f"{program.size_bytes / 1e6:.0f} MB"
        if program.damaged:
            table.add_row("", "[red]damaged record[/]", size, "", "", "", program.folder.name)
            continue
        found = program.quality_db.values()
        table.add_row(
            escape(program.model),
            escape(" ".join(program.variant)),
            size,
            f"{program.seconds:.0f} s",
            f"{min(found):.1f} dB" if found else "not checked yet",
            f"{program.weights_error:.2%}" if program.weights_error else "",
            program.folder.name,
        )
    out.print(table)


@app.command()
def image(
    context: typer.Context,
    prompt: Annotated[str | None, Option(help="What to paint.", show_default=False)] = None,
    source: Annotated[
        Path | None,
        Option(
            "--input",
            help="A picture to paint over; without one, from the prompt alone.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[Path, Option("--out", help="The PNG to write.")] = Path("sdxs.png"),
    model: Annotated[
        str | None,
        Option(help="Checkpoint by name or path. [default: sdxs-512-0.9]", show_default=False),
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of the noise.")] = 0,
    size: Annotated[
        int | None,
        Option(help="Side of the picture. [default: the checkpoint's]", show_default=False),
    ] = None,
    backend: Annotated[str, Option(help=f"Who renders: {BACKENDS}.")] = "mlx",
    dtype: Annotated[str, Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    vae: Annotated[str, Option(help="Folder of the VAE in the checkpoint.")] = "vae",
    strength: Annotated[
        float | None,
        Option(
            min=0, max=1, callback=_finite, help="How far to leave the input.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int | None, Option(help="Steps, for models that take several.", show_default=False)
    ] = None,
    control: Annotated[str, Option(help="none, sketch, or the folder of a ControlNet.")] = "none",
    edges: Annotated[str, Option(help="soft or canny.")] = "soft",
    control_scale: Annotated[
        float | None,
        Option(
            min=0,
            max=2,
            callback=_finite,
            help="How strongly it holds. [default: 1]",
            show_default=False,
        ),
    ] = None,
    negative_prompt: Annotated[str, Option(help="Refused, with the reason.")] = "",
    coreml_runtime: Annotated[
        str, Option(help="For --backend coreml: coreml or reference.")
    ] = "coreml",
    from_metadata: Annotated[
        Path | None,
        Option(
            help="Repeat a picture that this command wrote, from the record inside it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Render one picture, from a prompt or over another picture, into a PNG that says how it was
    made.
    """
    from .api.still import Still, check_out, render_still, repeat_still, write_still
    from .common.backend.spec import spec_of
    from .common.prompt.syntax import refuse_negative

    spec = spec_of(backend)
    refuse_negative(negative_prompt, model or DEFAULT_MODEL)
    to = to.expanduser()
    check_out(to)
    given = str(source.expanduser()) if source else ""
    if from_metadata:
        free = ("from_metadata", "to", "source", "model")
        given_too = [
            name for name in context.params if name not in free and _was_given(context, name)
        ]
        if given_too:
            raise UsageError(
                "--from-metadata repeats a picture as it was; drop "
                f"--{given_too[0].replace('_', '-')}: only --out, --input "
                "and --model go with it"
            )
        made = repeat_still(from_metadata.expanduser(), given, model or "")
    else:
        settings = {"runtime": coreml_runtime} if spec.obeys("coreml_runtime") else {}
        still = Still(
            model or DEFAULT_MODEL,
            prompt or DEFAULT_PROMPT,
            seed,
            size,
            given,
            backend,
            dtype,
            vae,
            strength,
            steps,
            control,
            edges,
            control_scale,
        )
        made = render_still(still, settings)
    write_still(made, to)
    out.print(
        f"wrote {escape(str(to))}: {escape(str(made.record['prompt']))}, seed {made.record['seed']}"
    )


@app.command()
def bench(
    backend: Annotated[
        list[str] | None,
        Option(
            help="NAME[:setting=value...] of mlx, coreml, torch, identity; repeatable, the first "
            "is "
            "compared with the others. [default: all that run here, but torch]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, Option(help="Checkpoint by name or path.")] = "demo",
    size: Annotated[
        int | None,
        Option(help="Side of the picture. [default: the checkpoint's]", show_default=False),
    ] = None,
    dtype: Annotated[str, Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    rounds: Annotated[
        int | None, Option(min=1, help="[default: 8; quick: 3]", show_default=False)
    ] = None,
    profile: Annotated[
        bool | None,
        Option(
            "--profile/--no-profile",
            help="Stages and roofline. [default: unless quick]",
            show_default=False,
        ),
    ] = None,
    contention: Annotated[
        bool, Option("--contention", help="Rates under rising memory traffic.")
    ] = False,
    quick: Annotated[bool, Option("--quick", help="Fewer and shorter rounds, no stages.")] = False,
    keep: Annotated[
        bool,
        Option(
            "--keep",
            help="Load each backend once, not in every round: for what takes minutes to load.",
        ),
    ] = False,
    isolate: Annotated[
        bool, Option("--isolate", help="Time what hosting in a process of its own costs, too.")
    ] = False,
    seed: Annotated[int, Option(min=0, help="Of the noise.")] = 0,
    as_json: Annotated[
        Path | None, Option("--json", help="Write everything, raw times included.")
    ] = None,
    html: Annotated[
        Path | None, Option(help="Write a report with plots, one file, readable without a network.")
    ] = None,
    png: Annotated[
        Path | None, Option(help="Folder for the plots as images; needs the `plot` extra.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        Option(help="Measure nothing; compare two files that --json wrote.", show_default=False),
    ] = None,
    show: Annotated[
        Path | None,
        Option(
            help="Measure nothing; show a file that --json wrote, and write --html or --png of it.",
            show_default=False,
        ),
    ] = None,
    across_machines: Annotated[
        bool, Option("--across-machines", help="Let --compare take different machines.")
    ] = False,
) -> None:
    """Measure which backend is fastest here, and why: rates, memory, roofline, contention. Speaks
    of this machine only.
    """
    from .common.bench.model import report as reports
    from .common.bench.show import table

    if compare:
        from .common.bench.model.compare import compare as compared

        first, second = (reports.read_report(path.expanduser()) for path in compare)
        out.print(table.changes(compared(first, second, across_machines)))
        return
    plotter = _plotter(png)
    if show:
        _show_report(reports.read_report(show.expanduser()), html, plotter)
        return
    from .common.bench.measure.runner import Plan, Runner
    from .common.checkpoint.find import find
    from .common.files import check_writable, write_whole

    json_path, html_path = (path.expanduser() if path else None for path in (as_json, html))
    for path in filter(None, (json_path, html_path)):
        check_writable(path, path.absolute().parent)
    checkpoint = find(model)
    size = checkpoint.frame.size if size is None else size
    from .common.backend.spec import spec_of
    from .common.bench.measure.entrants import counters, default_names
    from .common.bench.measure.entrants import entrants as entrants_of

    entrants = entrants_of(backend or default_names(), size, dtype, isolate)
    for entrant in entrants:
        _build(spec_of(entrant.backend, peers=True), checkpoint, entrant.options)
    counting, missing = counters()
    for name, package in missing.items():
        err.print(f"{package} is not installed: {name}'s way of counting operations is left out")
    plan = Plan(
        tuple(entrants),
        counting,
        rounds or (3 if quick else 8),
        turns=2 if quick else 3,
        turn_s=0.2 if quick else 0.4,
        fresh=not keep,
        contention=contention,
        seed=seed,
        profile=not quick if profile is None else profile,
        memory_s=2.0 if quick else 6.0,
        sweeps=1 if quick else 2,
    )

    def save(report: "Report") -> None:
        if json_path:
            write_whole(json_path, report.as_json().encode())

    with err.status("reading the checkpoint") as status:
        runner = Runner(
            plan, checkpoint, save, (status.update if err.is_terminal else _say_plainly)
        )
        with _interrupts(runner.stop) as caught:
            report = runner.run()
    _show_report(report, html_path, plotter)
    if json_path:
        out.print(f"wrote {escape(str(json_path))}")
    if caught:
        raise typer.Exit(128 + caught[0])
    if report.failures:
        raise typer.Exit(1)


def _show_report(
    report: "Report", html: Path | None, plotter: "Callable[[Report], list[Path]] | None"
) -> None:
    """Print the tables; write the page and the plots where they are asked for."""
    from .common.bench.show import table

    out.print(table.render(report))
    written = []
    if html:
        from .common.bench.show.html import render
        from .common.files import write_whole

        write_whole(html.expanduser(), render(report).encode())
        written.append(html)
    for path in [*written, *(plotter(report) if plotter else [])]:
        out.print(f"wrote {escape(str(path))}")


def _say_plainly(line: str) -> None:
    err.print(escape(line))


def _plotter(folder: Path | None) -> "Callable[[Report], list[Path]] | None":
    """What writes the plots as images; asked for before an hour is measured in vain. Raises
    UsageError.
    """
    if folder is None:
        return None
    try:
        from .common.bench.show.png import write
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--png needs {error.name!r}; `pip install 'sdxs[plot]'`, or take --html"
        ) from None
    return lambda report: write(report, folder.expanduser())


@app.command()
def doctor(
    camera: Annotated[int, Option(min=0, help="Number of the camera to look at.")] = 0,
    as_json: Annotated[bool, Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look at everything a session needs here, and say what to do about what is missing."""
    from .common.backend.spec import specs
    from .common.doctor import backend_probes, camera_hangs, can_run_demo, examine, probes

    with err.status("looking"):
        checks = examine([*probes(camera), *backend_probes()])
    runs_demo = can_run_demo(checks, specs())
    _state.abandoned = camera_hangs()
    if as_json:
        out.print_json(
            data={
                "schema": 1,
                "runs_demo": runs_demo,
                "checks": [asdict(check) for check in checks],
            }
        )
    else:
        marks = {True: "[green]ok[/]", None: "[yellow]limited[/]", False: "[red]missing[/]"}
        table = Table(
            "what", "state", "finding", "what to do", title="sdxs doctor", title_justify="left"
        )
        for check in checks:
            table.add_row(check.name, marks[check.ok], escape(check.finding), escape(check.remedy))
        out.print(table)
        out.print(
            "`make demo` will run here"
            if runs_demo
            else "`make demo` cannot run here yet; see what is missing above"
        )
    if not runs_demo:
        raise typer.Exit(1)


@contextmanager
def _interrupts(stop: "Callable[[], None]") -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into `stop`, which touches no lock, so that files are finished;
    collect what came.

    A second one leaves at once, whatever hangs.
    """
    caught: list[int] = []

    def catch(number: int, _frame: object) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        stop()

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int, str], None]]:
    """A moving line on a terminal, a plain line every two seconds anywhere else."""
    began = time.perf_counter()

    def rate(done: int) -> float:
        return done / max(time.perf_counter() - began, 1e-9)

    if err.is_terminal:
        columns = (
            TextColumn("{task.fields[fps]:5.1f} fps"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[prompt]}", markup=False),
        )
        with Progress(*columns, console=err) as progress:
            task = progress.add_task("", total=total, fps=0.0, prompt="")
            yield lambda done, text: progress.update(
                task, completed=done, fps=rate(done), prompt=text
            )
        return
    last = [began]

    def plain(done: int, text: str) -> None:
        if done == total or time.perf_counter() - last[0] >= PLAIN_PROGRESS_S:
            last[0] = time.perf_counter()
            err.print(
                escape(f"frame {done}{f'/{total}' if total else ''}  {rate(done):.1f} fps  {text}")
            )

    yield plain


def _show_summary(summary: "Summary") -> None:
    if not summary.shown:
        err.print("no frame was rendered")
        return
    for facts in summary.backends:
        out.print(escape(", ".join(f"{key} {value}" for key, value in facts.items())))
    latency = summary.latency_ms
    out.print(
        f"{summary.shown} frames in {summary.seconds:.1f} s, {summary.fps:.1f} fps; camera to "
        "display "
        f"{latency.p50:.1f} ms median, {latency.p95:.1f} p95, {latency.p99:.1f} p99"
    )
    out.print(
        f"captured {summary.captured}, dropped {summary.dropped_before_inference} before and "
        f"{summary.dropped_before_display} after inference, rendered {summary.inferred}, "
        f"reused {summary.skipped_as_similar}"
    )
    stages = ", ".join(f"{name} {spread.p50:.1f}" for name, spread in summary.stages_ms.items())
    out.print(f"median ms: {stages}")
    models = " and ".join(f"{memory['model_bytes'] / 1e6:.0f}" for memory in summary.memory)
    out.print(
        f"memory: {summary.process_peak_bytes / 1e6:.0f} MB at most in this process; weights "
        f"{models} MB"
    )
    if summary.flicker["ratio"] is not None:
        out.print(
            f"flicker where the camera stands still: output changes {summary.flicker['ratio']:.2f} "
            "times as much"
        )
    if summary.psnr_db:
        out.print(f"between the two backends: {summary.psnr_db.p50:.1f} dB PSNR median")
    if summary.identical_frames:
        out.print(f"the two backends rendered {summary.identical_frames} frames identically")


@weights_app.command("list")
def weights_list() -> None:
    """Show every known checkpoint, whether it is here, and under which licence."""
    from .common.checkpoint.find import control_folder, local_folder
    from .common.checkpoint.registry import ENTRIES

    table = Table(title="checkpoints", title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in ("here", "licence", "what"):
        table.add_column(
            heading, overflow="fold"
        )  # whole, however narrow the terminal: licences are read here
    for known in ENTRIES.values():
        here = local_folder(known)
        state = here[1] if here else "pickle only" if known.pickle_only else "can be pulled"
        state = "weights" if control_folder(known) else state
        table.add_row(known.name, state, known.licence, known.note)
    out.print(table)
    out.print("pickle only: " + next(k.pickle_only for k in ENTRIES.values() if k.pickle_only))


@weights_app.command("pull")
def weights_pull(
    model: Annotated[str, typer.Argument(help="Name of a checkpoint.")],
    vae: Annotated[str, Option(help="Folder of the VAE: vae or vae_large.")] = "vae",
) -> None:
    """Download a checkpoint, verified, resuming where an earlier pull stopped."""
    from .common.checkpoint.find import local_folder, open_checkpoint, weights_folder
    from .common.checkpoint.hub import pull
    from .common.checkpoint.registry import entry

    known = entry(model)
    here = local_folder(known, vae)
    if here and not known.repo:
        out.print(f"{model} needs no pulling, it is in the repository: {escape(str(here[0]))}")
        return
    out.print(escape(f"{model}: licence {known.licence}"))
    folder = pull(known, weights_folder(), vae)
    open_checkpoint(folder, model, vae_folder=vae).verify()
    out.print(f"{model} is complete and verified: {escape(str(folder))}")


@weights_app.command("verify")
def weights_verify(
    models: Annotated[
        list[str] | None, typer.Argument(help="Names or paths; all that are here if none is given.")
    ] = None,
) -> None:
    """Check every tensor's name, shape and dtype, and every recorded sha256, of checkpoints on
    this machine.
    """
    from .common.checkpoint.find import find, local_folder, weights_folder
    from .common.checkpoint.manifest import verify_hashes
    from .common.checkpoint.registry import ENTRIES

    names = models or [known.name for known in ENTRIES.values() if local_folder(known)]
    damaged = 0
    for name in names:
        try:
            with err.status(f"verifying {name}"):
                checkpoint = find(name, download=False)
                checkpoint.verify()
                hashes = verify_hashes(
                    checkpoint.folder, weights_folder() / "manifest.json", rehash=True
                )
        except UsageError:
            raise
        except SdxsError as error:
            if name in ENTRIES and not local_folder(ENTRIES[name]):
                raise  # it is not here, which is no damage
            damaged += 1
            out.print(f"[red]damaged[/]  {escape(name)}: {escape(str(error))}")
            continue
        known = f"{hashes} files match their sha256" if hashes else "no hashes are recorded for it"
        out.print(f"[green]good[/]  {escape(name)}: tensors fit the configs, {known}")
    if damaged:
        raise WeightsError(f"{damaged} of {len(names)} checkpoints are damaged")


@weights_app.command("import")
def weights_import(
    files: Annotated[
        list[Path], typer.Argument(help="Pickles written by torch.save: .bin, .pt, .pth, .ckpt.")
    ],
    to: Annotated[
        Path | None,
        Option(
            help="The file to write. [default: beside the pickle, as .safetensors]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Turn pickles into safetensors: tensors and nothing else are taken over, and nothing in them
    is run.
    """
    from .common.checkpoint.find import weights_folder
    from .common.checkpoint.torch_import import import_torch, target_of

    if to and len(files) > 1:
        raise UsageError(
            f"--to {to}: names one file, and {len(files)} are to be imported; import them one by "
            "one"
        )
    for source in (file.expanduser() for file in files):
        with err.status(f"importing {source.name}"):
            done = import_torch(
                source,
                to.expanduser() if to else target_of(source),
                weights_folder() / "manifest.json",
                force,
            )
        out.print(
            escape(
                f"{done.path}: {done.tensors} tensors, sha256 {done.sha256}; the pickle's was "
                f"{done.source_sha256}"
            )
        )
        if done.ignored:
            err.print(escape(f"left out, being no weights: {', '.join(done.ignored)}"))


@weights_app.command("path")
def weights_path(model: Annotated[str, typer.Argument(help="Name of a checkpoint.")]) -> None:
    """Print the folder of a checkpoint on this machine."""
    from .common.checkpoint.find import find

    out.print(escape(str(find(model, download=False).folder)))


if __name__ == "__main__":
    main()
