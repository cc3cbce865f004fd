"""What may begin a tunnel: the first bytes are looked at before any of them is passed on.

The rule, which is the reference sidecar's declared one (PXY-07):

- TLS must name the host that CONNECT was approved for, and no other. Without a name it is refused,
  unless the approved host is an address, which TLS does not name (RFC 6066 section 3); so is a name
  that is encrypted, for nobody can tell it from another, and a greeting that cannot be read. In how
  many pieces it comes does not matter.
- A request of HTTP is refused: in absolute form it would be judged, and each one after it (PXY-05).
- Anything else names no host: it goes to where the tunnel leads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_bottle.guest.policy import Stop, canonical_host, is_literal
from pytest_bottle.guest.relay import Flow

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

#: A fatal alert: "unrecognized_name" (RFC 6066 section 3).
ALERT = b"\x15\x03\x03\x00\x02\x02\x70"
_MOST = 65536
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME = 0
#: Encrypted Client Hello (RFC 9849), and the drafts that were called ESNI.
_ENCRYPTED = frozenset((0xFE0D, 0xFFCE))
_TOKEN = rb"[A-Za-z0-9!#$%&'*+.^_`|~-]"
#: The line of a request (RFC 9112 section 3; 9113 section 3.4), behind any blank ones.
_REQUEST = re.compile(rb"[\r\n \t]*" + _TOKEN + rb"+[ \t]+[^\n]*HTTP/[0-9]")
#: What may become one: no line of it has ended yet.
_BEGUN = re.compile(rb"[\r\n \t]*(" + _TOKEN + rb"{0,32}|" + _TOKEN + rb"{1,32}[ \t][^\n]*)\Z")


class _Short(Exception):  # noqa: N818 - more may come
    """What there is breaks off."""


class TunnelFlow(Flow):
    """A tunnel's way to the origin, which holds back what comes until it is known to be allowed.

    Args:
        source: the client.
        sink: the origin.
        host: the canonical host that was approved.
    """

    def __init__(self, source: socket.socket, sink: socket.socket, host: str) -> None:
        super().__init__(source, sink)
        self._host = host
        self._held: bytes | None = b""

    def receive(self, early: bytes) -> None:
        """Take in what came together with the CONNECT."""
        if early:
            self.pending = self._feed(early)

    def _feed(self, data: bytes) -> bytes:
        """Take in what came; raises Stop if it must not be passed on."""
        if self._held is None:
            return super()._feed(data)
        self._held += data
        reason = look(self._held, self._host)
        if reason is None and data and len(self._held) < _MOST:
            return b""
        if reason or (reason is None and self.greets):
            raise Stop("deny", 403, reason or "tls-unreadable")
        held, self._held = self._held, None
        self.ended = not data
        return held

    @property
    def greets(self) -> bool:
        """Whether what is held back begins as TLS does."""
        return (self._held or b"")[:1] == bytes([_HANDSHAKE])


def look(data: bytes, host: str) -> str | None:
    """Say why the beginning of a tunnel is refused; empty if it is not, None if it is too short."""
    if data[:1] == bytes([_HANDSHAKE]):
        try:
            return _judge(dict(_extensions(_greeting(data))), host)
        except _Short:
            return None
        except ValueError:
            return "tls-unreadable"
    if _REQUEST.match(data):
        return "http-in-tunnel"
    return None if _BEGUN.match(data) else ""


def _judge(extensions: dict[int, bytes], host: str) -> str:
    if _ENCRYPTED & extensions.keys():
        return "tls-encrypted-name"
    if _SERVER_NAME not in extensions:
        return "" if is_literal(host) else "tls-no-name"
    return "" if _name(extensions[_SERVER_NAME]) == host else "tls-other-name"


def _greeting(data: bytes) -> bytes:
    """Put a ClientHello together from its records (RFC 8446 section 5.1); its body."""
    message = b""
    while True:
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if message[0] != _CLIENT_HELLO or size > _MOST:
                raise ValueError("this is no ClientHello")
            if len(message) >= 4 + size:
                return message[4 : 4 + size]
        if len(data) < 5:
            raise _Short
        length = int.from_bytes(data[3:5], "big")
        if data[0] != _HANDSHAKE or data[1] != 3 or not 0 < length <= 1 << 14:
            raise ValueError("this is no record of a handshake")
        message += data[5 : 5 + length]
        data = data[5 + length :]


def _extensions(hello: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the extensions of a ClientHello (RFC 8446 section 4.1.2), none twice."""
    rest, seen = hello[34:], set()
    for width in (1, 2, 1):  # session, cipher suites, compression methods
        _, rest = _vector(rest, width)
    if not rest:
        return  # TLS 1.2 may have none
    listed, rest = _vector(rest, 2)
    if rest:
        raise ValueError("something follows the extensions")
    while listed:
        kind = int.from_bytes(listed[:2], "big")
        body, listed = _vector(listed[2:], 2)
        if kind in seen:
            raise ValueError("an extension comes twice")
        seen.add(kind)
        yield kind, body


def _name(extension: bytes) -> str:
    """The one name in an extension (RFC 6066 section 3)."""
    listed, rest = _vector(extension, 2)
    name, more = _vector(listed[1:], 2)
    if rest or more or listed[:1] != b"\0":
        raise ValueError("this is not one name")
    return canonical_host(name.decode("ascii"))


def _vector(data: bytes, width: int) -> tuple[bytes, bytes]:
    """Take a vector with its length off the front of some bytes."""
    end = width + int.from_bytes(data[:width], "big")
    if len(data) < max(end, width):
        raise ValueError("a length leads beyond the message")
    return data[width:end], data[end:]
