"""Addresses of the network as options name them: a port, or host and port."""

import ipaddress
import socket
from dataclasses import dataclass

from ...errors import UsageError, reason

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Address:
    """A host by number and a port; an option that names none means this machine alone.

    name: of the host, if it was named and not numbered.
    """

    host: str
    port: int
    name: str = ""

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(option: str, text: str, least: int = 1) -> Address:
    """Return the address of '9000', 'host:9000' or '[::1]:9000'. Raises UsageError.

    least: 0 where a port of 0 means any that is free.
    """
    host, _, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    if not least <= number < 65536:
        raise UsageError(f"{option} {text}: expected a port from {least} to 65535, or HOST:PORT")
    try:
        found = socket.getaddrinfo(host or LOOPBACK, number, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{option} {text}: the host is not known ({reason(error)}); expected HOST:PORT"
        ) from None
    numbered = str(found[0][4][0])
    return Address(numbered, number, "" if host in ("", numbered) else host.lower())
