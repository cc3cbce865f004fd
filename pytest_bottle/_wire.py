"""Messages between our own processes: JSON behind a 4-byte length, with open files alongside.

Standard library only: both ends of a UNIX socket pair use it, one of them inside a namespace.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import time
from typing import Any, Dict  # noqa: UP035

_HEAD = struct.Struct("!I")
#: As many files as fit beside one message; more of them would get lost without a word.
MAX_FDS = 16
#: A message longer than this is a defect of ours, not data.
MAX_BYTES = 64 * 1024 * 1024

Message = Dict[str, Any]  # noqa: UP006 - Python 3.8 runs this in guests


class Closed(Exception):  # noqa: N818 - the peer is gone: an event
    """The other end has closed the connection."""


def send(sock: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send one message; ``fds`` travel with its first byte.

    Raises:
        Closed: the peer closed the connection.
    """
    if len(fds) > MAX_FDS:
        raise ValueError(f"{len(fds)} files do not fit beside one message")
    body = json.dumps(message, separators=(",", ":")).encode()
    data = _HEAD.pack(len(body)) + body
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sent = sock.sendmsg([data], ancillary)
        if sent < len(data):
            sock.sendall(data[sent:])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed from error


def receive(sock: socket.socket, timeout: float | None = None) -> tuple[Message, list[int]]:
    """Receive one message and the files that came with it.

    Args:
        sock: a connected UNIX stream socket.
        timeout: seconds for the whole message; None waits for ever.

    Raises:
        Closed: the peer closed the connection, or what came is no message of ours.
        TimeoutError: the message was not complete in time; the rest of it may still come, so the
            connection is of no further use.
    """
    end = None if timeout is None else time.monotonic() + timeout
    fds: list[int] = []
    try:
        (length,) = _HEAD.unpack(_exactly(sock, _HEAD.size, end, fds))
        if length > MAX_BYTES:
            raise Closed(f"a message of {length} bytes is no message of ours")
        return json.loads(_exactly(sock, length, end, fds)), fds
    except BaseException:
        for fd in fds:  # nobody else knows of them
            os.close(fd)
        raise


def call(
    sock: socket.socket, message: Message, fds: tuple[int, ...] = (), timeout: float | None = None
) -> tuple[Message, list[int]]:
    """Send a request and wait for its answer."""
    send(sock, message, fds)
    return receive(sock, timeout)


def _exactly(sock: socket.socket, size: int, end: float | None, fds: list[int]) -> bytes:
    data = bytearray()
    while len(data) < size:
        if end is None:
            sock.settimeout(None)
        else:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("the peer did not answer in time")
            sock.settimeout(left)
        try:
            part, ancillary, flags, _ = sock.recvmsg(
                min(size - len(data), 1 << 20),
                socket.CMSG_SPACE(MAX_FDS * 4),
                getattr(socket, "MSG_CMSG_CLOEXEC", 0),
            )
        except ConnectionResetError as error:
            raise Closed from error
        finally:
            sock.settimeout(None)
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                fds.extend(received)
        if flags & socket.MSG_CTRUNC:
            raise Closed("files that came with the message got lost: too many are open")
        if not part:
            raise Closed
        data += part
    return bytes(data)
