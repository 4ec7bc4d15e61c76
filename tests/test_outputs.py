"""Outputs: what a slow, dead or crashing one costs, names, addresses, and the command."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.errors import SinkError, SinkLost, UsageError
from sdxs.common.io.outputs import output as output_module
from sdxs.common.io.outputs import process, registry
from sdxs.common.io.outputs.mjpeg import MjpegServer
from sdxs.common.io.outputs.output import Output, Outputs
from sdxs.common.io.outputs.plan import OutputPlan
from sdxs.common.io.outputs.process import ProcessOutlet
from sdxs.common.io.outputs.registry import check_outputs, open_outputs, read_output
from sdxs.common.io.outputs.stream_url import shown

WAIT_S = 30.0
LIVE = ("live", "--model", "demo", "--backend", "identity", "--size", 64, "--source", "synthetic")


def grey(level: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


class Receiver:
    """An outlet that does what the test lets it do."""

    def __init__(self, *errors: Exception | None) -> None:
        self.got: list[tuple[int, float]] = []
        self.opened = self.closed = 0
        self.gate, self.changed = threading.Event(), threading.Condition()
        self.gate.set()
        self._errors = list(errors)

    def open(self, height: int, width: int) -> "Receiver":
        self.opened += 1
        return self

    def send(self, picture: np.ndarray, at_s: float) -> None:
        with self.changed:
            self.got.append((int(picture.mean()), at_s))
            self.changed.notify()
        assert self.gate.wait(WAIT_S)
        error = self._errors.pop(0) if self._errors else None
        if error:
            raise error

    def close(self) -> None:
        self.closed += 1

    def until(self, true: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(true, WAIT_S)


def ended(output: Output) -> None:
    output._thread.join(WAIT_S)
    assert not output._thread.is_alive()


def test_a_slow_output_drops_pictures_for_itself_and_holds_up_nobody() -> None:
    slow, quick = Receiver(), Receiver()
    slow.gate.clear()
    both = Outputs([Output("slow", slow.open), Output("quick", quick.open)])
    both.write(grey(0))
    slow.until(lambda: len(slow.got) == 1)
    for level in range(1, 101):  # `write` returns each time, though the slow one takes nothing
        both.write(grey(level))
        quick.until(lambda seen=level: bool(quick.got) and quick.got[-1][0] == seen)
    slow.gate.set()
    slow.until(lambda: len(slow.got) == 2)
    both.close()
    assert [level for level, _ in slow.got] == [0, 100]  # the newest wins
    assert [level for level, _ in quick.got] == list(range(101))
    said = {each.name: each for each in both.said}
    assert (said["slow"].sent, said["slow"].dropped) == (2, 99)
    assert (said["quick"].sent, said["quick"].dropped) == (101, 0)
    times = [at_s for _, at_s in quick.got]
    assert times[0] == 0 and times == sorted(times)
    assert slow.closed == quick.closed == 1


def test_a_picture_is_copied_before_its_buffer_is_used_again() -> None:
    receiver = Receiver()
    receiver.gate.clear()
    output, picture = Output("one", receiver.open), grey(0)
    for level in (1, 2, 3):
        picture[:] = level
        output.write(picture)
        if level == 1:
            receiver.until(lambda: len(receiver.got) == 1)
    picture[:] = 99
    receiver.gate.set()
    receiver.until(lambda: len(receiver.got) == 2)
    output.close()
    assert [level for level, _ in receiver.got] == [1, 3]


@pytest.mark.parametrize("error", [SinkError("x: gone"), ValueError("odd"), MemoryError()])
def test_a_dead_output_ends_with_a_warning_and_the_session_goes_on(error: Exception) -> None:
    dead, alive = Receiver(error), Receiver()
    outputs = Outputs([Output("x", dead.open), Output("y", alive.open)], alone=True)
    outputs.write(grey(1))
    ended(outputs._outputs[0])
    (note,) = outputs.heard()
    assert note.startswith("x: ") and note.endswith("the session goes on")
    outputs.write(grey(2))
    alive.until(lambda: len(alive.got) == 2)
    outputs.close()
    assert len(dead.got) == 1 and outputs.heard() == [] and dead.closed == 1
    assert outputs.said[0].ended and not outputs.said[1].ended


def test_a_session_that_only_an_output_shows_ends_with_it() -> None:
    dead = Receiver(SinkError("x: gone; look there"))
    outputs = Outputs([Output("x", dead.open)], alone=True)
    outputs.write(grey(1))
    ended(outputs._outputs[0])
    with pytest.raises(SinkError, match="x: gone; look there; nothing else shows this session"):
        outputs.write(grey(2))
    outputs.close()


def test_a_lost_receiver_is_tried_again_and_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "FIRST_PAUSE_S", 0.0)
    lost = SinkLost("x: hung up")
    receiver = Receiver(None, lost, lost, lost, None)
    output = Output("x", receiver.open)
    for level in range(5):
        output.write(grey(level))
        receiver.until(lambda seen=level: len(receiver.got) > seen)
    receiver.until(lambda: output.said.sent == 2 or output.write(grey(9)) is not None)
    output.close()
    assert output.heard() == ["x: hung up; it is tried again until it answers", "x: sends again"]
    assert receiver.opened == 4 and receiver.closed == 4  # once at first, and after each loss


def test_the_last_picture_is_sent_again_in_a_pause() -> None:
    receiver = Receiver()
    output = Output("x", receiver.open, repeat_s=0.01)
    output.write(grey(7))
    receiver.until(lambda: len(receiver.got) == 4)
    output.close()
    assert {level for level, _ in receiver.got} == {7} and output.said.sent == 1
    assert [at_s for _, at_s in receiver.got][:3] == pytest.approx([0.0, 0.01, 0.02])


def test_closing_waits_for_no_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "CLOSE_S", 0.01)
    receiver, released = Receiver(), []
    receiver.gate.clear()
    output = Output("x", receiver.open, release=lambda: released.append(1))
    output.write(grey(1))
    receiver.until(lambda: len(receiver.got) == 1)
    output.close()
    output.close()
    assert released == [1] and output.is_closing
    output.write(grey(2))
    receiver.gate.set()
    ended(output)
    assert len(receiver.got) == 1 and output.heard() == []


# In a process of its own.


def hosted(kind: str, path: Path, closing: Callable[[], bool] = lambda: False) -> ProcessOutlet:
    return ProcessOutlet(f"fake_outlets:{kind}", OutputPlan("x", str(path), 30, 8, 8), closing)


def test_a_process_sends_and_is_idle_in_between(tmp_path: Path) -> None:
    outlet = hosted("Writing", tmp_path / "log")
    for level in (3, 4):
        outlet.send(grey(level), 0.0)
    outlet.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if line != "idle"] == ["3", "4", "closed"]


def test_a_crash_a_refusal_and_a_loss_reach_the_parent(tmp_path: Path) -> None:
    outlet = hosted("Dying", tmp_path / "log")
    with pytest.raises(SinkError, match=r"x: its process was killed by signal 6 \(SIGABRT\)"):
        outlet.send(grey(1), 0.0)
    outlet.close()
    with pytest.raises(SinkError, match="x: the name is taken; choose another"):
        hosted("Refusing", tmp_path / "log")
    outlet = hosted("Losing", tmp_path / "log")
    with pytest.raises(SinkLost, match="lost: hung up"):
        outlet.send(grey(1), 0.0)
    outlet.close()


def test_a_hanging_process_is_lost_after_a_while_and_ends_at_once_when_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = hosted("Hanging", tmp_path / "log")
    monkeypatch.setattr(process, "SILENT_S", 0.3)
    with pytest.raises(SinkLost, match="takes nothing any more"):
        outlet.send(grey(1), 0.0)
    outlet.close()
    monkeypatch.setattr(process, "SILENT_S", 1e9)
    closing = threading.Event()
    outlet = hosted("Hanging", tmp_path / "log", closing.is_set)
    closing.set()
    with pytest.raises(SinkError, match="x: ends"):
        outlet.send(grey(1), 0.0)
    outlet.close()


# Names and addresses.


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("out.mp4", "a file is written by --out"),
        ("film:out.mp4", "expected ndi:, syphon:, vcam:, mjpeg: or rtmp://"),
        ("", "expected ndi:"),
        ("mjpeg:", "expected a port, as mjpeg:8513"),
        ("mjpeg:x", "expected a port from 1 to 65535"),
        ("mjpeg:0", "expected a port from 1 to 65535"),
        ("http://host/1", "--to http://host/1: http:// is not sent to; expected rtmp://"),
        ("rtmp://", "expected rtmp://HOST:PORT/PATH"),
        ("rtmp://host:x/live", "expected rtmp://HOST:PORT/PATH"),
        ("rtmp://ho st/live", "expected rtmp://HOST:PORT/PATH"),
        ("rtmp://me:pass@host:0/live/secret", "--to rtmp://host:0/live/...:"),
        ("ndi:", "expected a name after the colon, as ndi:sdxs"),
        (f"ndi:{'x' * 201}", "expected a name of 200 characters at most"),
        ("ndi:a\nb", "expected a name of 200 characters at most"),
    ],
)
def test_what_is_no_output_is_refused(spec: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_outputs([spec])
    assert says in str(refused.value) and "pass" not in str(refused.value)


def test_a_missing_package_and_another_system_are_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    monkeypatch.setattr(registry.sys, "platform", "linux")
    for spec, says in (
        ("ndi:a", "cyndilib is not installed; pip install 'sdxs\\[ndi\\]'"),
        ("vcam:", "pyvirtualcam is not installed; pip install pyvirtualcam"),
        ("syphon:a", "syphon: is for macOS; ndi:NAME takes its place"),
    ):
        with pytest.raises(UsageError, match=says):
            read_output(spec)
    monkeypatch.setattr(registry.sys, "platform", "darwin")
    with pytest.raises(UsageError, match="syphon is not installed; pip install 'sdxs"):
        read_output("syphon:a")


def test_one_output_is_named_once() -> None:
    check_outputs(["mjpeg:8513", "mjpeg:8514", "udp://127.0.0.1:1", "udp://127.0.0.1:2"])
    for twice in (["mjpeg:8513", "mjpeg:127.0.0.1:8513"], ["udp://h:1", "UDP://h:1"]):
        with pytest.raises(UsageError, match="is named twice"):
            check_outputs(twice)


def test_messages_show_no_password_and_no_key() -> None:
    assert shown("rtmp://me:secret@live.host/app/key?x=1") == "rtmp://live.host/app/..."
    assert shown("srt://host:9000?passphrase=secret") == "srt://host:9000"
    assert shown("srt://host:9000?passphrase=se/cret") == "srt://host:9000"
    assert shown("rtsp://me:secret@host/cam") == "rtsp://host/cam"
    assert read_output("RTMP://host/app/key").rest == "rtmp://host/app/key"


def test_the_first_that_cannot_be_opened_closes_the_others() -> None:
    taken = MjpegServer(read_output("mjpeg:18613").address)  # type: ignore[arg-type]
    try:
        with pytest.raises(SinkError, match="--to mjpeg:127.0.0.1:18613: cannot listen there"):
            open_outputs(["mjpeg:18614", "mjpeg:18613"], 30, alone=True)
        again = open_outputs(["mjpeg:18614"], 30, alone=True)  # its port is free again
        assert again.places == ["mjpeg: http://127.0.0.1:18614/"]
        again.close()
    finally:
        taken.shut()


# The command.


def test_a_session_goes_to_a_page_and_to_a_server_that_is_not_there(
    command: Command, tmp_path: Path
) -> None:
    stats = tmp_path / "s.json"
    done = command(
        *(*LIVE, "--headless", "--frames", 12, "--stats", stats),
        *("--to", "mjpeg:18615", "--to", "rtmp://127.0.0.1:9/live/key"),
    )
    assert done.code == 0 and "12 frames in" in done.out
    assert "mjpeg: http://127.0.0.1:18615/" in done.err
    assert "frames to mjpeg:127.0.0.1:18615" in done.out
    assert "frames to rtmp://127.0.0.1:9/live/..." in done.out and "key" not in done.out + done.err
    assert '"outputs": [' in stats.read_text()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--to", "out.mp4"), 2, "a file is written by --out"),
        (("--to", "mjpeg:18616", "--to", "mjpeg:18616"), 2, "is named twice"),
        (("--out", "ndi:stage"), 2, "a live output is named by --to ndi:stage"),
        (
            ("--to", "mjpeg:18616", "--source", "a.png", "--source", "b.png", "--out", "o/"),
            2,
            "--to shows one",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Path(name).touch()
    source = () if "--source" in options else ("--source", "synthetic")
    done = command("live", "--model", "demo", "--headless", *source, *options)
    assert done.code == code and says in done.err.replace("\n", " ")
    assert len(done.err.splitlines()) < 4


def test_a_port_in_use_ends_the_command_before_the_session(command: Command) -> None:
    taken = MjpegServer(read_output("mjpeg:18617").address)  # type: ignore[arg-type]
    try:
        done = command(*LIVE, "--headless", "--frames", 3, "--to", "mjpeg:18617")
    finally:
        taken.shut()
    assert done.code == 1 and "mjpeg:127.0.0.1:18617: cannot listen there" in done.err
