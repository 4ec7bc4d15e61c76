"""The page's files, the socket and the HTTP part of the API, as one ASGI application.

The files are read once, when the server starts; what a request names is looked up among them.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..errors import SdxsError, UsageError
from ..io.inputs.reading import EVENTS, read_event, read_set
from ..io.sources.browser import BrowserCamera, SentPicture
from ..live.parameters import PLACES, Change, Cue, Set
from ..picture.jpeg import jpeg
from .client import Client, Pace
from .frames import png
from .guard import SOCKET_PROTOCOL
from .hub import MOST_CLIENTS, Hub
from .messages import (
    MOST_MESSAGE,
    Message,
    NameBody,
    PictureHead,
    PromptBody,
    ValuesBody,
    read,
)
from .schema import schema

PAGE = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
ANSWER_S = 10.0
MOST_HEAD = 200  # bytes before a camera's picture
POLICY_VIOLATION, TRY_LATER = 1008, 1013


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """Return the page's files by their URL's path, each with its type."""
    found = {
        f"/{path.name}": (path.read_bytes(), KINDS[path.suffix])
        for path in PAGE.iterdir()
        if path.suffix in KINDS
    }
    return found | {"/": found["/index.html"]}


class App:
    """Serves one session."""

    def __init__(self, hub: Hub, camera: BrowserCamera | None = None) -> None:
        """camera: takes the pictures of a page's camera, where that is the source."""
        self._hub = hub
        self._camera = camera
        self._over = asyncio.Event()
        self._one_at_a_time = asyncio.Semaphore(1)  # a PNG takes 10 ms of a core

    def asgi(self) -> Starlette:
        """Return the application."""
        get, post = ["GET"], ["POST"]
        return Starlette(
            routes=[
                WebSocketRoute("/api/socket", self._socket),
                Route("/api/state", self._state, methods=get),
                Route("/api/parameters", self._parameters, methods=get),
                Route("/api/parameters", self._set, methods=post),
                Route("/api/prompt", self._prompt, methods=get),
                Route("/api/prompt", self._set_prompt, methods=post),
                Route("/api/event", self._event, methods=post),
                Route("/api/cue", self._cue, methods=post),
                Route("/api/snapshot", self._picture, methods=get),
                Route("/api/snapshot", self._snapshot, methods=post),
                Route("/api/schema", self._schema, methods=get),
                *(Route(path, self._file, methods=get) for path in files()),
            ],
            exception_handlers={SdxsError: _refused},
        )

    def end(self) -> None:
        """Leave every client, once it has been told. Server's thread."""
        self._over.set()

    # The socket.

    async def _socket(self, socket: WebSocket) -> None:
        client = self._hub.enter()
        if client is None:
            await socket.close(TRY_LATER, f"{MOST_CLIENTS} look on already; try later")
            return
        try:
            chosen = SOCKET_PROTOCOL if SOCKET_PROTOCOL in socket.scope["subprotocols"] else None
            await socket.accept(chosen)
            await self._serve(socket, client)
        except (WebSocketDisconnect, OSError, RuntimeError):
            pass  # it has left, perhaps between two sends
        finally:
            self._hub.leave(client)

    async def _serve(self, socket: WebSocket, client: Client) -> None:
        tasks = [
            asyncio.create_task(each)
            for each in (
                client.send(socket),
                self._listen(socket, client),
                client.ended.wait(),
                self._over.wait(),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[3] in done:
                await asyncio.sleep(0.05)  # the farewell goes out
            for each in done:
                each.result()
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(OSError, RuntimeError):
            await asyncio.wait_for(
                socket.close(POLICY_VIOLATION if client.ended.is_set() else 1001), 1
            )

    async def _listen(self, socket: WebSocket, client: Client) -> None:
        pace = Pace()
        while await pace.wait():
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            asked: object = None
            try:
                if (text := message.get("text")) is not None:
                    asked = read(Message, text)
                    self._hub.hear(client, asked)
                else:
                    self._take(client, message["bytes"])
            except UsageError as error:
                number = getattr(asked, "id", None)
                client.answer({"type": "answer", "id": number, "error": str(error)})
        client.ended.set()

    def _take(self, client: Client, data: bytes) -> None:
        """Take a picture of a page's camera: 4 bytes, a JSON head of that length, a JPEG."""
        length = int.from_bytes(data[:4], "little")
        if length > MOST_HEAD:
            raise UsageError(f"a head of {length} bytes; expected {MOST_HEAD} at most")
        head = read(PictureHead, data[4 : 4 + length])
        assert isinstance(head, PictureHead)
        number, loop = head.picture, asyncio.get_running_loop()

        def done(error: str) -> None:
            reply: dict[str, object] = {"type": "taken", "picture": number, "error": error}
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(client.answer, reply)

        if self._camera is None:
            done("this session reads no browser's camera; start it with --source browser:")
        elif not client.steers:
            done("the camera is that of the page that steers")
        else:
            jpeg = data[4 + length :]
            self._camera.offer(SentPicture(jpeg, (client.number, number), done))

    # The HTTP part.

    async def _file(self, request: Request) -> Response:
        data, kind = files()[request.url.path]
        return Response(data, media_type=kind)

    async def _state(self, _: Request) -> Response:
        hub = self._hub
        return JSONResponse(
            {"values": hub.values(), "figures": hub.figures(), "people": hub.people()}
        )

    async def _parameters(self, _: Request) -> Response:
        values = self._hub.values()
        rows = [row | {"value": values[str(row["name"])]} for row in self._hub.rows()]
        return JSONResponse({"parameters": rows})

    async def _set(self, request: Request) -> Response:
        body = read(ValuesBody, await _body(request))
        assert isinstance(body, ValuesBody)
        changes = [read_set(name, value, body.over_s) for name, value in body.values.items()]
        return await self._ask(*changes)

    async def _prompt(self, _: Request) -> Response:
        values, standing = self._hub.values(), self._hub.standing
        prompts = list(standing.prompts) if standing else []
        return JSONResponse(
            {name: values[name] for name in ("prompt", *PLACES)} | {"prompts": prompts}
        )

    async def _set_prompt(self, request: Request) -> Response:
        body = read(PromptBody, await _body(request))
        assert isinstance(body, PromptBody)
        return await self._ask(Set("prompt", body.prompt))

    async def _event(self, request: Request) -> Response:
        return await self._ask(read_event(await _name(request)))

    async def _cue(self, request: Request) -> Response:
        return await self._ask(Cue(await _name(request)))

    async def _picture(self, request: Request) -> Response:
        kind = "image/jpeg" if "jpeg" in request.headers.get("accept", "") else "image/png"
        encode = jpeg if kind == "image/jpeg" else png
        async with self._one_at_a_time:
            picture = await asyncio.to_thread(self._hub.screen.newest)
            if picture is None:
                return JSONResponse({"error": "there is no picture yet"}, 503)
            return Response(await asyncio.to_thread(encode, picture), media_type=kind)

    async def _snapshot(self, _: Request) -> Response:
        return await self._ask(EVENTS["snapshot"])

    async def _schema(self, _: Request) -> Response:
        return JSONResponse(schema())

    async def _ask(self, *changes: Change) -> Response:
        """Hand changes to the session and wait for what it says."""
        loop = asyncio.get_running_loop()
        waiting = []
        for change in changes:
            answer: asyncio.Future[str] = loop.create_future()
            self._hub.offer(change, "api", _into(answer, loop))
            waiting.append(answer)
        try:
            async with asyncio.timeout(ANSWER_S):
                said = [await each for each in waiting]
        except TimeoutError:
            return JSONResponse({"error": "the session is busy; nothing is lost"}, 503)
        errors = "; ".join(each for each in said if each)
        return JSONResponse({"error": errors, "values": self._hub.values()}, 422 if errors else 200)


def _into(answer: "asyncio.Future[str]", loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
    """Return what an input's answer is told to, from any thread."""

    def settle(error: str) -> None:
        if not answer.done():
            answer.set_result(error)

    def said(error: str) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(settle, error)

    return said


async def _name(request: Request) -> str:
    body = read(NameBody, await _body(request))
    assert isinstance(body, NameBody)
    return body.name


async def _body(request: Request) -> bytes:
    """Read a body of JSON, no longer than MOST_MESSAGE. Raises UsageError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/json":
        raise UsageError(f"a body of type {kind or 'none'}; expected application/json")
    body = b""
    try:
        async with asyncio.timeout(ANSWER_S):
            async for part in request.stream():
                body += part
                if len(body) > MOST_MESSAGE:
                    raise UsageError(f"a body of more than {MOST_MESSAGE} bytes; send less")
    except (TimeoutError, ClientDisconnect):
        raise UsageError(f"the body did not come within {ANSWER_S:.0f} s") from None
    return body


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)
