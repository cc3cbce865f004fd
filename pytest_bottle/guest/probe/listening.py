"""Waiting for others: who comes, and what the kernel counted."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time

from pytest_bottle.guest.probe.core import CAUSES, ECHO, Timeout, limit, operation, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pytest_bottle.guest.probe.core import Operation, Record

    #: tcp or udp, our port, the visitor's address, and its first words once they are there.
    Visitor = list[str | int]
    #: What to answer, if anything, to whom comes by tcp or udp and says something.
    Reply = Callable[[str, bytes], bytes]

#: What counts a packet that came, even one that nothing could be made of (RFC 4293, 4022, 4113).
_RECEIVED = (
    ("ip", "Ip:", ("InReceives",)),
    ("tcp", "Tcp:", ("InSegs",)),
    ("udp", "Udp:", ("InDatagrams", "NoPorts", "InErrors")),
    ("icmp", "Icmp:", ("InMsgs",)),
)


@operation("listen")
def listen(operation: Operation, deadline: float) -> Record:
    """Listen for visitors until the deadline; report each, with the first bytes it sent.

    Once all words of ``until`` were said it ends, so that nobody need guess how long it takes.
    A visitor that our answers do not reach cannot be accepted: it stays half open, and the kernel's
    counters, from before and after, tell that it came. ``groups`` are multicast groups to be in;
    ``watch`` names ports of somebody else's, for half-open visitors only.
    """
    end = time.monotonic() + deadline
    before = _counters()
    with contextlib.ExitStack() as stack:
        _join(stack, operation)
        doors = [
            door(stack, kind, address, port)
            for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp"))
            for port in operation.get(name, ())
            for address in filter(_is_known, operation.get("addresses", ("0.0.0.0",)))
        ]
        visitors = attend(doors, end, greeting, operation.get("until", ()))
        half_open = _half_open([*operation.get("tcp", ()), *operation.get("watch", ())])
    return {
        "outcome": "listened",
        "visitors": visitors,
        "half_open": half_open,
        "counters": {"before": before, "after": _counters()},
    }


def _join(stack: contextlib.ExitStack, operation: Operation) -> None:
    """Be in multicast groups meanwhile, by one device: whoever listens here hears them (ip(7))."""
    groups = operation.get("groups", ())
    if groups:
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        index = socket.if_nametoindex(operation.get("device", "eth0"))
        for group in groups:
            membership = packed(group) + struct.pack("=4xi", index)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)


def _is_known(address: str) -> bool:
    """Tell whether this kernel has an address's family at all."""
    try:
        socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError:
        return False
    return True


def _counters(more: Iterable[Any] = ()) -> dict[str, int]:
    """How many packets this network namespace has received (proc(5)); empty if it cannot tell."""
    try:
        with open("/proc/net/snmp") as file:
            lines = [line.split() for line in file]
        tables = {lines[at][0]: lines[at : at + 2] for at in range(0, len(lines), 2)}
        return {
            name: sum(int(tables[table][1][tables[table][0].index(field)]) for field in fields)
            for name, table, fields in (*_RECEIVED, *more)
        }
    except (OSError, LookupError, ValueError):
        return {}


@operation("count")
def count(_operation: Operation, _deadline: float) -> Record:
    """Read how many packets came, and how many of ICMP's were echo requests.

    Our own kernel sends us errors about what we sent ourselves, seconds later: they are no visit.
    """
    return {"outcome": "answered", "counters": _counters([("echo", "Icmp:", ("InEchos",))])}


def _half_open(ports: Iterable[int]) -> list[Visitor]:
    """Who has begun a handshake with one of our ports and not ended it: port, address, its port.

    The kernel lists such a connection while it repeats its own part of the handshake (proc(5)).
    """
    found: list[Visitor] = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{name}") as file:
            for local, remote, state in (line.split()[1:4] for line in file):
                port = int(local.rpartition(":")[2], 16) if state == "03" else -1  # SYN_RECV
                if port in ports:
                    words = [remote[at : at + 8] for at in range(0, len(remote) - 5, 8)]
                    raw = b"".join(struct.pack("=I", int(word, 16)) for word in words)
                    theirs = int(remote.rpartition(":")[2], 16)
                    found.append([port, socket.inet_ntop(family, raw), theirs])
    return found


