"""What the probe's whole packets, router's words and DNS questions come to in a network of its own.

Run as a program, by the tests in ``unit/test_probe_ipv6.py``: it prints one JSON object.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack, closing
from typing import Any

from pytest_bottle.backends.engines.netns import linux
from pytest_bottle.backends.engines.netns.rtnetlink import Netlink
from pytest_bottle.guest import dnswire
from tests.alone import FAR, NONCE, cable, counted, enter, write
from tests.probing import attempt

FAR6 = "fd00:2::2"
SERVER, NOBODY, GARBLER = "127.0.0.5", "127.0.0.6", "127.0.0.7"
PREFIX = "fd00:77:1::"


def two_families() -> None:
    """Both ends of the cable have IPv6 too, and hear each other though they are one host."""
    cable()
    for device in ("all", "far0"):
        write(f"/proc/sys/net/ipv4/conf/{device}/accept_local", "1")
    write("/proc/sys/net/ipv6/conf/all/accept_dad", "0")
    with closing(Netlink()) as net:
        net.address("near0", "fd00:1::1/64")
        net.address("far0", f"{FAR6}/64")
        net.flush()


def counters() -> dict[str, int]:
    """The kernel's own counters of both families."""
    with open("/proc/self/net/snmp6") as file:
        found = {name: int(number) for name, number in map(str.split, file)}
    with open("/proc/self/net/snmp") as file:
        lines = [line.split() for line in file]
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        pairs = zip(names[1:], numbers[1:], strict=True)
        found |= {f"{names[0]}{name}": int(number) for name, number in pairs}
    return found


def frames() -> dict[str, Any]:
    """One packet of each kind over each family, made whole, to a kernel that looks at checksums."""
    before = counters()
    said, records = [], []
    with ExitStack() as stack:
        for host in (FAR, FAR6):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            ear = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            ear.bind((host, 5300))
            ear.settimeout(30)
            fields = {"host": host, "via": FAR, "device": "near0", "nonce": NONCE, "port": 5300}
            more = {"prefix": "6162", "suffix": "63", "source": 53}
            records += [
                attempt("frame", {**fields, **more, "protocol": protocol}, 10)
                for protocol in ("tcp", "udp", "icmp")
            ]
            data, peer = ear.recvfrom(200)
            said.append([data.decode(), peer[0], peer[1]])
    due = {"Tcp:OutRsts": 2, "Icmp:InEchos": 1, "Icmp6InEchos": 1}
    after = counted(
        counters, lambda now: all(now[k] - before.get(k, 0) >= n for k, n in due.items())
    )
    return {
        "records": records,
        "said": said,
        "counted": {k: n - before.get(k, 0) for k, n in after.items() if n != before.get(k, 0)},
    }


def nobody_there() -> dict[str, Any]:
    """A next hop that does not answer ARP."""
    fields = {"host": FAR6, "via": "10.9.8.77", "device": "near0", "nonce": NONCE, "port": 1}
    return attempt("frame", {**fields, "protocol": "udp"}, 0.1)


def router() -> dict[str, Any]:
    """What a guest makes of the probe's router: one that listens, and one that does not."""
    values = [("net/ipv6/conf/far0/accept_ra", "2"), ("net/ipv6/conf/near0/accept_ra", "0")]
    setting = attempt("set", {"values": values}, 1)
    before = attempt("ipv6", {"prefix": PREFIX}, 0.1)
    sent = attempt("advertise", {"prefix": PREFIX, "lifetime": 60, "device": "near0"}, 1)
    after = attempt("ipv6", {"prefix": PREFIX}, 30)
    return {"set": setting, "before": before, "sent": sent, "after": after}


