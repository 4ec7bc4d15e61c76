"""MIDI by a mido backend in memory: learned maps, knobs, encoders, buttons, clock, and noise."""

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("mido", reason="mido is not installed: pip install 'sdxs[test]'")

import mido

import fake_midi
from fake_session import FakeSession
from sdxs.common.errors import UsageError
from sdxs.common.io.inputs.midi import MidiInput, find_port
from sdxs.common.io.inputs.midi_map import (
    Binding,
    Control,
    MidiMap,
    learnable,
    steps_of,
    way_of,
)
from sdxs.common.io.inputs.tempo import Tempo
from sdxs.common.live.inputs import InputOptions, make_stage
from sdxs.common.live.parameters import TABLE, Event, LiveParameters

PORT = "nanoKONTROL2"


class Desk:
    """A session with a MIDI device, which is played by hand."""

    def __init__(self, path: Path, control: bool = True) -> None:
        self.path = path
        self.now = 0.0
        self.tempo = Tempo(120)
        self.midi = MidiInput("nano", MidiMap(path), self.tempo, lambda: self.now)
        self.session = FakeSession("a >> b // d", "c", control=control, inputs=[self.midi])
        self.session._idle()
        self.port = fake_midi.opened[PORT]

    def cc(self, number: int, *values: int) -> LiveParameters:
        return self.play(*(mido.Message("control_change", control=number, value=v) for v in values))

    def play(self, *messages: object) -> LiveParameters:
        for message in messages:
            self.port.send(message)
            self.session._idle()
        return self.session.values

    def learn(self, key: str) -> None:
        """Change something by its key, then ask for the control."""
        self.session.press(f"{key}m")

    @property
    def kept(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.path.read_text())["controls"]
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    before = mido.backend
    mido.set_backend("fake_midi")
    made = Desk(tmp_path / "maps" / "midi.json")
    yield made
    made.session._finish()
    assert not fake_midi.opened
    mido.set_backend(before)


def test_a_knob_is_learned_sweeps_the_range_and_is_kept(desk: Desk) -> None:
    desk.learn("]")
    assert desk.session.notes[-1] == f"move a control of {PORT} for blend"
    assert desk.cc(21, 64).blend == pytest.approx(64 / 127, abs=1e-6)
    assert desk.cc(21, 0).blend == 0 and desk.cc(21, 127).blend == 1
    assert "cc 21 on channel 1 moves blend" in desk.session.notes
    assert desk.kept == [
        {"kind": "cc", "channel": 1, "number": 21, "moves": "blend", "way": "absolute"}
    ]
    desk.session._finish()
    again = Desk(desk.path)
    assert again.cc(21, 127).blend == 1
    again.session._finish()


def test_a_control_that_is_unknown_moves_nothing(desk: Desk) -> None:
    before = desk.session.values
    assert desk.cc(21, 1, 64, 127) is before
    assert desk.session.controls.counts.offered == 0


@pytest.mark.parametrize(
    ("right", "left", "way"),
    [
        ((1, 1, 1, 2), (127, 126), "relative"),
        ((1, 2, 1, 1), (65, 66), "relative"),
        ((65, 65, 65, 66), (63, 62), "offset"),
    ],
)
def test_an_encoder_is_known_by_its_first_steps(
    desk: Desk, right: tuple[int, ...], left: tuple[int, ...], way: str
) -> None:
    desk.learn("]")
    blend = desk.session.values.blend
    assert desk.cc(21, *right[:2]).blend == blend, "it may be a knob at its end"
    steps = sum(each - 64 * (way == "offset") for each in right[2:])
    assert desk.cc(21, *right[2:]).blend == pytest.approx(blend + steps / 127, abs=1e-5)
    assert desk.cc(21, *left).blend == pytest.approx(blend + (steps - 3) / 127, abs=1e-5)
    assert desk.kept[0]["way"] == way


def test_a_knob_near_its_end_is_no_encoder(desk: Desk) -> None:
    desk.learn("]")
    assert desk.cc(21, 1, 2, 3).blend == pytest.approx(3 / 127, abs=1e-6)
    assert desk.kept[0]["way"] == "absolute"
    assert way_of([1, 2, 4]) == "absolute" and way_of([1, 1]) is None and way_of([90]) == "absolute"
    assert [steps_of("relative", each) for each in (1, 63, 64, 65, 127)] == [1, 63, 0, -1, -1]
    assert [steps_of("offset", each) for each in (64, 65, 0)] == [0, 1, -64]


