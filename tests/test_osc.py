"""OSC over real UDP: what comes in, what goes out, and what a flood of nonsense does: nothing."""

import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("pythonosc", reason="python-osc is not installed: pip install 'sdxs[test]'")

from fake_session import FakeSession
from sdxs.common.errors import UsageError
from sdxs.common.io.inputs import osc as osc_module
from sdxs.common.io.inputs.address import Address, read_address
from sdxs.common.io.inputs.budget import Budget
from sdxs.common.io.inputs.controls import MOST_WAITING
from sdxs.common.io.inputs.osc import ERRORS_A_SECOND, MOST_PEERS, OscInput
from sdxs.common.io.inputs.osc_wire import MOST_ARGUMENTS, OscMessage, decode, encode
from sdxs.common.io.inputs.tempo import Tempo
from sdxs.common.live.inputs import InputOptions
from sdxs.common.live.parameters import TABLE, Event, Set

PATIENCE_S = 20.0
BUNDLE = b"#bundle\0" + bytes(8)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class Controller:
    """What a user has in the hand: sends messages and keeps what it is told."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(PATIENCE_S)
        self.port = port

    def send(self, address: str, *values: bool | int | float | str) -> None:
        self.send_bytes(encode(address, *values))

    def send_bytes(self, datagram: bytes) -> None:
        self.socket.sendto(datagram, ("127.0.0.1", self.port))

    def told(self) -> tuple[str, object]:
        (message,) = decode(self.socket.recv(65535))
        assert isinstance(message, OscMessage)
        return message.address, message.values[0]

    def settle(self) -> list[tuple[str, object]]:
        """Ask for the state and return what was told before it, which has the tempo at its end."""
        self.send("/sdxs/tempo", 99.0)
        self.send("/sdxs/state")
        found = []
        while (one := self.told())[0] != "/sdxs/tempo":
            found.append(one)
        state = [f"/sdxs/{name}" for name in TABLE if name != "strength"]
        assert [each[0] for each in found[-len(state) :]] == state
        return found[: -len(state)]


class Stage:
    """A session with an OSC input on a port of its own."""

    def __init__(self, to: list[Address] | None = None) -> None:
        self.port = free_port()
        self.tempo = Tempo(120)
        self.osc = OscInput(Address("127.0.0.1", self.port), to or [], self.tempo, lambda: 0.0)
        self.session = FakeSession("a >> b", inputs=[self.osc])
        self.session._idle()
        self.controllers: list[Controller] = []

    def controller(self) -> Controller:
        self.controllers.append(Controller(self.port))
        return self.controllers[-1]

    def pump(self, until: Callable[[], bool]) -> None:
        """Go on with the session until something is so."""
        patience = threading.Event()
        for _ in range(int(PATIENCE_S * 1000)):
            self.session._idle()
            if until():
                return
            patience.wait(0.001)
        pytest.fail("nothing came")

    def offered(self, count: int) -> Callable[[], bool]:
        def so() -> bool:
            counts = self.session.controls.counts
            return counts.offered + counts.malformed >= count

        return so


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.session._finish()
    for each in made.controllers:
        each.socket.close()


# The wire.


def test_a_message_survives_the_wire() -> None:
    values = (0.5, 7, "neon", 2**40, True)
    (message,) = decode(encode("/sdxs/prompt", *values))
    assert message == OscMessage("/sdxs/prompt", (0.5, 7, "neon", 2**40, 1))
    inner = [encode("/a", 1), encode("/b", 2)]
    sized = b"".join(struct.pack(">i", len(each)) + each for each in inner)
    bundle = BUNDLE + sized
    nested = BUNDLE + struct.pack(">i", len(bundle)) + bundle
    assert [each.address for each in decode(nested) if isinstance(each, OscMessage)] == ["/a", "/b"]


def test_every_value_that_a_session_may_have_is_sent() -> None:
    """Bug: a seed of more than 64 bits ended the session."""
    odd = (2**63, -(2**31), float("inf"), 1e300, "a\0b", "\udcff")
    (message,) = decode(encode("/a", *odd))
    assert isinstance(message, OscMessage)
    assert message.values == (str(2**63), -(2**31), float("inf"), 1e300, "a b", "?")


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\0",
        b"/",
        b"/sdxs/blend",
        b"sdxs\0\0\0\0",
        b"/a\0\0,f\0\0\0",
        b"/a\0\0ff\0\0",
        b"/a\0\0,b\0\0" + struct.pack(">i", -1),
        b"/a\0\0,[[[[[[[\0\0\0\0",
        b"/\xff\0\0,i\0\0" + bytes(4),
        b"/a\0\0," + b"T" * (MOST_ARGUMENTS + 1) + bytes(4),
        BUNDLE[:12],
        BUNDLE + struct.pack(">i", -4),  # python-osc would read it for ever
        BUNDLE + struct.pack(">i", 0),
        BUNDLE + struct.pack(">i", 2**30) + b"/a\0\0",
        BUNDLE + b"\0",
        (BUNDLE + struct.pack(">i", 20)) * 9,
    ],
    ids=repr,
)
def test_what_is_no_message_is_an_error_and_never_more(datagram: bytes) -> None:
    found = list(decode(datagram))
    assert 1 <= len(found) <= 2
    assert all(isinstance(each, UsageError) and "\n" not in str(each) for each in found)


def test_a_datagram_has_so_many_messages_and_no_more() -> None:
    one = encode("/a")
    found = list(decode(BUNDLE + (struct.pack(">i", len(one)) + one) * 5000))
    assert len(found) < 300 and isinstance(found[-1], UsageError)


# A session.


def test_another_process_turns_knobs_and_is_told(stage: Stage) -> None:
    script = (
        "import socket; from pythonosc.udp_client import UDPClient\n"
        "from pythonosc.osc_message_builder import build_msg\n"
        f"client = UDPClient('127.0.0.1', {stage.port})\n"
        "for address, value in [('/sdxs/blend', 0.25), ('/sdxs/mirror', True),\n"
        "                       ('/sdxs/prompt', 'neon'), ('/sdxs/ema', 7.0)]:\n"
        "    client.send(build_msg(address, [value]))\n"
        "client._sock.settimeout(20)\n"
        "seen = b''\n"
        "while b'/sdxs/error' not in seen: seen = client._sock.recv(9999)\n"
        "print(seen)"
    )
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    stage.pump(lambda: client.poll() is not None)
    said, _ = client.communicate()
    values = stage.session.values
    assert (values.blend, values.mirror, values.prompt, values.ema) == (0.25, True, "neon", 0.0)
    assert "ema 7.0: expected a number from 0 to 0.99" in said


def test_two_controllers_agree(stage: Stage) -> None:
    first, second = stage.controller(), stage.controller()
    second.settle()
    first.send("/sdxs/blend", 0.5)
    stage.pump(lambda: stage.session.values.blend == 0.5)
    assert second.told() == ("/sdxs/blend", 0.5)
    assert first.settle() == [], "it shows that already"
    stage.session.press("]")
    assert first.told()[0] == second.told()[0] == "/sdxs/blend"
    second.send("/sdxs/step", "blend", 0.25)
    stage.pump(lambda: stage.session.values.blend == 0.85)
    assert first.told() == second.told() == ("/sdxs/blend", pytest.approx(0.85))


def test_of_two_at_once_the_later_wins_and_the_other_is_told(stage: Stage) -> None:
    first, second = stage.controller(), stage.controller()
    first.send("/sdxs/blend", 0.75)
    second.send("/sdxs/blend", 0.0)
    second.settle()
    assert stage.session.controls.counts.merged == 1
    stage.session._idle()
    assert stage.session.values.blend == 0.0
    assert first.told() == ("/sdxs/blend", 0.0)


def test_what_cannot_be_is_answered_and_the_fader_goes_back(stage: Stage) -> None:
    controller = stage.controller()
    controller.send("/sdxs/blend", 9.0)
    stage.pump(stage.offered(1))
    assert controller.told()[1] == "blend 9.0: expected a number from 0 to 1"
    assert controller.told() == ("/sdxs/blend", 0.0)
    for address, values, says in (
        ("/other/blend", (1.0,), "/other/blend: unknown address; expected /sdxs/<parameter>"),
        ("/sdxs/speed", (1.0,), "unknown parameter 'speed'; known are prompt"),
        ("/sdxs/blend", (), "blend: 0 values; expected a number from 0 to 1"),
        ("/sdxs/tempo", (9999.0,), "tempo 9999: expected 20 to 400 beats a minute"),
        ("/sdxs/tempo", ("fast",), "tempo: expected one number"),
        ("/sdxs/subscribe", (0.5,), "subscribe 0.5: expected a port from 1 to 65535"),
        ("/sdxs/next_cue", (), "there is no schedule in this session"),
    ):
        controller.send(address, *values)
        stage.pump(lambda: True)
        stage.pump(stage.offered(1))
        heard: list[tuple[str, object]] = []
        reader = threading.Thread(target=lambda heard=heard: heard.append(controller.told()))
        reader.start()
        stage.pump(lambda reader=reader: not reader.is_alive())
        assert heard[0][0] == "/sdxs/error" and str(heard[0][1]).startswith(says)


def test_events_buttons_cues_and_tempo(stage: Stage) -> None:
    controller, events = stage.controller(), list[Event]()
    stage.session.controls.watch(lambda news: events.append(news.event))
    controller.send("/sdxs/next_prompt", 0.0)  # a button let go
    controller.send("/sdxs/tap")
    controller.send("/sdxs/overlay", 1.0)
    controller.send("/sdxs/tempo", 90)
    controller.send("/sdxs/position", 1.0, 0.001)
    stage.pump(lambda: stage.session.values.position == 1)
    assert [each for each in events if each] == [Event.TAP, Event.OVERLAY]
    assert stage.session.look.overlay and stage.tempo.bpm == 90


def test_a_port_may_be_subscribed_and_one_named_at_the_start_hears_at_once() -> None:
    listener = Controller(0)
    own = Address("127.0.0.1", listener.socket.getsockname()[1])
    stage = Stage([own])
    assert listener.told() == ("/sdxs/prompt", "a >> b")
    while listener.told()[0] != "/sdxs/tempo":
        pass
    other = stage.controller()
    other.send("/sdxs/subscribe", own.port)
    assert listener.told() == ("/sdxs/prompt", "a >> b")
    stage.session._finish()
    for each in (listener, other):
        each.socket.close()


def test_controllers_that_come_and_go_are_forgotten(stage: Stage) -> None:
    for _ in range(MOST_PEERS + 5):
        controller = Controller(stage.port)
        controller.send("/sdxs/state")
        assert controller.told()[0] == "/sdxs/prompt"
        controller.socket.close()
    assert len(stage.osc._peers) == MOST_PEERS
    stage.session.press("]")  # nobody is there to be told


def test_a_budget_grants_so_many_a_second() -> None:
    now = [0.0]
    budget = Budget(10, 3, lambda: now[0])
    assert [budget.wait_s() for _ in range(3)] == [0, 0, 0]
    assert budget.wait_s() == pytest.approx(0.1)
    now[0] = 0.1
    assert budget.wait_s() == 0 and budget.wait_s() > 0
    now[0] = 99.0
    assert [budget.wait_s() for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]


def test_a_flood_is_read_at_a_rate_and_a_session_ends_in_its_midst() -> None:
    stage = Stage()
    stage.osc._datagrams = Budget(1e-3, 5)
    controller = stage.controller()
    for _ in range(20):
        controller.send("/sdxs/step", "blend", 0.01)
    stage.pump(lambda: stage.session.controls.counts.offered == 5)
    stage.session._finish()
    assert stage.session.controls.counts.offered == 5
    controller.socket.close()


def test_of_a_flood_only_the_latest_of_a_parameter_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[bytes] = []
    decode = osc_module.decode
    monkeypatch.setattr(
        osc_module, "decode", lambda datagram: parsed.append(datagram) or decode(datagram)
    )
    session = FakeSession()
    osc = osc_module.OscInput(Address("127.0.0.1", 0), [], Tempo(120), lambda: 0.0)
    osc._controls = session.controls
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for name, *values in (
            *(("blend", share / 10) for share in range(1, 10)),
            ("ema", 0.5),
            ("next_prompt",),
            ("blend", 0.25),
            ("blend", 0.75),
        ):
            sender.sendto(encode(f"/sdxs/{name}", *values), osc._socket.getsockname())
        osc._read_newest()
    osc.close()
    taken = [each.change for each in session.controls.take()]
    shown = [round(one.value, 3) if isinstance(one, Set) else one for one in taken]
    assert shown == [0.9, 0.5, Event.NEXT_PROMPT, 0.75] and len(parsed) == 4
    counts = session.controls.counts
    assert (counts.offered, counts.merged) == (13, 9)


def test_errors_are_answered_up_to_a_rate(stage: Stage) -> None:
    stage.osc._errors = Budget(1e-9, ERRORS_A_SECOND)
    controller = stage.controller()
    for _ in range(3 * ERRORS_A_SECOND):
        controller.send("/sdxs/speed", 1.0)
    told = controller.settle()
    assert len(told) == ERRORS_A_SECOND
    assert stage.session.controls.counts.malformed == 3 * ERRORS_A_SECOND


def random_datagram(chance: random.Random) -> bytes:
    """A message that is right, nearly right or noise."""
    kind = chance.random()
    if kind < 0.1:
        return chance.randbytes(chance.randrange(200))
    value: bool | int | float | str = chance.choice(
        [0.5, 1, -1, True, 2**62, float("nan"), float("inf"), -1e38, "on", "", "a >> b"]
    )
    names = [*TABLE, "tap", "overlay", "side_by_side", "step", "cue", "tempo", "cue/x", "\u00e9"]
    values = [value] * chance.choice([0, 1, 1, 1, 1, 2, 3, 16])
    if chance.random() < 0.01:
        values = ["x" * 5000]
    made = encode(f"/sdxs/{chance.choice(names)}", *values)
    if kind < 0.2:
        made = made[: chance.randrange(len(made))]
    elif kind < 0.3:
        made = bytes(each ^ (chance.random() < 0.05) * chance.randrange(256) for each in made)
    elif kind < 0.4:
        sized = [struct.pack(">i", chance.choice([len(made), -4, 4, 2**31 - 1])) + made]
        made = BUNDLE + b"".join(sized * chance.randrange(4))
    return made


def test_ten_thousand_random_messages_stop_and_leak_nothing(stage: Stage) -> None:
    chance, controller, other = random.Random(18), stage.controller(), stage.controller()
    stage.osc._datagrams = Budget(1e9, 1e9)
    other.settle()
    handles = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    threads, most = threading.active_count(), 0
    for number in range(10_000):
        controller.send_bytes(random_datagram(chance))
        if number % 100 == 99:  # no more than a socket's buffer holds
            other.send("/sdxs/state")
            while other.told()[0] != "/sdxs/tempo":
                pass
            most = max(most, len(stage.session.controls._waiting.requests))
            stage.session._idle()
        if number % 500 == 499:
            controller.socket.setblocking(False)
            while _drained(controller.socket):
                pass
    counts = stage.session.controls.counts
    assert counts.malformed > 2000 and counts.offered > 2000
    assert most <= MOST_WAITING and len(stage.osc._peers) == 2
    assert threading.active_count() == threads
    if handles:
        assert len(list(Path("/proc/self/fd").iterdir())) == handles
    other.send("/sdxs/blend", 0.125)
    stage.pump(lambda: stage.session.values.blend == 0.125)
    assert all(
        getattr(stage.session.values, name) == row.check(getattr(stage.session.values, name))
        for name, row in TABLE.items()
    )


def _drained(made: socket.socket) -> bool:
    try:
        return bool(made.recv(65535))
    except BlockingIOError:
        return False


def test_close_ends_the_thread_and_frees_the_port() -> None:
    stage = Stage()
    stage.session._finish()
    stage.session._finish()
    assert not stage.osc._thread.is_alive()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", stage.port))


# Options.


def test_addresses_are_of_this_machine_unless_they_say_otherwise() -> None:
    assert read_address("--osc", "9000") == Address("127.0.0.1", 9000)
    assert read_address("--osc", "9000").is_loopback
    assert not read_address("--osc", "0.0.0.0:9000").is_loopback
    assert str(read_address("--osc", "[::1]:9000")) == "[::1]:9000"
    for text in ("", "x", "70000", "0", "host:", "127.0.0.1:99999", "1.2.3.4.5.6:9000"):
        with pytest.raises(UsageError, match=f"--osc {text}: "):
            read_address("--osc", text)


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(UsageError, match=r"--osc .*: cannot be listened on \(.*in use"):
            OscInput(address, [], Tempo(120), lambda: 0.0)
    with pytest.raises(UsageError, match="--osc-to: is part of --osc; add --osc PORT"):
        InputOptions(osc_to=("9000",))
