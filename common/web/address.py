"""Where the page is served: `[HOST:]PORT`, its token, and the addresses to open."""

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from ..errors import SinkError, UsageError, reason
from ..io.inputs.address import Address, read_address
from ..settings import setting

PORT = 8512  # of a page that starts by itself
LEAST_TOKEN = 16  # characters
MOST_TOKEN_FILE = 4096


@dataclass(frozen=True, slots=True)
class WebOptions:
    """The page of a session. Raises UsageError."""

    web: Address | None = setting(
        None,
        "show a page in the browser, at [HOST:]PORT; a HOST of other than this machine needs the "
        "token that is printed",
        shown="no page; where no window is possible, one in a terminal",
        read=lambda text: read_address("--web", text, least=0),
        write=str,
    )
    web_token: Path | None = setting(
        None,
        "file whose first line is the page's token, instead of a new one at each start",
        shown="a new token, and none for this machine alone",
    )
    web_cert: Path | None = setting(
        None,
        "PEM file of a certificate and its key: the page comes by https, which the camera of a "
        "browser on another machine needs",
        shown="http",
    )

    def __post_init__(self) -> None:
        for flag, value in (("--web-token", self.web_token), ("--web-cert", self.web_cert)):
            if value is not None and self.web is None:
                raise UsageError(f"{flag} {value}: there is no page; add --web {PORT}")


def token_of(address: Address, file: Path | None) -> str:
    """Return the token that a page asks for; '' for none. Raises UsageError."""
    if file is None:
        return "" if address.is_loopback else secrets.token_urlsafe(16)
    try:
        with file.open("rb") as opened:
            lines = opened.read(MOST_TOKEN_FILE).decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"--web-token {file}: not readable ({reason(error)})") from None
    token = lines[0].strip() if lines else ""
    if len(token) < LEAST_TOKEN or not token.replace("-", "").replace("_", "").isalnum():
        raise UsageError(
            f"--web-token {file}: its first line is no token; expected {LEAST_TOKEN} letters, "
            "digits, - and _ at least"
        )
    return token


def listening(address: Address) -> socket.socket:
    """Return a socket that listens there. Raises SinkError."""
    place = (address.host, address.port)
    try:
        return socket.create_server(place, family=address.family, backlog=64)
    except OSError as error:
        raise SinkError(
            f"--web {address}: cannot listen there ({reason(error)}); name another port, or 0 for "
            "any that is free"
        ) from None


def urls(address: Address, port: int, token: str, secure: bool) -> list[str]:
    """Return the addresses to open: of this machine, and of others if they can reach it.

    The token stands behind the #, which a browser sends to nobody.
    """
    scheme, end = ("https" if secure else "http"), f":{port}/" + (f"#{token}" if token else "")
    hosts = [address.name or address.host]
    if address.host in ("0.0.0.0", "::"):
        hosts = ["localhost", *_reached_as()]
    return [f"{scheme}://{bracketed(host)}{end}" for host in hosts]


def own_names(address: Address) -> frozenset[str]:
    """Return the names, in small letters, that a request may call this machine by.

    An IP address is always right: a foreign page reaches this machine only by a name of its own.
    """
    names = {"localhost", *([address.name] if address.name else [])}
    if not address.is_loopback:
        own = socket.gethostname().lower()
        names |= {own, f"{own.partition('.')[0]}.local"}
    return frozenset(names)


def bracketed(host: str) -> str:
    """Write a host as a URL does."""
    return f"[{host}]" if ":" in host else host


def _reached_as() -> list[str]:
    """Return the address by which others reach this machine, if there is one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a network of examples, RFC 5737
            return [str(probe.getsockname()[0])]
        except OSError:
            return []
