"""What the page's server refuses: foreign pages, wrong names, floods, what is no message."""

import asyncio
import contextlib
import json
import random
import shutil
import socket
import ssl
import string
import subprocess
import urllib.request
from pathlib import Path

import pytest
from page_stage import Caller, Stage
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sdxs.common.errors import SinkError, UsageError
from sdxs.common.io.inputs.address import Address
from sdxs.common.io.inputs.controls import MOST_TEXT
from sdxs.common.settings import settings_of
from sdxs.common.web import server as server_module
from sdxs.common.web.address import WebOptions, own_names, token_of, urls
from sdxs.common.web.app import files
from sdxs.common.web.client import BURST, MOST_LATE, Pace
from sdxs.common.web.messages import MOST_MESSAGE
from sdxs.common.web.server import MOST_BYTES, PageServer, open_page

TOKEN = "abcdefghijklmnop-1"
EVIL = "http://evil.example"


@pytest.mark.parametrize(
    ("headers", "page", "api"),
    [
        ({}, 200, 200),
        ({"Host": "localhost:1"}, 200, 200),  # forwarded by ssh -L
        ({"Host": "[::1]:8512"}, 200, 200),
        ({"Host": "192.168.1.7:8512"}, 200, 200),
        ({"Host": "evil.example"}, 403, 403),  # DNS rebinding
        ({"Host": "127.0.0.1.evil.example:8512"}, 403, 403),
        ({"Host": "localhost@evil.example"}, 403, 403),
        ({"Host": "["}, 403, 403),
        ({"Host": ""}, 403, 403),
        ({"Origin": EVIL}, 200, 403),
        ({"Origin": "null"}, 200, 403),
        ({"Origin": "http://127.0.0.1"}, 200, 403),  # another port is another page
        ({"Sec_Fetch_Site": "cross-site"}, 200, 403),
        ({"Sec_Fetch_Site": "same-site"}, 200, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200, 200),
        ({"Sec_Fetch_Site": "none"}, 200, 200),
    ],
)
def test_a_foreign_page_is_refused(headers: dict[str, str], page: int, api: int) -> None:
    with Stage() as stage:
        assert stage.http("/", **headers)[0] == page
        assert stage.http("/api/state", **headers)[0] == api
        body = {"values": {"blend": 0.5}}
        assert stage.http("/api/parameters", body, **headers)[0] == api
        assert stage.session.values.blend == (0.5 if api == 200 else 0.0)


def test_a_foreign_pages_socket_is_refused_and_a_form_is_no_message() -> None:
    with Stage() as stage:
        for options in (
            {"origin": EVIL},
            {"origin": "null"},
            {"additional_headers": {"Sec-Fetch-Site": "cross-site"}},
        ):
            with pytest.raises(InvalidStatus, match="403"):
                stage.client(**options)
        with stage.client(origin=stage.url) as client:
            assert client.of("hello")["you"] == 1
        body = {"values": {"blend": 0.5}}
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            assert stage.http("/api/parameters", body, Content_Type=kind)[0] == 422


def test_every_answer_forbids_frames_sniffing_and_other_peoples_scripts() -> None:
    with Stage() as stage, socket.create_connection(("127.0.0.1", _port(stage))) as wire:
        for path in ("/", "/page.js", "/api/state", "/nothing"):
            wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            said = b""
            while b"\r\n\r\n" not in said:
                said += wire.recv(65536)
            head, _, rest = said.partition(b"\r\n\r\n")
            head = head.lower()
            length = int(head.partition(b"content-length: ")[2].split()[0])
            while len(rest) < length:
                rest += wire.recv(65536)
            assert b"frame-ancestors 'none'" in head and b"default-src 'none'" in head
            assert b"nosniff" in head and b"no-referrer" in head and b"server:" not in head


def _port(stage: Stage) -> int:
    return int(stage.url.rpartition(":")[2])


