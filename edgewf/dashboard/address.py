"""Where the dashboard listens, and whether only this machine can reach it there."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from edgewf.errors import EdgewfError
from edgewf.telemetry.metrics import parse_address

_BACKLOG = 64
_SEND_BUFFER = 128 * 1024  # bytes that the system keeps for a browser that does not read
_DEAD_MS = 30_000  # without an acknowledgement from a browser


@dataclass(frozen=True)
class Listening:
    """A socket that accepts connections.

    Attributes:
        socket: it.
        host: as it was asked for.
        loopback: whether only this machine can reach it.
    """

    socket: socket.socket
    host: str
    loopback: bool

    @property
    def port(self) -> int:
        """The port, which the system chose if 0 was asked for."""
        return int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """What to type into a browser."""
        address = ipaddress.ip_address(self.socket.getsockname()[0])
        host = socket.gethostname() if address.is_unspecified else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def hosts(self) -> frozenset[str]:
        """Names that a browser on this machine may have for it, as in a Host header."""
        own = f"[{self.host}]" if ":" in self.host else self.host.lower()
        return frozenset({"localhost", "127.0.0.1", "[::1]", own})


def listen(text: str) -> Listening:
    """Return a socket at "PORT" or "HOST:PORT"; without a host only this machine can reach it.

    The name is looked up once and its address decides what `loopback` says, so that no later
    answer of a name server can open the dashboard to others.

    Raises:
        EdgewfError: no such address, or it is taken.
    """
    try:
        host, port = parse_address(text)
    except EdgewfError as error:
        raise EdgewfError(f"--dashboard: {error}") from error
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # Every browser tries IPv4, so of "localhost" that is the better half.
        family, kind, protocol, _, address = min(found, key=lambda x: x[0] != socket.AF_INET)
        opened = socket.socket(family, kind, protocol)
        try:
            _set_options(opened)
            opened.bind(address)
            opened.listen(_BACKLOG)
        except BaseException:
            opened.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EdgewfError(
            f"--dashboard {text}: {reason}: choose another port or address"
        ) from error
    loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    return Listening(opened, host, loopback)


def _set_options(opened: socket.socket) -> None:
    """Set what accepted connections inherit."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A phone that fell asleep says nothing; the system would go on trying for a quarter hour.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_MS)
