"""The page of `sdxs live`: where it is opened, and what the command says of it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape

from ..common.errors import SinkError, UsageError
from ..common.io.inputs.address import LOOPBACK, Address
from ..common.io.sinks.registry import is_window
from ..common.io.sinks.window import window_obstacle
from ..common.live.options import SessionFiles, SessionOptions
from ..common.web.address import PORT, WebOptions
from ..common.web.here import INSTALL, missing
from .console import err, out

if TYPE_CHECKING:
    from ..common.backend.protocol import Backend
    from ..common.checkpoint.find import Checkpoint
    from ..common.live.session import Session
    from ..common.web.server import PageServer


@contextmanager
def page_for(
    web: WebOptions, session: SessionOptions, files: SessionFiles
) -> "Iterator[PageServer | None]":
    """Open the page that was asked for, or one in place of a window, for a block; None for none.

    A window that was not refused, and of which nothing was said, may be impossible. In a terminal a
    page takes its place then, and this says so. Raises SinkError, UsageError.
    """
    window = not session.headless and not any(is_window(each) for each in files.outs)
    if web.web is None and not (window and out.is_terminal):
        yield None
        return
    obstacle = window_obstacle() if window else ""
    if web.web is None and not obstacle:
        yield None
        return
    if lacking := missing():
        if web.web is None:
            raise SinkError(
                f"no window can be shown: {obstacle}; add --headless and --out FILE, or, for a "
                f"page in the browser, {INSTALL}"
            )
        raise UsageError(f"--web {web.web}: {', '.join(lacking)} is missing; {INSTALL}")
    from ..common.web.server import open_page

    page = open_page(web, Address(LOOPBACK, PORT))
    page.replaces_window = bool(obstacle)
    if obstacle:
        err.print(
            escape(f"no window can be shown: {obstacle}; a page in the browser takes its place")
        )
    try:
        yield page
    finally:
        page.close()


def present(
    page: "PageServer",
    session: "Session",
    checkpoint: "Checkpoint",
    backends: "list[Backend]",
    options: SessionOptions,
) -> None:
    """Tell the page what it shows, and the user where it is."""
    from ..common.io.sources.browser import BrowserCamera
    from ..common.web.hub import Facts

    size = session.loop.size
    shown = options.show_size if options.fit == "stretch" and options.show_size else size
    camera = session.source if isinstance(session.source, BrowserCamera) else None
    facts = Facts(checkpoint.name, size, round(shown.width / shown.height, 4), camera is not None)
    page.present(facts, len(backends), bool(checkpoint.control), camera)
    for url in page.urls:
        err.print(f"page: [bold]{escape(url)}[/]")
    if page.token and err.is_terminal:
        err.print(escape(_qr(page.urls[-1])))


def _qr(url: str) -> str:
    """Draw a URL for the camera of a phone."""
    import segno

    drawn = io.StringIO()
    segno.make(url, error="l").terminal(drawn, border=2, compact=True)
    return drawn.getvalue()