def test_another_machine_needs_the_token_for_everything_but_the_pages_files() -> None:
    with Stage(token=TOKEN) as stage:
        assert stage.http("/")[0] == stage.http("/page.js")[0] == 200
        for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN[:-1]}):
            assert stage.http("/api/state", **wrong)[0] == 401
            assert stage.http("/api/event", {"name": "quit"}, **wrong)[0] == 401
        assert stage.http(f"/api/state?token={TOKEN}")[0] == 401  # it would stand in logs
        assert stage.http("/api/state", Authorization=f"Bearer {TOKEN}")[0] == 200
        for protocols in ([], ["sdxs"], ["sdxs", "token.wrong"], ["sdxs", "token."]):
            with pytest.raises(InvalidStatus, match="403"):
                stage.client(subprotocols=protocols or None)
        with stage.client(subprotocols=["sdxs", f"token.{TOKEN}"]) as client:
            assert client.socket.subprotocol == "sdxs" and client.of("hello")
        with stage.client(additional_headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            assert client.of("hello")


@pytest.mark.parametrize(
    "path",
    [
        "/../../pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "/page/page.js",
        "//etc/passwd",
        "/%2e%2e/app.py",
        "/app.py",
        "/page.js/",
        "/page.js%00.html",
        "/file:///etc/passwd",
        "/api/snapshot/../../../etc/passwd",
    ],
)
def test_no_file_is_read_by_name(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files()
    with Stage() as stage, monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: pytest.fail("a file was read"))
        with socket.create_connection(("127.0.0.1", _port(stage))) as wire:
            wire.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            said = b"".join(iter(lambda: wire.recv(65536), b""))
    assert said.startswith((b"HTTP/1.1 404", b"HTTP/1.1 307", b"HTTP/1.1 400"))
    assert b"passwd:" not in said and b"root:" not in said and b"[project]" not in said


def test_the_pages_files_ask_nobody_else_and_are_in_the_package() -> None:
    assert {"/", "/index.html", "/page.js", "/page.css", "/socket.js"} <= files().keys()
    for name, (data, _) in files().items():
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, name
        assert "innerHTML" not in text and "eval(" not in text and "style=" not in text


RANDOM = random.Random(18)


def any_value(depth: int = 2) -> object:
    """Something of JSON, often a word of the protocol's."""
    word = RANDOM.choice(
        ["set", "step", "event", "cue", "show", "shown", "ask", "keep", "give", "name", "value"]
        + ["blend", "prompt", "seed", "edges", "pause", "position", "quit2", "tap", "picture"]
    )
    choices: list[object] = [
        word,
        RANDOM.randint(-(10**18), 10**18),
        RANDOM.uniform(-2, 2),
        10.0 ** RANDOM.randint(-300, 300),
        float("nan"),
        float("-inf"),
        None,
        RANDOM.random() < 0.5,
        "".join(RANDOM.choices(string.printable + "\u20ac\U0001f600", k=RANDOM.randint(0, 60))),
        "a" * RANDOM.choice([10, MOST_TEXT + 1]),
    ]
    if depth:
        choices.append([any_value(depth - 1) for _ in range(RANDOM.randint(0, 4))])
        choices.append(any_message(depth - 1))
    return RANDOM.choice(choices)


def any_message(depth: int = 2) -> dict[str, object]:
    """A message that is nearly one."""
    do = RANDOM.choice(["set", "step", "event", "cue", "show", "shown", "ask", "give", "x", 7])
    made = {name: any_value(depth) for name in RANDOM.sample(_FIELDS, RANDOM.randint(0, 4))}
    if RANDOM.random() < 0.6:
        made["name"] = RANDOM.choice(["blend", "prompt", "seed", "ema", "pause", "tap", "skip"])
    return {"do": do} | made


_FIELDS = ["name", "value", "delta", "over_s", "id", "layers", "credit", "frame", "to", "more"]


def test_thousands_of_random_messages_are_answered_or_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sdxs.common.web.client.MESSAGES_PER_S", 1e9)  # all of them, at once
    with Stage(camera=True) as stage, stage.client() as client:
        for number in range(2000):
            kind = RANDOM.random()
            if kind < 0.7:
                client.send(json.dumps(any_message()))
            elif kind < 0.85:
                client.send("".join(RANDOM.choices(string.printable, k=RANDOM.randint(0, 200))))
            else:
                client.send(RANDOM.randbytes(RANDOM.choice([0, 1, 4, 20, 2000])))
            if number % 50 == 49:  # a client that reads nothing is left
                assert client.ask({"do": "set", "name": "seed", "value": number}) == ""
        assert stage.session.values.seed == 1999
        assert stage.http("/api/state")[0] == 200


def test_a_message_too_long_ends_a_socket_and_no_other() -> None:
    with Stage() as stage, stage.client() as client, stage.client() as other:
        client.send("x" * (MOST_MESSAGE + 1))
        assert f"expected {MOST_MESSAGE} at most" in client.of("answer")["error"]
        client.send(b"\xff\xff\xff\x7f" + bytes(100))
        assert "a head of" in client.of("answer")["error"]
        with pytest.raises(ConnectionClosed):  # perhaps while it still sends
            client.send(bytes(MOST_BYTES + 1))
            client.of("answer")
        other.until(lambda said: said["type"] == "people" and said["here"] == [2])
        assert stage.http("/api/prompt", {"prompt": "x" * MOST_MESSAGE})[0] == 422


def test_whoever_speaks_too_fast_is_read_later_and_at_last_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def flood() -> int:
        pace, now = Pace(), 1.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        for number in range(10_000):
            if not await pace.wait():
                return number
        return 0

    assert asyncio.run(flood()) == BURST + MOST_LATE - 1
    assert len(slept) == MOST_LATE and slept == sorted(slept)


def test_connections_are_bounded_and_one_that_asks_nothing_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(server_module, "SILENT_S", 0.2)
    with Stage() as stage:
        silent = [socket.create_connection(("127.0.0.1", _port(stage))) for _ in range(6)]
        for each in silent:
            each.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""
            each.close()
        assert stage.http("/")[0] == 200


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8512", Address("127.0.0.1", 8512)),
        (":0", Address("127.0.0.1", 0)),
        ("0.0.0.0:1", Address("0.0.0.0", 1)),
        ("[::1]:80", Address("::1", 80)),
        ("Localhost:8512", Address("127.0.0.1", 8512, "localhost")),
    ],
)
def test_an_address_is_read_by_its_option(text: str, address: Address) -> None:
    (row,) = (each for each in settings_of(WebOptions) if each.name == "web")
    assert row.parse(text) == address
    assert WebOptions(web=address).web == address


