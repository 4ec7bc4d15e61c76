"""The way in for everything that changes a running session: queue, readers, glides, news."""

import json
import math
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fake_session import FakeSession
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.errors import UsageError
from sdxs.common.io.inputs.controls import (
    FULL,
    MOST_TEXT,
    MOST_WAITING,
    OVER,
    Controls,
    News,
    Request,
)
from sdxs.common.io.inputs.reading import read_change, read_event
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live.glides import Glide, Glides
from sdxs.common.live.options import SessionFiles
from sdxs.common.live.parameters import (
    TABLE,
    Change,
    Cue,
    Event,
    LiveParameters,
    Set,
    Step,
    apply,
)
from sdxs.common.live.threads.loop import Loop, LoopOptions


def offered(*changes: Change) -> tuple[Controls, list[Change]]:
    controls = Controls(LiveParameters())
    for change in changes:
        controls.offer(change)
    return controls, [each.change for each in controls.take()]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ([Set("ema", 0.1), Set("blend", 1), Set("ema", 0.2)], [Set("blend", 1), Set("ema", 0.2)]),
        ([Step("ema", 0.1), Step("ema", 0.2)], [Step("ema", 0.1 + 0.2)]),
        ([Set("ema", 0.5), Step("ema", 0.1)], [Set("ema", 0.5), Step("ema", 0.1)]),
        ([Step("ema", 0.1), Set("ema", 0.5)], [Set("ema", 0.5)]),
        ([Step("pause", 1), Step("pause", 1)], [Step("pause", 1), Step("pause", 1)]),
        ([Set("position", 1), Set("prompt", "a")], [Set("prompt", "a")]),
        (
            [Set("ema", 0.1), Event.SNAPSHOT, Set("ema", 0.2)],
            [Set("ema", 0.1), Event.SNAPSHOT, Set("ema", 0.2)],
        ),
        ([Event.SNAPSHOT, Event.SNAPSHOT], [Event.SNAPSHOT]),
        ([Event.RECORD, Event.RECORD], [Event.RECORD, Event.RECORD]),
        ([Cue("a"), Cue("b")], [Cue("a"), Cue("b")]),
    ],
)
def test_the_latest_value_wins_and_events_keep_their_place(
    changes: list[Change], left: list[Change]
) -> None:
    controls, taken = offered(*changes)
    assert taken == left
    assert controls.counts.offered == len(changes)
    assert controls.counts.merged == len(changes) - len(left)


def test_steps_that_are_no_numbers_are_not_added_to_good_ones() -> None:
    _, taken = offered(Step("ema", 0.1), Step("ema", math.nan))
    assert taken[0] == Step("ema", 0.1) and len(taken) == 2


def test_a_queue_that_is_full_refuses_the_newest_and_says_so() -> None:
    controls, said = Controls(LiveParameters()), list[str]()
    for _ in range(MOST_WAITING + 3):
        controls.offer(Event.RECORD, answer=said.append)
    assert said == [FULL] * 3 and controls.counts.dropped == 3
    assert len(controls.take()) == MOST_WAITING
    controls.offer(Event.RECORD, answer=said.append)
    assert len(said) == 3, "there is room again"


def test_what_has_no_place_in_the_queue_is_refused_at_once() -> None:
    controls, said = Controls(LiveParameters()), list[str]()
    controls.offer(Set("speed", 1), answer=said.append)
    controls.offer(Set("prompt", "x" * (MOST_TEXT + 1)), answer=said.append)
    controls.offer(Cue("x" * (MOST_TEXT + 1)), answer=said.append)
    assert said[0].startswith("unknown parameter 'speed'; known are prompt")
    assert all(f"expected {MOST_TEXT} at most" in each for each in said[1:])
    assert controls.take() == [] and controls.counts.refused == 3


def test_whoever_is_replaced_or_too_late_is_answered() -> None:
    controls, said = Controls(LiveParameters()), list[str]()
    controls.offer(Set("ema", 0.1), answer=lambda why: said.append(f"first {why}"))
    controls.offer(Set("ema", 0.2), answer=lambda why: said.append(f"second {why}"))
    controls.close()
    controls.offer(Set("ema", 0.3), answer=lambda why: said.append(f"third {why}"))
    assert said == ["first ", f"second {OVER}", f"third {OVER}"]


