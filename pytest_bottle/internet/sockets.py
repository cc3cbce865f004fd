"""Sockets that listen on every address at once and still know which address was asked."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

# ip(7), ipv6(7): names that Python's socket module has only on some versions.
_IP_PKTINFO = 8
_IPV6_FREEBIND = 78
_ANCILLARY_BYTES = socket.CMSG_SPACE(20) + socket.CMSG_SPACE(12)
_MAPPED = "::ffff:"

if TYPE_CHECKING:
    _Ancillary = list[tuple[int, int, bytes]]


class Datagram(NamedTuple):
    """A datagram that came in, and how to answer it.

    Attributes:
        data: its payload.
        client: the sender's address.
        client_port: the sender's port.
        asked: the address it was sent to.
        sender: the sender as the kernel wants it back.
        back: control messages that make an answer leave from ``asked``.
    """

    data: bytes
    client: str
    client_port: int
    asked: str
    sender: tuple[str, int]
    back: _Ancillary


def tcp_listener(bind: str, port: int) -> socket.socket:
    """A non-blocking TCP listener; ``::`` takes IPv4 as well."""
    listener = _bound(socket.SOCK_STREAM, bind, port)
    listener.listen(1024)
    return listener


def udp_socket(bind: str, port: int) -> socket.socket:
    """A non-blocking UDP socket; ``::`` takes IPv4 as well."""
    return _bound(socket.SOCK_DGRAM, bind, port)


def receive(sock: socket.socket) -> Datagram:
    """Take one datagram.

    The kernel would choose the answer's source by its route, which is not the address that was
    asked when all addresses are ours (RFC 3542 section 6, ip(7)).
    """
    data, ancillary, _, sender = sock.recvmsg(65535, _ANCILLARY_BYTES)
    asked, back = _asked(ancillary)
    return Datagram(data, plain(sender[0]), sender[1], asked, sender, back)


def answer(sock: socket.socket, datagram: Datagram, data: bytes) -> None:
    """Send ``data`` back, from the address that was asked."""
    with suppress(OSError):  # no way back to a forged sender, a full queue: datagrams may be lost
        sock.sendmsg([data], datagram.back, 0, datagram.sender)


def plain(address: str) -> str:
    """An address without its IPv4-mapped form (RFC 4291 section 2.5.5.2)."""
    mapped = "." in address and address.startswith(_MAPPED)
    return address[len(_MAPPED) :] if mapped else address


def _bound(kind: int, bind: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        sock = socket.socket(family, kind)
    except OSError:
        if bind != "::":
            raise
        bind, sock = "0.0.0.0", socket.socket(socket.AF_INET, kind)  # a kernel without IPv6
    try:
        _prepare(sock)
        sock.bind((bind, port))
    except (OSError, OverflowError):  # the latter: a number that is no port
        sock.close()
        raise
    sock.settimeout(0)
    return sock


def _prepare(sock: socket.socket) -> None:
    if sock.type == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if sock.type != socket.SOCK_DGRAM:
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        # A route makes the lab's addresses local, no interface has them: IPv6 minds, IPv4 does not.
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _asked(ancillary: _Ancillary) -> tuple[str, _Ancillary]:
    for level, kind, raw in ancillary:
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            asked = socket.inet_ntop(socket.AF_INET6, raw[:16])
            # Only a link-local answer needs to be told its interface.
            interface = raw[16:20] if asked.startswith("fe80") else bytes(4)
            return plain(asked), [(level, kind, raw[:16] + interface)]
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            address = raw[8:12]
            back = struct.pack("I4s4s", 0, address, address)
            return socket.inet_ntop(socket.AF_INET, address), [(level, kind, back)]
    return "", []
