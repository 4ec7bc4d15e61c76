"""Make what moves a session from the options it is started with: schedule, beat, controllers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import SdxsError, UsageError
from ..files import user_config
from ..io.inputs.address import Address, read_address
from ..io.inputs.controls import Input
from ..io.inputs.extras import LINK_REMEDY, NO_WHEEL, needing
from ..io.inputs.schedule import Schedule, read_schedule
from ..io.inputs.tempo import FASTEST, SLOWEST, Tempo
from ..io.sound.follower import Response
from ..settings import check_settings, setting
from .modulation import HeardPlan
from .parameters import PLACES, Event, LiveParameters
from .plan import NOT_IN_FILMS, FilmPlan, Plan
from .sound import make_sound, open_ear, refuse_parts
from .stage import TEMPO, Playing, Stage, clock_s

NO_JUMPS = (
    "a file that is rendered frame by frame keeps its own time, and its schedule with it; jump in "
    "a window, or with --realtime"
)
NO_MIDI = "learn: there is no MIDI in this session; start it with --midi NAME"
NO_LINK = (
    "--link: a file that is rendered frame by frame keeps its own time; drop it, or add --realtime"
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
    link: bool = setting(
        False, "share tempo and beat with other programs by Ableton Link; --tempo is the first"
    )
    on_beat: float = setting(
        0.0,
        "hold changes that cannot glide (prompts, switches, choices) until every so many beats; "
        "0: at once",
        minimum=0,
        maximum=64,
        unit="beats",
    )

    osc: str | None = setting(
        None,
        "port, or HOST:PORT, to take OSC messages at, such as /sdxs/blend 0.5; a port alone is "
        "open to this machine only",
    )
    osc_to: tuple[str, ...] = setting((), "HOST:PORT to tell of every change by OSC")

    midi: str | None = setting(
        None, "MIDI input whose controls move parameters, by a part of its name"
    )
    midi_map: Path | None = setting(
        None, "file that keeps which MIDI control moves what", shown="midi.json, see docs/live.md"
    )

    audio: str | None = setting(
        None,
        "sound that moves parameters: 'default', a part of an input's name, or a WAV file",
    )
    audio_to: tuple[str, ...] = setting(
        (),
        "what sound adds to a parameter: NAME=BAND:LOW..HIGH, such as blend=low:0.2..0.8; bands "
        "are level, low, mid, high",
    )
    audio_attack: float = setting(
        0.01, "time that values take to rise with the sound", minimum=0, maximum=10, unit="s"
    )
    audio_release: float = setting(
        0.2, "time that they take to fall", minimum=0, maximum=60, unit="s"
    )
    audio_gain: float | None = setting(
        None,
        "fixed gain of the sound",
        minimum=-60,
        maximum=60,
        unit="dB",
        shown="automatic: the loudest of late is 1",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.osc_to and self.osc is None:
            raise UsageError("--osc-to: is part of --osc; add --osc PORT")
        if self.midi_map and self.midi is None:
            raise UsageError("--midi-map: is part of --midi; add --midi NAME")
        refuse_parts(self.audio, self.audio_to)


@dataclass(frozen=True, slots=True)
class Staged:
    """What a session gets: a stage on a clock, or a plan by the frames of a file.

    unusable: events without effect, each with the reason.
    """

    stage: Stage
    plan: Plan | None
    inputs: Sequence[Input]
    unusable: dict[str, str]


def check_inputs(options: InputOptions) -> None:
    """Check what needs no session, before anything is downloaded. Raises UsageError."""
    if options.schedule is not None:
        read_schedule(options.schedule)
    if options.osc is not None:
        _addresses(options, options.osc)
        with needing("--osc", "osc"):
            from ..io.inputs.osc_wire import decode  # noqa: F401
    if options.midi is not None:
        with needing("--midi", "midi", NO_WHEEL):
            from ..io.inputs.midi import find_port  # noqa: F401
    if options.link:
        with needing("--link", "", LINK_REMEDY):
            from ..io.inputs.link import LinkInput  # noqa: F401
    if options.audio is not None:
        open_ear(options.audio).close()


def _addresses(options: InputOptions, listen: str) -> tuple[Address, list[Address]]:
    told = [read_address("--osc-to", each) for each in options.osc_to]
    return read_address("--osc", listen), told


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
    staged = _scheduled(options, stage, values, unusable, realtime, by_film, takes_turns, encode)
    if options.link and not realtime:
        raise UsageError(NO_LINK)
    if options.audio is not None:
        response = Response(options.audio_attack, options.audio_release, options.audio_gain)
        places = values, unusable, realtime, by_film, takes_turns
        sound = make_sound(options.audio, options.audio_to, response, *places)
        stage.sound = sound if realtime else None
        if not realtime:
            film = staged.plan if isinstance(staged.plan, FilmPlan) else None
            staged = replace(staged, plan=HeardPlan(sound, values, film))
        staged = replace(staged, inputs=[sound])
    none = {} if options.midi else {Event.LEARN.value: NO_MIDI}
    inputs = [*_inputs(options, stage), *staged.inputs]
    return replace(staged, inputs=inputs, unusable=staged.unusable | none)


def _inputs(options: InputOptions, stage: Stage) -> list[Input]:
    """Open what controllers reach; the first that cannot be opened closes the others."""
    found: list[Input] = []
    if options.osc is not None:
        with needing("--osc", "osc"):
            from ..io.inputs.osc import OscInput
        found.append(OscInput(*_addresses(options, options.osc), stage.tempo, stage.clock))
    if options.midi is not None:
        try:
            found.append(_midi(options.midi, options.midi_map, stage))
        except SdxsError:
            for each in found:
                each.close()
            raise
    if options.link:
        found.append(_link(stage))
    return found


def _link(stage: Stage) -> Input:
    with needing("--link", "", LINK_REMEDY):
        from ..io.inputs.link import LinkInput
    return LinkInput(stage.tempo, stage.clock, stage.on_beat)


def _midi(name: str, path: Path | None, stage: Stage) -> Input:
    with needing("--midi", "midi", NO_WHEEL):
        from ..io.inputs.midi import MidiInput
        from ..io.inputs.midi_map import MidiMap

        kept = MidiMap(path or user_config() / "midi.json")
        return MidiInput(name, kept, stage.tempo, stage.clock)


def _scheduled(
    options: InputOptions,
    stage: Stage,
    values: LiveParameters,
    unusable: dict[str, str],
    realtime: bool,
    by_film: bool,
    takes_turns: bool,
    encode: Callable[[str], object],
) -> Staged:
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
    if takes_turns and schedule.names & {"prompt", *PLACES}:
        raise UsageError(
            f"{schedule.name} sets prompts, and the prompts given take turns by themselves; give "
            "one --prompt and drop --hold"
        )
