"""What the probe does to a kernel, looked at in a network namespace of its own.

Run as a program, by the tests in ``unit/test_probe_kernel.py``: it prints one JSON object.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pytest_bottle.backends.engines.netns import linux
from pytest_bottle.backends.engines.netns.rtnetlink import Netlink
from pytest_bottle.guest.probe import direct, listening, netlink, privileged
from pytest_bottle.guest.probe.core import answer
from tests.probing import attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NONCE = "0123456789abcdef" * 2
NEAR, FAR, NOBODY = "10.9.8.1", "10.9.8.2", "10.9.8.99"
#: Whom the probe's own "set a neighbour" makes known, at 02:00:00:00:00:01.
HOP = "10.9.8.251"
_LOOPBACK = "127.0.0.1"
_SWEEP = {"host": _LOOPBACK, "nonce": NONCE}


def enter(flags: int) -> None:
    """Become root of new namespaces, and of nothing else."""
    user, group = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | flags)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        write(f"/proc/self/{name}", text)


def write(path: str, text: str) -> None:
    """Write a file of the kernel's."""
    with open(path, "w") as file:
        file.write(text)


def cable() -> None:
    """Bring loopback up, and a cable whose both ends are here."""
    with closing(Netlink()) as net, open("/proc/self/ns/net") as here:
        net.up("lo")
        net.veth("near0", 10, "far0", 11, here.fileno())
        net.adopt("far0", 11)
        for name, address in (("near0", NEAR), ("far0", FAR)):
            net.address(name, f"{address}/24")
            net.up(name)
        net.flush()
    # Both ends of the cable are on one network; some systems would drop what comes by the other.
    for device in ("all", "far0"):
        write(f"/proc/sys/net/ipv4/conf/{device}/rp_filter", "0")


def ear(device: str, kind: int = 0x0800) -> socket.socket:
    """A packet socket on a device."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
    sock.bind((device, kind))
    return sock


def frames(sock: socket.socket) -> Iterator[bytes]:
    """What arrived, until nothing more does."""
    sock.settimeout(1.0)
    try:
        while True:
            yield sock.recv(2048)
    except TimeoutError:
        return


def replies(send: Callable[[], object]) -> dict[int, int]:
    """The TCP flags that came back to the sweep's own port, by the port they came from."""
    with ear("lo") as sock:
        send()
        packets = [frame[14:] for frame in frames(sock)]
    found = {}
    for packet in packets:
        source, target = struct.unpack_from("!HH", packet, 20)
        if packet[9] == 6 and target == 40000:
            found[source] = packet[33]
    return found


def sweep() -> dict[str, Any]:
    """SYNs to an open and a closed port, whole and with a wrong checksum."""
    with socket.create_server((_LOOPBACK, 0)) as server, socket.socket() as closed:
        closed.bind((_LOOPBACK, 0))
        ports = [server.getsockname()[1], closed.getsockname()[1]]
        whole = replies(lambda: attempt("syn-sweep", {**_SWEEP, "ports": ports}, 1))
        broken = replies(lambda: send_broken(ports))
    return {"ports": ports, "whole": list(whole.items()), "broken": list(broken.items())}


