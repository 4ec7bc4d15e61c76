"""OSC: changes come in by UDP, and what is so goes out, so that several controllers agree.

    /sdxs/blend 0.5            a parameter of the table; `/sdxs/blend 0.5 2` glides for 2 s
    /sdxs/snapshot             an event; with 1 of a button, and nothing happens with its 0
    /sdxs/step blend 0.1       /sdxs/cue chorus, or /sdxs/cue/chorus 1       /sdxs/tempo 128
    /sdxs/state                asks for everything; /sdxs/subscribe 9001 has it sent to that port

Whoever sends a message is told of later changes, but not of the value that it has sent itself. What
cannot be is answered by `/sdxs/error`, and by the value as it is. Nothing here ends a session.
"""

import select
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ...errors import UsageError, in_a_line, reason
from ...live.parameters import TABLE, Change, Set
from .address import Address
from .budget import Budget
from .controls import Controls, News
from .osc_wire import OscMessage, Value, decode, encode
from .reading import EVENTS, read_change
from .tempo import Tempo

ROOT = "/sdxs/"
MOST_DATAGRAM = 65535
MOST_PEERS = 32  # that are told of changes; the one silent longest is forgotten
ERRORS_A_SECOND = 20  # answers to what cannot be, to all; more are only counted
# More wait in the socket's buffer, and the system drops what has no room there. Ten faders at 100 a
# second need half of it.
DATAGRAMS_A_SECOND, AT_ONCE = 2000.0, 500.0
# Beyond that rate the thread sleeps until SLICE datagrams may be read, and parses only the latest
# message of each parameter. The less it computes while it holds Python's lock, the fewer frames are
# late.
SLICE = 40
_MERGED = {f"{ROOT}{name}".encode() for name in TABLE if name not in EVENTS}


@dataclass(slots=True)
class _Peer:
    """A controller. known: what it shows of each parameter, as far as that is known."""

    address: Address
    known: dict[str, object] = field(default_factory=dict)


