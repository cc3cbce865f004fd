"""The probe's sweep of doors, its list of sockets, and its relays: what they find is there."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.guest.probe import doors as module
from tests.origins import free_address
from tests.ports import free_port
from tests.probing import ask, nobody_listens
from tests.sidecars import read_all, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sidecars import Listen

HERE = "127.0.0.1"


@contextmanager
def udp(answer: bytes) -> Iterator[int]:
    """A UDP socket; with an answer it gives that to the first who asks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, 0))

        def serve() -> None:
            sock.settimeout(60)
            _, peer = sock.recvfrom(512)
            sock.sendto(answer, peer)

        thread = threading.Thread(target=serve, daemon=True)
        if answer:
            thread.start()
        yield int(sock.getsockname()[1])
        if answer:
            thread.join()


def test_a_sweep_finds_the_doors_that_are_open() -> None:
    """And counts those that it tried; a port that nobody listens at is none."""
    with ExitStack() as stack:
        address = free_address()  # on 127.0.0.1 a sweep would visit the doors of other tests
        doors = [stack.enter_context(socket.create_server((address, 0))) for _ in range(3)]
        ports = sorted(door.getsockname()[1] for door in doors)
        first, last = ports[0] - 1, ports[-1] + 1
        record = ask("doors", host=address, first=first, last=last, deadline=100.0)
    assert set(ports) <= set(record["open"])
    assert record["count"] == last - first + 1
    assert record["silent"] == []


def test_a_sweep_goes_over_all_ports() -> None:
    """All 65,535 are tried, the first and the last too."""
    record = ask("doors", host=free_address(), deadline=150.0)
    assert (record["outcome"], record["count"]) == ("answered", 65535)


def test_a_sweep_that_takes_too_long_is_none() -> None:
    """What was not tried is not told as closed."""
    assert ask("doors", host=free_address(), deadline=0.0)["outcome"] == "timeout"


def test_doors_that_answer_nothing_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is full lets nobody in and refuses nobody."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    with socket.socket() as door, ExitStack() as stack:
        door.bind((HERE, 0))
        door.listen(0)
        port = door.getsockname()[1]
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex((HERE, port))
        record = module.doors({"host": HERE, "first": port, "last": port}, 5.0)
    assert (record["open"], record["silent"]) == ([], [port])


def test_a_datagram_s_door_is_one_that_answers() -> None:
    """Not one that is closed, nor one at which nobody says anything."""
    with (
        udp(b"yes") as open_door,
        udp(b"") as mute,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed,
    ):
        closed.bind((HERE, 0))
        closed.connect((HERE, 9))  # takes datagrams from there only
        ports = [open_door, mute, closed.getsockname()[1]]
        record = ask("doors", host=HERE, first=1, last=1, udp=ports)
    assert record["answered"] == [open_door]


def test_sockets_are_listed_with_both_their_ends() -> None:
    """Who listens, who is connected to whom, and who waits for datagrams."""
    with socket.create_server((HERE, 0)) as door, udp(b"") as waiting:
        port = door.getsockname()[1]
        with socket.create_connection((HERE, port)) as client:
            mine = client.getsockname()[1]
            rows = ask("sockets")["sockets"]
    assert ["tcp", HERE, port, "0.0.0.0", 0, 10] in rows
    assert ["tcp", HERE, mine, HERE, port, 1] in rows
    assert ["udp", HERE, waiting, "0.0.0.0", 0, 7] in rows


def test_a_mapped_address_is_told_as_what_it_is() -> None:
    """A socket of IPv6 that somebody calls by IPv4 shows both ends in IPv4."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("NOT RUN: no dual-stack sockets here")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as door:
        port = door.getsockname()[1]
        with socket.create_connection((HERE, port)) as client:
            mine = client.getsockname()[1]
            accepted = door.accept()[0]
            rows = ask("sockets")["sockets"]
            accepted.close()
    assert ["tcp", HERE, port, HERE, mine, 1] in rows
    assert ["tcp", "::", port, "::", 0, 10] in rows


@pytest.mark.parametrize("source", [0, 1])
def test_a_relay_passes_on_what_is_said_and_answered(listen: Listen, source: int) -> None:
    """From any port, or from one of its own, which many wait for in turn."""
    callers = []

    def origin(sock: socket.socket) -> None:
        callers.append(sock.getpeername()[1])
        sock.sendall(b"heard " + read_head(sock))
        read_all(sock)

    own = source and free_port()
    port = listen(origin)
    step = {"send": b"a\r\n\r\n".hex(), "until": "heard a"}
    one = {"host": HERE, "port": port, "steps": [step], "relay": {"host": HERE, "source": own}}
    talks = [{**one, "name": str(number)} for number in range(3)]
    found = ask("talks", talks=talks, patience=60.0, deadline=90.0)["talks"]
    assert {record["relayed"] for record in found.values()} == {True}
    assert {record["outcome"] for record in found.values()} == {"talked"}
    assert len(callers) == 3
    assert not own or set(callers) == {own}


def test_a_relay_that_reaches_nobody_says_so() -> None:
    """The conversation ends, and is not taken for one that was held by a relay."""
    step = {"send": b"a".hex(), "until": 1}
    with nobody_listens() as port:
        one = {"host": HERE, "port": port, "steps": [step], "relay": {"host": HERE}}
        found = ask("talks", talks=[{**one, "name": "it"}], patience=30.0, deadline=60.0)["talks"]
    assert found["it"]["relayed"] is False
    assert found["it"]["outcome"] in ("closed", "reset")
