"""A page's server before a session that only writes down what it is told, and a client of it."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from websockets.sync.client import connect

from fake_session import SIZE, FakeSession
from sdxs.common.io.inputs.address import Address
from sdxs.common.io.sources.browser import BrowserCamera
from sdxs.common.live.threads.frames import LiveFrame
from sdxs.common.picture.size import FrameSize
from sdxs.common.web.address import WebOptions
from sdxs.common.web.hub import Facts
from sdxs.common.web.server import PageServer

PATIENCE_S = 30.0


class Stage:
    """Serves a page at any free port; `session` takes the changes, on a thread of its own."""

    def __init__(
        self,
        token: str = "",
        camera: bool = False,
        port: int = 0,
        cert: Path | None = None,
        **session: object,
    ) -> None:
        self.session = FakeSession(**session)  # type: ignore[arg-type]
        address = Address("127.0.0.1", port)
        self.page = PageServer(WebOptions(web=address, web_cert=cert), address)
        self.page.token = token
        size = FrameSize.of(SIZE)
        self.camera = BrowserCamera(size) if camera else None
        self.page.present(Facts("fake", size, 1.0, camera), 1, True, self.camera)
        self.url = self.page.urls[0].rstrip("/")
        self._over = threading.Event()
        self._pump = threading.Thread(target=self._run)
        self._numbers = 0

    def __enter__(self) -> "Stage":
        self.page.start(self.session.controls)
        self._pump.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._pump.join()
        self.page.close()
        self.session.controls.take()  # raises what ended the server

    def _run(self) -> None:
        while not self._over.wait(0.002):
            self.session._idle()

    def show(self, level: int = 100) -> LiveFrame:
        """Show a frame of one grey, the camera of half of it."""
        camera, output = (np.full((SIZE, SIZE, 3), each, np.uint8) for each in (level // 2, level))
        frame = LiveFrame(camera, [output], self._numbers, prompt="a")
        frame.edges = np.zeros((SIZE, SIZE), np.uint8)
        self._numbers += 1
        self.page.show(frame)
        return frame

    def http(self, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        """Ask the server; return status and body."""
        data = None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            named.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(f"{self.url}{path}", data, named)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as said:
                return said.status, said.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()

    def client(self, **options: object) -> "Caller":
        return Caller(self.url, **options)


def picture_message(number: int, jpeg: bytes) -> bytes:
    """What a page sends of its camera."""
    head = json.dumps({"picture": number}).encode()
    return len(head).to_bytes(4, "little") + head + jpeg


class Caller:
    """A program at the socket. heard: all messages of text so far."""

    def __init__(self, url: str, **options: object) -> None:
        options.setdefault("open_timeout", PATIENCE_S)
        address = f"{url.replace('http', 'ws', 1)}/api/socket"
        self._open = ExitStack()
        self.socket = self._open.enter_context(connect(address, max_size=None, **options))  # type: ignore[arg-type]
        self.heard: list[dict[str, object]] = []
        self.frames: list[tuple[dict[str, object], bytes]] = []
        self._numbers = 0

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def send(self, message: object) -> None:
        text = isinstance(message, str | bytes)
        self.socket.send(message if text else json.dumps(message))  # type: ignore[arg-type]

    def hear(self) -> dict[str, object] | None:
        """Take one message; None for a frame, which is kept."""
        data = self.socket.recv(PATIENCE_S)
        if isinstance(data, bytes):
            length = int.from_bytes(data[:4], "little")
            self.frames.append((json.loads(data[4 : 4 + length]), data[4 + length :]))
            return None
        self.heard.append(json.loads(data))
        return self.heard[-1]

    def until(self, wanted: Callable[[dict[str, object]], object]) -> dict[str, object]:
        """Hear until a message is as wanted, and return it."""
        while not ((message := self.hear()) and wanted(message)):
            pass
        return message

    def of(self, kind: str) -> dict[str, object]:
        return self.until(lambda message: message["type"] == kind)

    def frame(self) -> tuple[dict[str, object], bytes]:
        """Take the next frame."""
        while not self.frames:
            self.hear()
        return self.frames.pop(0)

    def ask(self, message: dict[str, object]) -> str:
        """Send a change and return what became of it: '' or the reason why not."""
        self._numbers += 1
        self.send(message | {"id": self._numbers})
        return str(
            self.until(lambda said: said["type"] == "answer" and said["id"] == self._numbers)[
                "error"
            ]
        )
