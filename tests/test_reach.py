"""One walk over the table: keys, page, OSC, MIDI, schedule, API and sound reach each parameter."""

import socket
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import pytest
from browser import browser

from fake_session import FakeSession
from sdxs.common.errors import UsageError
from sdxs.common.io.inputs import here
from sdxs.common.io.inputs.keys import KEYS
from sdxs.common.io.inputs.reading import read_change
from sdxs.common.io.inputs.schedule import parse_schedule
from sdxs.common.io.inputs.tempo import Tempo
from sdxs.common.io.sound.follower import Response
from sdxs.common.io.sound.wav import WavFile
from sdxs.common.live.modulation import Modulation, read_route
from sdxs.common.live.parameters import TABLE, Event, LiveParameters, Step
from sdxs.common.live.stage import Playing, Stage

BANK = "a >> b // c >> d"
# A value of each that is not the one it begins with, as a message has it.
OTHER: dict[str, int | float | str] = {
    "prompt": "neon",
    "position": 1.0,
    "position_y": 1.0,
    "seed": 7,
    "control_scale": 0.5,
    "edges": "canny",
    "lora_scale": 0.5,
    "feedback": 0.5,
    "ema": 0.5,
    "blend": 0.5,
    "skip": 2.0,
    "transition": 1.5,
    "pause": 1,
    "mirror": 1,
}
KEY = {
    "prompt": "n",
    "position": ".",
    "position_y": ">",
    "control_scale": "j",
    "feedback": "+",
    "ema": "e",
    "blend": "]",
    "pause": " ",
}
KEYLESS = {"seed", "edges", "lora_scale", "skip", "transition", "mirror"}
CHANGING = [name for name, row in TABLE.items() if not row.at_start]


def session_of(stage: Stage | None = None) -> FakeSession:
    return FakeSession(BANK, "second", control=True, stage=stage)


def test_the_walk_has_every_parameter() -> None:
    assert list(OTHER) == CHANGING
    assert KEY.keys() | KEYLESS == set(CHANGING) and not KEY.keys() & KEYLESS
    assert set(KEY.values()) <= KEYS.keys()
    stepped = {change.name for change in KEYS.values() if isinstance(change, Step)}
    assert stepped <= KEY.keys(), "a key moves it, so it has one"


@pytest.fixture
def by_osc() -> Iterator[Callable[[FakeSession, str], None]]:
    pytest.importorskip("pythonosc", reason="python-osc is not installed")
    from sdxs.common.io.inputs.address import Address
    from sdxs.common.io.inputs.osc import OscInput
    from sdxs.common.io.inputs.osc_wire import OscMessage, encode

    osc = OscInput(Address("127.0.0.1", 0), [], Tempo(120), lambda: 0.0)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.settimeout(20)

    def send(session: FakeSession, name: str) -> None:
        osc.start(session.controls)
        place = osc._socket.getsockname()
        sender.sendto(encode(f"/sdxs/{name}", OTHER.get(name, 0.5)), place)
        sender.sendto(encode("/sdxs/state"), place)
        assert sender.recv(9999)  # behind the change
        session._idle()

    assert OscMessage
    yield send
    osc.close()
    sender.close()


def by_key(session: FakeSession, name: str) -> None:
    session.press(KEY[name])


def by_schedule(session: FakeSession, name: str) -> None:
    session._incoming.saw(None)
    session._idle()


def by_api(session: FakeSession, name: str) -> None:
    change = read_change(name, OTHER.get(name, 0.5))
    assert change is not None
    session.controls.offer(change, "api")
    session._idle()


def changed(session: FakeSession, name: str) -> bool:
    return bool(getattr(session.values, name) != getattr(session_of().values, name))


@pytest.mark.parametrize("name", KEY)
def test_from_a_key(name: str) -> None:
    session = session_of()
    by_key(session, name)
    assert changed(session, name)


@pytest.mark.parametrize("name", CHANGING)
def test_from_osc(name: str, by_osc: Callable[[FakeSession, str], None]) -> None:
    session = session_of()
    by_osc(session, name)
    assert getattr(session.values, name) == OTHER[name]


@pytest.mark.parametrize("name", CHANGING)
def test_from_midi(name: str, tmp_path: Path) -> None:
    mido = pytest.importorskip("mido", reason="mido is not installed")
    from sdxs.common.io.inputs.midi import MidiInput
    from sdxs.common.io.inputs.midi_map import Binding, Control, MidiMap, learnable

    device = MidiInput("any", MidiMap(tmp_path / "m"), Tempo(120), lambda: 0.0, lambda *_: _Port())
    session = session_of()
    device.start(session.controls)
    moves = name if learnable(name) else Event.NEXT_PROMPT.value  # a text cannot be turned
    device._map.bindings[Control("cc", 1, 20)] = Binding(moves)
    for value in (20, 127):
        device.take(mido.Message("control_change", control=20, value=value))
        session._idle()
        if changed(session, name):
            break
    assert changed(session, name)
    device.close()


