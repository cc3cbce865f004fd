"""Ways to ask a proxy for a destination, as bytes: what clients say, and what no client should.

A dialect is a list of steps. The last ones carry the nonce to where a tunnel would lead, so that a
proxy that opens one is heard at the far side.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.conformance.greetings import client_hello, server_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The end of an HTTP message's head.
HEAD = "\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes to send, and what to wait for then: so many bytes, or a text among them.

    A ``datagram`` goes by UDP to the relay that the answer before it names (RFC 1928 section 7).
    Before the step TLS is begun with the server of the name ``tls``, for HTTP/2, if there is one.
    """

    send: bytes
    until: int | str = 0
    datagram: bool = False
    tls: str = ""

    def order(self) -> dict[str, object]:
        """What the probe is told."""
        tls = {"tls": self.tls} if self.tls else {}
        return {"send": self.send.hex(), "until": self.until, "datagram": self.datagram, **tls}


class Destination(NamedTuple):
    """Where a conversation is to lead: a name with its ports, and addresses for those who use them.

    Attributes:
        host: the name, as bytes on the wire.
        v4: an IPv4 address; ``v6``: an IPv6 address.
        nonce: 32 characters that tell this conversation from all others.
        port: for plain HTTP, and for what has no port of its own.
        tunnel: for CONNECT.
    """

    host: bytes
    v4: str
    v6: str
    nonce: str
    port: int = 80
    tunnel: int = 443

    @property
    def words(self) -> bytes:
        """What is said inside a tunnel: the far side echoes it."""
        return b"BOTTLE %s\n" % self.nonce.encode()

    @property
    def path(self) -> bytes:
        """The target at the origin."""
        return b"/" + self.nonce.encode()


Steps = tuple[Step, ...]


