"""Schedules and the beat: what a file says, what is due when, films to the frame, and live."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fake_session import FakeSession
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import UsageError
from sdxs.common.io.inputs.controls import News
from sdxs.common.io.inputs.player import Player
from sdxs.common.io.inputs.schedule import (
    BEATS,
    Schedule,
    parse_schedule,
    read_schedule,
)
from sdxs.common.io.inputs.tempo import FASTEST, SLOWEST, Tempo
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live import opening
from sdxs.common.live.inputs import InputOptions
from sdxs.common.live.opening import open_session
from sdxs.common.live.options import SessionFiles, SessionOptions
from sdxs.common.live.parameters import Cue, Event, LiveParameters, Set, apply
from sdxs.common.live.plan import NOT_IN_FILMS
from sdxs.common.live.stage import Playing, Stage

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "docs" / "demo" / "show.txt"
SIZE = 64


def written(*lines: str) -> Schedule:
    return parse_schedule("\n".join(lines), "show.txt")


def play(schedule: Schedule, times: list[float]) -> list[LiveParameters]:
    """The values at each time, as a session would have them."""
    player, values, seen = Player(schedule), LiveParameters(), []
    for now in times:
        for change in player.advance(now, values):
            if isinstance(change, Set):
                values = apply(values, change)
        seen.append(values)
    return seen


# The file.


def test_the_sample_of_the_docs_is_read_and_plays_a_round() -> None:
    schedule = read_schedule(SAMPLE)
    schedule.check(LiveParameters())
    assert (schedule.unit, schedule.loop_at, dict(schedule.cues)) == (
        BEATS,
        8.0,
        {"sketch": 0.0, "neon": 4.0},
    )
    assert schedule.prompts == ("a pencil sketch >> pop art", "neon cyberpunk city, over night")
    at = dict(zip((0, 2, 3, 5, 7.9, 8.5), play(schedule, [0, 2, 3, 5, 7.9, 8.5]), strict=True))
    assert at[2].written_prompt == "a pencil sketch >> pop art @ 0.5" and at[3].blend == 0.3
    assert at[5].mirror and at[5].prompt.startswith("neon") and at[7.9].feedback == 0.4
    assert at[8.5].position == 0 and at[8.5].blend == 0.6 and at[8.5].feedback == 0


def test_the_manual_shows_the_sample() -> None:
    manual = (ROOT / "docs" / "live.md").read_text(encoding="utf-8")
    assert "".join(SAMPLE.read_text(encoding="utf-8").splitlines(True)[1:]) in manual


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("soon blend 1", "soon: expected a time such as 8, 8.5s or 1:02, or beats such as 16b"),
        ("1:75 blend 1", "1:75: expected a time"),
        ("-1 blend 1", "-1: expected a time"),
        ("1:02b blend 1", "1:02b: expected a time"),
        ("1", "1: expected a parameter, an event, cue or loop after it"),
        ("1 speed 3", "speed: is no parameter; expected prompt, position"),
        ("1 jump", "jump: is neither; expected prompt"),
        ("1 blend", "blend: no value; expected a number from 0 to 1"),
        ("1 blend 2", "blend 2.0: expected a number from 0 to 1"),
        ("1 blend nan", "blend nan: expected a number from 0 to 1"),
        ("1 mirror maybe", "mirror maybe: expected on or off"),
        ("1 mirror on over 2s", "mirror: does not glide; those that do are position"),
        ("1 blend 1 over 2b", "2b: the lines above are in seconds; expected seconds throughout"),
        ("1 blend 1 over 9999", "blend: a glide of 9999 s; expected seconds from 0 to 3600"),
        ("1 prompt x over 9999", "prompt ... over 9999.0: expected a number from 0 to 3600"),
        ("1 edges hed", "edges hed: expected one of"),
        ("1 cue", "cue: expected its name"),
        ("0 loop", "loop at 0: expected a time behind the first line"),
        ("1 loop twice", "loop twice: expected nothing after loop"),
        ("1e400 blend 1", "1e400: expected a time"),
        ("9999999 blend 1", "9999999: expected a time of 1000000 at most"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_what_is_expected(line: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        written("# a comment", "0 blend 0.5", line, "2 blend 0.5")
    assert str(refused.value).startswith(f"show.txt, line 3: {says}")
    assert "\n" not in str(refused.value)


def test_further_wrong_lines_are_counted_and_an_empty_file_is_refused() -> None:
    with pytest.raises(UsageError, match=r"line 1: .*\(also wrong: lines 3, 4\)$"):
        written("x blend 1", "0 blend 1", "1 blend 9", "2 nothing")
    with pytest.raises(UsageError, match="changes nothing; expected lines such as"):
        written("# nothing", "")
    with pytest.raises(UsageError, match="line 2: loop at 1: line 3 comes later"):
        written("0 blend 1", "1 loop", "2 blend 0")
    with pytest.raises(UsageError, match="cue a: is there already"):
        written("0 cue a", "1 cue a")


def test_what_only_a_session_knows_is_checked_against_it() -> None:
    late = written("0 position 1", "4 prompt a >> b")
    with pytest.raises(UsageError, match="line 1: position 1"):
        late.check(LiveParameters())
    late.check(LiveParameters(prompt="x >> y"))
    with pytest.raises(UsageError, match=r"line 1: position 1.*last stop of 'x'"):
        written("0 position 1", "4 prompt x", "8 loop").check(LiveParameters(prompt="x >> y"))
    with pytest.raises(UsageError, match="line 1: no edges here"):
        written("0 control_scale 1").check(LiveParameters(), {"control_scale": "no edges here"})
    with pytest.raises(UsageError, match="strength: is fixed once a session runs"):
        written("0 strength 0.5").check(LiveParameters())


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "show.txt"
    for stored, says in ((b"\xff\xfe", "not UTF-8"), (b"0 blend 1\0", "expected a text file")):
        path.write_bytes(stored)
        with pytest.raises(UsageError, match=says):
            read_schedule(path)
    with pytest.raises(UsageError, match="not readable"):
        read_schedule(tmp_path / "none.txt")
    path.write_bytes(b"\xef\xbb\xbf0 blend 1\r\n")
    assert len(read_schedule(path).entries) == 1


def test_any_text_is_read_or_refused_in_one_line() -> None:
    chance = random.Random(3)
    words = ["0", "1b", "2:30", "blend", "prompt", "over", '"', "1", "on", "loop", "cue", "\t", "#"]
    for _ in range(500):
        lines = [" ".join(chance.choices(words, k=chance.randrange(6))) for _ in range(4)]
        try:
            read = written(*lines)
        except UsageError as error:
            assert "\n" not in str(error)
        else:
            assert read.entries


# The player.


@pytest.mark.parametrize("step", [0.01, 0.25, 0.3, 1.7])
def test_values_depend_on_the_time_and_not_on_the_rate(step: float) -> None:
    schedule = written("0 blend 0", "1 blend 1 over 2", "2 blend 0 over 2", "5 ema 0.5", "6 loop")
    times = [round(number * step, 6) for number in range(int(20 / step))]
    often = sorted({*times, *(number / 100 for number in range(2000))})
    every = dict(zip(often, play(schedule, often), strict=True))
    for now, values in zip(times, play(schedule, times), strict=True):
        assert values.blend == pytest.approx(every[now].blend), now
        assert values.ema == every[now].ema


def test_glides_start_where_the_value_is() -> None:
    seen = play(written("0 blend 0.4", "1 blend 0 over 4", "2 blend 1 over 1"), [0, 1.5, 2.5, 9])
    assert [each.blend for each in seen] == pytest.approx([0.4, 0.35, 0.65, 1.0])


def test_prompts_take_the_time_that_is_written_and_no_other() -> None:
    player = Player(written("0 prompt a", "1 prompt b over 3", "2 prompt c"))
    due = [player.advance(now, LiveParameters(), 0.5) for now in (0, 1, 2)]
    assert [each[0] for each in due] == [Set("transition", over) for over in (0.0, 1.5, 0.0)]
    plain = Player(written("0 prompt a", "1 prompt b"))
    assert plain.advance(1, LiveParameters()) == [Set("prompt", "a"), Set("prompt", "b")]


def test_a_jump_has_what_came_before_but_not_its_events() -> None:
    schedule = written(
        "0 prompt a >> b", "1 position 1", "2 snapshot", "2 blend 1 over 4", "4 cue x", "9 ema 0.5"
    )
    player = Player(schedule)
    player.advance(0, LiveParameters())
    player.go_to("x")
    due = player.advance(0.1, LiveParameters())
    assert due == [
        Set("prompt", "a >> b"),
        Set("position", 1.0),
        Set("blend", pytest.approx(0.5)),
    ]
    assert player.position == 4
    player.step(-1)
    player.advance(0.2, LiveParameters())
    assert player.position == 0
    player.step(1)
    player.advance(7.0, LiveParameters())
    player.step(1)  # there is none behind
    assert Set("ema", 0.5) in player.advance(12.1, LiveParameters())
    with pytest.raises(UsageError, match="unknown cue 'y'; show.txt has x"):
        player.go_to("y")


def test_whoever_takes_a_knob_has_it_until_the_schedule_sets_it_again() -> None:
    player = Player(written("0 blend 1 over 9", "5 blend 0.2"))
    assert player.advance(1, LiveParameters())
    player.forget("blend")
    assert player.advance(2, LiveParameters()) == []
    assert player.advance(5, LiveParameters()) == [Set("blend", 0.2)]


def test_a_glide_arrives_also_where_the_round_ends() -> None:
    seen = play(written("0 ema 0.1", "1 blend 1 over 1", "2 loop"), [0, 1.7, 2.5])
    assert [each.blend for each in seen] == [0, 0.7, 1]


def test_rounds_that_nobody_asked_for_are_left_out() -> None:
    player = Player(written("0 blend 0", "0.5 blend 1", "1 loop"))
    assert len(player.advance(1e6 + 0.7, LiveParameters())) < 10
    assert player.position == pytest.approx(0.7)


# The beat.


def test_taps_make_a_tempo_and_its_beats_fall_on_the_taps() -> None:
    tempo = Tempo(120, 0.0)
    assert tempo.tap(10.2) is None
    for number in range(1, 5):
        found = tempo.tap(10.2 + number * 0.6)
    assert found == pytest.approx(100) and tempo.bpm == found
    beats = tempo.beats(12.6)
    assert beats == pytest.approx(round(beats))
    assert tempo.beats(13.2) == pytest.approx(beats + 1)
    assert tempo.tap(20.0) is None, "after a pause a new count begins"
    assert tempo.bpm == found


def test_a_midi_clock_is_followed_also_where_it_jitters() -> None:
    tempo, chance, beats = Tempo(120, 0.0), random.Random(5), []
    tempo.begin(1.0)
    for tick in range(24 * 8):
        now = 1.0 + tick * 60 / 128 / 24
        tempo.clock(now + chance.uniform(0, 0.004))
        beats.append(tempo.beats(now + 0.004))
    assert tempo.bpm == pytest.approx(128, rel=0.02)
    assert beats == sorted(beats)
    assert beats[-1] == pytest.approx((24 * 8 - 1) / 24, abs=0.05)


def test_beats_never_go_back_and_nonsense_is_no_tempo() -> None:
    tempo, chance, before, now = Tempo(120, 0.0), random.Random(7), 0.0, 0.0
    for _ in range(500):
        now += chance.choice([0.0, 0.001, 0.1, 0.4, 5.0])
        change = chance.choice([tempo.tap, tempo.clock, None])
        _ = change(now) if change else tempo.set(chance.uniform(20, 400), now)
        beats = tempo.beats(now)
        assert beats >= before and SLOWEST <= tempo.bpm <= FASTEST
        before = beats
    for bpm in (0, -1, 1000, float("nan")):
        with pytest.raises(UsageError, match="expected 20 to 400 beats a minute"):
            tempo.set(bpm, now)


# A session on a clock.


class Clocked(FakeSession):
    """A session whose clocks are set by hand."""

    def __init__(self, schedule: Schedule | None, on_beat: float = 0.0) -> None:
        self.now = 100.0
        tempo = Tempo(60, self.now)  # a beat a second
        playing = Playing(schedule) if schedule else None
        super().__init__(stage=Stage(tempo, on_beat, playing, lambda: self.now))
        self._incoming._now_s = lambda: self.now
        self.news: list[News] = []
        self.controls.watch(self.news.append)

    def at(self, now: float) -> LiveParameters:
        self.now = 100.0 + now
        self._incoming.saw(None)
        self._idle()
        return self.values


def test_a_schedule_moves_a_session_and_answers_to_cues() -> None:
    session = Clocked(written("0 blend 0", "1 blend 1 over 4", "9 cue end", "9 blend 0.25"))
    assert [session.at(now).blend for now in (0, 2, 3)] == [0, 0.25, 0.5]
    assert {each.origin for each in session.news} == {"schedule"}
    session.press("[")
    assert session.at(4).blend == 0.4, "the knob was taken"
    session.apply(Cue("end"))
    assert session.at(4.1).blend == 0.25
    session.press("zv")
    assert session.at(4.2).blend == 0.25
    session.apply(Event.RESTART)
    assert [session.at(now).blend for now in (5, 7)] == [0, 0.25]
    with pytest.raises(UsageError, match="unknown cue 'none'; show.txt has end"):
        session.apply(Cue("none"))


def test_with_a_film_in_a_window_seconds_are_the_films() -> None:
    session = Clocked(None)
    playing = Playing(written("0 blend 0", "2 blend 1 over 4"), by_film=True)
    session._incoming._stage.playing = playing
    seen = []
    for source_s in (0.0, 2.0, 4.0, 9.0):
        session.now += 0.01  # whatever a clock says
        session._incoming.saw(round(source_s * 1e9))
        session._idle()
        seen.append(session.values.blend)
    assert seen == [0, 0, 0.5, 1]


def test_taps_of_a_key_set_the_beat() -> None:
    session = Clocked(None)
    for now in (0.0, 0.5, 1.0):
        session.at(now)
        session.press("b")
    assert session._incoming._stage.tempo.bpm == pytest.approx(120)
    assert session.notes[-1] == "tempo 120.0 beats a minute"


def test_without_a_schedule_cues_are_refused() -> None:
    session = Clocked(None)
    for change in (Cue("a"), Event.NEXT_CUE, Event.RESTART):
        with pytest.raises(UsageError, match="start it with --schedule FILE"):
            session.apply(change)


def test_a_schedule_in_beats_follows_the_beat() -> None:
    session = Clocked(written("0b blend 0", "4b blend 1"))
    assert session.at(0).blend == 0
    session._incoming._stage.tempo.set(120, session.now)
    assert session.at(1.9).blend == 0 and session.at(2).blend == 1


def test_changes_that_cannot_glide_wait_for_their_beat() -> None:
    session, said = Clocked(None, on_beat=4), list[str]()
    session.at(1)
    session.controls.offer(Set("prompt", "late"), "osc", said.append)
    session.controls.offer(Set("prompt", "later"), "osc", said.append)
    session.controls.offer(Set("blend", 0.5), "osc", said.append)
    session.press(" ")
    values = session.at(1.1)
    assert (values.prompt, values.blend, values.pause) == ("a", 0.5, False)
    assert session.at(3.9).prompt == "a" and said == ["", ""]
    values = session.at(4)
    assert (values.prompt, values.pause) == ("later", True) and said == ["", "", ""]
    session.press("n")
    assert session.at(7.9).prompt == "later" and session.at(8.1).prompt == "b"


# A film, frame by frame.


class Noting(IdentityBackend):
    """Keeps what every frame was rendered with."""

    def __init__(self) -> None:
        super().__init__(None, BackendOptions(SIZE))
        self.params = FrameParams()
        self.text = np.zeros(1)
        self.seen: list[tuple[FrameParams, float, np.ndarray]] = []

    def set_params(self, params: FrameParams) -> None:
        self.params = params

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        super().set_conditioning(encoder_hidden_states)
        self.text = encoder_hidden_states

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self.seen.append((self.params, float(self.text.sum()), frame.copy()))
        super().submit(frame)


class Kept:
    """A sink that keeps every picture."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        self.pictures.append(picture.copy())

    def close(self) -> None:
        pass


