"""`sdxs image`: one picture that says how it was made."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from typer import Option

from ..common.errors import UsageError
from .console import finite, out, was_given
from .programs import BACKENDS, DEFAULT_MODEL, DEFAULT_PROMPT


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
            min=0, max=1, callback=finite, help="How far to leave the input.", show_default=False
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
            callback=finite,
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
    from ..api.still import Still, check_out, render_still, repeat_still, write_still
    from ..common.backend.spec import spec_of
    from ..common.prompt.syntax import refuse_negative

    spec = spec_of(backend)
    refuse_negative(negative_prompt, model or DEFAULT_MODEL)
    to = to.expanduser()
    check_out(to)
    given = str(source.expanduser()) if source else ""
    if from_metadata:
        free = ("from_metadata", "to", "source", "model")
        given_too = [
            name for name in context.params if name not in free and was_given(context, name)
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
