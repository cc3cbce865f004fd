"""Bare namespaces and links: the engine's way beside the floor, the same objects by raw calls.

Runs in a child that is root of a user namespace of its own; prints one JSON line.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import sys
import time

from pytest_bottle.backends.engines.netns import linux, settling
from pytest_bottle.backends.engines.netns.fabric import Fabric
from pytest_bottle.backends.engines.netns.namespace import Namespace

ROUNDS = 15


def enter_user_namespace() -> None:
    """Become root of a user, network and mount namespace of our own."""
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET | linux.CLONE_NEWNS)
    settling.map_ids(os.getpid(), 0, uid, gid, deny_setgroups=True)


def by_the_engine(home: int) -> float:
    """Make H, the lab, two networks and two guests' namespaces as the engine does; seconds."""
    started = time.perf_counter()
    fabric = Fabric(home)
    fabric.add_network("egress", internal=False)
    fabric.add_network("internal", internal=True)
    spaces = [Namespace(home), Namespace(home)]
    fabric.attach("sidecar", spaces[0], ["egress", "internal"])
    fabric.attach("agent", spaces[1], ["internal"])
    seconds = time.perf_counter() - started
    for space in (*spaces, fabric.lab, fabric.host):
        space.close()
    return seconds


def by_raw_calls(home: int) -> float:
    """Make the same namespaces, bridges, cables and addresses with the least there is; seconds."""
    started = time.perf_counter()
    files, sockets = [], []
    for _ in range(4):
        linux.unshare(linux.CLONE_NEWNET)
        files.append(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        sock.bind((0, 0))
        sockets.append(sock)
    linux.setns(home, linux.CLONE_NEWNET)
    lab, host, sidecar, agent = range(4)
    _talk(
        sockets[host],
        [
            _bridge(20, b"egr1"),
            _bridge(21, b"int1"),
            _veth(30, b"up0", 30, b"up0", files[lab]),
            _veth(31, b"v1", 31, b"eth0", files[sidecar], master=20),
            _veth(32, b"v2", 32, b"eth1", files[sidecar], master=21),
            _veth(33, b"v3", 33, b"eth0", files[agent], master=21),
            *map(_up, (1, 20, 21, 30, 31, 32, 33)),
            _address(20, "10.87.1.1", 24),
            _address(21, "10.86.1.1", 24),
            _address(30, "198.18.0.2", 30),
        ],
    )
    _talk(sockets[lab], [_up(1), _address(30, "198.18.0.1", 30), _up(30)])
    _talk(
        sockets[sidecar],
        [
            *(_up(1), _address(31, "10.87.1.2", 24), _up(31)),
            *(_address(32, "10.86.1.2", 24), _up(32)),
        ],
    )
    _talk(sockets[agent], [_up(1), _address(33, "10.86.1.3", 24), _up(33)])
    seconds = time.perf_counter() - started
    for sock in sockets:
        sock.close()
    for file in files:
        os.close(file)
    return seconds


def _attr(kind: int, data: bytes) -> bytes:
    return struct.pack("HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _bridge(index: int, name: bytes) -> tuple[int, bytes]:
    head = struct.pack("BxHiII", 0, 0, index, 0, 0)
    return 16, head + _attr(3, name + b"\0") + _attr(18, _attr(1, b"bridge"))


def _veth(
    index: int, name: bytes, peer_index: int, peer: bytes, netns: int, master: int = 0
) -> tuple[int, bytes]:
    far = struct.pack("BxHiII", 0, 0, peer_index, 0, 0) + _attr(3, peer + b"\0")
    far += _attr(28, struct.pack("i", netns))
    body = struct.pack("BxHiII", 0, 0, index, 0, 0) + _attr(3, name + b"\0")
    body += _attr(10, struct.pack("i", master)) if master else b""
    return 16, body + _attr(18, _attr(1, b"veth") + _attr(2, _attr(1, far)))


def _up(index: int) -> tuple[int, bytes]:
    return 16, struct.pack("BxHiII", 0, 0, index, 1, 1)


def _address(index: int, text: str, length: int) -> tuple[int, bytes]:
    raw = socket.inet_aton(text)
    return 20, struct.pack("BBBBI", 2, length, 0, 0, index) + _attr(1, raw) + _attr(2, raw)


def _talk(sock: socket.socket, requests: list[tuple[int, bytes]]) -> None:
    batch = b""
    for number, (kind, body) in enumerate(requests):
        batch += struct.pack("IHHII", 16 + len(body), kind, 0x405, number, 0) + body
    sock.send(batch)
    waiting = len(requests)
    while waiting:
        data = sock.recv(1 << 16)
        while data:
            length, kind = struct.unpack_from("IH", data)
            if kind == 2:
                code = struct.unpack_from("i", data, 16)[0]
                if code:
                    raise OSError(-code, os.strerror(-code))
                waiting -= 1
            data = data[(length + 3) & ~3 :]


def main() -> None:
    """Take turns, so that a slow moment of the machine hits both."""
    enter_user_namespace()
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    times: dict[str, list[float]] = {"engine": [], "floor": []}
    for _ in range(ROUNDS):
        times["engine"].append(by_the_engine(home))
        time.sleep(0.15)  # the kernel takes the old namespaces away
        times["floor"].append(by_raw_calls(home))
        time.sleep(0.15)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    sys.stdout.write(json.dumps(medians) + "\n")


if __name__ == "__main__":
    main()
