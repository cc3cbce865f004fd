"""Saying what no client would say."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
import time

from pytest_bottle.guest.probe.core import attempt, limit, operation
from pytest_bottle.guest.probe.direct import open_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pytest_bottle.guest.probe.core import Operation, Record

#: How many conversations one operation holds at once: proxies have a limit of clients.
_AT_ONCE = 16
#: So many conversations of a group without a word, and none with one, speak for the rest of it.
_MUTE = 8
#: An answer that is longer, and not complete, never will be.
_LONGEST = 65536


@operation("talks")
def talks(operation: Operation, deadline: float) -> Record:
    """Hold many conversations, a few at a time; each may take ``patience`` seconds, or its own.

    Those that the deadline leaves no time for are not in the record. Those of a ``group`` that
    nobody answers, such as SOCKS at a proxy that has none, are skipped after a while.
    """
    end, patience = time.monotonic() + deadline, operation["patience"]
    waiting, records = operation["talks"][::-1], {}
    silences: dict[str, list[bool]] = {}

    def work() -> None:
        while waiting and time.monotonic() + patience < end:
            with contextlib.suppress(IndexError):  # somebody else took the last one
                talk = dict(waiting.pop(), answers=[])
                known = silences.setdefault(talk.get("group", ""), [])
                if talk.get("group") and len(known) >= _MUTE and all(known):
                    records[talk["name"]] = {"outcome": "skipped", "answers": []}
                    continue
                record = attempt("talk", talk, talk.get("patience") or patience)
                if "relay" in talk:
                    record["relayed"] = talk["relay"].get("works", False)
                records[talk["name"]] = dict(record, answers=talk["answers"])
                known.append(record["outcome"] == "timeout" and not any(talk["answers"]))

    others = [threading.Thread(target=work, daemon=True) for _ in range(_AT_ONCE - 1)]
    started = []
    with contextlib.suppress(RuntimeError):  # a limit of processes: then fewer at a time
        for thread in others:
            thread.start()
            started.append(thread)
    work()
    for thread in started:
        thread.join()
    return {"outcome": "talked", "talks": records}


@operation("talk")
def talk(operation: Operation, deadline: float) -> Record:
    """Say given bytes, step by step, and report what comes after each; the last words as well."""
    answers, end = operation.setdefault("answers", []), time.monotonic() + deadline
    where = operation["host"], operation["port"]
    if "relay" in operation:
        where = _relay(operation["relay"], where, end)
    with open_socket({"host": where[0]}, socket.SOCK_STREAM) as sock:
        sock.settimeout(deadline)
        sock.connect(where)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # pieces are sent as pieces
        for step in operation["steps"]:
            if step.get("tls"):
                sock = _secured(sock, step["tls"])
            data = bytes.fromhex(step["send"])
            if step.get("datagram"):
                _to_relay(operation, data)
            else:
                limit(sock, end)
                sock.sendall(data)
            answers.append("")
            if not _hear_out(sock, step.get("until", 0), end, answers):
                return {"outcome": "closed"}
    return {"outcome": "talked"}


def _secured(sock: socket.socket, name: str) -> socket.socket:
    """Begin TLS, for HTTP/2 and nothing else; whose certificate it is does not matter here."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        secure = context.wrap_socket(sock, server_hostname=name)
    except ssl.SSLError as error:
        raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
    if secure.selected_alpn_protocol() != "h2":
        secure.close()
        raise OSError(errno.EPROTONOSUPPORT, "the server does not speak HTTP/2")
    return secure


def _hear_out(sock: socket.socket, until: int | str, end: float, answers: list[str]) -> bool:
    """Add to the last answer until there are so many bytes, or these; tell if it is complete."""
    while len(answers[-1]) < until if isinstance(until, int) else until not in answers[-1]:
        limit(sock, end)
        part = sock.recv(4096)
        if not part or len(answers[-1]) > _LONGEST:
            return False
        answers[-1] += part.decode("latin-1")
    return True


def _to_relay(operation: Operation, data: bytes) -> None:
    """Send a datagram to the relay that a SOCKS5 reply names (RFC 1928), or else to the proxy."""
    said = "".join(operation["answers"][-1:]).encode("latin-1")
    host, port = operation["host"], operation["port"]
    if said[:2] == b"\5\0" and said[3:4] == b"\1" and len(said) >= 10:
        bound = socket.inet_ntoa(said[4:8])
        host, port = host if bound == "0.0.0.0" else bound, struct.unpack("!H", said[8:10])[0]
    with open_socket({"host": host}, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, (host, port))


def _relay(relay: dict[str, Any], to: tuple[str, int], end: float) -> tuple[str, int]:
    """Start a relay for one client on an address of our own; where it listens.

    It calls from the port ``source``, if there is one.
    """
    stack = contextlib.ExitStack()
    door = stack.enter_context(open_socket(relay, socket.SOCK_STREAM))
    door.bind((relay["host"], 0))
    door.listen(1)

    def work() -> None:
        with stack, contextlib.suppress(OSError):
            limit(door, end)
            client = stack.enter_context(door.accept()[0])
            server = stack.enter_context(open_socket({"host": to[0]}, socket.SOCK_STREAM))
            _call(server, relay.get("source"), to, end)
            relay["works"] = True
            _pump(client, server, end)

    threading.Thread(target=work, daemon=True).start()
    return relay["host"], door.getsockname()[1]


def _call(server: socket.socket, source: int | None, to: tuple[str, int], end: float) -> None:
    """Connect, from a port of ours perhaps, as soon as nobody else uses that for the same end."""
    if source:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    while True:
        limit(server, end)
        try:
            if source:
                server.bind(("", source))
                source = None
            server.connect(to)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
            time.sleep(0.01)
        else:
            return


def _pump(one: socket.socket, other: socket.socket, end: float) -> None:
    """Pass bytes on both ways until either side ends."""
    while time.monotonic() < end:
        for sock in select.select([one, other], [], [], max(0.0, end - time.monotonic()))[0]:
            data = sock.recv(65536)
            if not data:
                return
            (other if sock is one else one).sendall(data)