@pytest.mark.parametrize("text", ["", "port", "70000", "1.2.3.4", "-1", "\u0661", "h:"])
def test_no_address(text: str) -> None:
    (row,) = (each for each in settings_of(WebOptions) if each.name == "web")
    with pytest.raises(UsageError, match="expected a port from 0"):
        row.parse(text)


def test_only_this_machine_needs_no_token(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "::1", "127.9.9.9"):
        assert token_of(Address(host, 1), None) == ""
    tokens = {
        token_of(Address(host, 1), None) for host in ("0.0.0.0", "::", "192.168.1.7", "10.0.0.1")
    }
    assert len(tokens) == 4 and all(len(each) >= 16 for each in tokens)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nmore\n")
    assert token_of(Address("127.0.0.1", 1), file) == TOKEN
    for bad in (b"", b"short\n", b"has spaces in it, and more\n", b"\xff" * 40):
        file.write_bytes(bad)
        with pytest.raises(UsageError, match="--web-token"):
            token_of(Address("::", 1), file)
    with pytest.raises(UsageError, match="not readable"):
        token_of(Address("::", 1), tmp_path / "none")


def test_the_token_stands_behind_the_hash() -> None:
    (url,) = urls(Address("192.168.1.7", 8512), 8512, TOKEN, False)
    assert url == f"http://192.168.1.7:8512/#{TOKEN}"
    first, *others = urls(Address("0.0.0.0", 0), 99, TOKEN, True)
    assert first == f"https://localhost:99/#{TOKEN}" and len(others) <= 1
    assert urls(Address("::1", 80), 80, "", False) == ["http://[::1]:80/"]
    named = Address("192.168.1.7", 8512, "stage.lan")
    assert urls(named, 8512, "", False) == ["http://stage.lan:8512/"]
    assert own_names(Address("127.0.0.1", 1)) == {"localhost"}
    assert {"localhost", "stage.lan"} < own_names(named)


def test_a_certificate_makes_the_page_https(tmp_path: Path) -> None:
    openssl = shutil.which("openssl") or pytest.skip("there is no openssl to make a certificate")
    pem, bad = tmp_path / "both.pem", tmp_path / "bad.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    place = ["-subj", "/CN=localhost", "-keyout", pem, "-out", tmp_path / "cert.pem"]
    subprocess.run([openssl, *made, *place], check=True, capture_output=True)
    bad.write_text("no certificate")
    pem.write_bytes(pem.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    trusting = ssl.create_default_context(cafile=str(pem))
    with Stage(cert=pem, camera=True) as stage:
        assert stage.url.startswith("https://127.0.0.1:")
        trusting.check_hostname = False  # it names localhost
        with urllib.request.urlopen(stage.url, timeout=30, context=trusting) as said:
            assert said.status == 200
        origin = {"origin": stage.url}
        with Caller(stage.url, ssl=trusting, **origin) as client:
            assert client.ask({"do": "set", "name": "blend", "value": 0.5}) == ""
    with pytest.raises(UsageError, match="expected a PEM file"):
        Stage(cert=bad)


def test_a_port_that_is_taken_is_an_error_where_it_was_named() -> None:
    page = PageServer(WebOptions(), Address("127.0.0.1", 0))
    taken = Address("127.0.0.1", page._socket.getsockname()[1])
    with pytest.raises(SinkError, match="cannot listen there"):
        open_page(WebOptions(web=taken))
    instead = open_page(WebOptions(), taken)
    assert instead.urls != page.urls
    for each in (page, instead):
        each.close()
    with pytest.raises(UsageError, match="--web-cert"):
        PageServer(WebOptions(web=taken, web_cert=Path("none.pem")), taken)
    with pytest.raises(UsageError, match="there is no page"):
        WebOptions(web_cert=Path("none.pem"))