class OscInput:
    """A UDP socket with a thread of its own. See `Input`."""

    def __init__(
        self, listen: Address, to: Sequence[Address], tempo: Tempo, clock: Callable[[], float]
    ) -> None:
        """Take the port. to: controllers that are told from the beginning. Raises UsageError."""
        self.address = listen
        self._tempo, self._clock = tempo, clock
        self._fixed = [_Peer(address) for address in to]
        self._peers: OrderedDict[Address, _Peer] = OrderedDict()
        self._lock = threading.Lock()
        self._errors = Budget(ERRORS_A_SECOND, ERRORS_A_SECOND)
        self._datagrams = Budget(DATAGRAMS_A_SECOND, AT_ONCE)
        self._socket = _bound(listen)
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="sdxs-osc", daemon=True)
        self._stop: Callable[[], None] = lambda: None

    def start(self, controls: Controls) -> None:
        self._controls = controls
        self._stop = controls.watch(self._tell)
        for peer in self._fixed:
            self._send_state(peer)
        self._thread.start()

    def close(self) -> None:
        self._stop()
        if self._waker.fileno() < 0:
            return
        self._waker.close()  # which the other end sees
        if self._thread.ident is not None:
            self._thread.join()
        self._woken.close()
        self._socket.close()

    # The thread.

    def _run(self) -> None:
        try:
            while True:
                ready, _, _ = select.select([self._socket, self._woken], [], [])
                if self._woken in ready:
                    return
                if not self._datagrams.wait_s():
                    self._read()
                    continue
                while wait_s := self._datagrams.wait_s(SLICE):
                    if select.select([self._woken], [], [], wait_s)[0]:
                        return
                self._read_newest()
        except BaseException as error:
            self._controls.fail(error)

    def _receive(self) -> tuple[bytes, Address] | None:
        """Return a datagram that is here, and its sender."""
        try:
            datagram, (host, port, *_) = self._socket.recvfrom(MOST_DATAGRAM)
        except OSError:  # nobody listens where an answer went; the next datagram may be good
            return None
        return datagram, Address(str(host).partition("%")[0], int(port))

    def _read(self) -> None:
        if received := self._receive():
            self._handle(*received)

    def _read_newest(self) -> None:
        """Read a slice of a flood; of messages of one parameter and sender the latest counts.

        Any other message is a border: what came before it is done before it.
        """
        kept: dict[object, tuple[bytes, Address]] = {}
        border = 0
        for number in range(SLICE):
            if (number and self._datagrams.wait_s()) or not (received := self._receive()):
                break
            address = received[0][: received[0].find(b"\0")]
            border += address not in _MERGED
            key = (address, received[1], border)
            if kept.pop(key, None):
                self._controls.superseded()
            kept[key] = received
        for each in kept.values():
            self._handle(*each)

    def _handle(self, datagram: bytes, sender: Address) -> None:
        for one in decode(datagram):
            if isinstance(one, UsageError):
                self._controls.malformed()
                self._say(sender, str(one))
            else:
                self._take(one, sender)

    def _take(self, message: OscMessage, sender: Address) -> None:
        """Do what a message asks, or say why not."""
        try:
            if not message.address.startswith(ROOT):
                raise UsageError(
                    f"{in_a_line(message.address)}: unknown address; expected {ROOT}<parameter>"
                )
            name, _, rest = message.address.removeprefix(ROOT).partition("/")
            if not self._is_ours(name, rest, message.values, sender):
                self._offer(name, rest, message.values, self._peer(sender))
        except UsageError as error:
            self._controls.malformed()
            self._say(sender, str(error))

    def _is_ours(self, name: str, rest: str, values: Sequence[Value], sender: Address) -> bool:
        """Take what is OSC's own, not the table's. Raises UsageError."""
        if rest or name not in ("state", "subscribe", "tempo"):
            return False
        if name == "state":
            self._send_state(self._peer(sender))
            return True
        if len(values) != 1 or isinstance(values[0], str | bool):
            raise UsageError(f"{name}: expected one number")
        number = float(values[0])
        if name == "tempo":
            self._tempo.set(number, self._clock())
        elif number not in range(1, 65536):
            raise UsageError(f"subscribe {number:g}: expected a port from 1 to 65535")
        else:
            self._send_state(self._peer(Address(sender.host, int(number))))
        return True

    def _offer(self, name: str, rest: str, values: tuple[Value, ...], peer: _Peer) -> None:
        if rest:  # '/sdxs/cue/chorus 1' of a button that can only send its number
            if not all(values):
                return
            change = read_change(name, rest)
        else:
            change = read_change(name, *values)
        if change is None:
            return
        if isinstance(change, Set) and not change.over_s:
            with self._lock:
                peer.known[change.name] = change.value
        answer = partial(self._answer, peer, change)
        self._controls.offer(change, f"osc {peer.address}", answer)

    # Any thread.

    def _answer(self, peer: _Peer, change: Change, why: str) -> None:
        """Say why not, and show what is so, unless the controller has sent a later value."""
        if why:
            self._say(peer.address, why)
        if isinstance(change, Set) and change.name in TABLE:
            with self._lock:
                later = change.name in peer.known and peer.known[change.name] != change.value
                if why and not later:
                    peer.known.pop(change.name, None)
            if not later and not change.over_s:
                self._show(peer, change.name, getattr(self._controls.values, change.name))

    def _say(self, to: Address, why: str) -> None:
        """Answer with an error, unless many have been."""
        with self._lock:
            if self._errors.wait_s():
                return
        self._send(to, encode(f"{ROOT}error", why))

    def _tell(self, news: News) -> None:
        """Tell every controller what has changed. Main thread."""
        with self._lock:
            peers = [*self._fixed, *self._peers.values()]
        for peer in peers:
            for name in news.names:
                self._show(peer, name, getattr(news.values, name))

    def _send_state(self, peer: _Peer) -> None:
        with self._lock:
            peer.known.clear()
        values = self._controls.values
        for name in TABLE:
            self._show(peer, name, getattr(values, name))
        self._send(peer.address, encode(f"{ROOT}tempo", float(self._tempo.bpm)))

    def _show(self, peer: _Peer, name: str, value: object) -> None:
        """Send a value that the controller does not show already."""
        with self._lock:
            if value is None or (name in peer.known and peer.known[name] == value):
                return
            peer.known[name] = value
        assert isinstance(value, bool | int | float | str)
        self._send(peer.address, encode(f"{ROOT}{name}", value))

    def _peer(self, address: Address) -> _Peer:
        """Return a controller by its address; a new one is told of changes from now on."""
        with self._lock:
            peer = next((each for each in self._fixed if each.address == address), None)
            if peer is None:
                peer = self._peers.setdefault(address, _Peer(address))
                self._peers.move_to_end(address)
                if len(self._peers) > MOST_PEERS:
                    self._peers.popitem(last=False)
            return peer

    def _send(self, to: Address, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, (to.host, to.port))
        except OSError:  # gone, or its buffer is full: it asks for the state when it is back
            return


def _bound(listen: Address) -> socket.socket:
    made = socket.socket(listen.family, socket.SOCK_DGRAM)
    try:
        made.bind((listen.host, listen.port))
    except OSError as error:
        made.close()
        raise UsageError(
            f"--osc {listen}: cannot be listened on ({reason(error)}); name another port"
        ) from None
    made.setblocking(False)
    return made