def test_of_each_origin_one_waits_for_the_change_that_took_its_place() -> None:
    controls, said = Controls(LiveParameters()), list[str]()
    for number in range(100):
        origin = ("a", "b")[number % 2] if number < 99 else "c"
        controls.offer(
            Set("ema", number / 1000),
            origin,
            lambda why, number=number: said.append(f"{number}{why}"),  # type: ignore[misc]
        )
    (left,) = controls.take()
    assert left.others.keys() == {"a", "b"} and len(said) == 97
    left.reply("no")
    assert set(said[97:]) == {"97", "98", "99no"}


def test_a_flood_of_prompts_encodes_the_first_and_the_last() -> None:
    begun, goes_on, encoded = threading.Event(), threading.Event(), list[str]()

    def encode(text: str) -> np.ndarray:
        begun.set()
        assert goes_on.wait(30)
        encoded.append(text)
        return np.zeros((1, 77, 4), np.float32)

    backend = IdentityBackend(None, BackendOptions(64))
    loop = Loop(Synthetic(64), [backend], LoopOptions(64), [], FrameParams(), encode)
    asked = [loop.set_prompt("first")]
    assert begun.wait(30)
    asked += [loop.set_prompt(str(number)) for number in range(50)]
    goes_on.set()
    asked[-1].result(30)
    loop._encoder.shutdown()
    assert encoded == ["first", "49"] and len(loop._pending) <= 2


def test_many_threads_offer_and_nothing_is_lost_or_grows() -> None:
    """Every offer is answered once; what was never merged or refused has been taken."""
    controls, answers, taken = Controls(LiveParameters()), list[str](), list[Request]()
    names = [name for name, row in TABLE.items() if row.kind is float]

    def flood(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(500):
            change: Change = Set(chance.choice(names), chance.random())
            if number % 7 == 0:
                change = chance.choice([Event.RECORD, Step("pause", 1), Set("none", 0)])
            controls.offer(change, str(seed), answers.append)

    threads = [threading.Thread(target=flood, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += (now := controls.take())
        assert len(now) <= MOST_WAITING
    taken += controls.take()
    counts = controls.counts
    assert counts.offered == 2000
    assert len(taken) == counts.offered - counts.merged - counts.dropped - counts.refused
    waiting = sum(1 + len(each.others) for each in taken)
    assert len(answers) + waiting == counts.offered


def test_a_session_takes_what_was_offered_and_answers() -> None:
    session, said, news = FakeSession("a >> b", "c"), list[str](), list[News]()
    session.controls.watch(news.append)
    session.controls.offer(Set("blend", 0.5), "osc", said.append)
    session.controls.offer(Set("blend", 2), "osc", said.append)
    session.controls.offer(Set("mirror", True), "osc", said.append)
    assert session.values.mirror is False, "nothing is applied before the session takes it"
    session._idle()
    assert (session.values.blend, session.values.mirror) == (0.0, True)
    assert said[0] == said[2] == "" and said[1] == "blend 2: expected a number from 0 to 1"
    assert news == [News(session.values, ("mirror",), "osc")]
    assert session.controls.counts.refused == 1
    session.controls.offer(Event.NEXT_PROMPT, "osc", said.append)
    session.controls.offer(Cue("chorus"), "osc", said.append)
    session._idle()
    assert session.values.prompt == "c" and "--schedule" in said[-1]
    assert news[-1].event is Event.NEXT_PROMPT and session.controls.values is session.values


def test_keys_are_told_to_those_who_watch_until_they_stop() -> None:
    session, news = FakeSession(), list[News]()
    stop = session.controls.watch(news.append)
    session.press("]")
    assert [(each.names, each.origin) for each in news] == [(("blend",), "key")]
    stop()
    session.press("]")
    assert len(news) == 1 and session.controls.values.blend == 0.2


def test_inputs_are_started_once_and_closed_and_their_failure_is_raised() -> None:
    calls: list[object] = []

    class Some:
        def start(self, controls: Controls) -> None:
            calls.append(controls)

        def close(self) -> None:
            calls.append("closed")

    session = FakeSession(inputs=[Some()])
    session._idle()
    session._idle()
    assert calls == [session.controls]
    session.controls.fail(OSError("unplugged"))
    with pytest.raises(OSError, match="unplugged"):
        session._idle()
    session._finish()
    assert calls[-1] == "closed"


def test_what_inputs_asked_is_counted_in_the_figures(tmp_path: Path) -> None:
    session = FakeSession()
    session.loop.summary = session.loop.stats.summary(0, (0, 0), "stopped")
    session._parts = replace(session._parts, files=SessionFiles(stats=tmp_path / "s.json"))
    session._write_stats()
    assert "inputs" not in json.loads((tmp_path / "s.json").read_text())
    session.controls.malformed()
    session._write_stats()
    kept = json.loads((tmp_path / "s.json").read_text())["inputs"]
    assert kept["malformed"] == 1 and kept["offered"] == 0


# Glides.


def test_a_glide_goes_straight_and_arrives() -> None:
    glides = Glides()
    glides.begin("ema", Glide(0.2, 0.6, 10.0, 2.0))
    assert glides.at(9.0) == [Set("ema", 0.2)]
    assert glides.at(11.0) == [Set("ema", pytest.approx(0.4))]
    assert glides.at(12.0) == [Set("ema", 0.6)] and glides.at(12.1) == []


def test_a_session_glides_on_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    session, now = FakeSession("a >> b"), [100.0]
    monkeypatch.setattr(session._incoming, "_now_s", lambda: now[0])
    session.apply(Set("blend", 1.0, over_s=4.0), "osc")
    seen = []
    for now[0] in (101.0, 102.0, 103.0):
        session._idle()
        seen.append(session.values.blend)
        if now[0] == 102.0:
            session.press("[")  # whoever takes the knob has it
    assert seen == [0.25, 0.5, 0.4]
    session.apply(Set("position", 1.0, over_s=4.0))
    session.apply(Set("prompt", "plain"))
    now[0] = 105.0
    session._idle()
    assert session.values.written_prompt == "plain", "the glide of the bank before has ended"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Set("mirror", True, 2), "mirror: does not glide; those that do are position"),
        (Set("ema", 0.5, -1), "ema: a glide of -1 s; expected seconds from 0 to 3600"),
        (Set("ema", 0.5, math.nan), "ema: a glide of nan s"),
        (Set("ema", 5, 1), "ema 5: expected a number"),
    ],
)
def test_a_glide_that_cannot_be_is_refused(change: Set, says: str) -> None:
    session = FakeSession()
    with pytest.raises(UsageError, match=f"^{says}"):
        session.apply(change)
    assert session.values == FakeSession().values