class _Port:
    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", CHANGING)
def test_from_a_schedule(name: str) -> None:
    written = "on" if TABLE[name].kind is bool else OTHER[name]
    schedule = parse_schedule(f"0 {name} {written}", "show.txt")
    schedule.check(LiveParameters(prompt=BANK))
    session = session_of(Stage(playing=Playing(schedule)))
    by_schedule(session, name)
    assert getattr(session.values, name) == OTHER[name]


@pytest.mark.parametrize("name", CHANGING)
def test_from_sound(name: str, tmp_path: Path) -> None:
    if TABLE[name].kind is str and not TABLE[name].choices:
        with pytest.raises(UsageError, match="is a text, which no sound can move"):
            read_route(f"{name}=level:0..1")
        return
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(b"\xff\x7f" * 800)
    route = read_route(f"{name}=level:0..{-1 if name == 'control_scale' else 1}")
    sound = Modulation([route], WavFile(path), Response(0, 0))
    session = session_of(Stage(sound=sound))
    session._incoming.saw(None)
    sound.hear(0.05)
    session._obey_sound()
    sound.close()
    base = getattr(session.values, name)
    assert getattr(session._in_force, name) != base and not changed(session, name)


@pytest.mark.parametrize("name", CHANGING)
def test_from_the_api(name: str) -> None:
    session = session_of()
    by_api(session, name)
    assert getattr(session.values, name) == OTHER[name]


def test_from_the_page() -> None:
    """In a real browser; its controls stand for themselves, so one page has the whole walk."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    from page_stage import PATIENCE_S, Stage

    from sdxs.common.testing.chromium import Chromium

    by_hand = {  # what the page has in a place of its own
        "prompt": f"at('prompt').value = '{BANK}'; at('prompt-form').requestSubmit()",
        "position": "move(at('pad-across'), 1)",
        "position_y": "move(at('pad-down'), 1)",
    }
    steps = (
        "const at = (id) => document.getElementById(id); const move = (one, value) => {"
        "if (one.type === 'checkbox') return one.click(); one.value = value; one.dispatchEvent("
        "new Event(one.type === 'number' ? 'change' : 'input', {bubbles: true})); };"
    )
    with Chromium(browser()) as chromium, Stage(control=True) as stage:
        changed: Queue[tuple[str, ...]] = Queue()
        stage.session.controls.watch(lambda news: changed.put(news.names))
        tab = chromium.open(stage.url)
        tab.until("!document.getElementById('steered').disabled")
        for name, row in TABLE.items():
            field = f"document.querySelector('[data-parameter={name}]')"
            if row.at_start:
                assert tab.ask(f"{field}.disabled")
                continue
            act = by_hand.get(name) or f"move({field}, {OTHER[name]!r})"
            tab.ask(f"(() => {{ {steps} {act} }})()")
            while name not in changed.get(timeout=PATIENCE_S):
                pass
            wanted = BANK if name == "prompt" else OTHER[name]
            assert getattr(stage.session.values, name) == wanted, name


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.at_start])
def test_what_is_fixed_at_the_start_is_refused_everywhere(
    name: str, by_osc: Callable[[FakeSession, str], None]
) -> None:
    for way in (by_api, by_osc):
        session = session_of()
        way(session, name)
        assert not changed(session, name) and session.controls.counts.refused == 1


# `sdxs doctor`.


def test_the_doctor_says_what_is_missing_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_version", lambda package: "")
    assert here.osc_here() == (
        None,
        "python-osc is not installed",
        "pip install 'sdxs[osc]', for --osc",
    )
    monkeypatch.setattr(here, "NO_WHEEL", "no wheel")
    state, finding, remedy = here.midi_here()
    assert state is None and finding == "not installed: mido, python-rtmidi"
    assert remedy == "pip install 'sdxs[midi]', for --midi; no wheel"


def test_the_doctor_lists_devices_or_says_why_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mido", reason="mido is not installed")
    from sdxs.common.io.inputs import midi

    monkeypatch.setattr(here, "_version", lambda package: "1.0")
    assert here.osc_here() == (True, "python-osc 1.0: sdxs live --osc 9000", "")

    def broken(**_: object) -> list[str]:
        raise OSError("no sequencer")

    for names, state, says in (
        (lambda: ["nano"], True, "here: nano"),
        (lambda: [], None, "no MIDI input is connected"),
        (broken, None, "the system has no MIDI (no sequencer)"),
    ):
        monkeypatch.setattr(midi.mido, "get_input_names", names, raising=False)
        found = here.midi_here()
        assert found[0] is state and says in found[1] and bool(found[2]) is (state is not True)
