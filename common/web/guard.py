"""Who may come in: the host, the page's origin and the token, before anything else is read.

A foreign page that a user has open can send requests to this machine. It cannot change the headers
Host, Origin and Sec-Fetch-Site, so these tell it apart; a name of its own that leads here (DNS
rebinding) is in Host. Programs send no Origin.
"""

import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_PROTOCOL = "token."  # a browser's socket has no other place for it
SOCKET_PROTOCOL = "sdxs"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_PACKED = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]


class Guard:
    """Wraps the application; refuses with 403 (or 401 without the token), says why, and counts."""

    def __init__(self, app: ASGIApp, names: frozenset[str], token: str) -> None:
        """names: of this machine, in small letters. token: asked for under /api, unless ''."""
        self._app = app
        self._names = names
        self._token = token
        self.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        why, status = self._why_foreign(headers, scope["path"].startswith("/api")), 403
        if not why and self._token and scope["path"].startswith("/api"):
            why, status = self._why_unknown(headers), 401
        if not why:
            await self._app(scope, receive, _with_headers(send))
            return
        self.refused += 1
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": why})
        else:
            await PlainTextResponse(f"{why}\n", status)(scope, receive, _with_headers(send))

    def _why_foreign(self, headers: list[tuple[bytes, bytes]], api: bool) -> str:
        """Say what tells that a request comes from elsewhere; '' for nothing.

        A link on another page may lead to ours, which says nothing by itself.
        """
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return "this is not the host that the request names; open the address that was printed"
        for name, value in headers if api else ():
            text = value.decode("latin-1")
            if name == b"origin" and urlsplit(text).netloc.lower() != hosts[0].lower():
                return "another page may not ask this; open the address that was printed"
            if name == b"sec-fetch-site" and text not in ("same-origin", "none"):
                return "another page may not ask this; open the address that was printed"
        return ""

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _why_unknown(self, headers: list[tuple[bytes, bytes]]) -> str:
        """Say that the token is missing or wrong; '' if it is right."""
        for name, value in headers:
            text = value.decode("latin-1")
            if name == b"authorization":
                said = [text.removeprefix("Bearer ")]
            elif name == b"sec-websocket-protocol":
                parts = (each.strip() for each in text.split(","))
                said = [
                    each.removeprefix(TOKEN_PROTOCOL)
                    for each in parts
                    if each.startswith(TOKEN_PROTOCOL)
                ]
            else:
                continue
            if any(secrets.compare_digest(each.encode(), self._token.encode()) for each in said):
                return ""
        return "the token is missing or wrong; open the address that was printed, all of it"


def _with_headers(send: Send) -> Callable[[MutableMapping[str, Any]], Awaitable[None]]:
    """Add the page's headers to every response."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_PACKED]
        await send(message)

    return sending
