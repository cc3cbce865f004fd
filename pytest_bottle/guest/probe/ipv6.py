"""What the kernel says of a guest's IPv6, and settings of its network."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from pytest_bottle.guest.probe.core import Timeout, limit, operation, packed, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record


@operation("ipv6")
def ipv6(operation: Operation, deadline: float) -> Record:
    """Read this guest's IPv6 addresses, default routes and settings (proc(5)).

    With a ``prefix`` it waits for an address of that, until the deadline.
    """
    end = time.monotonic() + deadline
    wanted = packed(operation.get("prefix", "::"))[:8]
    while True:
        addresses = own_addresses()
        there = any(packed(str(one["address"]))[:8] == wanted for one in addresses)
        if there or "prefix" not in operation or time.monotonic() >= end:
            break
        time.sleep(0.01)
    return {
        "outcome": "answered",
        "addresses": addresses,
        "defaults": _default_routes(),
        "accept_ra": _settings("accept_ra"),
        "disabled": _settings("disable_ipv6"),
        "there": there,
    }


@operation("ping-all")
def ping_all(operation: Operation, deadline: float) -> Record:
    """Ask everybody on the link for an echo (RFC 4291, 2.7.1); report who answers, until the end.

    A raw socket, which a privileged probe has, does what a ping socket does.
    """
    device, nonce, found = operation.get("device", "eth0"), operation["nonce"].encode(), set()
    message = struct.pack("!BBHHH", 128, 0, 0, os.getpid() & 0xFFFF, 1) + nonce
    kind = socket.SOCK_RAW if operation.get("raw") else socket.SOCK_DGRAM
    end = time.monotonic() + deadline
    with socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6) as sock:
        sock.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex(device)))
        with contextlib.suppress(Timeout):
            while True:
                limit(sock, end)
                reply, peer = sock.recvfrom(2048)
                if reply[:1] == b"\x81" and nonce in reply:
                    found.add(peer[0].partition("%")[0])
    return {"outcome": "answered", "responders": sorted(found)}


def own_addresses() -> list[dict[str, str | int]]:
    """The IPv6 addresses here: each address, its scope as the kernel numbers it, its device."""
    return [
        {
            "address": socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0])),
            "scope": int(words[3], 16),
            "device": words[5],
        }
        for words in table("/proc/net/if_inet6")
    ]


def _default_routes() -> list[str]:
    """Devices and next hops of the routes to everywhere that lead out of this guest."""
    return [
        f"{words[9]} via {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[4]))}"
        for words in table("/proc/net/ipv6_route")
        if words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo"
    ]


def _settings(name: str) -> dict[str, str]:
    found, folder = {}, "/proc/sys/net/ipv6/conf"
    with contextlib.suppress(FileNotFoundError):
        for device in os.listdir(folder):
            with open(f"{folder}/{device}/{name}") as file:
                found[device] = file.read().strip()
    return found


@operation("set")
def set_values(operation: Operation, _deadline: float) -> Record:
    """Write settings of a guest's own network, in their order (sysctl(8), with slashes)."""
    for name, value in operation["values"]:
        with open(f"/proc/sys/{name}", "w") as file:
            file.write(value)
    return {"outcome": "answered"}
