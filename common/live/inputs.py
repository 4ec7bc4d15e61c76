"""Make what moves a session from the options it is started with: schedule, beat, controllers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..io.inputs.controls import Input
from ..io.inputs.schedule import Schedule, read_schedule
from ..io.inputs.tempo import FASTEST, SLOWEST, Tempo
from ..settings import check_settings, setting
from .parameters import Event, LiveParameters
from .plan import NOT_IN_FILMS, FilmPlan
from .stage import TEMPO, Playing, Stage, clock_s

NO_JUMPS = (
    "a file that is rendered frame by frame keeps its own time, and its schedule with it; jump in "
    "a window, or with --realtime"
)
JUMPS = (Event.NEXT_CUE, Event.PREVIOUS_CUE, Event.RESTART)


@dataclass(frozen=True, slots=True)
class InputOptions:
    """What moves a session besides its keys. Raises UsageError."""

    schedule: Path | None = setting(
        None, "text file that says what changes when: lines of time, parameter, value"
    )
    tempo: float = setting(
        TEMPO,
        "beats a minute at the start; a tap (key b) or a MIDI clock changes it",
        minimum=SLOWEST,
        maximum=FASTEST,
    )
    on_beat: float = setting(
        0.0,
        "hold changes that cannot glide (prompts, switches, choices) until every so many beats; "
        "0: at once",
        minimum=0,
        maximum=64,
        unit="beats",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True)
class Staged:
    """What a session gets: a stage on a clock, or a plan by the frames of a file.

    unusable: events without effect, each with the reason.
    """

    stage: Stage
    plan: FilmPlan | None
    inputs: Sequence[Input]
    unusable: dict[str, str]


def make_stage(
    options: InputOptions,
    values: LiveParameters,
    unusable: dict[str, str],
    realtime: bool,
    by_film: bool,
    takes_turns: bool,
    encode: Callable[[str], object],
) -> Staged:
    """Read and check what the options name, and start nothing yet.

    values: of the start. unusable: parameters and events without effect, each with the reason.
    realtime: otherwise every frame is rendered, by its own time. by_film: frames have their own
    time. takes_turns: prompts change by themselves. Raises UsageError.
    """
    stage = Stage(Tempo(options.tempo, clock_s()), options.on_beat)
    if options.schedule is None:
        return Staged(stage, None, (), {})
    schedule = read_schedule(options.schedule)
    schedule.check(values, unusable | ({} if realtime else NOT_IN_FILMS))
    _refuse_turns(schedule, takes_turns)
    for prompt in schedule.prompts:
        encode(prompt)  # the last of them may be met in an hour
    if realtime:
        stage.playing = Playing(schedule, by_film)
        return Staged(stage, None, (), {})
    plan = FilmPlan(schedule, values, options.tempo)
    return Staged(stage, plan, (), {each.value: NO_JUMPS for each in JUMPS})


def _refuse_turns(schedule: Schedule, takes_turns: bool) -> None:
    if takes_turns and schedule.names & {"prompt", "position"}:
        raise UsageError(
            f"{schedule.name} sets prompts, and the prompts given take turns by themselves; give "
            "one --prompt and drop --hold"
        )
