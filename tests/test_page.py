"""The page's server and API: values, frames, steering, and the schema that describes them."""

import json
import os
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from page_stage import Stage, picture_message

from fake_session import SIZE
from sdxs.common.io.inputs.reading import EVENTS
from sdxs.common.live.parameters import TABLE
from sdxs.common.live.standing import standing
from sdxs.common.picture.size import FrameSize
from sdxs.common.settings import Setting
from sdxs.common.web import hub as hub_module
from sdxs.common.web.app import App, files
from sdxs.common.web.client import MESSAGES_PER_S, MOST_ANSWERS, SENDS_PER_S, Client
from sdxs.common.web.frames import PICTURE, Encoded, Screen
from sdxs.common.web.hub import MOST_CLIENTS, Facts, Hub
from sdxs.common.web.messages import MOST_CREDIT, MOST_MESSAGE
from sdxs.common.web.schema import schema
from sdxs.common.web.server import MOST_BYTES, MOST_CONNECTIONS
from sdxs.experiments.measure.page_session import open_files

ROOT = Path(__file__).parent.parent
FACTS = Facts("fake", FrameSize.of(SIZE), 1.0, False)
SCREEN = Screen(FACTS.size, 1, False)

NO_SCHEDULE = "there is no schedule in this session; start it with --schedule FILE"
CREDIT_2 = {"do": "show", "layers": ["picture"], "credit": 2}


def another(row: Setting, before: object) -> object:
    """A valid value of a parameter that is not the present one."""
    if row.name == "prompt":
        return "x >> y // z"
    if row.choices:
        return next(each for each in row.choices if each != before)
    if row.kind is bool:
        return not before
    if row.kind is int:
        return 7
    return 0.25 if before != 0.25 else 0.5


@pytest.mark.parametrize("way", ["socket", "http"])
def test_every_parameter_is_reached_and_its_change_comes_back(way: str) -> None:
    with Stage(control=True) as stage, stage.client() as client:
        for name, row in TABLE.items():
            value = another(row, getattr(stage.session.values, name))
            if way == "socket":
                error = client.ask({"do": "set", "name": name, "value": value})
            else:
                status, said = stage.http("/api/parameters", {"values": {name: value}})
                error = json.loads(said)["error"]
                assert status == (422 if error else 200)
            if row.at_start:
                assert "is fixed once a session runs" in error
                continue
            assert not error
            assert getattr(stage.session.values, name) == value
            if way == "http":
                client.until(
                    lambda said, name=name, value=value: (
                        said["type"] == "values"
                        and said["values"][name] == value
                        and said["origin"] == "api"
                    )
                )


def test_every_event_of_a_key_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Stage(control=True) as stage, stage.client() as client:
        hello = client.of("hello")
        changes = [each for row in hello["keys"] for each in row["changes"].values()]
        asked = [each for each in changes if each["do"] != "event" or each["name"] != "quit"]
        assert {each["name"] for each in asked if each["do"] == "event"} <= EVENTS.keys()
        for change in asked:
            assert client.ask(change) in ("", NO_SCHEDULE), change
        assert client.ask({"do": "event", "name": "quit"}) == ""
        assert stage.session.calls[-1] == ("stop", None)


def test_a_value_out_of_range_and_a_parameter_without_effect_are_answered() -> None:
    with Stage() as stage, stage.client() as client:
        rows = {row["name"]: row for row in client.of("hello")["parameters"]}
        assert "nothing reads edges" in rows["control_scale"]["unusable"]
        assert "fixed at the start" in rows["strength"]["unusable"] and not rows["ema"]["unusable"]
        for change, why in (
            ({"name": "ema", "value": 2}, "expected"),
            ({"name": "ema", "value": "much"}, "expected"),
            ({"name": "edges", "value": "canny"}, "nothing reads edges"),
            ({"name": "nothing", "value": 1}, "unknown parameter"),
            ({"name": "seed", "value": 1.5}, "expected"),
            ({"name": "mirror", "value": True, "over_s": 1}, "does not glide"),
        ):
            assert why in client.ask({"do": "set"} | change)
        assert stage.http("/api/parameters", {"values": {"ema": 2}})[0] == 422
        assert client.ask({"do": "set", "name": "blend", "value": 0.5, "over_s": 0.01}) == ""
        client.until(lambda said: said["type"] == "values" and said["values"]["blend"] == 0.5)