def test_fourteen_bits_are_finer_than_seven(desk: Desk) -> None:
    desk.learn("]")
    desk.cc(7, 64)
    desk.cc(39, 5)
    assert desk.kept[0]["way"] == "14-bit" and desk.kept[0]["number"] == 7
    desk.cc(7, 100)
    assert desk.cc(39, 77).blend == pytest.approx((100 * 128 + 77) / 16383, abs=1e-6)
    desk.cc(7, 127)
    assert desk.cc(39, 127).blend == 1


def test_pads_are_buttons(desk: Desk) -> None:
    pad = mido.Message("note_on", note=36, velocity=90, channel=9)
    off = mido.Message("note_off", note=36, channel=9)
    desk.learn(" ")
    assert desk.play(pad).pause is False, "the key has paused, and the pad turns it over"
    assert desk.play(off).pause is False and desk.play(pad).pause is True
    desk.learn("o")
    overlay = desk.session.look.overlay
    desk.play(mido.Message("note_on", note=37, velocity=1, channel=9))
    assert desk.session.look.overlay is not overlay
    desk.play(mido.Message("note_on", note=37, velocity=0, channel=9))
    assert desk.session.look.overlay is not overlay
    assert [each["moves"] for each in desk.kept] == ["pause", "overlay"]


def test_a_knob_as_a_button_counts_once_it_is_beyond_its_middle(desk: Desk) -> None:
    events: list[Event | None] = []
    desk.learn("o")
    desk.session.controls.watch(lambda news: events.append(news.event))
    desk.cc(50, 127, 0, 30, 60, 70, 127, 0, 127)
    assert events == [Event.OVERLAY] * 3


def test_programs_are_prompts_and_bends_are_knobs(desk: Desk) -> None:
    assert desk.play(mido.Message("program_change", program=1)).prompt == "c"
    assert desk.play(mido.Message("program_change", program=99)).prompt == "c"
    desk.learn("]")
    assert desk.play(mido.Message("pitchwheel", pitch=8191)).blend == 1
    assert desk.play(mido.Message("pitchwheel", pitch=-8192)).blend == 0


def test_the_clock_of_a_device_is_the_beat(desk: Desk) -> None:
    desk.play(mido.Message("start"))
    for tick in range(24 * 4):
        desk.now = tick * 60 / 90 / 24
        desk.port.send(mido.Message("clock"))
    assert desk.tempo.bpm == pytest.approx(90, rel=0.01)
    assert desk.tempo.beats(desk.now) == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("name", [name for name in TABLE if learnable(name)])
def test_every_parameter_but_a_text_can_be_learned(desk: Desk, name: str) -> None:
    row, values = TABLE[name], desk.session.values
    desk.midi.learn(name)
    moved = [getattr(desk.cc(30, value), name) for value in (100, 10)]
    assert any(each != getattr(values, name) for each in moved)
    assert all(row.check(each) == each for each in moved)
    assert desk.session.controls.counts.refused == 0


def test_texts_and_nothing_cannot_be_learned(desk: Desk) -> None:
    with pytest.raises(UsageError, match="prompt is a text"):
        desk.midi.learn("prompt")
    desk.session.press("m")
    assert desk.session.notes[-1].startswith("learn: change a parameter first")
    assert not learnable("strength") and desk.cc(30, 100) == desk.session.values


def test_what_the_device_did_itself_is_not_learned_next(desk: Desk) -> None:
    desk.learn("]")
    desk.cc(21, 60)
    desk.session.press("[")
    desk.cc(21, 70)
    desk.session.press("m")
    desk.cc(22, 127)
    assert [each["moves"] for each in desk.kept] == ["blend", "blend"]


def test_a_refusal_is_said_and_a_map_that_cannot_be_kept_too(
    desk: Desk,
) -> None:
    desk.midi._map.bindings[Control("cc", 1, 5)] = Binding("edges")
    desk.session._parts.unusable["edges"] = "no edges here"  # type: ignore[index]
    desk.cc(5, 127)
    assert desk.session.notes[-1] == "MIDI: no edges here"
    desk.path.parent.write_text("a file")
    desk.learn("]")
    assert desk.cc(21, 127).blend == 1
    assert any("the map could not be kept" in note for note in desk.session.notes)