SHOW = (
    '0 prompt "a >> b"',
    "0.5 position 1 over 1",
    "0.5 feedback 0.5 over 0.5",
    "0.25 seed 9",
    "1 mirror on",
    "1.5 blend 1",
    "2 prompt c over 0.5",
    "2.5 loop",
)


class Cards(Synthetic):
    """Test cards at 20 a second, as many as the clip has."""

    fps = 20.0

    def read(self) -> np.ndarray:
        return super().read() if self._number < 60 else None  # type: ignore[return-value]


@pytest.fixture
def film(
    demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Noting, Kept, LiveParameters]]:
    def run(
        *lines: str, loop: str = "threaded", source: str = "synthetic"
    ) -> tuple[Noting, Kept, LiveParameters]:
        path = tmp_path / "show.txt"
        path.write_text("\n".join(lines))
        backend, sink = Noting(), Kept()
        monkeypatch.setattr(opening, "open_sink", lambda *_: sink)
        if source == "synthetic":
            monkeypatch.setattr(opening, "open_source", lambda *_: Cards(SIZE))
        session = open_session(
            SessionOptions(source, headless=True, loop=loop),  # type: ignore[arg-type]
            LiveParameters(skip=-1.0),
            SessionFiles(("shown.png",)),
            SIZE,
            demo,
            [backend],
            inputs=InputOptions(schedule=path),
        )
        session.run(lambda *_: None)
        return backend, sink, session.values

    return run