def test_what_is_said_keeps_to_the_schema_and_so_must_what_is_sent() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())

    def check(message: object, name: str) -> None:
        one = {"$ref": f"#/$defs/{name}", "$defs": schema()["$defs"]}
        jsonschema.Draft202012Validator(one).validate(message)

    with Stage(camera=True) as stage, stage.client() as client, stage.client() as second:
        asked = {"do": "set", "name": "blend", "value": 0.5}
        assert client.ask(asked) == ""
        second.send({"do": "ask"})
        client.until(lambda said: said["type"] == "people" and said["asking"] == [2])
        stage.session.press("+")
        client.until(lambda said: said["type"] == "values" and said["origin"] == "key")
        client.send(picture_message(1, b"no JPEG"))
        assert "no JPEG" in client.of("taken")["error"]
        stage.page.tell(standing(stage.session.loop, stage.session._viewer, stage.session.prompts))
        client.until(lambda said: said["type"] == "figures" and "fps" in said)
        client.send(CREDIT_2)
        stage.show()
        check(client.frame()[0], "frame head")
        for path in ("state", "parameters", "prompt", "schema"):
            assert stage.http(f"/api/{path}")[0] == 200
    for said in client.heard:
        check(said, "said")
    assert {said["type"] for said in client.heard} >= {
        "hello",
        "values",
        "people",
        "taken",
        "figures",
    }
    for name in ("set", "step", "event", "cue"):
        with pytest.raises(jsonschema.ValidationError):
            check({"do": name, "name": "no such thing", "more": 1}, "sent")
    for message in (asked, CREDIT_2, {"do": "ask"}, {"do": "shown", "frame": 1}):
        check(message, "sent")


