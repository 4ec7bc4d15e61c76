"""`sdxs live`: a camera, a video or an image under a prompt, live."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from typer import Option

from ..common.errors import SdxsWarning, UsageError
from .console import (
    err,
    finite,
    interrupts,
    named,
    out,
    progress,
    show_summary,
    state,
    was_given,
)
from .programs import (
    ATTENTION_HELP,
    BACKENDS,
    DEFAULT_PROMPT,
    WEIGHTS_HELP,
    build,
    quality,
    read,
    settings_given,
)

if TYPE_CHECKING:
    from ..common.backend.spec import BackendSpec

# Options whose parameter here is not named after the setting's flag.
SPELLED = {"input_form": "input", "fixed_noise": "noise_seed"}


def _refuse_what_no_backend_knows(context: typer.Context, chosen: "list[BackendSpec]") -> None:
    """Raise UsageError for an option that was given and concerns none of the chosen backends."""
    from ..common.backend.spec import specs

    for option in context.command.params:
        name = SPELLED.get(option.name or "", option.name or "")

        def concerns(spec: "BackendSpec", name: str = name) -> bool:
            return bool(spec.programs) if name == "verbose" else spec.obeys(name)

        known = [spec.name for spec in specs().values() if concerns(spec)]
        if known and was_given(context, option.name or "") and not any(map(concerns, chosen)):
            raise UsageError(
                f"{option.opts[0]}: only for "
                f"{' and '.join(f'--backend {name}' for name in known)}; "
                f"{' and '.join(spec.name for spec in chosen)} would ignore it; drop it or name "
                "another backend"
            )


def live(
    context: typer.Context,
    backend: Annotated[str, Option(help=f"Who renders: {BACKENDS}.")] = "mlx",
    source: Annotated[str, Option(help="Camera number, video, image, or 'synthetic'.")] = "0",
    outs: Annotated[
        list[str] | None,
        Option(
            "--out",
            parser=named,
            metavar="PATH",
            help="Video, image or folder to write, or window:; repeatable.",
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
            callback=finite,
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
            callback=finite,
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
            callback=finite,
            help="Share of the last picture in the next one's latents.",
        ),
    ] = 0.0,
    ema: Annotated[
        float,
        Option(min=0, max=0.99, callback=finite, help="Smoothing over time: weight of the past."),
    ] = 0.0,
    blend: Annotated[
        float,
        Option(min=0, max=1, callback=finite, help="Share of the camera mixed into the picture."),
    ] = 0.0,
    skip: Annotated[
        float,
        Option(
            callback=finite,
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
    from ..common.backend.assembly import (
        ModelOptions,
        make_backend,
        open_checkpoint_for,
        options_for,
    )
    from ..common.backend.spec import spec_of
    from ..common.live.opening import open_session
    from ..common.live.options import SessionFiles, SessionOptions
    from ..common.live.parameters import LiveParameters
    from ..common.picture.edges import check_kind
    from ..common.prompt.syntax import read_prompts, read_seconds, refuse_negative

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
    if was_given(context, "seed") and checkpoint.frame.noise_scale == 0:
        warnings.warn(
            f"--seed {seed} makes no difference: {checkpoint.name} was trained without noise "
            "(noise_scale 0 in its sdxs.json)",
            SdxsWarning,
            stacklevel=2,
        )
    given = settings_given(
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
    options = [options_for(spec, size, read(spec, given)) for spec in specs]
    for spec, chosen in zip(specs, options, strict=True):
        for program in build(spec, checkpoint, chosen, verbose=verbose):
            if program.weights_error:
                err.print(escape(f"{spec.title} program: {quality(spec, program)}"))
    renderers = [
        make_backend(spec, checkpoint, chosen, isolate or compare is not None)
        for spec, chosen in zip(specs, options, strict=True)
    ]
    session_options = SessionOptions(
        source, hold, frames, headless, realtime, loop, side_by_side, overlay
    )
    values = LiveParameters(
        texts[0],
        seed=seed,
        strength=strength,
        control_scale=1.0 if control_scale is None else control_scale,
        edges=edges or "soft",
        feedback=feedback,
        ema=ema,
        blend=blend,
        skip=skip,
        transition=transition_s,
    )
    files = SessionFiles(
        tuple(outs or ()),
        contact_sheet.expanduser() if contact_sheet else None,
        stats.expanduser() if stats else None,
    )
    session = open_session(session_options, values, files, size, checkpoint, renderers, texts)
    err.print(
        escape(
            f"{checkpoint.name} ({checkpoint.origin}) at {size} x {size}; source "
            f"{session.source.name}"
        )
    )
    with interrupts(session.loop.stop) as caught:
        try:
            with progress(session.total) as report:
                session.run(report)
        finally:
            state.abandoned = session.loop.abandoned
            if session.loop.summary:
                show_summary(session.loop.summary)
            for path in session.files:
                out.print(f"wrote {escape(str(path))}")
    if caught:
        raise typer.Exit(128 + caught[0])
