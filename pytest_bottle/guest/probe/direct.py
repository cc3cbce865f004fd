"""Stimuli that go straight at a destination: TCP, UDP, echo requests, and sweeps of ports."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from pytest_bottle.guest.probe.core import ECHO, Timeout, limit, operation, packed, place
from pytest_bottle.guest.probe.netlink import add_route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_bottle.guest.probe.core import Operation, Record

#: The kernel's name for opening a connection with the first words (tcp(7)).
_TCP_FASTOPEN_CONNECT = 30
#: The port that packets come from which we make ourselves.
HANDMADE = 40000


@operation("tcp")
def tcp(operation: Operation, deadline: float) -> Record:
    """Connect, send the nonce, wait for its echo."""
    with open_socket(operation, socket.SOCK_STREAM) as sock:
        end = time.monotonic() + deadline
        if operation.get("source"):  # several may speak from one port, each to one address
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", operation["source"]))
        if operation.get("fast"):  # the SYN goes with the first words, and asks for a cookie
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1)
        sock.settimeout(deadline)
        sock.connect(place(operation["host"], operation["port"]))
        return dict(_echo(sock, operation["nonce"].encode(), end), outcome="connected")


def _echo(sock: socket.socket, nonce: bytes, end: float) -> Record:
    said = b""
    # A handshake alone is what the outcome says; after an error the echo is missing.
    with contextlib.suppress(OSError):
        sock.sendall(b"BOTTLE " + nonce + b"\n")
        while b"\n" not in said and len(said) < 4096:
            limit(sock, end)
            part = sock.recv(4096)
            if not part:
                break
            said += part
    return {"echo": said.split()[:2] == [ECHO, nonce], "answer": said[:200].decode("latin-1")}


@operation("udp")
def udp(operation: Operation, deadline: float) -> Record:
    """Send the nonce; report an error that comes back, wait for an answer only if one is due."""
    nonce, due = operation["nonce"].encode(), operation.get("answers")
    with open_socket(operation, socket.SOCK_DGRAM) as sock:
        if operation.get("source"):  # several may speak from one port, each to one address
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", operation["source"]))
        _address_many(sock, operation)
        sock.connect(place(operation["host"], operation["port"]))
        # Before any deadline is set: a datagram that waits for its turn has not timed out.
        sock.send(around(operation, nonce))
        sock.settimeout(deadline if due else 0.05)
        try:
            answer = sock.recv(2048)
        except Timeout:
            return {"outcome": "timeout" if due else "sent"}
        return {"outcome": "answered", "echo": nonce in answer}


def _address_many(sock: socket.socket, operation: Operation) -> None:
    """Allow a broadcast; ``device`` stands in for the route that "everybody here" has not."""
    if operation.get("broadcast"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        device = operation.get("device", "eth0").encode()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)


@operation("icmp")
def icmp(operation: Operation, deadline: float) -> Record:
    """Send an echo request with the nonce, by a ping socket or a raw one, and await the reply."""
    host, nonce = operation["host"], operation["nonce"].encode()
    version6 = ":" in host
    kind = socket.SOCK_RAW if operation.get("raw") else socket.SOCK_DGRAM
    protocol = socket.IPPROTO_ICMPV6 if version6 else socket.IPPROTO_ICMP
    message = struct.pack("!BBHHH", 128 if version6 else 8, 0, 0, os.getpid() & 0xFFFF, 1) + nonce
    if not version6:  # of ICMPv6 the kernel makes the checksum, which has the source address in it
        message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    with open_socket(operation, kind, protocol) as sock:
        sock.connect((host, 0))
        sock.send(message)
        end = time.monotonic() + deadline
        while True:
            limit(sock, end)
            reply = sock.recv(2048)
            if not version6 and reply[0] >> 4 == 4:  # the IP header stands before it
                reply = reply[(reply[0] & 15) * 4 :]
            if reply[:1] == (b"\x81" if version6 else b"\0") and nonce in reply:
                return {"outcome": "answered", "echo": True}


@operation("syn-sweep")
def syn_sweep(operation: Operation, _deadline: float) -> Record:
    """Send one bare SYN to each port of a list, or to every one."""
    host, ports = operation["host"], operation["ports"] or range(1, 65536)
    with open_socket(operation, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        return _sweep(sock, ((packet, (host, 0)) for packet in _syns(source_of(host), host, ports)))


@operation("udp-sweep")
def udp_sweep(operation: Operation, _deadline: float) -> Record:
    """Send one datagram with the nonce to each port of a list, or to every one."""
    host, ports = operation["host"], operation["ports"] or range(1, 65536)
    nonce = operation["nonce"].encode()
    with open_socket(operation, socket.SOCK_DGRAM) as sock:
        return _sweep(sock, ((nonce, (host, port)) for port in ports))


def _sweep(sock: socket.socket, packets: Iterable[tuple[bytes, tuple[str, int]]]) -> Record:
    """Send without waiting for anybody; only the far end can tell what became of them."""
    count = 0
    # Not connected: a firewall's rejection of one would be an error of the next.
    for packet, address in packets:
        sock.sendto(packet, address)
        count += 1
    return {"outcome": "sent", "count": count}


def _syns(source: str, host: str, ports: Iterable[int]) -> Iterator[bytes]:
    # Source port, destination port, sequence number 1, header of 5 words, SYN, window.
    head = struct.pack("!HHIIBBHHH", HANDMADE, 0, 1, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = packed(source) + packed(host) + struct.pack("!BBH", 0, 6, len(head))
    base = ~checksum(pseudo + head) & 0xFFFF
    for port in ports:
        total = base + port
        proof = ~((total >> 16) + total) & 0xFFFF
        yield head[:2] + struct.pack("!H", port) + head[4:16] + struct.pack("!HH", proof, 0)


def open_socket(operation: Operation, kind: int, protocol: int = 0) -> socket.socket:
    """Make a socket of the destination's family, once there is the route that is asked for."""
    if operation.get("via"):
        add_route(operation)
    family = socket.AF_INET6 if ":" in operation["host"] else socket.AF_INET
    return socket.socket(family, kind, protocol)


def around(operation: Operation, nonce: bytes) -> bytes:
    """Put what stands before and behind a nonce around it."""
    before, behind = (bytes.fromhex(operation.get(part, "")) for part in ("prefix", "suffix"))
    return before + nonce + behind


def checksum(data: bytes) -> int:
    """The Internet's checksum of some bytes (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def source_of(host: str) -> str:
    """The address of ours that a packet to some IPv4 address would come from; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, 9))
        return str(sock.getsockname()[0])
