"""What is asked of the kernel by rtnetlink(7): its addresses, and changes of the network."""

from __future__ import annotations

import errno
import socket
import struct

from pytest_bottle.guest.probe.core import operation, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.guest.probe.core import Operation, Record


@operation("addresses")
def addresses(_operation: Operation, _deadline: float) -> Record:
    """List the addresses of every interface here: its name, the address, the prefix's length."""
    found: list[list[str | int]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.send(struct.pack("IHHIIBxxxI", 24, 22, 0x301, 1, 0, 0, 0))  # RTM_GETADDR, all
        while True:
            for kind, body in _messages(sock.recv(1 << 16)):
                if kind != 20:  # RTM_NEWADDR; the end, or an error
                    return {"outcome": "answered", "addresses": found}
                family, length, _, _, index = struct.unpack_from("BBBBI", body)
                parts = dict(_messages(body[8:], "HH"))
                raw = parts.get(2) or parts.get(1)  # our own end, where the link has two
                if raw and family in (socket.AF_INET, socket.AF_INET6):
                    address = socket.inet_ntop(family, raw)
                    found.append([socket.if_indextoname(index), address, length])


@operation("neighbours")
def neighbours(_operation: Operation, _deadline: float) -> Record:
    """List whom this guest knows on its links: their addresses, and the link address of each."""
    found: dict[str, str] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.send(struct.pack("IHHIIBxxxIHBB", 28, 30, 0x301, 1, 0, 0, 0, 0, 0, 0))  # RTM_GETNEIGH
        while True:
            for kind, body in _messages(sock.recv(1 << 16)):
                if kind != 28:  # RTM_NEWNEIGH; the end, or an error
                    return {"outcome": "answered", "neighbours": found}
                parts = dict(_messages(body[12:], "HH"))
                if body[0] in (socket.AF_INET, socket.AF_INET6) and 2 in parts:
                    found[socket.inet_ntop(body[0], parts[1])] = parts[2].hex(":")


@operation("netlink")
def netlink(operation: Operation, _deadline: float) -> Record:
    """Ask the kernel, without any tool, for changes of the network; report each answer."""
    requests = _changes(operation["gateway"], operation["device"])
    answers = {name: ask(*request) for name, request in requests.items()}
    return {"outcome": "answered", "answers": answers}


def _changes(gateway: str, device: str) -> dict[str, tuple[int, int, bytes]]:
    index = socket.if_nametoindex(device)
    nobody = packed(gateway)[:3] + b"\xfb"  # an address of the link that no guest has
    create, replace = 0x400, 0x100
    far = "203.0.113.7"  # a destination that nothing has a route to yet
    address = attribute(1, packed(far)) + attribute(2, packed(far))
    rule = struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)
    neighbour = struct.pack("BxxxiHBB", 2, index, 0x80, 0, 0)
    neighbour += attribute(1, nobody) + attribute(2, b"\x02\0\0\0\0\x01")
    link = struct.pack("BxHiII", 0, 0, index, 1, 1)
    return {
        "replace the default route": (24, create | replace, _route(gateway, "0.0.0.0", 0, index)),
        "add a host route": (24, create, _route(gateway, far, 32, index)),
        "add a rule": (32, create, rule + attribute(6, struct.pack("I", 4242))),
        "set a link": (16, 0, link + attribute(4, struct.pack("I", 1400))),
        "add an address": (20, create, struct.pack("BBBBI", 2, 32, 0, 0, index) + address),
        "set a neighbour": (28, create | replace, neighbour),
    }


def _messages(data: bytes, head: str = "IH") -> Iterator[tuple[int, bytes]]:
    """Take messages or attributes apart: the kind of each and what is in it (netlink(7))."""
    skip = 16 if head == "IH" else 4
    while len(data) >= skip:
        length, kind = struct.unpack_from(head, data)
        if length < skip:
            return
        yield kind, data[skip:length]
        data = data[(length + 3) & ~3 :]


def attribute(kind: int, data: bytes) -> bytes:
    """An attribute of a message, filled up to the next (netlink(7))."""
    return struct.pack("HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def ask(kind: int, flags: int, body: bytes) -> str:
    """Send one request; returns ``done``, or the name of the kernel's error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.bind((0, 0))
        sock.send(struct.pack("IHHII", 16 + len(body), kind, 1 | 4 | flags, 1, 0) + body)
        code = -int(struct.unpack_from("i", sock.recv(4096), 16)[0])
        return errno.errorcode.get(code, str(code)) if code else "done"


def _route(gateway: str, destination: str, length: int, index: int) -> bytes:
    body = struct.pack("BBBBBBBBI", 2, length, 0, 0, 254, 4, 0, 1, 0)
    body += attribute(1, packed(destination)) if length else b""
    return body + attribute(5, packed(gateway)) + attribute(4, struct.pack("i", index))


def add_route(operation: Operation) -> None:
    """Send a privileged probe's packets to one destination by a next hop of our choice."""
    index = socket.if_nametoindex(operation.get("device", "eth0"))
    answer = ask(24, 0x500, _route(operation["via"], operation["host"], 32, index))
    if answer not in ("done", "EEXIST"):
        raise OSError(getattr(errno, answer, 0), f"route via {operation['via']}: {answer}")