def send_broken(ports: list[int]) -> None:
    """The same SYNs, each with one bit of its checksum turned."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        for packet in direct._syns(_LOOPBACK, _LOOPBACK, ports):
            turned = packet[:16] + bytes([packet[16] ^ 1]) + packet[17:]
            sock.sendto(turned, (_LOOPBACK, 0))


def every_port() -> dict[str, Any]:
    """A sweep of all ports, which are closed, and what the kernel counted meanwhile."""
    before = counters()
    record = attempt("syn-sweep", {**_SWEEP, "ports": []}, 1)
    after = counted(counters, lambda now: now["OutRsts"] - before["OutRsts"] >= record["count"])
    names = ("OutRsts", "InCsumErrors")
    return {**record, **{name: after[name] - before[name] for name in names}}


def every_udp_port() -> dict[str, Any]:
    """A sweep of datagrams to all ports, and what the kernel counted meanwhile."""
    before = listening._counters()
    record = attempt("udp-sweep", {**_SWEEP, "ports": [], "nonce": NONCE}, 1)
    due = record["count"] - 1  # nobody reads at the sender's own port
    after = counted(listening._counters, lambda now: now["udp"] - before["udp"] >= due)
    return {**record, "received": after["udp"] - before["udp"]}


def counted(
    count: Callable[[], dict[str, int]], done: Callable[[dict[str, int]], bool]
) -> dict[str, int]:
    """The kernel's counters once it has dealt with what was sent: a busy one does so later."""
    end = time.monotonic() + 10
    while not done(found := count()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def counters() -> dict[str, int]:
    """The kernel's own counters of TCP in this namespace."""
    with open("/proc/self/net/snmp") as file:
        names, numbers = (line.split()[1:] for line in file if line.startswith("Tcp:"))
    return dict(zip(names, map(int, numbers), strict=True))


def echo_requests() -> list[dict[str, Any]]:
    """ICMP and ICMPv6, by ping sockets and raw ones."""
    write("/proc/sys/net/ipv4/ping_group_range", "0 0")
    return [
        attempt("icmp", {"host": host, "nonce": NONCE, "raw": raw}, 30)
        for host in (_LOOPBACK, "::1")
        for raw in (False, True)
    ]


def handed_over() -> list[str]:
    """A datagram by a next hop: the link address and the destination it went to."""
    fields = {"host": "192.88.99.7", "port": 9, "via": HOP, "device": "near0", "nonce": NONCE}
    with ear("far0") as sock:
        attempt("udp", fields, 1)
        sent = [frame for frame in frames(sock) if NONCE.encode() in frame]
    return [f"{frame[:6].hex(':')} {socket.inet_ntoa(frame[30:34])}" for frame in sent]


def neighbours() -> dict[str, Any]:
    """Who answers ARP, and the link address that answers are to be expected from."""
    with ear("far0") as sock:
        mac = sock.getsockname()[4].hex(":")
    arp = {"subnet": "10.9.8.0/24", "source": NOBODY, "device": "near0"}
    return {**attempt("arp", arp, 1.0), "far": mac}


def powers() -> dict[str, Any]:
    """What the kernel answers about packet filters and raw sockets.

    And what it says when one wants to remove what the first may have left.
    """
    raw = {"devices": ["/dev/null", "/dev/bottle-missing"]}
    filters = attempt("filters", {}, 1)["answers"]
    root = struct.pack("BxxxiIII", 0, socket.if_nametoindex("lo"), 0, 0xFFFFFFFF, 0)
    table = [(2, 4, netlink.attribute(1, b"bottle_probe\0"))]
    left = [answer(lambda: privileged._batch(table, 1)), netlink.ask(37, 0, root)]
    return {
        "filters": filters,
        "left": left,
        "raw": attempt("raw", raw, 1)["answers"],
    }


def on_the_wire() -> dict[str, Any]:
    """Frames with packets for 127.0.0.1, to a kernel that takes such: who came to its loopback."""
    write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")
    with (
        ear("far0") as far,
        socket.create_server((_LOOPBACK, 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind((_LOOPBACK, 0))
        udp.settimeout(30)
        frame = {"host": _LOOPBACK, "sender": NOBODY, "device": "near0", "nonce": NONCE}
        frame["to"] = far.getsockname()[4].hex(":")
        for protocol, sock in (("tcp", tcp), ("udp", udp)):
            order = {**frame, "protocol": protocol, "port": sock.getsockname()[1]}
            attempt("frame", order, 1)
        said, (peer, _) = udp.recvfrom(100)
        port = tcp.getsockname()[1]
        rows = listening._half_open([port])
        half_open = [row[1:] for row in rows if row[0] == port]
        return {
            "udp": [said.decode(), peer],
            "tcp": half_open,
            "other": listening._half_open([port - 1]),
        }


def entered() -> list[str]:
    """What comes of entering the network namespaces of all processes, for who may do it."""
    return sorted(set(attempt("setns", {}, 1)["answers"].values()))


def alone() -> dict[str, Any]:
    """Everything that needs a network of its own."""
    enter(linux.CLONE_NEWNET)
    cable()
    changes = {"gateway": FAR, "device": "near0"}
    return {
        "sweep": sweep(),
        "every port": every_port(),
        "every udp port": every_udp_port(),
        "echo requests": echo_requests(),
        "arp": neighbours(),
        "changes": attempt("netlink", changes, 1),
        "handed over": handed_over(),
        "powers": powers(),
        "on the wire": on_the_wire(),
        "entered": entered(),
    }


def powerless() -> dict[str, Any]:
    """What needs a right that nobody here has: a user namespace owns no part of our network."""
    enter(0)
    return {
        "changes": attempt("netlink", {"gateway": _LOOPBACK, "device": "lo"}, 1),
        "icmp": attempt("icmp", {"host": _LOOPBACK, "nonce": NONCE, "raw": True}, 1),
        "sweep": attempt("syn-sweep", {**_SWEEP, "ports": [1]}, 1),
        "arp": attempt("arp", {"subnet": "127.0.0.0/24", "source": _LOOPBACK}, 1),
        "frame": attempt(
            "frame",
            {
                **_SWEEP,
                "to": "ff:ff:ff:ff:ff:ff",
                "sender": NEAR,
                "port": 9,
                "protocol": "udp",
                "device": "lo",
            },
            1,
        ),
        "via": attempt("udp", {**_SWEEP, "port": 9, "via": _LOOPBACK, "device": "lo"}, 1),
        "powers": powers(),
    }


if __name__ == "__main__":
    print(json.dumps(alone() if sys.argv[1:] == ["alone"] else powerless()))  # noqa: T201
