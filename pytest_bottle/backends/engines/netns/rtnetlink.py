"""Links, addresses, routes and rules by rtnetlink, in the standard library.

A :class:`Netlink` speaks for the network namespace its socket was opened in. Requests are queued
and sent together: one system call for many objects (rtnetlink(7)).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final, NamedTuple

RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RTN_BLACKHOLE: Final = 6

FR_ACT_TO_TBL: Final = 1
FR_ACT_NOP: Final = 3
FR_ACT_BLACKHOLE: Final = 6
FR_ACT_PROHIBIT: Final = 8

TABLE_MAIN: Final = 254
TABLE_LOCAL: Final = 255

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR = 20, 21
_NEWROUTE, _DELROUTE = 24, 25
_NEWRULE, _DELRULE = 32, 33
_REQUEST, _ACK, _CREATE, _EXCL, _REPLACE, _DUMP = 1, 4, 0x400, 0x200, 0x100, 0x300
_ERROR, _DONE = 2, 3
_IFA_F_NODAD = 0x02
#: The interface group of what is about to be deleted.
_DOOMED = 0x0D1E
_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17}


class Rule(NamedTuple):
    """A routing rule: which packets, and what becomes of them (ip-rule(8)).

    ``iif`` names the interface they came in by, ``lo`` for what is sent from here; ``to`` and
    ``source`` are networks, ``protocol`` and ``port`` are those of the destination, ``origin`` is
    the port they come from; ``action`` is one of ``FR_ACT_*``.
    """

    priority: int
    action: int = FR_ACT_TO_TBL
    table: int = TABLE_MAIN
    iif: str | None = None
    to: str | None = None
    protocol: str | None = None
    port: int | None = None
    family: int = socket.AF_INET
    source: str | None = None
    origin: int | None = None


class Netlink:
    """A batch of rtnetlink requests for one network namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._socket.settimeout(10)
        self._queue: list[bytes] = []
        self._labels: dict[int, str] = {}
        self._sequence = 0
        self._indexes = {"lo": 1}

    def close(self) -> None:
        """Close the socket; the namespace may go."""
        self._socket.close()

    # -- what can be asked for ------------------------------------------------

    def bridge(self, name: str, index: int) -> None:
        """Make a bridge; ``index`` is its interface number, free in this namespace.

        It gets a link address of its own: else it takes the lowest of its ports', which changes
        with every guest that comes, and those that know the old one are cut off for a while.
        """
        # A bridge that snoops is in groups itself, and tells all ports so (IFLA_BR_MCAST_SNOOPING).
        data = _attr(2, _attr(23, b"\0"))
        link_address = _attr(1, b"\x02\xb0" + struct.pack("!I", index))
        info = _attr(18, _attr(1, b"bridge") + data) + link_address
        self._indexes[name] = index
        self._add(_NEWLINK, _CREATE | _EXCL, _link(index) + _name(name) + info, f"bridge {name}")

    def veth(self, name: str, index: int, peer: str, peer_index: int, peer_netns: int) -> None:
        """Make a virtual cable: one end here, the other in the namespace of an open file.

        With the numbers chosen by the caller, all requests about a cable fit in one message.
        """
        other = _link(peer_index) + _name(peer) + _attr(28, struct.pack("i", peer_netns))
        info = _attr(18, _attr(1, b"veth") + _attr(2, _attr(1, other)))
        self._indexes[name] = index
        self._add(_NEWLINK, _CREATE | _EXCL, _link(index) + _name(name) + info, f"veth {name}")

    def adopt(self, name: str, index: int) -> None:
        """Learn the number of an interface that another namespace's request put here."""
        self._indexes[name] = index

    def delete_link(self, name: str) -> None:
        """Delete an interface by name."""
        self._indexes.pop(name, None)
        self._add(_DELLINK, 0, _link(0) + _name(name), f"delete {name}")

    def delete_links(self, names: list[str]) -> None:
        """Delete several interfaces in one go, which costs the kernel one grace period for all."""
        group = _attr(27, struct.pack("I", _DOOMED))
        for name in names:
            self._add(_NEWLINK, 0, _link(0) + _name(name) + group, f"mark {name}")
        self._add(_DELLINK, 0, _link(0) + group, f"delete {', '.join(names)}")

    def up(self, name: str, *, master: str | None = None, up: bool = True) -> None:
        """Bring an interface up (or down), as a port of the bridge ``master`` if one is named."""
        body = struct.pack("BxHiII", 0, 0, 0, int(up), 1) + _name(name)
        if master is not None:
            body += _attr(10, struct.pack("i", self._index(master)))
        self._add(_NEWLINK, 0, body, f"up {name}")

    def shape(self, name: str, *, mac: str, mtu: int) -> None:
        """Give an interface a link address and a size of its packets."""
        body = _link(0) + _name(name) + _attr(1, bytes.fromhex(mac.replace(":", "")))
        body += _attr(4, struct.pack("I", mtu))
        self._add(_NEWLINK, 0, body, f"shape {name}")

    def address(self, name: str, cidr: str) -> None:
        """Give an interface an address, usable at once (IFA_F_NODAD on IPv6)."""
        family, raw, length = _network(cidr)
        flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
        body = struct.pack("BBBBI", family, length, flags, 0, self._index(name))
        body += _attr(1, raw) + _attr(2, raw)
        self._add(_NEWADDR, _CREATE, body, f"address {cidr} on {name}")

    def delete_address(self, name: str, cidr: str) -> None:
        """Take an address off an interface, with the routes that it gave."""
        family, raw, length = _network(cidr)
        body = struct.pack("BBBBI", family, length, 0, 0, self._index(name))
        self._add(_DELADDR, 0, body + _attr(2, raw), f"delete address {cidr} on {name}")

    def route(
        self,
        cidr: str,
        *,
        via: str | None = None,
        device: str | None = None,
        kind: int = RTN_UNICAST,
        replace: bool = False,
    ) -> None:
        """Add a route to ``cidr`` to the main table."""
        flags = _CREATE | (_REPLACE if replace else 0)
        self._add(_NEWROUTE, flags, self._route(cidr, via, device, kind), f"route {cidr}")

    def delete_route(self, cidr: str) -> None:
        """Delete a route of the main table."""
        self._add(_DELROUTE, 0, self._route(cidr, None, None, 0), f"delete route {cidr}")

    def rule(self, rule: Rule) -> None:
        """Add a routing rule."""
        self._add(_NEWRULE, _CREATE | _EXCL, _rule(rule), f"rule {rule.priority}")

    def delete_rule(self, rule: Rule) -> None:
        """Delete the routing rule that has just these parts."""
        self._add(_DELRULE, 0, _rule(rule), f"delete rule {rule.priority}")

    def flush(self) -> None:
        """Send what is queued and wait for every acknowledgement.

        Raises:
            OSError: the kernel refused a request; the message names it.
        """
        queue, self._queue = self._queue, []
        labels, self._labels = self._labels, {}
        if not queue:
            return
        # Answers to a batch that was given up may still come: only this one's count.
        waiting, failure = set(labels), None
        self._socket.send(b"".join(queue))
        while waiting:
            for kind, sequence, body in self._receive():
                if kind != _ERROR or sequence not in waiting:
                    continue
                waiting.discard(sequence)
                code = -int.from_bytes(body[:4], "little", signed=True)
                if code and failure is None:
                    said = f"rtnetlink: {labels[sequence]}: {os.strerror(code)}"
                    failure = OSError(code, said)
        if failure is not None:
            raise failure

    def discard(self) -> None:
        """Forget what is queued: what it was for has failed."""
        self._queue.clear()
        self._labels.clear()

    def links(self) -> list[str]:
        """Name the interfaces of the namespace."""
        bodies = self._dump(_GETLINK, struct.pack("BxHiII", 0, 0, 0, 0, 0))
        return [_attributes(body[16:]).get(3, b"").rstrip(b"\0").decode() for body in bodies]

    # -- how it is said -------------------------------------------------------

    def _index(self, name: str) -> int:
        if name in self._indexes:
            return self._indexes[name]
        # Not if_nametoindex: it asks the namespace of the calling thread, ours may be another.
        self._sequence += 1
        body = _link(0) + _name(name)
        self._socket.send(_message(_GETLINK, _REQUEST, self._sequence, body))
        while True:
            for kind, sequence, answer in self._receive():
                if sequence == self._sequence and kind == _NEWLINK:
                    return int(struct.unpack_from("i", answer, 4)[0])
                if sequence == self._sequence:
                    raise OSError(19, f"rtnetlink: no interface {name}")

    def _route(self, cidr: str, via: str | None, device: str | None, kind: int) -> bytes:
        family, raw, length = _network(cidr)
        scope = 254 if kind == RTN_LOCAL else (0 if via or kind != RTN_UNICAST else 253)
        if kind == 0:
            scope = 255  # RT_SCOPE_NOWHERE: any, for a deletion
        body = struct.pack(
            "BBBBBBBBI", family, length, 0, 0, TABLE_MAIN, 4 if kind else 0, scope, kind, 0
        )
        body += _attr(1, raw) if length else b""
        body += _attr(5, _address(via)) if via else b""
        body += _attr(4, struct.pack("i", self._index(device))) if device else b""
        return body

    def _add(self, kind: int, flags: int, body: bytes, label: str) -> None:
        self._sequence += 1
        self._labels[self._sequence] = label
        self._queue.append(_message(kind, _REQUEST | _ACK | flags, self._sequence, body))

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        self.flush()
        self._sequence += 1
        self._socket.send(_message(kind, _REQUEST | _DUMP, self._sequence, body))
        found: list[bytes] = []
        while True:
            for answer, sequence, part in self._receive():
                if sequence != self._sequence:
                    continue
                if answer == _DONE:
                    return found
                found.append(part)

    def _receive(self) -> list[tuple[int, int, bytes]]:
        data = self._socket.recv(1 << 18)
        messages = []
        while len(data) >= 16:
            length, kind, _, sequence, _ = struct.unpack_from("IHHII", data)
            messages.append((kind, sequence, data[16:length]))
            data = data[(length + 3) & ~3 :]
        return messages


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("IHHII", 16 + len(body), kind, flags, sequence, 0) + body + _pad(body)