class Server(threading.Thread):
    """A DNS server at one address, over UDP and TCP, and one that answers rubbish."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.asked: list[str] = []
        self._udp, self._garbler = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "12")
        self._udp.bind((SERVER, 53))
        self._garbler.bind((GARBLER, 53))
        self._tcp = socket.create_server((SERVER, 53))

    def run(self) -> None:
        """Answer until the program ends."""
        while True:
            for sock in select.select([self._udp, self._tcp, self._garbler], [], [])[0]:
                if sock is self._tcp:
                    self._converse()
                    continue
                data, peer = sock.recvfrom(512)
                sock.sendto(self._answer(data) if sock is self._udp else b"x" * 20, peer)

    def _converse(self) -> None:
        with self._tcp.accept()[0] as connection:
            data = connection.recv(512)
            answer = self._answer(data[2:])
            connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, data: bytes) -> bytes:
        query = dnswire.parse_query(data)
        self.asked.append(f"{query.name} {query.qtype}")
        return dnswire.build_answer(query, ["192.88.99.40"])


def names() -> dict[str, Any]:
    """Sweeps and lookups, with a server at an address of our own loopback."""
    server = Server()
    server.start()
    hosts = [NOBODY, SERVER, GARBLER]
    sweep = {"udp": hosts, "tcp": hosts, "name": "sweep.test"}
    found = attempt("dns-sweep", sweep, 2.0)
    asked, server.asked = sorted(server.asked), []
    lookup = {"raw": "raw.test", "name": "library.test"}
    resolved = with_resolv_conf(f"nameserver {SERVER}\nnameserver\n", lookup)
    looked, server.asked = sorted(set(server.asked)), []
    alone = with_resolv_conf("options timeout:1 attempts:1\n", lookup)
    swept = {"sweep": found, "asked": asked, "resolved": resolved, "looked": looked}
    return {**swept, "alone": alone, **others(server)}


def others(server: Server) -> dict[str, Any]:
    """Many questions at once, and every way to be told of another server."""
    server.asked = []
    questions = [["one.test", 16], ["x" * 63 + ".test", 255]]
    search = {"name": "bare", "domain": "suffix.test"}
    what = {"questions": questions, "search": search}
    asked = with_resolv_conf(f"nameserver {SERVER}\n", what, "ask")
    heard, server.asked = sorted(set(server.asked)), []
    ways = ("file", "hosts", "mount", "copy", "variables")
    rewriting = {"server": SERVER, "names": {way: f"{way}.ways.test" for way in ways}}
    with tempfile.NamedTemporaryFile("w") as file:
        linux.attach_tree(linux.clone_tree(file.name), "/etc/hosts")
        try:
            what = {**rewriting, "nonce": NONCE}
            rewritten = with_resolv_conf(f"nameserver {NOBODY}\n", what, "rewritten")
        finally:
            linux.unmount("/etc/hosts")
    return {"ask": asked, "heard": heard, "rewritten": rewritten, "told": sorted(set(server.asked))}


def with_resolv_conf(text: str, lookup: dict[str, Any], kind: str = "resolve") -> dict[str, Any]:
    """Look up with other settings, which nobody outside this program sees."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        linux.attach_tree(linux.clone_tree(file.name), "/etc/resolv.conf")
        try:
            return attempt(kind, lookup, 10)
        finally:
            linux.unmount("/etc/resolv.conf")


def alone() -> dict[str, Any]:
    """Everything that needs a network of its own."""
    enter(linux.CLONE_NEWNET | linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    two_families()
    return {
        "frames": frames(),
        "nobody": nobody_there(),
        "router": router(),
        "names": names(),
    }


def powerless() -> dict[str, Any]:
    """What needs a right that nobody here has."""
    enter(0)
    fields = {"host": "::1", "via": "127.0.0.1", "device": "lo", "nonce": NONCE, "port": 1}
    return {
        "frame": attempt("frame", {**fields, "protocol": "udp"}, 1),
        "advertise": attempt("advertise", {"prefix": PREFIX, "lifetime": 1}, 1),
        "ipv6": attempt("ipv6", {}, 1),
    }


if __name__ == "__main__":
    print(json.dumps(alone() if sys.argv[1:] == ["alone"] else powerless()))  # noqa: T201
