"""What a guest's network is made of, and whether the rules of its host change."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from pytest_bottle.guest.probe.core import Timeout, operation, table
from pytest_bottle.guest.probe.netlink import addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record

_LISTENING = "0A"
#: netlink(7): rules of routing over IPv4 and IPv6, and nftables' own group.
_RULES, _FILTERS = (8, 19), 7
_KINDS = {32: "added", 33: "deleted"}


@operation("network")
def network(operation: Operation, deadline: float) -> Record:
    """List this guest's links, addresses, routes, listening ports and resolvers, each in a word."""
    found = {f"link {name}" for _, name in socket.if_nameindex()}
    for device, address, length in addresses(operation, deadline)["addresses"]:
        found.add(f"address {address}/{length} on {device}")
    for words in table("/proc/net/route")[1:]:
        found.add(f"route to {words[1]}/{words[7]} by {words[2]} on {words[0]}")
    for words in table("/proc/net/ipv6_route"):
        found.add(f"route to {words[0]}/{words[1]} by {words[4]} on {words[9]}")
    for name in ("tcp", "tcp6"):
        for words in table(f"/proc/net/{name}")[1:]:
            if words[3] == _LISTENING:
                found.add(f"port {words[1]} over {name}")
    for words in table("/etc/resolv.conf"):
        if words[:1] == ["nameserver"]:
            found.add(f"resolver {words[1]}")
    return {"outcome": "answered", "network": sorted(found)}


@operation("rules")
def rules(_operation: Operation, deadline: float) -> Record:
    """Listen until the deadline; count the changes of rules that the kernel tells (netlink(7)).

    Of nftables it tells only who has NET_ADMIN.
    """
    counts = {"added": 0, "deleted": 0, "filters": 0}
    end = time.monotonic() + deadline
    with _listener(0, _RULES) as routing, _listener(12, (_FILTERS,)) as filters:
        for sock in (routing, filters):
            sock.settimeout(0.02)
        while time.monotonic() < end:
            with contextlib.suppress(Timeout):
                _count(routing.recv(1 << 16), counts)
            with contextlib.suppress(Timeout):
                filters.recv(1 << 16)
                counts["filters"] += 1
    return {"outcome": "answered", "counts": counts}


def _listener(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    sock.bind((0, 0))
    with contextlib.suppress(PermissionError):
        for group in groups:
            sock.setsockopt(270, 1, group)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
    return sock


def _count(data: bytes, counts: dict[str, int]) -> None:
    while len(data) >= 16:
        length, kind = struct.unpack_from("IH", data)
        if kind in _KINDS:
            counts[_KINDS[kind]] += 1
        data = data[(max(length, 16) + 3) & ~3 :]
