"""Looking names up: as the guest is set up to, and by hand at resolvers of all kinds."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import threading
import time

from pytest_bottle.guest.probe.core import Timeout, limit, operation, table
from pytest_bottle.guest.probe.web import addresses_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record


@operation("resolve")
def resolve(operation: Operation, deadline: float) -> Record:
    """Look names up as this guest is set up to, and by hand at each server that it is given.

    ``name`` goes to the C library, ``raw`` with types A and AAAA to the servers of resolv.conf; a
    guest without any asks its own loopback (resolv.conf(5)).
    """
    servers = servers_of("/etc/resolv.conf")
    answers = {
        f"{server} {qtype}": ask_for(server, operation["raw"], qtype, deadline)
        for server in (servers or ["127.0.0.1"])
        for qtype in (1, 28)
    }
    try:
        found = sorted({address for address, _ in addresses_of(operation["name"], 0, deadline)})
        library = {"outcome": "answered", "addresses": found}
    except OSError as error:
        library = {"outcome": "dns-failure", "detail": str(error)}
    return {"outcome": "answered", "servers": servers, "raw": answers, "library": library}


def servers_of(path: str) -> list[str]:
    """The servers that a file in the form of resolv.conf(5) names."""
    return [words[1] for words in table(path) if words[:1] == ["nameserver"] and words[1:]]


@operation("ask")
def ask(operation: Operation, deadline: float) -> Record:
    """Ask each server of resolv.conf all ``questions``, pairs of name and type, at once, by hand.

    With ``search`` the C library is told of a domain to search (resolv.conf(5)), and asked for a
    name in it.
    """
    servers = servers_of("/etc/resolv.conf")
    answers: dict[str, list[str]] = {}
    threads = []

    def attempt_all(server: str, name: str, qtype: int) -> None:
        answers.setdefault(server, []).append(ask_for(server, name, qtype, deadline))

    for server in servers or ["127.0.0.1"]:
        for question in operation["questions"]:
            thread = threading.Thread(target=attempt_all, args=(server, *question), daemon=True)
            thread.start()
            threads.append(thread)
    library, search = "", operation.get("search")
    if search:
        library = look_up(search["name"], {"LOCALDOMAIN": search["domain"]}, deadline)
    for thread in threads:
        thread.join()
    return {"outcome": "answered", "servers": servers, "answers": answers, "library": library}


def look_up(name: str, variables: dict[str, str], deadline: float) -> str:
    """Let the C library of a fresh process look a name up, for it reads its settings once."""
    import subprocess

    own = {"RES_OPTIONS": "ndots:15 timeout:1 attempts:1", **variables}
    code = "import socket, sys; print(*{a[4][0] for a in socket.getaddrinfo(sys.argv[1], 0)})"
    argv = [sys.executable, "-I", "-S", "-c", code, name]
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=deadline + 5.0,
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    words = (done.stdout or done.stderr).decode("latin-1").strip().splitlines()
    return words[-1] if words else f"status {done.returncode}"


def ask_for(server: str, name: str, qtype: int, deadline: float) -> str:
    """Say what a server made of a question: ``rcode N``, or the error's own name."""
    question = _question(name, qtype)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(deadline)
            sock.connect((server, 53))
            sock.send(question)
            return f"rcode {sock.recv(4096)[3] & 15}"
    except Timeout:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def _question(name: str, qtype: int) -> bytes:
    """A recursive query for one name (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    ident = int.from_bytes(os.urandom(2), "big")
    head = struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0)
    return head + labels + b"\0" + struct.pack("!HH", qtype, 1)


@operation("dns-sweep")
def dns_sweep(operation: Operation, deadline: float) -> Record:
    """Ask many addresses for a name each, over UDP and, those of ``tcp``, over TCP too.

    ``udp`` and ``tcp`` are addresses; the name that each is asked for begins with its place in the
    list. Who answers with a DNS message is a resolver.
    """
    end, name = time.monotonic() + deadline, operation["name"]
    answered: dict[str, list[str]] = {"udp": [], "tcp": []}
    failed: dict[str, int] = {}

    def over_tcp(number: int, host: str) -> None:
        cause = _ask_over_tcp(host, _question(f"t{number}.{name}", 1), end)
        if cause:
            failed[cause] = failed.get(cause, 0) + 1
        else:
            answered["tcp"].append(host)

    threads: list[threading.Thread] = []
    for number, host in enumerate(operation["tcp"]):
        thread = threading.Thread(target=over_tcp, args=(number, host), daemon=True)
        thread.start()
        threads.append(thread)
    answered["udp"] = _ask_over_udp(operation["udp"], name, end, failed)
    for thread in threads:
        thread.join()
    return {"outcome": "answered", "answered": answered, "failed": failed}


def _ask_over_udp(hosts: list[str], name: str, end: float, failed: dict[str, int]) -> list[str]:
    found: set[str] = set()
    with contextlib.ExitStack() as stack:
        socks = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            socks[family] = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        for number, host in enumerate(hosts):
            sock = socks[socket.AF_INET6 if ":" in host else socket.AF_INET]
            try:
                sock.sendto(_question(f"u{number}.{name}", 1), (host, 53))
            except OSError as error:
                cause = errno.errorcode.get(error.errno or 0, str(error))
                failed[cause] = failed.get(cause, 0) + 1
        while time.monotonic() < end:
            left = max(0.0, end - time.monotonic())
            for sock in select.select(list(socks.values()), [], [], left)[0]:
                with contextlib.suppress(OSError):
                    answer, peer = sock.recvfrom(4096)
                    if len(answer) >= 12 and answer[2] & 0x80:
                        found.add(peer[0])
    return sorted(found)


def _ask_over_tcp(host: str, question: bytes, end: float) -> str:
    """Ask over TCP (RFC 1035, 4.2.2); empty if a DNS message came back, or else the cause."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            limit(sock, end)
            sock.connect((host, 53))
            sock.sendall(struct.pack("!H", len(question)) + question)
            answer = b""
            while len(answer) < 14:
                limit(sock, end)
                part = sock.recv(4096)
                if not part:
                    return "no answer"
                answer += part
            return "" if answer[4] & 0x80 else "no answer"
    except Timeout:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
