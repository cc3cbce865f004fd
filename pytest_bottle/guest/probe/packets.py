"""Packets made whole and handed to the link: ARP, frames for a next hop, a router's word."""

from __future__ import annotations

import os
import socket
import struct
import time

from pytest_bottle.guest.probe.core import Timeout, limit, operation, packed
from pytest_bottle.guest.probe.direct import HANDMADE, around, checksum, source_of
from pytest_bottle.guest.probe.ipv6 import own_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.guest.probe.core import Operation, Record

#: Where a packet comes from when the guest has no address of the family: some ULA (RFC 4193).
_SOMEBODY = "fd00:86::86"
#: Protocol numbers, and where each one's checksum stands in its header.
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_CHECKSUMS = {_TCP: 16, _UDP: 6, _ICMP: 2, _ICMPV6: 2}


@operation("arp")
def arp(operation: Operation, deadline: float) -> Record:
    """Ask for every address of a /24 on the link; report who answers (RFC 826)."""
    device = operation.get("device", "eth0")
    base = packed(operation["subnet"].partition("/")[0])[:3]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as sock:
        sock.bind((device, 0x0806))
        mac = sock.getsockname()[4]
        mine = packed(operation["source"])
        for number in range(1, 255):
            target = base + bytes([number])
            if target != mine:
                sock.send(_arp_request(mac, mine, target))
        return {"outcome": "answered", "neighbours": _arp_answers(sock, deadline)}


def _arp_request(mac: bytes, mine: bytes, target: bytes) -> bytes:
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + mine + b"\0" * 6 + target
    return b"\xff" * 6 + mac + b"\x08\x06" + arp


def _arp_answers(sock: socket.socket, deadline: float) -> dict[str, str]:
    found, end = {}, time.monotonic() + deadline
    try:
        while True:
            limit(sock, end)
            frame = sock.recv(256)
            if frame[20:22] == b"\0\2":
                found[socket.inet_ntoa(frame[28:32])] = frame[22:28].hex(":")
    except Timeout:
        return found


@operation("frame")
def frame(operation: Operation, deadline: float) -> Record:
    """Hand a packet to the link address of a next hop: no route and no IP stack of ours has a say.

    The link address is ``to``, or that of the address ``via``: one that does not answer ARP is no
    next hop, then nothing was sent, and nothing is proved. ``sender`` is where it says it is from.
    """
    return hand_over(operation, deadline, lambda source: [_datagram(operation, source)])


def hand_over(operation: Operation, deadline: float, make: Callable[[str], list[bytes]]) -> Record:
    """Send whole packets to a link address (:func:`frame`); ``make`` is told their source."""
    device, host, via = operation.get("device", "eth0"), operation["host"], operation.get("via", "")
    kind = 0x86DD if ":" in host else 0x0800
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as sock:
        sock.bind((device, 0x0806))
        mac = sock.getsockname()[4]
        if operation.get("to"):
            hop = bytes.fromhex(operation["to"].replace(":", ""))
        else:
            hop = _link_address(sock, mac, via, deadline)
        source = operation.get("sender")
        source = source or (_global_address(device) if ":" in host else source_of(via))
        for packet in make(source):
            sock.send(hop + mac + struct.pack("!H", kind) + packet)
    return {"outcome": "sent", "hop": hop.hex(":"), "source": source}


def _link_address(sock: socket.socket, mac: bytes, address: str, deadline: float) -> bytes:
    target, end = packed(address), time.monotonic() + deadline
    sock.send(_arp_request(mac, packed(source_of(address)), target))
    try:
        while True:
            limit(sock, end)
            answer = sock.recv(256)
            if answer[20:22] == b"\0\2" and answer[28:32] == target:
                return answer[22:28]
    except Timeout:
        raise RuntimeError(f"{address} does not answer ARP") from None


def _global_address(device: str) -> str:
    """An IPv6 address of ours that others may answer to, or one of nobody's."""
    for found in own_addresses():
        if found["device"] == device and found["scope"] == 0:
            return str(found["address"])
    return _SOMEBODY


def _datagram(operation: Operation, source: str) -> bytes:
    """A whole IPv4 or IPv6 packet with a bare SYN, a datagram or an echo request in it."""
    host, data = operation["host"], around(operation, operation["nonce"].encode())
    ports = (operation.get("source") or HANDMADE, operation["port"])
    if operation["protocol"] == "tcp":
        number, body = _TCP, struct.pack("!HHIIBBHHH", *ports, 1, 0, 5 << 4, 2, 1024, 0, 0)
    elif operation["protocol"] == "udp":
        number, body = _UDP, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    else:
        number = _ICMPV6 if ":" in host else _ICMP
        body = struct.pack("!BBHHH", 128 if ":" in host else 8, 0, 0, os.getpid() & 0xFFFF, 1)
        body += data
    return _packet(source, host, number, body)


