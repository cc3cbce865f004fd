"""The canary services of the bottle's host: what any machine has listening.

One on every address, one on loopback only; each writes down who came. They are the far end of the
checks about the host: silence here, with a host that answers itself, is a block.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from contextlib import suppress

GREETING = b"BOTTLE-CANARY\n"
#: The ports, TCP and UDP: of the canary on every address, and of the one on 127.0.0.1 only.
WILDCARD_PORT, LOOPBACK_PORT = 46011, 46012


def listen() -> list[socket.socket]:
    """Open the canaries, in the current network namespace."""
    sockets = []
    for address, port in (("0.0.0.0", WILDCARD_PORT), ("127.0.0.1", LOOPBACK_PORT)):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = socket.socket(socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(16)
            sockets.append(sock)
    return sockets


def serve(sockets: list[socket.socket], log: int) -> None:
    """Greet and write down every visitor, for ever."""
    selector = selectors.DefaultSelector()
    for sock in sockets:
        selector.register(sock, selectors.EVENT_READ, sock)
    while True:
        for key, _ in selector.select():
            peer, said = _visit(key.data)
            _note(log, key.data, peer, said)


def _visit(sock: socket.socket) -> tuple[str, bytes]:
    if sock.type == socket.SOCK_DGRAM:
        data, address = sock.recvfrom(512)
        with suppress(OSError):  # H has no way back to who should not have come
            sock.sendto(GREETING, address)
        return f"{address[0]}:{address[1]}", data
    connection, address = sock.accept()
    with connection, suppress(OSError):
        connection.sendall(GREETING)
    return f"{address[0]}:{address[1]}", b""


def _note(log: int, sock: socket.socket, peer: str, said: bytes) -> None:
    kind = "udp" if sock.type == socket.SOCK_DGRAM else "tcp"
    record = {
        "event": "canary",
        "time": time.time(),
        "protocol": kind,
        "port": sock.getsockname()[1],
        "client": peer,
        "payload": said.decode("latin-1"),
    }
    os.write(log, json.dumps(record).encode() + b"\n")