def door(stack: contextlib.ExitStack, kind: int, address: str, port: int = 0) -> socket.socket:
    """Open a socket that visitors may come to; port 0 leaves the number to the kernel."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, kind))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(16)
    sock.settimeout(0)
    return sock


def greeting(kind: str, said: bytes) -> bytes:
    """The lab's answer to a nonce that came by TCP; empty to anything else."""
    words = said.split()
    known = kind == "tcp" and len(words) == 2 and words[0] == b"BOTTLE"
    return b"%s %s\n" % (ECHO, words[1]) if known else b""


def attend(
    doors: list[socket.socket], end: float, reply: Reply, until: Iterable[str] = ()
) -> list[Visitor]:
    """Receive visitors until the end, or until they have said all words of ``until``.

    Those that connect and say nothing come last.
    """
    visitors: list[Visitor] = []
    silent: dict[socket.socket, Visitor] = {}
    while time.monotonic() < end and not (until and _all_said(until, visitors)):
        left = max(0.0, end - time.monotonic())
        for sock in select.select([*doors, *silent], [], [], left)[0]:
            with contextlib.suppress(BlockingIOError):  # it has gone again
                if sock in silent:
                    visitors.append([*silent.pop(sock), _converse(sock, reply)])
                elif sock.type == socket.SOCK_DGRAM:
                    visitors.append(_take(sock, reply))
                else:
                    connection, peer = sock.accept()
                    silent[connection] = ["tcp", sock.getsockname()[1], _without_zone(peer[0])]
    for sock, visitor in silent.items():
        sock.close()
        visitors.append([*visitor, ""])
    return visitors


def _all_said(words: Iterable[str], visitors: list[Visitor]) -> bool:
    return all(any(word in str(visitor[3]) for visitor in visitors) for word in words)


def _converse(sock: socket.socket, reply: Reply) -> str:
    said = b""
    with sock, contextlib.suppress(OSError):  # it has come, and that counts
        said = sock.recv(512)
        sock.sendall(reply("tcp", said))
    return said.decode("latin-1")


def _take(sock: socket.socket, reply: Reply) -> Visitor:
    said, peer = sock.recvfrom(512)
    answer = reply("udp", said)
    if answer:
        sock.sendto(answer, peer)
    return ["udp", sock.getsockname()[1], _without_zone(peer[0]), said.decode("latin-1")]


def _without_zone(address: str) -> str:
    return address.partition("%")[0]


@operation("abstract")
def abstract(operation: Operation, deadline: float) -> Record:
    """Be a canary on an abstract UNIX socket until the deadline: report what visitors said.

    The process takes the same name, for others to find, or not, in their ``/proc``. Who says the
    word ``until`` is the last.
    """
    name, end = operation["name"], time.monotonic() + deadline
    said: list[str] = []
    with open("/proc/self/comm", "w") as file:
        file.write(name[:15])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(f"\0{name}")
        sock.listen(16)
        with contextlib.suppress(Timeout):
            while operation.get("until") not in said:
                limit(sock, end)
                connection = sock.accept()[0]
                with connection:
                    limit(connection, end)
                    said.append(connection.recv(512).decode("latin-1"))
    return {"outcome": "listened", "said": said}


@operation("unix")
def unix(operation: Operation, deadline: float) -> Record:
    """Look for an abstract UNIX socket in the kernel's list, and say the nonce to it."""
    with open("/proc/net/unix") as file:
        listed = any(line.rstrip("\n").endswith(f" @{operation['name']}") for line in file)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(deadline)
            sock.connect(f"\0{operation['name']}")
            sock.sendall(operation["nonce"].encode())
    except OSError as error:
        number = error.errno or 0
        name = errno.errorcode.get(number, str(number))
        return {"outcome": CAUSES.get(number, "tool-error"), "errno": name, "listed": listed}
    return {"outcome": "connected", "listed": listed}
