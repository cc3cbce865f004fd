"""Packets that are not as usual: what a filter may not look at, or may be fooled by."""

from __future__ import annotations

import socket
import struct

from pytest_bottle.guest.probe.core import operation, packed
from pytest_bottle.guest.probe.direct import HANDMADE, checksum, open_socket
from pytest_bottle.guest.probe.packets import hand_over, proved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record

_TCP, _UDP = 6, 17
#: More fragments follow (RFC 791, 3.1).
_MORE = 0x2000
#: A router takes one off this; two are enough for the far side and for nothing behind it.
_FEW_HOPS = 2


@operation("crafted")
def crafted(operation: Operation, deadline: float) -> Record:
    """Hand an IPv4 packet, or its fragments, to the link address of the next hop ``via``.

    ``trick`` says what is odd about it: ``fast-open`` (data in a SYN), ``tiny`` and ``overlap``
    (fragments), ``source-route``, ``short-lived``, or nothing but its protocol, port or ``sender``.
    """
    return hand_over(operation, deadline, lambda source: _packets(operation, source))


def _packets(operation: Operation, source: str) -> list[bytes]:
    trick, host = operation.get("trick", ""), operation["host"]
    number, body = _body(operation)
    body = proved(packed(source) + packed(host), number, body)
    options, towards = b"", host
    if trick == "source-route":  # by way of the next hop, as RFC 791 has it: it is the destination
        towards = operation["via"]
        options = bytes((131, 7, 4)) + packed(host) + b"\0"
    hops = _FEW_HOPS if trick == "short-lived" else 64
    ends = packed(source) + packed(towards)
    pieces = {
        "tiny": [(0, body[:8], _MORE), (8, body[8:], 0)],
        "overlap": [(0, body[:16], _MORE), (8, body[8:], 0)],
    }.get(trick, [(0, body, 0)])
    return [
        _header(ends, number, len(piece), more | offset // 8, hops, options) + piece
        for offset, piece, more in pieces
    ]


def _header(ends: bytes, number: int, size: int, fragment: int, hops: int, options: bytes) -> bytes:
    words = 5 + len(options) // 4
    length = words * 4 + size
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, length, 86, fragment, hops, number, 0)
    proof = struct.pack("!H", checksum(head + ends + options))
    return head[:10] + proof + ends + options


def _body(operation: Operation) -> tuple[int, bytes]:
    nonce, protocol = operation["nonce"].encode(), operation["protocol"]
    ports = (operation.get("source") or HANDMADE, operation.get("port", 0))
    if protocol == "udp":
        return _UDP, struct.pack("!HHHH", *ports, 8 + len(nonce), 0) + nonce
    if protocol != "tcp":  # room for the longest header that a reader might look for
        return int(protocol), bytes(12) + nonce
    options = data = b""
    if operation.get("trick") == "fast-open":  # a cookie of 8 bytes (RFC 7413, 4.1.1)
        options, data = bytes((1, 1, 34, 10)) + nonce[:8], nonce
    words = 5 + len(options) // 4
    head = struct.pack("!HHIIBBHHH", *ports, 1, 0, words << 4, 2, 1024, 0, 0)
    return _TCP, head + options + data


@operation("ip")
def ip(operation: Operation, _deadline: float) -> Record:
    """Send the nonce in an IP protocol of its own, as far as the kernel lets us."""
    number = int(operation["protocol"])
    with open_socket(operation, socket.SOCK_RAW, number) as sock:
        sock.sendto(bytes(12) + operation["nonce"].encode(), (operation["host"], 0))
    return {"outcome": "sent"}
