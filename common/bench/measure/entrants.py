"""Who takes part in a run: backends and peers by name, with settings of their own."""

from collections.abc import Sequence
from importlib.util import find_spec

from ...backend.assembly import options_for
from ...backend.spec import PEERS, BackendSpec, spec_of, specs
from ...errors import UsageError
from ...picture.size import Size
from ...settings import parse_texts
from .like_terms import Asked, like_terms
from .requests import Entrant


def default_names() -> list[str]:
    """Return the backends that are measured where none is named: all that run here.

    Backends with programs come first: ratios compare the first backend with the others.
    """
    here = [spec for spec in specs().values() if spec.runs_here()]
    return [spec.name for spec in sorted(here, key=lambda spec: not spec.programs)]


def entrants(
    chosen: Sequence[str],
    size: Size,
    dtype: str = "auto",
    isolated: bool = False,
    depth: int | None = None,
    batch: int | None = None,
) -> list[Entrant]:
    """Turn `NAME[:setting=value...]` into entrants with labels of their own.

    dtype, depth, batch: for every backend that has a choice; see `like_terms`. Raises UsageError,
    also for times that would mean nothing.
    """
    if dtype != "auto" and not any(
        spec_of(text.partition(":")[0], peers=True).obeys("dtype") for text in chosen
    ):
        raise UsageError(
            f"--dtype {dtype}: none of {', '.join(chosen)} has a choice of precision; drop it, or "
            "name another --backend"
        )
    made: list[Entrant] = []
    seen: dict[str, int] = {}
    asked = [_asked(text) for text in chosen]
    shared = like_terms(asked, size, {"depth": depth, "batch": batch})
    for each, terms in zip(asked, shared, strict=True):
        text, spec = each.text, each.spec
        options = each.options(size, {"dtype": dtype} | terms)
        spec.check_timed(options)
        seen[text] = seen.get(text, 0) + 1
        label = text if seen[text] == 1 else f"{text} ({seen[text]})"
        judge = reference(spec, size)
        made.append(
            Entrant(label, spec.location, options, spec.instrument, isolated, spec.name, judge)
        )
    return made


def _asked(text: str) -> Asked:
    name, *parts = text.split(":")
    spec = spec_of(name, peers=True)
    texts = dict(part.partition("=")[::2] for part in parts)
    if len(texts) < len(parts):
        raise UsageError(f"--backend {text}: names a setting twice; drop one of the two")
    return Asked(text, spec, parse_texts(spec.options, texts, name))


def reference(spec: BackendSpec, size: Size) -> Entrant | None:
    """Return the backend that a backend's pictures are judged by, at its most exact, or None."""
    if not spec.reference:
        return None
    judge = spec_of(spec.reference)
    options = options_for(judge, size, {}, judge.exact())
    label = f"{judge.title} in float32"
    return Entrant(label, judge.location, options, environment=judge.exact_environment)


def counters() -> tuple[dict[str, str], dict[str, str]]:
    """Return the counters of a frame's operations: those at hand, and those left out.

    At hand: name -> 'module:Class' of an instrument. Left out: name -> the package that is missing.
    """
    counting = [spec for spec in (specs() | specs(PEERS)).values() if spec.counts]
    missing = {spec.name: spec.counts for spec in counting if not find_spec(spec.counts)}
    return {s.name: s.instrument for s in counting if s.name not in missing}, missing