def test_noise_stops_nothing(desk: Desk) -> None:
    chance = random.Random(4)
    for number, name in enumerate(name for name in TABLE if learnable(name)):
        way = chance.choice(["absolute", "14-bit", "relative", "offset"])
        desk.midi._map.bindings[Control("cc", 1, number)] = Binding(name, way)  # type: ignore[arg-type]
    for _ in range(3000):
        message = mido.Message.from_bytes(
            [chance.choice([0x80, 0x90, 0xB0, 0xB0, 0xB0, 0xE0]), *chance.choices(range(128), k=2)]
        )
        desk.port.send(message)
        if chance.random() < 0.1:
            desk.session._idle()
    desk.session._idle()
    for name, row in TABLE.items():
        row.check(getattr(desk.session.values, name))
    assert desk.cc(list(TABLE).index("mirror") - 1, 0) and desk.session.controls.counts.dropped == 0


# The map's file.

ENTRY = {"kind": "cc", "channel": 1, "number": 21, "moves": "blend", "way": "absolute"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"kind": "knob"},
            "knob absolute: expected one of cc, note, program, bend and",
        ),
        ({"way": "round"}, "cc round: expected one of"),
        ({"channel": 17}, "channel 17, number 21: expected 1 to 16 and 0 to 127"),
        ({"number": 1.5}, "channel and number: expected whole numbers"),
        ({"moves": "speed"}, "unknown event 'speed'"),
        ({"moves": "prompt"}, "prompt: expected a parameter that is no text, or an event"),
        ({"moves": 5}, "5: expected a parameter"),
        ({"more": 1}, "expected kind, channel, number, moves and way"),
    ],
)
def test_an_entry_that_is_wrong_is_named(
    tmp_path: Path, changed: dict[str, object], says: str
) -> None:
    path = tmp_path / "midi.json"
    path.write_text(json.dumps({"schema": 1, "controls": [ENTRY, ENTRY | changed]}))
    with pytest.raises(UsageError, match=rf"midi\.json, control 2: {says}"):
        MidiMap(path)


@pytest.mark.parametrize("stored", ["", "[]", "{}", '{"schema": 2, "controls": []}', "[" * 100_000])
def test_a_file_that_is_no_map_is_refused(tmp_path: Path, stored: str) -> None:
    path = tmp_path / "midi.json"
    path.write_text(stored)
    with pytest.raises(UsageError, match="name another file, or remove it and learn again"):
        MidiMap(path)


# Ports and options.


def test_a_port_is_found_by_a_part_of_its_name(desk: Desk) -> None:
    assert find_port("nano") == PORT and find_port("launchpad m") == "Launchpad Mini"
    with pytest.raises(UsageError, match="several inputs have it in their names; there are nano"):
        find_port("launchpad")
    with pytest.raises(UsageError, match="no MIDI input has this name; there are nano"):
        find_port("keystep")
    fake_midi.NAMES.clear()
    try:
        with pytest.raises(UsageError, match="no MIDI input is connected"):
            find_port("x")
    finally:
        fake_midi.NAMES.extend([PORT, "Launchpad Mini", "Launchpad Pro"])


def test_a_port_that_goes_before_the_session_begins_is_an_error(tmp_path: Path) -> None:
    def gone(name: str, take: object) -> object:
        raise OSError("unplugged")

    midi = MidiInput("x", MidiMap(tmp_path / "m"), Tempo(120), lambda: 0.0, gone)  # type: ignore[arg-type]
    session = FakeSession(inputs=[midi])
    with pytest.raises(UsageError, match=r"--midi x: cannot be opened \(unplugged\)"):
        session._idle()
    session._finish()


def test_a_map_without_a_device_is_refused() -> None:
    with pytest.raises(UsageError, match="--midi-map: is part of --midi"):
        InputOptions(midi_map=Path("x.json"))


def test_a_session_without_its_midi_device_leaves_no_port_open(desk: Desk, tmp_path: Path) -> None:
    pytest.importorskip("pythonosc", reason="python-osc is not installed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = InputOptions(osc=str(port), midi="keystep", midi_map=tmp_path / "m.json")
    asked = (LiveParameters(), {}, True, False, False, str)
    with pytest.raises(UsageError, match="--midi keystep: no MIDI input has this name"):
        make_stage(options, *asked)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", port))
    staged = make_stage(replace(options, midi="nano"), *asked)
    assert len(staged.inputs) == 2 and Event.LEARN.value not in staged.unusable
    for each in staged.inputs:
        each.close()
    staged = make_stage(InputOptions(), *asked)
    assert not staged.inputs and "--midi NAME" in staged.unusable["learn"]
