"""`sdxs image`: one picture that says how it was made."""

from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from ..common.backend.assembly import ModelOptions
from ..common.backend.spec import BackendSpec, spec_of, specs
from ..common.errors import UsageError
from ..common.files import Written, free_name, refuse_overlaps
from ..common.live.options import SessionOptions
from ..common.live.parameters import LiveParameters
from ..common.picture.size import Fit
from ..common.prompt.syntax import refuse_negative
from ..common.settings import repeated, setting, settings_of
from .console import out
from .live import LiveOptions
from .options import BackendChoice, Given, with_settings

# What else may be said with --from-metadata, which brings all the rest.
WITH_RECORD = ("from_metadata", "out", "input", "model", "control", "lora", "force")
# A picture of its own has no time. Its --input is the picture, not the form of a program's input.
NOT_OF_A_PICTURE = ("feedback", "ema", "blend", "skip", "transition", "mirror")


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What only this command knows."""

    source: Path | None = setting(
        None,
        "picture to paint over; without one, from the prompt alone",
        flag="--input",
    )
    to: Path | None = setting(
        None, "PNG to write", flag="--out", shown="sdxs.png; where that exists, sdxs-2.png"
    )
    force: bool = setting(False, "replace the picture that --out names")
    background: str = repeated(SessionOptions, "background")
    fit: Fit = repeated(SessionOptions, "fit")
    from_metadata: Path | None = setting(
        None, "repeat a picture that sdxs wrote, from the record inside its PNG"
    )
    negative_prompt: str = repeated(LiveOptions, "negative_prompt")


@with_settings(specs().values(), leave_out=NOT_OF_A_PICTURE, hidden=("input",))
def image(
    start: LiveParameters,
    more: ImageOptions,
    model: ModelOptions,
    choice: BackendChoice,
    given: Given,
) -> None:
    """Render one picture, from a prompt or over a picture, into a PNG that says how it was made."""
    from ..api.repeat import Places, repeat_still
    from ..api.still import Still, check_out, render_still, write_still

    spec = spec_of(choice.backend)
    refuse_negative(more.negative_prompt, model.model)
    to = more.to or free_name(Path("sdxs.png"))
    source = str(more.source) if more.source else ""
    given_files = [("--input", more.source), ("--from-metadata", more.from_metadata)]
    refuse_overlaps([*given_files, *model.reads()], [Written("--out", to)])
    check_out(to, more.force)
    if more.from_metadata:
        if given_too := [name for name in given.texts if name not in WITH_RECORD]:
            raise UsageError(
                "--from-metadata repeats a picture as it was; drop "
                f"{given.settings[given_too[0]].spelling}: only --out, --input, --model, "
                "--control and --lora go with it"
            )
        places = {name: str(given.value(name)) for name in ("model", "control") if name in given}
        made = repeat_still(more.from_metadata, Places(source, **places, loras=model.lora))
    else:
        given.refuse_ignored([spec])
        dtype, settings = _own_settings(spec, given)
        still = Still(
            model.model,
            start.prompt,
            start.seed,
            model.size.json if model.size else None,
            source,
            choice.backend,
            dtype,
            model.vae,
            model.strength,
            model.steps,
            model.control,
            start.edges,
            start.control_scale if "control_scale" in given else None,
            more.background,
            more.fit,
            model.lora,
            start.lora_scale,
        )
        made = render_still(still, settings, lora_partial=model.lora_partial)
    write_still(made, to)
    said = escape(str(made.record["prompt"]))
    out.print(f"wrote {escape(str(to))}: {said}, seed {made.record['seed']}")


def _own_settings(spec: BackendSpec, given: Given) -> tuple[str, dict[str, object]]:
    """The dtype, and the backend's other settings by field."""
    values = given.for_backends()
    dtype = str(values.pop("dtype", "auto"))
    known = {each.parameter: each.name for each in settings_of(spec.options)}
    return dtype, {known[name]: value for name, value in values.items() if name in known}