def _message(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((line, *headers, b"", b"")) + body


def request(
    target: bytes, *headers: bytes, method: bytes = b"GET", version: bytes = b"1.1"
) -> Steps:
    """One request, and the head of its answer."""
    return (Step(_message(b"%s %s HTTP/%s" % (method, target, version), *headers), HEAD),)


def connect(authority: bytes, words: bytes, *headers: bytes, version: bytes = b"1.1") -> Steps:
    """CONNECT, and words for the other end of the tunnel whatever the answer is."""
    head = request(authority, *headers, method=b"CONNECT", version=version)
    return (*head, Step(words, words.decode("latin-1").split()[-1]))


def _url(to: Destination) -> bytes:
    return b"http://%s%s" % (to.host, to.path)


def _host(to: Destination) -> bytes:
    return b"Host: " + to.host


def _get(to: Destination) -> Steps:
    return request(_url(to), _host(to))


def _post(to: Destination) -> Steps:
    size = b"Content-Length: %d" % len(to.words)
    head = _message(b"POST %s HTTP/1.1" % _url(to), _host(to), size, body=to.words)
    return (Step(head, HEAD),)


def _connect(to: Destination) -> Steps:
    authority = b"%s:%d" % (to.host, to.tunnel)
    return connect(authority, to.words, b"Host: " + authority)


def _connect_10(to: Destination) -> Steps:
    return connect(b"%s:%d" % (to.host, to.tunnel), to.words, version=b"1.0")


def _origin_form(to: Destination) -> Steps:
    return request(to.path, _host(to))


# -- SOCKS -----------------------------------------------------------------------------------------


def _socks4(to: Destination) -> Steps:
    asked = struct.pack("!BBH", 4, 1, to.port) + _packed(to.v4) + b"bottle\0"
    return (Step(asked, 8), Step(to.words, to.nonce))


def _socks4a(to: Destination) -> Steps:
    asked = struct.pack("!BBH", 4, 1, to.port) + b"\0\0\0\1bottle\0" + to.host + b"\0"
    return (Step(asked, 8), Step(to.words, to.nonce))


def socks5(address: bytes, port: int, *then: Step, command: int = 1) -> Steps:
    """A SOCKS5 request without a password (RFC 1928), for a packed address with its type."""
    asked = struct.pack("!BBB", 5, command, 0) + address + struct.pack("!H", port)
    return (Step(b"\5\1\0", 2), Step(asked, 10), *then)


def socks5_name(host: bytes) -> bytes:
    """A name as SOCKS5 has it: with its length, 255 bytes at the most."""
    return b"\3%c%s" % (len(host[:255]), host[:255])


def _socks5_domain(to: Destination) -> Steps:
    return socks5(socks5_name(to.host), to.port, Step(to.words, to.nonce))


def _socks5_ipv4(to: Destination) -> Steps:
    return socks5(b"\1" + _packed(to.v4), to.port, Step(to.words, to.nonce))


def _socks5_ipv6(to: Destination) -> Steps:
    return socks5(b"\4" + _packed(to.v6), to.port, Step(to.words, to.nonce))


def _socks5_udp(to: Destination) -> Steps:
    head = b"\0\0\0" + socks5_name(to.host) + struct.pack("!H", to.port)
    datagram = Step(head + to.words, 0, datagram=True)
    return socks5(b"\1\0\0\0\0", 0, datagram, command=3)


def _socks5_bind(to: Destination) -> Steps:
    return socks5(socks5_name(to.host), to.port, command=2)


# -- HTTP/2, and what is upgraded to ---------------------------------------------------------------


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _field(index: int, value: bytes) -> bytes:
    """A literal header field whose name stands in HPACK's static table (RFC 7541 section 6.2.2)."""
    return b"%c%c%s" % (index, len(value), value)


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_AUTHORITY, _METHOD, _PATH, _SCHEME = 1, 2, 4, 6


def _get_frame(stream: int, scheme: bytes, authority: bytes, path: bytes) -> bytes:
    get = _field(_METHOD, b"GET") + _field(_SCHEME, scheme) + _field(_PATH, path)
    return _frame(1, 5, stream, get + _field(_AUTHORITY, authority))


def over_http2(path: bytes, *authorities: bytes) -> bytes:
    """The same request for several authorities, on one connection that TLS has made for HTTP/2."""
    asked = (
        _get_frame(2 * number + 1, b"https", authority, path)
        for number, authority in enumerate(authorities)
    )
    return _PREFACE + _frame(4, 0, 0, b"") + b"".join(asked)


def _h2(to: Destination) -> Steps:
    """HTTP/2 with prior knowledge (RFC 9113 section 3.3): a GET, and a CONNECT with words in it."""
    tunnel = _field(_METHOD, b"CONNECT") + _field(_AUTHORITY, b"%s:%d" % (to.host, to.tunnel))
    frames = (
        _frame(4, 0, 0, b""),
        _get_frame(1, b"http", to.host, to.path),
        _frame(1, 4, 3, tunnel),
        _frame(0, 0, 3, to.words),
    )
    return (Step(_PREFACE + b"".join(frames), to.nonce),)


def _upgrade(to: Destination, protocol: bytes, *more: bytes) -> bytes:
    headers = (_host(to), b"Connection: Upgrade", b"Upgrade: " + protocol, *more)
    return _message(b"GET %s HTTP/1.1" % _url(to), *headers)


def _h2c(to: Destination) -> Steps:
    head = _upgrade(to, b"h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
    return (Step(head, HEAD), Step(_PREFACE + _frame(4, 0, 0, b"") + to.words, to.nonce))


def _websocket(to: Destination) -> Steps:
    key = (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13")
    frame = b"\x82%c\0\0\0\0%s" % (0x80 | len(to.words), to.words)  # masked with zeros
    return (Step(_upgrade(to, b"websocket", *key), HEAD), Step(frame, to.nonce))


def _connect_udp(to: Destination) -> Steps:
    """UDP through HTTP/1.1 (RFC 9298 section 3.2), with one datagram in a capsule (RFC 9297)."""
    path = b"/.well-known/masque/udp/%s/%d/" % (to.host, to.tunnel)
    headers = (b"Host: proxy.test", b"Connection: Upgrade", b"Upgrade: connect-udp")
    head = _message(b"GET %s HTTP/1.1" % path, *headers, b"Capsule-Protocol: ?1")
    return (Step(head, HEAD), Step(b"\0%c\0%s" % (1 + len(to.words), to.words)))


def _https(to: Destination) -> Steps:
    """TLS to the proxy itself, with the destination as the server's name (RFC 6066 section 3)."""
    return (Step(client_hello(to.nonce.encode(), server_name(to.host)), 1),)


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


#: Every dialect by name. Those that ask for an address have it in their name.
DIALECTS: Mapping[str, Callable[[Destination], Steps]] = {
    "GET": _get,
    "POST": _post,
    "CONNECT": _connect,
    "CONNECT 1.0": _connect_10,
    "origin-form": _origin_form,
    "SOCKS4 IPv4": _socks4,
    "SOCKS4a": _socks4a,
    "SOCKS5": _socks5_domain,
    "SOCKS5 IPv4": _socks5_ipv4,
    "SOCKS5 IPv6": _socks5_ipv6,
    "SOCKS5 UDP": _socks5_udp,
    "SOCKS5 BIND": _socks5_bind,
    "h2": _h2,
    "h2c": _h2c,
    "WebSocket": _websocket,
    "CONNECT-UDP": _connect_udp,
    "TLS": _https,
}


def said_yes(dialect: str, answers: list[str]) -> bool:
    """Whether a proxy agreed, as far as the dialect has a word for it; never a verdict."""
    last = (answers or [""])[0]
    if dialect.startswith("SOCKS5"):
        return last[:2] == "\5\0" and (answers[1:] or [""])[0][:2] == "\5\0"
    if dialect.startswith("SOCKS4"):
        return last[:2] == "\0\x5a"
    if dialect == "TLS":
        return last[:1] == "\x16"
    return last.startswith("HTTP/1.") and last[9:12] in ("101", "200")
