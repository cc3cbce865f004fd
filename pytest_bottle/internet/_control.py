"""One way for the lab's servers to answer their control connection."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_bottle import _wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

#: A request is sent in one piece; who needs longer has lost its way.
_PATIENCE = 5.0


def survive_hang_ups() -> None:
    """Make a write to a client that has gone an error, as Python does unless it was told else.

    A process that forks guests gives them the default back: the first client that hangs up too
    early would kill the server.
    """
    with suppress(ValueError):  # not the main thread, as in tests
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def answer_one(sock: socket.socket, handle: Callable[[_wire.Message], _wire.Message]) -> bool:
    """Read one request and send its answer; False when the other end is gone.

    A request that makes no sense is answered with ``{"error": ...}``: a defect of the asker must
    not silence the server.
    """
    try:
        request, _ = _wire.receive(sock, _PATIENCE)
    except (_wire.Closed, OSError, ValueError):
        return False
    try:
        answer = handle(request)
    except (OSError, LookupError, TypeError, ValueError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    try:
        _wire.send(sock, answer)
    except (_wire.Closed, OSError):
        return False
    return True