def test_frames_come_as_far_as_credit_goes_and_the_newest_wins() -> None:
    with Stage() as stage, stage.client() as client, stage.client() as slow:
        slow.send(CREDIT_2)  # and reads no frame
        assert "another page steers" in slow.ask({"do": "step", "name": "pause", "delta": 1})
        client.send({"do": "show", "layers": ["camera", "picture"], "credit": 99})
        assert client.ask({"do": "step", "name": "pause", "delta": 1}) == ""
        for number in range(30):
            stage.show(100 + number)
            head, jpegs = client.frame()
            assert head["frame"] == number and list(head["layers"]) == ["picture", "camera"]
            length = head["layers"]["picture"]
            for part, level in ((jpegs[:length], 100 + number), (jpegs[length:], 50 + number // 2)):
                decoded = cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR)
                assert decoded.shape == (SIZE, SIZE, 3) and abs(decoded.mean() - level) < 2
            client.send({"do": "shown", "frame": head["frame"]})
        first, second = slow.frame()[0]["frame"], slow.frame()[0]["frame"]
        slow.send({"do": "shown", "frame": second})
        assert first < second < 29 and slow.frame()[0]["frame"] == 29
        assert not client.frames and len(stage.page.clients) == 2


def test_a_frame_behind_a_short_message_does_not_wait_for_its_acknowledgement() -> None:
    with Stage() as stage, stage.client() as client:
        client.of("hello")
        assert stage.page._server
        (connection,) = stage.page._server.server_state.connections
        wire = connection.transport.get_extra_info("socket")
        assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_page_that_comes_while_nothing_moves_sees_the_last_picture() -> None:
    with Stage() as stage, stage.client() as client, stage.client() as late:
        client.send(CREDIT_2)
        stage.show(50)
        client.frame()
        late.send({"do": "show", "layers": ["camera", "edges"], "credit": 1})
        assert list(late.frame()[0]["layers"]) == ["camera", "edges"]
        late.send({"do": "show", "layers": ["no"], "credit": 1})
        assert "expected some of" in late.of("answer")["error"]


def test_a_snapshot_is_the_newest_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Stage() as stage:
        assert stage.http("/api/snapshot")[0] == 503
        stage.show(10)
        stage.show(200)
        for kind, exact in (("image/png", 0), ("image/jpeg", 2)):
            _, said = stage.http("/api/snapshot", Accept=kind)
            picture = cv2.imdecode(np.frombuffer(said, np.uint8), cv2.IMREAD_COLOR)
            assert picture.shape == (SIZE, SIZE, 3) and abs(picture.mean() - 200) <= exact
        assert stage.http("/api/snapshot", {})[0] == 200  # the session's own, by its own name
        assert stage.session.notes[-1] == "there is no picture yet to save"
    assert not list(tmp_path.iterdir())


def test_prompts_and_events_by_http() -> None:
    with Stage() as stage:
        assert stage.http("/api/prompt", {"prompt": "q >> r @ 0.5"})[0] == 200
        said = json.loads(stage.http("/api/prompt")[1])
        assert (said["prompt"], said["position"]) == ("q >> r", 0.5)
        assert stage.http("/api/event", {"name": "next_prompt"})[0] == 200
        assert json.loads(stage.http("/api/state")[1])["values"]["prompt"] == "b"
        for path, body in (
            ("event", {"name": "dance"}),
            ("cue", {"name": "finale"}),
            ("event", {"name": "quit", "now": True}),
            ("prompt", {"prompt": 7}),
            ("parameters", []),
        ):
            status, said = stage.http(f"/api/{path}", body)
            assert status == 422 and json.loads(said)["error"]


def test_the_first_steers_others_ask_and_who_leaves_leaves_it_to_who_asked() -> None:
    change = {"do": "set", "name": "blend", "value": 0.5}
    with Stage() as stage, stage.client() as second:
        first = stage.client()
        first.of("hello")
        third = stage.client()
        first, second = second, first  # connected in that order
        assert first.ask(change) == "" and "another page steers" in second.ask(change)
        second.send({"do": "ask"})
        first.until(lambda said: said["type"] == "people" and said["asking"] == [2])
        first.send({"do": "keep"})
        second.until(lambda said: said["type"] == "people" and said["asking"] == [])
        third.send({"do": "ask"})
        first.until(lambda said: said["type"] == "people" and said["asking"] == [3])
        first.send({"do": "give", "to": 9})
        assert "no page 9" in first.of("answer")["error"]
        second.send({"do": "give", "to": 2})  # which it has not
        first.close()
        third.until(lambda said: said["type"] == "people" and said["steers"] == 3)
        assert third.ask(change) == ""
        third.send({"do": "give", "to": 2})
        second.until(lambda said: said["type"] == "people" and said["steers"] == 2)
        assert second.ask(change) == ""
        for each in (second, third):
            each.close()


def test_more_than_some_clients_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MOST_CLIENTS", 2)
    with Stage() as stage, stage.client() as first, stage.client() as second:
        with pytest.raises(Exception, match="403"):
            stage.client()
        second.close()
        first.until(lambda said: said["type"] == "people" and said["here"] == [1])
        with stage.client() as third:
            assert third.of("hello")["you"] == 3


def test_fifty_viewers_come_and_go_and_leave_no_socket() -> None:
    with Stage() as stage:
        stage.http("/api/state")
        before = open_files(os.getpid())
        for _ in range(2):
            with ExitStack() as viewers:
                callers = [viewers.enter_context(stage.client(close_timeout=0)) for _ in range(50)]
                for each in callers:
                    each.send(CREDIT_2)
                    each.of("people")
                stage.show()
                assert all(each.frame()[0]["layers"] for each in callers)
                assert len(stage.page.clients) == 50
            while json.loads(stage.http("/api/state")[1])["people"]["here"]:
                pass
        for _ in range(1000):
            if before is None or (left := open_files(os.getpid())) is None or left <= before:
                break
            stage.http("/api/state")
        else:
            pytest.fail(f"{left} files and sockets are open, {before} were before")
        assert not stage.page.clients


def test_a_client_that_reads_no_answers_is_left() -> None:
    client = Client(1)
    for number in range(MOST_ANSWERS + 1):
        assert not client.ended.is_set()
        client.answer({"type": "answer", "id": number, "error": ""})
    assert client.ended.is_set()


def test_credit_is_bounded_and_given_back_once() -> None:
    client = Client(1)
    client.offer(Encoded(1, 0, "", {PICTURE: b""}))
    assert not client._frame  # nothing was asked for
    client.show(frozenset({PICTURE}), 10**9)
    assert client.credit == MOST_CREDIT
    client._out.extend([1, 2])
    client.show(frozenset({PICTURE}), 3)
    assert client.credit == 1
    client.has_shown(2)
    client.has_shown(2)
    client.has_shown(77)
    assert client.credit == 3 and client.shown == 2


def test_the_end_is_told_and_the_port_is_free_again() -> None:
    with Stage() as stage:
        client = stage.client()
        client.of("hello")
        port = int(stage.url.rpartition(":")[2])
    client.of("over")
    with Stage(port=port) as again, again.client() as client:
        assert client.of("hello")["you"] == 1


def test_what_the_page_does_itself_are_events_of_the_window() -> None:
    page = files()["/page.js"][0].decode()
    (own,) = re.findall(r"const LOCAL = \{(.*?)\n\};", page, re.DOTALL)
    names = set(re.findall(r"^  (\w+): ", own, re.MULTILINE))
    assert len(names) == 8 and names <= EVENTS.keys()


def test_the_schema_of_the_docs_is_the_servers_own() -> None:
    """`python -m sdxs.commands.tables` writes it."""
    held = json.loads((ROOT / "docs" / "web-schema.json").read_text())
    assert held == json.loads(json.dumps(schema()))


def test_the_docs_name_every_path_of_the_api_and_the_bounds() -> None:
    text = (ROOT / "docs" / "web.md").read_text()
    named = set(re.findall(r"`(?:GET|POST) (/api/\w+)`", text)) | {"/api/socket"}
    served = {route.path for route in App(Hub(FACTS, SCREEN)).asgi().routes}
    assert named == {path for path in served if path.startswith("/api")}
    for bound in (MOST_CLIENTS, MOST_CONNECTIONS, MOST_BYTES >> 20, f"{MOST_MESSAGE:,}"):
        assert str(bound) in text
    assert f"{SENDS_PER_S:.0f} frames" in text and f"{MESSAGES_PER_S:.0f} messages" in text


def test_the_client_of_the_docs_moves_a_slider_and_sees_a_frame() -> None:
    (sample,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "web.md").read_text(), re.DOTALL
    )
    assert len([line for line in sample.splitlines() if line.strip()]) <= 11
    with Stage() as stage:
        stage.show(120)
        found: dict[str, object] = {}
        exec(sample.replace("127.0.0.1:8512", stage.url.removeprefix("http://")), found)
        picture = cv2.imdecode(np.frombuffer(found["jpeg"], np.uint8), cv2.IMREAD_COLOR)
        assert abs(picture.mean() - 120) < 2
        # A frame may come before the session takes the change; changes are taken in turn.
        assert stage.http("/api/parameters", {"values": {"ema": 0.1}})[0] == 200
        assert stage.session.values.blend == 0.3
