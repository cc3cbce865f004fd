"""The probe's own control: every kind of stimulus, against sinks on its own loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from pytest_bottle.guest.probe.core import ECHO, operation, typed
from pytest_bottle.guest.probe.direct import icmp, tcp, udp
from pytest_bottle.guest.probe.listening import attend, door, greeting
from pytest_bottle.guest.probe.web import http

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Act, Operation, Record


@operation("selftest")
def selftest(operation: Operation, deadline: float) -> Record:
    """Run every kind of stimulus against sinks on our own loopback (CTL-02)."""
    with contextlib.ExitStack() as stack:
        stream = door(stack, socket.SOCK_STREAM, "127.0.0.1")
        datagrams = door(stack, socket.SOCK_DGRAM, "127.0.0.1")
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        sinks = threading.Thread(
            target=_serve, args=([stream, datagrams], deadline * 5), daemon=True
        )
        sinks.start()
        stack.callback(sinks.join)
        stack.callback(stream.shutdown, socket.SHUT_RDWR)
        ports = [sock.getsockname()[1] for sock in (stream, datagrams, closed)]
        here = {"host": "127.0.0.1", "nonce": operation["nonce"]}
        trials: dict[str, tuple[Act, Operation]] = {
            "tcp": (tcp, dict(here, port=ports[0])),
            "udp": (udp, dict(here, port=ports[1], answers=True)),
            "icmp": (icmp, here),
            "http": (http, {"url": f"http://127.0.0.1:{ports[0]}/{operation['nonce']}"}),
            "closed": (tcp, dict(here, port=ports[2])),
        }
        records = {name: _try(*trial, deadline) for name, trial in trials.items()}
    return {"outcome": "answered", "records": records}


def _try(act: Act, operation: Operation, deadline: float) -> Record:
    return typed(lambda: act(operation, deadline))


def _serve(doors: list[socket.socket], seconds: float) -> None:
    with contextlib.suppress(OSError):  # shut down: the self-test is over
        attend(doors, time.monotonic() + seconds, _play)


def _play(kind: str, said: bytes) -> bytes:
    if kind == "udp":
        return b"%s %s" % (ECHO, said)
    return greeting(kind, said) or b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
