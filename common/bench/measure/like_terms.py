"""Equal terms for rivals: frames in flight and batches of entrants that name none themselves.

A backend takes part if its options have `depth` and `batch`. More of either renders more frames a
second. An entrant that names neither therefore gets those of the first entrant that names them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...backend.assembly import options_for
from ...backend.options import BackendOptions
from ...backend.spec import BackendSpec
from ...errors import UsageError
from ...picture.size import Size

DEPTH, BATCH = TERMS = ("depth", "batch")


@dataclass(frozen=True, slots=True)
class Asked:
    """One `--backend` as it was read. own: the settings that it names, by field."""

    text: str
    spec: BackendSpec
    own: Mapping[str, object]

    @property
    def has_terms(self) -> bool:
        """Whether its frames in flight and its batches can be set."""
        return all(self.spec.obeys(name) for name in TERMS)

    def options(self, size: Size, given: Mapping[str, object]) -> BackendOptions:
        """Build its options. given: for every backend that has them. Raises UsageError."""
        return options_for(self.spec, size, given, self.own)

    def terms(self, size: Size) -> dict[str, object] | None:
        """Return the depth and batch that its own settings say; None if they say neither.

        A depth that the backend chooses by what the machine has is left out.
        """
        if not self.has_terms:
            return None
        told, plain = (_told(options_for(self.spec, size, {}, own)) for own in (self.own, {}))
        named = any(name in self.own for name in TERMS)
        return told if named or told != plain else None


def like_terms(
    asked: Sequence[Asked], size: Size, given: Mapping[str, int | None]
) -> list[dict[str, object]]:
    """Return what each entrant gets of depth and batch beside its own settings.

    given: by name, for every backend that has them, None where nothing is asked for. Without both,
    an entrant whose settings say nothing of them gets what the first one has whose settings do.
    Raises UsageError if something is asked for and no backend has it.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    for name, value in wanted.items():
        if not any(each.has_terms for each in asked):
            raise UsageError(
                f"--{name} {value}: none of {', '.join(each.text for each in asked)} has frames in "
                "flight or batches to set; drop it, or name another --backend"
            )
    if wanted:
        return [dict(wanted) if each.has_terms else {} for each in asked]
    terms = [each.terms(size) for each in asked]
    shared = next((found for found in terms if found is not None), {})
    return [
        dict(shared) if each.has_terms and found is None else {}
        for each, found in zip(asked, terms, strict=True)
    ]


def _told(options: BackendOptions) -> dict[str, object]:
    in_flight = options.in_flight()
    depth = {} if in_flight is None else {DEPTH: in_flight}
    return {BATCH: getattr(options, BATCH), **depth}