@pytest.mark.parametrize(
    "source", ["synthetic", str(ROOT / "docs" / "demo" / "clip.mp4")], ids=["cards", "clip"]
)
def test_a_film_is_rendered_by_the_time_of_its_frames(
    film: Callable[..., tuple[Noting, Kept, LiveParameters]], source: str
) -> None:
    """There are 60 frames at 20 a second; frame 30 is at 1.5 s, whatever the machine does."""
    backend, sink, values = film(*SHOW, source=source)
    params = [each[0] for each in backend.seen]
    assert len(params) == len(sink.pictures) == 60
    assert [each.seed for each in params] == [0] * 5 + [9] * 55
    assert [each.feedback for each in params[9:21]] == pytest.approx(
        [0, *np.linspace(0, 0.5, 11)], abs=1e-6
    )
    texts = [each[1] for each in backend.seen]
    assert len(set(texts[:10])) == 1 and len(set(texts[10:31])) == 21
    assert len(set(texts[31:40])) == 1 and len(set(texts[40:50])) > 5
    assert values.mirror and values.seed == 9 and values.prompt == "a >> b"


def test_a_film_is_the_same_twice_and_in_turn(
    film: Callable[..., tuple[Noting, Kept, LiveParameters]],
) -> None:
    backend, sink, _ = film(*SHOW)
    for loop in ("threaded", "sequential"):
        again, other, _ = film(*SHOW, loop=loop)
        assert [each[:2] for each in again.seen] == [each[:2] for each in backend.seen]
        for one, two in zip(sink.pictures, other.pictures, strict=True):
            assert np.array_equal(one, two)


def test_the_mirror_turns_and_the_film_ends_at_their_frames(
    film: Callable[..., tuple[Noting, Kept, LiveParameters]],
) -> None:
    backend, sink, _ = film("0.5 ema 0.5", "1 mirror on", "2 quit")
    assert len(sink.pictures) == 41, "the frame at 2 s is the last that is shown"
    cards = Cards(SIZE)
    for number in range(41):
        expected = cards.read()[..., ::-1]
        expected = expected[:, ::-1] if number >= 20 else expected
        assert np.array_equal(backend.seen[number][2], expected), number
        smoothed = not np.array_equal(sink.pictures[number], expected)
        assert smoothed is (number > 10), "smoothing begins with the frame at 0.5 s"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1 pause on", "line 1: pause: would stop the film"),
        ("1 next_prompt", "line 1: next prompt: happens at no exact frame"),
    ],
)
def test_a_film_has_no_line_that_needs_a_clock(line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        written(line).check(LiveParameters(), NOT_IN_FILMS)
    written("1 snapshot").check(LiveParameters(), NOT_IN_FILMS)
