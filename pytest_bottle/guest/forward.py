"""The forwarder: a published port that leads to a service in the sidecar's guest.

It stands in for the address translation of a real engine, and writes down who came.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from typing import TYPE_CHECKING

from pytest_bottle.guest.relay import Flow, relay
from pytest_bottle.guest.resolver import TIMEOUTS, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Audit = Callable[[dict[str, object]], None]
    Address = tuple[str, int]

#: Seconds for the service to accept a connection, and for a pause in one.
_CONNECT, _IDLE = 5.0, 300.0
#: Connections at once; the next ones wait in the socket's own queue.
_SLOTS = 64


def serve(doors: Sequence[socket.socket], targets: Sequence[Address], audit: Audit) -> None:
    """Serve until every door is shut down; that is, for ever.

    Args:
        doors: listening sockets of the published port.
        targets: where the service may listen; the first that accepts gets the connection.
        audit: takes one event for each visitor: ``{"event": "status", "client": …}``.
    """
    lock, slots = threading.Lock(), threading.Semaphore(_SLOTS)

    def visit(visitor: socket.socket, peer: Address) -> None:
        try:
            with lock:
                audit({"time": time.time(), "event": "status", "client": endpoint(peer)})
            _pass_on(visitor, targets)
        finally:
            slots.release()

    def accept(door: socket.socket) -> None:
        door.settimeout(None)
        while True:
            slots.acquire()
            try:
                visitor, peer = door.accept()
                threading.Thread(target=visit, args=(visitor, peer), daemon=True).start()
            except (OSError, RuntimeError) as error:
                slots.release()
                if getattr(error, "errno", 0) in (errno.EBADF, errno.EINVAL):  # shut down
                    return
                time.sleep(0.01)  # out of files or threads: it passes

    threads = [threading.Thread(target=accept, args=(door,), daemon=True) for door in doors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pass_on(visitor: socket.socket, targets: Sequence[Address]) -> None:
    with visitor, contextlib.suppress(OSError, *TIMEOUTS), _dial(targets) as service:
        for side in (visitor, service):
            side.settimeout(_IDLE)
        up, down = Flow(visitor, service), Flow(service, visitor)
        relay((up, down), _IDLE, lambda: up.done and down.done)


def _dial(targets: Sequence[Address]) -> socket.socket:
    """Connect to the first target that accepts; the visitor is hung up on if none does."""
    failure = OSError("no target")
    for target in targets:
        try:
            return socket.create_connection(target, _CONNECT)
        except OSError as error:
            failure = error
    raise failure
