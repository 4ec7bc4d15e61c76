"""A model hub on 127.0.0.1 that serves the hub's own client library, with faults on order.

Serves one repository at one revision. Files ending in .safetensors are "large": the hub knows their
sha256 and redirects to where they are stored; the others it knows by git's hash.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import huggingface_hub
import huggingface_hub.constants
import pytest

from sdxs.common.checkpoint.registry import ENTRIES, Entry

MOST_SENT = 1 << 30  # an endless answer ends here if nobody hangs up

Json = dict[str, "str | int | Json"]


class FakeHub:
    """State of the server: what it holds, how it misbehaves, what it was asked for."""

    def __init__(self, known: Entry, folder: Path) -> None:
        self.known = known
        self.files = {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file()
        }
        self.refuse = 0  # answer everything with this HTTP status
        self.refuse_files = 0  # answer file requests with this HTTP status
        self.login_page = False  # answer everything with html, as a hotel's network does
        self.ignore_range = False
        # Files whose stored bytes are not what the hub says they are.
        self.damaged: set[str] = set()
        self.cut: dict[str, int] = {}  # file -> bytes sent before the connection breaks, once
        self.endless: set[str] = set()  # files that are sent again and again, without a length
        self.sent = 0  # bytes of them
        self.down_after_cut = False  # and nothing is served from then on
        self.requests: list[tuple[str, str, int]] = []  # method, path, first byte asked for
        self.authorizations: list[tuple[str, str]] = []  # path, Authorization header
        self.port = 0

    def downloads(self) -> list[str]:
        """Files asked for, in order, redirects not counted."""
        return [path.split("/stored/")[1] for _, path, _ in self.requests if "/stored/" in path]

    def hash(self, name: str) -> str:
        """What the hub calls a file's content: sha256 if it is large, else git's sha1."""
        content = self.files[name]
        if name.endswith(".safetensors"):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def describe(self, name: str) -> Json:
        size = len(self.files[name])
        about: Json = {"type": "file", "path": name, "size": size, "oid": self.hash(name)}
        if name.endswith(".safetensors"):
            about |= {
                "oid": "f" * 40,
                "lfs": {"oid": self.hash(name), "size": size, "pointerSize": 130},
            }
        return about


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement

        def log_message(self, format: str, *args: object) -> None: ...

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if self.fault(hub.refuse):
                return
            wanted = f"/api/models/{hub.known.repo}/paths-info/{hub.known.revision}"
            if self.path != wanted:
                self.answer(404, b"{}", "application/json")
                return
            found = [hub.describe(name) for name in form["paths"] if name in hub.files]
            self.answer(200, json.dumps(found).encode(), "application/json")

        def do_GET(self) -> None:
            if self.fault(hub.refuse or hub.refuse_files):
                return
            path = urlsplit(self.path).path
            resolve, stored = f"/{hub.known.repo}/resolve/{hub.known.revision}/", "/stored/"
            if path.startswith(resolve) and path.removeprefix(resolve) in hub.files:
                self.redirect(path.removeprefix(resolve))
            elif path.startswith(stored) and path.removeprefix(stored) in hub.files:
                self.send_file(path.removeprefix(stored))
            else:
                self.answer(404, b"")

        def do_HEAD(self) -> None:
            name = self.path.removeprefix(f"/{hub.known.repo}/resolve/{hub.known.revision}/")
            if name not in hub.files:
                self.answer(404, b"")
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", hub.known.revision)
            self.send_header("ETag", f'"{hub.hash(name)}"')
            self.send_header("Content-Length", str(len(hub.files[name])))
            self.end_headers()

        def fault(self, status: int) -> bool:
            start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]
            hub.requests.append((self.command, self.path, int(start)))
            hub.authorizations.append((self.path, self.headers.get("Authorization", "")))
            if status:
                self.answer(status, b"refused")
            elif hub.login_page:
                self.answer(200, b"<html>Welcome! Please log in.</html>", "text/html")
            return bool(status or hub.login_page)

        def redirect(self, name: str) -> None:
            # another host name, so that a client which takes its token along can be caught
            self.send_response(302)
            self.send_header("X-Repo-Commit", hub.known.revision)
            self.send_header("Location", f"http://localhost:{hub.port}/stored/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send_file(self, name: str) -> None:
            content = hub.files[name]
            if name in hub.damaged:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = 0 if hub.ignore_range else hub.requests[-1][2]
            if name in hub.endless:
                self.send_without_end(content)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if name in hub.cut:
                self.wfile.write(content[start : start + hub.cut.pop(name)])
                self.close_connection = True
                hub.refuse_files = 503 if hub.down_after_cut else 0
            else:
                self.wfile.write(content[start:])

        def send_without_end(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            with suppress(ConnectionError):
                while hub.sent < MOST_SENT:
                    hub.sent += self.wfile.write(content)

        def answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def serve(hub: FakeHub) -> Iterator[None]:
    """Answer requests until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", hub.port), _handler(hub))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_client_at(port: int, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Point the hub's library, which read its environment on import, to this server."""
    endpoint = f"http://127.0.0.1:{port}"
    constants = huggingface_hub.constants
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    patch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / "harnesses.json"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.delenv("HF_TOKEN", raising=False)
    patch.setenv("NO_PROXY", "127.0.0.1,localhost")
    huggingface_hub.close_session()  # the next one reads the environment again


def register(patch: pytest.MonkeyPatch, **changes: str) -> Entry:
    """Put one more checkpoint into the registry for the duration of a test."""
    values = {
        "name": "test-model",
        "repo": "someone/test-model",
        "revision": "0123456789" * 4,
        "licence": "MIT",
        "note": "",
        "pickle_only": "",
    }
    known = Entry(**(values | changes))
    patch.setitem(ENTRIES, known.name, known)
    return known