def _pad(data: bytes) -> bytes:
    return b"\0" * (-len(data) % 4)


def _attr(kind: int, data: bytes) -> bytes:
    return struct.pack("HH", 4 + len(data), kind) + data + _pad(data)


def _name(name: str) -> bytes:
    if not 0 < len(name.encode()) < 16:
        raise OSError(22, f"rtnetlink: {name!r} is no interface name (1-15 bytes)")
    return _attr(3, name.encode() + b"\0")


def _link(index: int) -> bytes:
    return struct.pack("BxHiII", 0, 0, index, 0, 0)


def _address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def _network(cidr: str) -> tuple[int, bytes, int]:
    text, _, length = cidr.partition("/")
    raw = _address(text)
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return family, raw, int(length) if length else len(raw) * 8


def _rule(rule: Rule) -> bytes:
    to, to_length = _network(rule.to)[1:] if rule.to else (b"", 0)
    source, length = _network(rule.source)[1:] if rule.source else (b"", 0)
    lengths = (to_length, length)
    body = struct.pack("BBBBBBBBI", rule.family, *lengths, 0, rule.table, 0, 0, rule.action, 0)
    body += _attr(1, to) if to_length else b""
    body += _attr(2, source) if length else b""
    body += _attr(3, rule.iif.encode() + b"\0") if rule.iif else b""
    body += _attr(6, struct.pack("I", rule.priority))
    if rule.protocol is not None:
        body += _attr(22, bytes([_PROTOCOLS[rule.protocol]]))
    if rule.origin is not None:
        body += _attr(23, struct.pack("HH", rule.origin, rule.origin))
    if rule.port is not None:
        body += _attr(24, struct.pack("HH", rule.port, rule.port))
    return body


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found
