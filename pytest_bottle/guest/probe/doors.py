"""Which doors an address has: all of TCP's, some of UDP's; and which sockets we have ourselves."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time

from pytest_bottle.guest.probe.core import Timeout, operation, place, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record

#: How many doors are tried at once, below the usual limit of open files, and for how long.
_AT_ONCE, _PATIENCE = 400, 0.5
#: How long one door is waited for alone, as a ``struct timeval``: whoever refuses does so at once.
_AT_A_TIME = struct.pack("@ll", 0, 50_000)
#: A question of DNS (RFC 1035): name servers answer to nothing else.
_QUESTION = b"\x13\x37\1\0\0\1\0\0\0\0\0\0\4door\4test\0\0\1\0\1"


@operation("doors")
def doors(operation: Operation, deadline: float) -> Record:
    """Try TCP doors of an address, from ``first`` to ``last``, and the UDP ones that are listed.

    ``silent`` has the ports of TCP that neither let us in nor refused.
    """
    end, host = time.monotonic() + deadline, operation["host"]
    first, last = operation.get("first", 1), operation.get("last", 65535)
    found: dict[str, list[int]] = {"open": [], "silent": [], "refused": []}
    for start in range(first, last + 1, _AT_ONCE):
        if time.monotonic() > end:
            raise Timeout(f"the deadline is over at port {start}")
        for port, answer in _tried(host, range(start, min(start + _AT_ONCE, last + 1))).items():
            found[answer].append(port)
    answered = _ask(host, operation.get("udp", ()))
    tried = sum(map(len, found.values()))
    return {
        "outcome": "answered",
        "count": tried,
        "open": found["open"],
        "silent": found["silent"],
        "answered": answered,
    }


def _tried(host: str, ports: range) -> dict[int, str]:
    """Connect to some ports, one after the other as long as each answers, else at once.

    A socket that was refused can connect again, which takes half the time of a new one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    answers: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        sock = None
        for port in ports:
            if sock is None:
                sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _AT_A_TIME)
            answer = _answer(sock.connect_ex(place(host, port)))
            if answer == "silent":
                return {**answers, **_knock(host, range(port, ports.stop))}
            if answer == "open":
                sock = None
            answers[port] = answer
    return answers


def _knock(host: str, ports: range) -> dict[int, str]:
    """Connect to some ports at once; ``open``, ``refused`` or ``silent``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    answers, waiting, poller = {}, {}, select.poll()
    with contextlib.ExitStack() as stack:
        for port in ports:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.settimeout(0)
            number = sock.connect_ex(place(host, port))
            if number == errno.EINPROGRESS:
                waiting[sock.fileno()] = port, sock
                poller.register(sock, select.POLLOUT)
            else:
                answers[port] = _answer(number)
        end = time.monotonic() + _PATIENCE
        while waiting and time.monotonic() < end:
            for descriptor, _ in poller.poll(50):
                port, sock = waiting.pop(descriptor)
                poller.unregister(descriptor)
                answers[port] = _answer(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    answers.update((port, "silent") for port, _ in waiting.values())
    return answers


def _answer(number: int) -> str:
    return {0: "open", errno.ECONNREFUSED: "refused"}.get(number, "silent")


def _ask(host: str, ports: list[int]) -> list[int]:
    """Send a datagram to each of some ports; those that answer."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    answered = []
    with contextlib.ExitStack() as stack:
        socks = {}
        for port in ports:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.settimeout(0)
            with contextlib.suppress(OSError):
                sock.connect(place(host, port))
                sock.send(_QUESTION)
                socks[sock] = port
        end = time.monotonic() + _PATIENCE
        while socks and time.monotonic() < end:
            for sock in select.select([*socks], [], [], max(0.0, end - time.monotonic()))[0]:
                port = socks.pop(sock)
                with contextlib.suppress(OSError):  # an error is a closed door's
                    sock.recv(512)
                    answered.append(port)
    return answered


@operation("sockets")
def sockets(_operation: Operation, _deadline: float) -> Record:
    """List this network namespace's sockets of TCP and UDP (proc(5)), those in TIME_WAIT too.

    Each is a row of protocol, own address and port, the other's address and port, and state.
    """
    rows = [
        [name[:3], *_end(words[1]), *_end(words[2]), int(words[3], 16)]
        for name in ("tcp", "tcp6", "udp", "udp6")
        for words in table(f"/proc/net/{name}")[1:]
    ]
    return {"outcome": "answered", "sockets": rows}


def _end(text: str) -> tuple[str, int]:
    """An address and a port; an IPv4 address that a socket of IPv6 has is one of IPv4."""
    digits, _, port = text.partition(":")
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    raw = b"".join(struct.pack("=I", word) for word in words)
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    address = socket.inet_ntop(family, raw)
    return (address[7:] if address.startswith("::ffff:") else address), int(port, 16)
