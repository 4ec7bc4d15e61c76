"""The table of live parameters: every row is held to its range, and works while a session runs."""

import json
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
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live import opening
from sdxs.common.live.opening import open_session
from sdxs.common.live.options import SessionFiles, SessionOptions
from sdxs.common.live.parameters import (
    PLACES,
    PROMPT_EVENTS,
    TABLE,
    Event,
    LiveParameters,
    Set,
    Step,
    apply,
    with_prompt,
)
from sdxs.common.live.session import NO_EDGES, Session
from sdxs.common.live.stats import Summary
from sdxs.common.picture.edges import Edges
from sdxs.common.picture.opencv import cv2
from sdxs.experiments.parity.control import tiny_controlled

SIZE = 64
BANK = "a >> b >> c"
NUMBERS = [
    name
    for name, row in TABLE.items()
    if row.kind in (int, float) and not row.at_start and name not in PLACES
]


def test_the_table_has_the_rows_that_everything_else_reads() -> None:
    assert list(TABLE) == [
        "prompt",
        "position",
        "position_y",
        "seed",
        "strength",
        "control_scale",
        "edges",
        "lora_scale",
        "feedback",
        "ema",
        "blend",
        "skip",
        "transition",
        "pause",
        "mirror",
    ]
    assert all(row.help and row.default_text for row in TABLE.values())
    assert len(PROMPT_EVENTS) == 9


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_set_within_its_range_and_refused_beyond(name: str) -> None:
    row = TABLE[name]
    for value in (row.minimum, row.maximum):
        if value is not None:
            made = getattr(apply(LiveParameters(), Set(name, row.kind(value))), name)
            assert made == value and isinstance(made, row.kind)
    beyond = [end for end in (row.minimum, row.maximum) if end is not None]
    for value in (beyond[0] - 1, *(end + 1 for end in beyond[1:]), float("nan"), "much", True):
        with pytest.raises(UsageError, match=rf"^{name} .*: expected a (whole )?number") as refused:
            apply(LiveParameters(), Set(name, value))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_steps_stop_at_the_ends(name: str) -> None:
    row, ends = TABLE[name], {"feedback": 0.9}
    values = apply(LiveParameters(), Step(name, -1e9))
    assert getattr(values, name) == row.minimum
    if row.maximum is not None:
        values = apply(values, Step(name, 1e9))
        assert getattr(values, name) == ends.get(name, row.maximum)
    with pytest.raises(UsageError, match="finite"):
        apply(values, Step(name, float("inf")))


def test_a_step_keeps_the_grid_and_the_kind() -> None:
    values = LiveParameters()
    for _ in range(3):
        values = apply(values, Step("blend", 0.1))
    assert values.blend == 0.3  # three times 0.1 is 0.30000000000000004
    assert apply(values, Step("seed", 2)).seed == 2
    assert isinstance(apply(values, Step("seed", 2)).seed, int)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.kind is bool])
def test_a_switch_is_set_and_turned_over(name: str) -> None:
    on = apply(LiveParameters(), Step(name, 1))
    assert getattr(on, name) is True and getattr(apply(on, Step(name, -1)), name) is False
    assert getattr(apply(on, Set(name, False)), name) is False
    with pytest.raises(UsageError, match=f"^{name} 1: expected on or off"):
        apply(on, Set(name, 1))


def test_choices_go_round() -> None:
    values = apply(LiveParameters(), Set("edges", "canny"))
    assert values.edges == "canny" and apply(values, Step("edges", 1)).edges == "soft"
    assert apply(apply(values, Step("edges", 1)), Step("edges", 1)).edges == "canny"
    with pytest.raises(UsageError, match=r"^edges hed: expected one of .*soft"):
        apply(values, Set("edges", "hed"))


