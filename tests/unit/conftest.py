"""What several files of unit tests share: sidecars, origins and a DNS server, each on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from pytest_bottle.guest.proxy import Config, Timeouts
from tests.origins import Running, free_address, run_origins
from tests.sidecars import LOOPBACK, SHORT, FakeDns, Sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.sidecars import Handler, Listen, Start

# A loaded machine is no reason to fail: how long an example takes is nobody's property here.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def dns() -> Iterator[FakeDns]:
    """The only DNS server the sidecar knows."""
    server = FakeDns()
    yield server
    server.close()


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Start an origin: each of its connections is given to a function, one after the other."""
    with contextlib.ExitStack() as stack:

        def start(handler: Handler) -> int:
            listener = socket.create_server(("127.0.0.1", 0))

            def run() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        with connection, contextlib.suppress(ConnectionError):
                            connection.settimeout(30)
                            handler(connection)

            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(listener.close)
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return int(listener.getsockname()[1])

        yield start


@pytest.fixture
def sidecar(dns: FakeDns) -> Iterator[Start]:
    """Start a sidecar that lets through ``allowed.test`` at the given ports."""
    with contextlib.ExitStack() as stack:

        def start(
            *ports: int,
            routes: Sequence[tuple[str, Sequence[int]]] = (),
            exceptions: Sequence[str] = LOOPBACK,
            timeouts: Timeouts = SHORT,
        ) -> Sidecar:
            listed = routes or [("allowed.test", ports)]
            one = Sidecar(Config(listed, dns.address, exceptions, timeouts))
            stack.callback(one.close)
            return one

        yield start


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """Origins that speak everything but TLS."""
    with contextlib.ExitStack() as stack:
        yield run_origins(stack, free_address())


@pytest.fixture
def fresh() -> Iterator[Running]:
    """Origins that have given no address away."""
    with contextlib.ExitStack() as stack:
        yield run_origins(stack, free_address())
