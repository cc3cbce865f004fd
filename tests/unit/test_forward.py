"""The forwarder of a published port, on real sockets of the loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.guest import forward
from tests.probing import nobody_listens

if TYPE_CHECKING:
    from collections.abc import Iterator

Event = dict[str, object]
Publish = Callable[..., tuple[str, int]]


@pytest.fixture
def record() -> list[Event]:
    """What the forwarder wrote down."""
    return []


@pytest.fixture
def publish(record: list[Event]) -> Iterator[Publish]:
    """Start a forwarder to some targets, on a port of its own; it ends with the test."""
    doors, threads = [], []

    def start(*targets: tuple[str, int]) -> tuple[str, int]:
        doors.append(socket.create_server(("127.0.0.1", 0)))
        arguments = ([doors[-1]], targets, record.append)
        threads.append(threading.Thread(target=forward.serve, args=arguments))
        threads[-1].start()
        return tuple(doors[-1].getsockname())

    yield start
    for door in doors:
        door.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    for door in doors:
        door.close()


@pytest.fixture
def service() -> Iterator[tuple[str, int]]:
    """A service that reads all that comes, and then sends it back twice."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as file:
                connection.sendall(file.read() * 2)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()


@pytest.fixture
def nobody() -> Iterator[tuple[str, int]]:
    """An address where nobody listens, nor can meanwhile."""
    with nobody_listens() as port:
        yield "127.0.0.1", port


def talk(address: tuple[str, int], data: bytes) -> bytes:
    """Send, say that this was all, and read to the end."""
    with socket.create_connection(address, 30) as sock, sock.makefile("rb") as file:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return file.read()


def test_bytes_pass_both_ways(
    publish: Publish, service: tuple[str, int], record: list[Event]
) -> None:
    """Everything arrives, the end of one side is the other's too, and the visitor is known."""
    data = bytes(range(256)) * 8192

    assert talk(publish(service), data) == data * 2

    (event,) = record
    assert event["event"] == "status"
    assert str(event["client"]).startswith("127.0.0.1:")


def test_the_next_target_is_tried(
    publish: Publish, service: tuple[str, int], nobody: tuple[str, int]
) -> None:
    """Where the first target refuses, the second gets the connection."""
    assert talk(publish(nobody, service), b"x") == b"xx"


def test_no_target_is_a_hang_up(
    publish: Publish, record: list[Event], nobody: tuple[str, int]
) -> None:
    """Where nobody listens the visitor gets no byte, is written down, and the next one is too."""
    door = publish(nobody, nobody)

    for _ in range(2):
        with socket.create_connection(door, 30) as visitor:
            assert visitor.recv(1) == b""

    assert [event["event"] for event in record] == ["status", "status"]