def test_a_bank_and_its_position_are_one_prompt() -> None:
    values = apply(LiveParameters(), Set("prompt", f"{BANK} @ 1.5"))
    assert (values.prompt, values.position) == (BANK, 1.5)
    assert values.written_prompt == f"{BANK} @ 1.5"
    assert apply(values, Set("position", 2)).position == 2.0
    assert apply(values, Step("position", 9)).position == 2.0
    assert apply(values, Step("position", -9)).written_prompt == BANK
    with pytest.raises(UsageError, match=r"^position 2\.5: expected a number from 0 to 2"):
        apply(values, Set("position", 2.5))
    plain = apply(values, Set("prompt", "plain"))
    assert plain.position == 0 and apply(plain, Step("position", 1)) == plain
    with pytest.raises(UsageError, match="from 0 to 0"):
        apply(plain, Set("position", 1))
    with pytest.raises(UsageError, match="found '>>'|nothing before or after"):
        with_prompt(plain, "a >> ")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Set("speed", 1), "unknown parameter 'speed'; known are prompt, position"),
        (Step("speed", 1), "unknown parameter 'speed'"),
        (Set("strength", 0.5), "strength: is fixed once a session runs; start it with --strength"),
        (Step("prompt", 1), "prompt: is a text and cannot be stepped"),
        (Set("prompt", 5), "prompt 5: expected a text"),
        (Set("control_scale", 0.5), "no edges here"),
    ],
)
def test_what_cannot_be_changed_is_refused_in_one_line(change: Set | Step, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        apply(LiveParameters(), change, {"control_scale": "no edges here"})
    assert str(refused.value).startswith(says) and "\n" not in str(refused.value)


def test_a_refused_change_leaves_the_session_as_it_was() -> None:
    session = FakeSession()
    before = session.values
    for change in (Set("ema", 1.0), Set("edges", "canny"), Set("nothing", 0), Event.EDGES):
        with pytest.raises(UsageError):
            session.apply(change)
    assert session.values is before and not session.calls
    with pytest.raises(UsageError, match="start it with --control sketch"):
        session.apply(Set("control_scale", 0.5))
    assert "--control sketch" in NO_EDGES


def test_to_pause_twice_is_to_pause_once() -> None:
    session = FakeSession()
    session.apply(Set("pause", True))
    began = session._viewer._pause_began_ns
    session.apply(Set("pause", True))
    assert session._viewer._pause_began_ns == began


# In a running session: a change is applied after a frame, and some later frame must show it.


class Negative(IdentityBackend):
    """The negative of the camera; keeps what it was told for the newest frame."""

    def __init__(self) -> None:
        super().__init__(None, BackendOptions(SIZE))
        self.params = FrameParams()
        self.encoder_hidden_states: list[np.ndarray] = []
        self.edges: np.ndarray | None = None

    def set_params(self, params: FrameParams) -> None:
        self.params = params

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        super().set_conditioning(encoder_hidden_states)
        self.encoder_hidden_states.append(encoder_hidden_states.copy())

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self.edges = None if edges is None else edges.copy()
        super().submit(255 - frame)


class Shown:
    """A sink that keeps the newest pictures."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        self.pictures = [*self.pictures[-9:], picture.copy()]

    def close(self) -> None:
        pass


class Running:
    """A session on a still picture, with what can be seen of it."""

    def __init__(
        self, session: Session, backend: Negative, sink: Shown, camera: np.ndarray
    ) -> None:
        self.session, self.backend, self.sink, self.camera = session, backend, sink, camera
        self.prompt = ""

    def run(self, changes: list[Set | Step], effect: Callable[["Running"], bool]) -> Summary:
        """Apply a change after each frame from the second on, then wait for the effect."""
        shown: list[int] = []

        def report(number: int, prompt: str) -> None:
            self.prompt = prompt
            shown.append(number)
            if number == 2:
                assert not effect(self), "it is so without the change"
            if 2 <= number < 2 + len(changes):
                self.session.apply(changes[number - 2])
            elif number > 2 and effect(self):
                self.session.apply(Event.QUIT)

        summary = self.session.run(report)
        assert summary.ended == "stopped", "the change had no effect"
        return summary

    @property
    def picture(self) -> np.ndarray:
        return self.sink.pictures[-1]


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_controlled(tmp_path_factory.mktemp("controlled"), "sdxs-512-dreamshaper")


@pytest.fixture
def running(
    controlled: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Running]:
    def make(**values: object) -> Running:
        picture = Synthetic(SIZE).read()
        cv2.imwrite(str(tmp_path / "still.png"), picture)
        backend, sink = Negative(), Shown()
        monkeypatch.setattr(opening, "open_sink", lambda *_: sink)
        session = open_session(
            SessionOptions(str(tmp_path / "still.png"), frames=50_000, headless=True),
            LiveParameters(**({"prompt": BANK, "skip": -1.0} | values)),  # type: ignore[arg-type]
            SessionFiles(("shown.png",), stats=tmp_path / "stats.json"),
            SIZE,
            controlled,
            [backend],
        )
        return Running(session, backend, sink, np.ascontiguousarray(picture[..., ::-1]))

    return make


def edges_of(camera: np.ndarray, kind: str) -> np.ndarray:
    out = np.empty((SIZE, SIZE), np.uint8)
    Edges(kind, SIZE).draw(camera, out)
    return out


def is_new(seen: Running) -> bool:
    """The newest encoder_hidden_states are not those that the session began with."""
    first, last = seen.backend.encoder_hidden_states[0], seen.backend.encoder_hidden_states[-1]
    return not np.array_equal(first, last)


def is_between(seen: Running) -> bool:
    """A prompt was reached over more than one step."""
    return seen.prompt == "neon" and len(seen.backend.encoder_hidden_states) > 4


def is_half_turned(seen: Running) -> bool:
    """The picture is neither that of the camera nor of its mirror image."""
    turned = [255 - seen.camera, 255 - seen.camera[:, ::-1]]
    return not any(np.array_equal(seen.picture, each) for each in turned)


CASES: dict[str, tuple[list[Set | Step], Callable[[Running], bool]]] = {
    "prompt": ([Set("prompt", "neon")], lambda seen: seen.prompt == "neon" and is_new(seen)),
    "position": ([Step("position", 0.5)], lambda seen: "@ 0.5" in seen.prompt and is_new(seen)),
    "position_y": (
        [Set("prompt", "a >> b // c"), Set("position_y", 0.5)],
        lambda seen: "c @ 0 0.5" in seen.prompt and is_new(seen),
    ),
    "seed": ([Set("seed", 7)], lambda seen: seen.backend.params.seed == 7),
    "control_scale": (
        [Set("control_scale", 0.5)],
        lambda seen: seen.backend.params.control_scale == 0.5,
    ),
    "edges": (
        [Set("edges", "canny")],
        lambda seen: np.array_equal(seen.backend.edges, edges_of(seen.camera, "canny")),
    ),
    "feedback": ([Set("feedback", 0.4)], lambda seen: seen.backend.params.feedback == 0.4),
    # Without smoothing the picture turns over at once.
    "ema": ([Set("ema", 0.9), Set("mirror", True)], is_half_turned),
    "blend": ([Set("blend", 1.0)], lambda seen: np.array_equal(seen.picture, seen.camera)),
    "skip": ([Set("skip", 2.0)], lambda seen: seen.session.loop.stats.skipped > 0),
    "transition": ([Set("transition", 1.0), Set("prompt", "neon")], is_between),
    "mirror": (
        [Set("mirror", True)],
        lambda seen: np.array_equal(seen.picture, 255 - seen.camera[:, ::-1]),
    ),
}


def test_every_parameter_that_can_change_has_a_case() -> None:
    changing = {name for name, row in TABLE.items() if not row.at_start}
    # A pause has a test of its own here, and the LoRAs have theirs in test_lora_live.
    assert CASES.keys() == changing - {"pause", "lora_scale"}


@pytest.mark.parametrize("name", CASES)
def test_a_change_takes_effect_while_the_session_runs(
    name: str, running: Callable[..., Running], tmp_path: Path
) -> None:
    seen = running()
    seen.run(*CASES[name])
    kept = json.loads((tmp_path / "stats.json").read_text())["parameters"]
    assert kept.keys() == TABLE.keys()
    assert kept[name] == getattr(seen.session.values, name) != TABLE[name].default


def test_new_edges_are_rendered_though_the_camera_stands_still(
    running: Callable[..., Running],
) -> None:
    assert running(skip=0.0).run(*CASES["edges"]).shown


def test_edges_remember_nothing_of_before_the_mirror(running: Callable[..., Running]) -> None:
    mirrored = np.ascontiguousarray(running().camera[:, ::-1])
    summary = running().run(
        [Set("mirror", True)],
        lambda seen: np.array_equal(seen.backend.edges, edges_of(mirrored, "soft")),
    )
    assert summary.shown


def test_a_session_begins_with_the_values_that_it_is_given(running: Callable[..., Running]) -> None:
    seen = running(mirror=True, seed=5, feedback=0.2, control_scale=0.5, edges="canny")

    def report(*_: object) -> None:
        mirrored = np.ascontiguousarray(seen.camera[:, ::-1])
        np.testing.assert_array_equal(seen.picture, 255 - mirrored)
        np.testing.assert_array_equal(seen.backend.edges, edges_of(mirrored, "canny"))
        assert seen.backend.params == FrameParams(5, 0.2, 0.5)
        seen.session.apply(Event.QUIT)

    assert seen.session.run(report).ended == "stopped"


def test_pause_holds_the_picture_until_it_is_taken_back(running: Callable[..., Running]) -> None:
    seen = running()
    session, idle, looks = seen.session, seen.session._idle, list[int]()

    def look() -> None:
        idle()
        if session.values.pause:
            looks.append(session.loop.stats.shown)
            if looks[-3:] == 3 * looks[-1:]:  # nothing is under way any more
                session.apply(Set("pause", False))

    session._idle = look  # type: ignore[method-assign]
    seen.run([Set("pause", True)], lambda seen: bool(looks) and not seen.session.loop.paused)
    assert len(looks) >= 3


def test_a_session_that_begins_paused_shows_nothing(running: Callable[..., Running]) -> None:
    session, looks = running(pause=True).session, list[int]()
    idle = session._idle

    def look() -> None:
        idle()
        looks.append(session.loop.stats.shown)
        if len(looks) == 3:
            session.apply(Event.QUIT)

    session._idle = look  # type: ignore[method-assign]
    session.run(lambda *_: None)
    assert looks == [0, 0, 0]


def test_values_follow_prompts_that_take_turns(
    running: Callable[..., Running], controlled: Checkpoint, tmp_path: Path
) -> None:
    running()
    session = open_session(
        SessionOptions(str(tmp_path / "still.png"), hold=2, frames=3, headless=True),
        LiveParameters(),
        SessionFiles(("shown.png",)),
        SIZE,
        controlled,
        [Negative()],
        ("neon", f"{BANK} @ 0.5"),
    )
    session.run(lambda *_: None)
    assert (session.values.prompt, session.values.position) == (BANK, 0.5)


def test_a_prompt_that_cannot_be_encoded_is_taken_back(running: Callable[..., Running]) -> None:
    session = running().session
    encode = session.loop._encode

    def fail(text: str) -> np.ndarray:
        if text == "bad":
            raise UsageError("no such word")
        return encode(text)

    session.loop._encode = fail
    session_values: list[str] = []

    def report(number: int, _: str) -> None:
        if number == 2:
            session.apply(Set("prompt", "bad"))
            session_values.append(session.values.prompt)
        elif number > 2 and session.values.prompt == BANK:
            session.apply(Event.QUIT)

    assert session.run(report).ended == "stopped" and session_values == ["bad"]