# Texts and numbers of protocols.


@pytest.mark.parametrize(
    ("name", "values", "change"),
    [
        ("blend", (1,), Set("blend", 1)),
        ("blend", ("0.5", 2), Set("blend", 0.5, 2.0)),
        ("mirror", (1.0,), Set("mirror", True)),
        ("mirror", ("off",), Set("mirror", False)),
        ("seed", (7.0,), Set("seed", 7)),
        ("seed", (7.5,), Set("seed", 7.5)),
        ("edges", ("canny",), Set("edges", "canny")),
        ("edges", (), Event.EDGES),
        ("prompt", ("a >> b @ 1",), Set("prompt", "a >> b @ 1")),
        ("next_prompt", (), Event.NEXT_PROMPT),
        ("snapshot", (1.0,), Event.SNAPSHOT),
        ("snapshot", (0.0,), None),
        ("step", ("blend", 0.1), Step("blend", 0.1)),
        ("cue", ("chorus",), Cue("chorus")),
    ],
)
def test_a_message_is_read(name: str, values: tuple[object, ...], change: Change | None) -> None:
    assert read_change(name, *values) == change
    if isinstance(change, Set) and name != "seed":
        apply(LiveParameters(), change)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("speed", (1,), "unknown parameter 'speed'; known are prompt, .* cue and the events quit"),
        ("blend", (), "blend: 0 values; expected a number from 0 to 1"),
        ("blend", (1, 2, 3), "blend: 3 values"),
        ("blend", ("much",), "blend much: expected a number"),
        ("blend", (1, "soon"), "blend: seconds to glide of soon; expected a finite number"),
        ("step", ("blend",), "step: 1 values; expected a parameter and a number"),
        ("step", ("speed", 1), "unknown parameter 'speed'"),
        ("cue", (), "cue: 0 values; expected the name of a cue"),
        ("snapshot", ("x",), "snapshot: is an event"),
    ],
)
def test_a_message_that_means_nothing_is_refused(
    name: str, values: tuple[object, ...], says: str
) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        read_change(name, *values)


def test_events_are_known_by_name() -> None:
    assert [read_event(each.value) for each in Event] == list(Event)
    with pytest.raises(UsageError, match="unknown event 'jump'; known are quit, snapshot"):
        read_event("jump")
