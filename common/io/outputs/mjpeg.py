"""The picture as Motion JPEG over HTTP, which browsers, OBS and FFmpeg open.

On this machine alone it is open; elsewhere the address holds a token. A request's Host must be a
number or this machine's own name, and browsers embed the stream in no page of another site.
"""

import secrets
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import cast
from urllib.parse import parse_qs, urlsplit

import numpy as np

from ...errors import SinkError, reason
from ...picture.jpeg import jpeg
from ..inputs.address import Address

MOST_VIEWERS = 16
SILENT_S = 10.0  # that a viewer may take nothing
BOUNDARY = b"sdxs-picture"
_HEADERS = {
    "Content-Type": f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-site",
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; frame-ancestors 'none'",
}


class MjpegServer:
    """Serves the newest picture to its viewers; encodes nothing while there are none."""

    def __init__(self, address: Address) -> None:
        """Listen. Raises SinkError where the port is taken."""
        self.token = "" if address.is_loopback else secrets.token_urlsafe(16)
        self._address = address
        self._changed = threading.Condition()
        self._picture: np.ndarray | None = None
        self._packed = b""
        self._number = self._packed_number = 0
        self._closed = False
        try:
            self._server = _Server(address, self)
        except OSError as error:
            raise SinkError(
                f"--to mjpeg:{address}: cannot listen there ({reason(error)}); name another port"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="sdxs-mjpeg", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The address to open."""
        host = self._address.name or self._address.host
        if ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def send(self, picture: np.ndarray, _at_s: float) -> None:
        """Show uint8 (H, W, 3) RGB from now on."""
        with self._changed:
            if self._picture is None or self._picture.shape != picture.shape:
                self._picture = np.empty_like(picture)
            np.copyto(self._picture, picture)
            self._number += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing: the next picture may find it, and `shut` ends it."""

    def shut(self) -> None:
        """Send every viewer away, and free the port."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def after(self, number: int) -> tuple[bytes, int] | None:
        """Wait for a picture after that of a number; return its JPEG and number, None at the end.

        The newest wins: who is slow misses some.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._number > number or self._closed)
            if self._closed:
                return None
            if self._packed_number != self._number:
                assert self._picture is not None
                self._packed, self._packed_number = jpeg(self._picture), self._number
            return self._packed, self._number

    def why_refused(self, host: str, path: str) -> str:
        """Say why a request is not answered; '' if it is."""
        if not self._is_ours(host):
            return "this is not the host that the request names; open the address that was printed"
        asked = urlsplit(path)
        if asked.path not in ("/", "/stream.mjpg"):
            return "there is nothing here; the picture is at /"
        said = "".join(parse_qs(asked.query).get("token", [""]))
        if self.token and not secrets.compare_digest(said.encode(), self.token.encode()):
            return "the token is missing or wrong; open the address that was printed, all of it"
        return ""

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in {"localhost", self._address.name or "localhost"}:
                return True
            if not self._address.is_loopback and name == socket.gethostname().lower():
                return True
            ip_address(name)
        except ValueError:
            return False
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, address: Address, owner: MjpegServer) -> None:
        self.address_family = address.family
        self.owner = owner
        self._free = threading.BoundedSemaphore(MOST_VIEWERS)
        super().__init__((address.host, address.port), _Viewer)

    def server_bind(self) -> None:
        """Bind without asking a name server for the host's name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: object, client_address: object) -> None:
        connection = cast(socket.socket, request)
        if not self._free.acquire(blocking=False):
            self.shutdown_request(connection)  # one viewer too many
            return
        super().process_request(connection, client_address)

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(cast(socket.socket, request), client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: viewers come and go."""


class _Viewer(BaseHTTPRequestHandler):
    server_version, sys_version = "sdxs", ""
    timeout = SILENT_S  # of reading and writing

    def do_HEAD(self) -> None:
        self._begin()

    def do_GET(self) -> None:
        if not self._begin():
            return
        owner, number = self._owner, 0
        self.wfile.write(b"--" + BOUNDARY + b"\r\n")
        while (newest := owner.after(number)) is not None:
            packed, number = newest
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
            # with its end: a browser shows a picture once the next boundary has come
            self.wfile.write(head + packed + b"\r\n--" + BOUNDARY + b"\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing: only commands print."""

    @property
    def _owner(self) -> MjpegServer:
        return cast(_Server, self.server).owner

    def _begin(self) -> bool:
        hosts = self.headers.get_all("Host") or []
        why = self._owner.why_refused(hosts[0] if len(hosts) == 1 else "?", self.path)
        if why:
            self.send_response(404 if why.startswith("there is") else 403)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(f"{why}\n".encode())
            return False
        self.send_response(200)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        return True