def _packet(source: str, host: str, number: int, body: bytes, hops: int = 64) -> bytes:
    """Put the IP header before a body, and the checksum into it (RFC 791, RFC 8200, 8.1)."""
    ends = packed(source) + packed(host)
    body = proved(ends, number, body)
    if ":" in host:
        return struct.pack("!IHBB", 6 << 28, len(body), number, hops) + ends + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, hops, number, 0)
    return head[:10] + struct.pack("!H", checksum(head + ends)) + ends + body


def proved(ends: bytes, number: int, body: bytes) -> bytes:
    """Put the checksum into a body, where its protocol has one."""
    at = _CHECKSUMS.get(number)
    if at is None:
        return body
    pseudo = b"" if number == _ICMP else ends + struct.pack("!II", len(body), number)
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


@operation("sniff")
def sniff(operation: Operation, deadline: float) -> Record:
    """Read along on the link until the deadline, or until somebody says the word ``until``."""
    words = [word.encode() for word in operation["words"]]
    end, heard, frames = time.monotonic() + deadline, set(), 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.bind((operation.get("device", "eth0"), 3))
        while operation["until"].encode() not in heard and time.monotonic() < end:
            try:
                limit(sock, end)
                data, sender = sock.recvfrom(4096)
            except Timeout:
                break
            if sender[2] != 4:  # PACKET_OUTGOING: what we say ourselves is no news
                frames += 1
                heard |= {word for word in words if word in data}
    return {"outcome": "listened", "frames": frames, "heard": sorted(w.decode() for w in heard)}


@operation("claim")
def claim(operation: Operation, _deadline: float) -> Record:
    """Say on the link that other's addresses are ours, and that we give addresses out.

    That is gratuitous ARP (RFC 5227), both forms, an unsolicited neighbour advertisement (RFC 4861,
    4.4) and a DHCP offer (RFC 2131).
    """
    device, frames = operation.get("device", "eth0"), []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((device, 0))
        mac = sock.getsockname()[4]
        for address in operation["addresses"]:
            if ":" in address:
                frames.append(_advertisement(mac, address))
            else:
                mine = packed(address)
                request = _arp_request(mac, mine, mine)
                frames += [request, request[:21] + b"\2" + request[22:32] + mac + mine]
        frames.append(_offer(mac, operation["addresses"][0]))
        for frame in frames:
            sock.send(frame)
    return {"outcome": "sent", "count": len(frames), "link": mac.hex(":")}


def _advertisement(mac: bytes, address: str) -> bytes:
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + packed(address)  # override what is known
    body += struct.pack("!BB", 2, 1) + mac
    packet = _packet(address, "ff02::1", _ICMPV6, body, hops=255)
    return b"\x33\x33\0\0\0\1" + mac + b"\x86\xdd" + packet


def _offer(mac: bytes, server: str) -> bytes:
    mine = packed(server)
    body = struct.pack("!BBBBIHH", 2, 1, 6, 0, 1, 0, 0x8000) + bytes(4) + mine * 2 + bytes(4)
    body += mac.ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63\x35\1\2\x36\4" + mine
    body += b"\3\4" + mine + b"\xff"
    datagram = struct.pack("!HHHH", 67, 68, 8 + len(body), 0) + body
    return b"\xff" * 6 + mac + b"\x08\0" + _packet(server, "255.255.255.255", _UDP, datagram)


@operation("advertise")
def advertise(operation: Operation, _deadline: float) -> Record:
    """Say on the link that we are a router and that a prefix is on it (RFC 4861, 4.2 and 4.6.2)."""
    router, device = "fe80::bad:1", operation.get("device", "eth0")
    seconds = operation["lifetime"]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((device, 0))
        mac = sock.getsockname()[4]
        body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, seconds, 0, 0)
        body += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, seconds, seconds, 0)
        body += packed(operation["prefix"]) + struct.pack("!BB", 1, 1) + mac
        packet = _packet(router, "ff02::1", _ICMPV6, body, hops=255)
        for _ in range(operation.get("times", 3)):
            sock.send(b"\x33\x33\0\0\0\1" + mac + b"\x86\xdd" + packet)
            time.sleep(0.02)
    return {"outcome": "sent"}
