"""The server of a page: a thread for its sockets, one that encodes. Neither holds up the loop."""

import asyncio
import logging
import multiprocessing
import os
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..backend.memory import footprint_bytes
from ..errors import SdxsError, SinkError, UsageError, reason
from ..io.inputs.address import Address
from ..io.inputs.controls import Controls, News
from ..io.sources.browser import BrowserCamera
from ..live.standing import Standing
from ..live.threads.frames import LiveFrame
from .address import WebOptions, listening, own_names, token_of, urls
from .app import App
from .client import Client
from .frames import Encoded, Screen
from .guard import Guard
from .hub import Facts, Hub

MOST_BYTES = 4 << 20  # of one message; a camera's picture of 8 million pixels has 2 or 3
MOST_CONNECTIONS = 160  # of sockets, files and requests together
SILENT_S = 10.0  # a connection that asks nothing is closed
END_S = 2.0
MEMORY_EVERY_S = 2.0


class Bounded(H11Protocol):
    """Connections of a bounded number; one that asks for nothing is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio leaves Nagle's algorithm on where a listening socket does not say that it is TCP.
        # A frame behind a short message would wait for the page's next one: 20 ms of 48.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(SILENT_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self in self.connections and self.cycle is None:
            self.transport.close()


class PageServer:
    """Shows a session and takes changes; an `Input` and a `Page`. Main thread, but for `_` methods.

    urls: the addresses to open.
    """

    def __init__(self, options: WebOptions, address: Address) -> None:
        """Listen; serve nothing yet. Raises SinkError, UsageError."""
        token = token_of(address, options.web_token)
        self._context = _certificate(options.web_cert)
        self._socket = listening(address)
        port = self._socket.getsockname()[1]
        self.urls = urls(address, port, token, self._context is not None)
        self.token = token
        self.replaces_window = False
        self._names = own_names(address)
        self._hub: Hub | None = None
        self._camera: BrowserCamera | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._app: App | None = None
        self._threads: list[threading.Thread] = []
        self._unwatch: Callable[[], None] | None = None
        self._begun = threading.Event()

    def present(
        self, facts: Facts, outputs: int, edges: bool, camera: BrowserCamera | None
    ) -> None:
        """Say what is shown. outputs: backends. camera: where a page's camera is the source."""
        self._camera = camera
        self._hub = Hub(facts, Screen(facts.size, outputs, edges))

    # The session.

    def start(self, controls: Controls) -> None:
        assert self._hub is not None, "`present` comes first"
        self._hub.controls = controls
        for name, work in (("sdxs-page", self._serve), ("sdxs-page-encode", self._encode)):
            thread = threading.Thread(target=self._guarded, args=(work, controls), name=name)
            thread.daemon = True
            self._threads.append(thread)
        self._threads[0].start()
        self._begun.wait()
        self._threads[1].start()
        self._unwatch = controls.watch(self._happened)

    def show(self, frame: LiveFrame) -> None:
        if self._hub:
            self._hub.screen.show(frame)

    def tell(self, standing: Standing) -> None:
        if self._hub:
            self._post(self._hub.stands, standing)

    def close(self) -> None:
        """End both threads, after a farewell to the pages; calling it again does nothing."""
        if self._unwatch:
            self._unwatch()
            self._unwatch = None
        if self._hub and self._app and self._server:
            self._post(self._hub.end)
            self._post(self._app.end)
            self._server.should_exit = True
            self._hub.screen.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(END_S)
        self._threads.clear()
        self._socket.close()

    @property
    def clients(self) -> list[Client]:
        """Who is connected, for figures."""
        return list(self._hub.clients.values()) if self._hub else []

    def _happened(self, news: News) -> None:
        if self._hub:
            self._post(self._hub.happened, news)

    def _post(self, call: Callable[..., None], *values: object) -> None:
        """Call something on the server's thread, unless that has ended."""
        if self._loop:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call, *values)

    # The two threads.

    def _guarded(self, work: Callable[[], None], controls: Controls) -> None:
        try:
            work()
        except BaseException as error:
            controls.fail(error)
        finally:
            self._begun.set()

    def _serve(self) -> None:
        _quiet()
        asyncio.run(self._serving())

    async def _serving(self) -> None:
        hub = self._hub
        assert hub is not None
        self._loop = asyncio.get_running_loop()
        self._app = App(hub, self._camera)
        context = self._context
        config = uvicorn.Config(
            Guard(self._app.asgi(), self._names, self.token),
            http=Bounded,
            ws="websockets-sansio",
            ws_max_size=MOST_BYTES,
            ws_per_message_deflate=False,  # JPEGs do not get smaller
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
        )
        self._server = uvicorn.Server(config)
        watching = asyncio.create_task(_watch_memory(hub))
        self._begun.set()
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            watching.cancel()

    def _encode(self) -> None:
        hub = self._hub
        assert hub is not None
        camera = self._camera

        def deliver(frame: Encoded) -> None:
            self._post(hub.deliver, frame)

        hub.screen.run(deliver, camera.sender if camera else lambda _: None)


async def _watch_memory(hub: Hub) -> None:
    """Keep the figure of memory: this process and those that it has started, as it knows."""
    while True:
        hub.memory_bytes = await asyncio.to_thread(memory)
        await asyncio.sleep(MEMORY_EVERY_S)


def memory() -> int:
    """Return the footprint of this process and its children in bytes."""
    total = 0
    for pid in (os.getpid(), *(each.pid for each in multiprocessing.active_children())):
        with suppress(SdxsError):  # it has just ended
            total += footprint_bytes(pid)
    return total


def _certificate(file: Path | None) -> ssl.SSLContext | None:
    """Read a certificate and its key. Raises UsageError."""
    if file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # without a password it would ask on the terminal
        context.load_cert_chain(file, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--web-cert {file}: not readable ({reason(error)}); expected a PEM file of a "
            "certificate and its key without a password"
        ) from None
    return context


def _quiet() -> None:
    """Keep the server's log off the terminal."""
    for name in ("uvicorn", "uvicorn.error", "websockets", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def open_page(options: WebOptions, fallback: Address | None = None) -> PageServer:
    """Open the page of `options`, else at `fallback`, and there at any port if that is taken.

    Raises SinkError, UsageError.
    """
    if options.web is not None:
        return PageServer(options, options.web)
    assert fallback is not None
    try:
        return PageServer(options, fallback)
    except SinkError:
        return PageServer(options, Address(fallback.host, 0))
