"""Ableton Link: by a fake that keeps its rules, and for real between two processes."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fake_session import FakeSession
from sdxs.common.errors import UsageError
from sdxs.common.io.inputs import here
from sdxs.common.io.inputs.tempo import FASTEST, Tempo
from sdxs.common.live.inputs import InputOptions, check_inputs, make_stage
from sdxs.common.live.parameters import Event, LiveParameters, Set
from sdxs.common.live.stage import Stage


class FakeLink:
    """A Link session; its beat is only shared once it is enabled."""

    def __init__(self, bpm: float) -> None:
        self.tempo, self.enabled, self.quantum, self.num_peers = bpm, False, 1.0, 0
        self.at = 0.0

    @property
    def beat(self) -> float:
        assert self.enabled
        return self.at


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Our input, with aalink or with none of it."""
    import importlib

    name = "sdxs.common.io.inputs.link"
    stand_in = ModuleType("aalink")
    stand_in.Link = FakeLink  # type: ignore[attr-defined]
    before = sys.modules.pop(name, None)
    monkeypatch.setitem(sys.modules, "aalink", stand_in)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)
    if before is not None:
        sys.modules[name] = before


def test_a_session_follows_tempo_and_beat_and_hands_over_its_own(module: ModuleType) -> None:
    tempo, now, made = Tempo(120), [0.0], list[FakeLink]()

    def opened(bpm: float) -> FakeLink:
        made.append(FakeLink(bpm))
        return made[0]

    link = module.LinkInput(tempo, lambda: now[0], 8.0, opened)
    link._thread = threading.Thread(target=lambda: None)  # this test looks itself
    session = FakeSession(stage=Stage(tempo, clock=lambda: now[0]), inputs=[link])
    session._idle()
    assert made[0].tempo == 120 and made[0].enabled and made[0].quantum == 8
    made[0].tempo, made[0].at, made[0].num_peers = 90.0, 3.25, 1
    link.look()
    assert (tempo.bpm, tempo.beats(0.0)) == (90, 3.25)
    assert tempo.beats(2.0) == pytest.approx(6.25), "and goes on by itself"
    assert session.notes == ["Link: 1 other program"]
    tempo.set(140, 2.0)
    now[0], made[0].at = 2.0, 6.25
    link.look()
    assert made[0].tempo == 140 == tempo.bpm
    for now[0] in (10.0, 10.5, 11.0):
        session.apply(Event.TAP)
    link.look()
    assert made[0].tempo == pytest.approx(120), "a tap leads all"
    made[0].tempo = 999.0
    link.look()
    assert tempo.bpm == FASTEST
    link.close()
    link.close()
    assert not made[0].enabled


def test_a_beat_that_goes_back_is_counted_anew_and_jitter_is_not() -> None:
    tempo = Tempo(60)
    tempo.lead(60, 10.0, 0.0)
    assert tempo.beats(0.0) == 10
    tempo.lead(60, 9.9, 0.0)
    assert tempo.beats(0.0) == 10, "waits for it"
    tempo.lead(60, 2.5, 0.0)
    assert tempo.beats(0.0) == 2.5 and tempo.beats(1.0) == 3.5


def test_what_waits_for_a_beat_waits_for_that_of_link(module: ModuleType) -> None:
    tempo, now = Tempo(60), [0.0]
    made = FakeLink(60)
    link = module.LinkInput(tempo, lambda: now[0], 4.0, lambda bpm: made)
    link._thread = threading.Thread(target=lambda: None)
    session = FakeSession(stage=Stage(tempo, 4.0, clock=lambda: now[0]), inputs=[link])
    session._idle()
    made.at = 7.5
    link.look()
    session.controls.offer(Set("mirror", True), "osc")
    session._idle()
    assert not session.values.mirror
    now[0] = 0.6
    session._idle()
    assert session.values.mirror
    link.close()


def test_what_ends_the_thread_ends_the_session_and_is_said(module: ModuleType) -> None:
    class Broken(FakeLink):
        @property
        def beat(self) -> float:
            raise OSError("no network")

    link = module.LinkInput(Tempo(60), lambda: 0.0, 0.0, Broken)
    session = FakeSession(inputs=[link])
    with pytest.raises(OSError, match="no network"):
        session._idle()
        link._thread.join()
        session._idle()
    link.close()


def test_without_aalink_or_by_the_time_of_a_film_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sdxs.common.io.inputs.link", raising=False)
    monkeypatch.setitem(sys.modules, "aalink", None)
    with pytest.raises(UsageError, match=r"--link: 'aalink' is not .*pip install aalink.*GPL-3"):
        check_inputs(InputOptions(link=True))
    with pytest.raises(UsageError, match="--link: a file that is rendered frame by frame"):
        place = LiveParameters(), dict[str, str](), False, True, False
        make_stage(InputOptions(link=True), *place, lambda text: None)
    monkeypatch.setattr(here, "_version", lambda package: "")
    assert here.link_here()[0] is None and "GPL-3" in here.link_here()[2]
    monkeypatch.setattr(here, "_version", lambda package: "0.2")
    assert here.link_here() == (True, "aalink 0.2: sdxs live --link", "")


def test_two_processes_agree_on_tempo_and_phase() -> None:
    """For real, by multicast of this machine."""
    pytest.importorskip("aalink", reason="aalink is not installed")
    from sdxs.common.io.inputs.link import LinkInput
    from sdxs.common.live.stage import clock_s

    tempo = Tempo(128, clock_s())
    link = LinkInput(tempo, clock_s)
    session = FakeSession(stage=Stage(tempo), inputs=[link])
    command = [sys.executable, str(Path(__file__).with_name("link_peer.py")), "100"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as peer:
        assert peer.stdin and peer.stdout

        def ask(text: str = "") -> tuple[float, float, float, int]:
            assert peer.stdin and peer.stdout
            peer.stdin.write(f"{text}\n")
            at, bpm, beat, peers = map(float, peer.stdout.readline().split())
            return at, bpm, beat, int(peers)

        def until(*allowed: float) -> tuple[float, float]:
            """Ask until both have one of these tempos, and return the beats of one moment."""
            pause = threading.Event()
            for _ in range(300):
                at, other, beat, peers = ask()
                # Link counts whole microseconds a beat
                agreed = any(max(abs(other - b), abs(tempo.bpm - b)) < 0.01 for b in allowed)
                if peers == 1 and agreed:
                    return beat, tempo._beats(at)
                pause.wait(0.02)
            raise AssertionError((other, tempo.bpm, peers))

        session._idle()
        try:
            theirs, ours = until(100, 128)  # of the older session
            assert abs((theirs - ours + 2) % 4 - 2) < 0.1
            tempo.set(140, clock_s())
            theirs, ours = until(140)
            assert abs((theirs - ours + 2) % 4 - 2) < 0.1
            ask("90")
            theirs, ours = until(90)
            assert abs((theirs - ours + 2) % 4 - 2) < 0.1
        finally:
            link.close()
            peer.stdin.close()
