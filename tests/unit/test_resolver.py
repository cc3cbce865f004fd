"""The stub resolver against a DNS server that misbehaves on request."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.guest import dnswire, resolver
from pytest_bottle.guest.dnswire import AAAA, A, build_answer, parse_query
from pytest_bottle.guest.policy import Stop
from pytest_bottle.guest.resolver import Dialer, ResolutionError, Resolver, endpoint, is_own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    #: What comes back for a query; ``tcp`` says over what it came.
    Behaviour = Callable[[bytes, bool], list[bytes]]
    Start = Callable[[Behaviour], "FakeServer"]


class FakeServer:
    """A DNS server on loopback, UDP and TCP on one port, that answers as it is told."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.queries: list[dnswire.Query] = []
        self.sources: list[int] = []
        while True:  # a port that is free for both
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind(("127.0.0.1", 0))
            self.address: tuple[str, int] = self.udp.getsockname()
            try:
                self.tcp = socket.create_server(self.address)
                break
            except OSError:
                self.udp.close()
        self.threads = [threading.Thread(target=run) for run in (self._datagrams, self._streams)]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """Wake both threads and end them."""
        for sock in (self.udp, self.tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self.address)
        for thread in self.threads:
            thread.join()
        self.udp.close()
        self.tcp.close()

    def _datagrams(self) -> None:
        while True:
            data, source = self.udp.recvfrom(4096)
            if not data:
                return
            self.queries.append(parse_query(data))
            self.sources.append(source[1])
            for answer in self.behaviour(data, False):
                self.udp.sendto(answer, source)

    def _streams(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                data = connection.recv(4096)[2:]
                for answer in self.behaviour(data, True):
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)


@pytest.fixture
def server() -> Iterator[Start]:
    """Start a fake server with a behaviour."""
    servers: list[FakeServer] = []

    def start(behaviour: Behaviour) -> FakeServer:
        servers.append(FakeServer(behaviour))
        return servers[-1]

    yield start
    for one in servers:
        one.close()


def answering(*addresses: str, rcode: int = 0, truncated: bool = False) -> Behaviour:
    """The same answer for everything."""
    return lambda data, _: [
        build_answer(parse_query(data), addresses, rcode=rcode, truncated=truncated)
    ]


def reason_of(fake: FakeServer, name: str = "allowed.test", timeout: float = 10.0) -> str:
    """Why a name cannot be resolved there."""
    with pytest.raises(ResolutionError) as caught:
        Resolver(fake.address, timeout).resolve(name)
    return caught.value.reason


def test_ipv4_comes_first(server: Start) -> None:
    """Both families are asked for, and IPv4 addresses stand first."""
    fake = server(answering("2620:4f:8000::1", "192.88.99.1", "192.88.99.2"))
    found = Resolver(fake.address, 10).resolve("allowed.test")
    assert found == ["192.88.99.1", "192.88.99.2", "2620:4f:8000::1"]
    assert [query.qtype for query in fake.queries] == [A, AAAA]


def test_a_name_with_ipv6_only(server: Start) -> None:
    """A name without IPv4 addresses has its IPv6 ones."""
    fake = server(answering("2620:4f:8000::1"))
    assert Resolver(fake.address, 10).resolve("allowed.test") == ["2620:4f:8000::1"]


def test_ids_and_ports_are_not_reused(server: Start) -> None:
    """Every question has an id and a source port of its own (RFC 5452)."""
    fake = server(answering("192.88.99.1"))
    asking = Resolver(fake.address, 10)
    for _ in range(8):
        asking.resolve("allowed.test")
    assert len({query.id for query in fake.queries}) > 8
    assert len(set(fake.sources)) > 8


@pytest.mark.parametrize(
    ("rcode", "reason"),
    [
        (dnswire.NXDOMAIN, "nxdomain"),
        (dnswire.REFUSED, "refused"),
        (dnswire.SERVFAIL, "servfail"),
        (4, "servfail"),
        (0, "no-data"),
    ],
)
def test_a_failure_has_a_typed_reason(server: Start, rcode: int, reason: str) -> None:
    """What the server says is not lost in a general failure."""
    assert reason_of(server(answering(rcode=rcode))) == reason


def test_a_missing_name_is_asked_for_once(server: Start) -> None:
    """NXDOMAIN holds for all types (RFC 8020): there is no second question."""
    fake = server(answering(rcode=dnswire.NXDOMAIN))
    reason_of(fake)
    assert len(fake.queries) == 1


def test_silence_is_a_timeout_after_bounded_attempts(
    server: Start,
) -> None:
    """A silent server is asked twice and no more."""
    fake = server(lambda _data, _tcp: [])
    assert reason_of(fake, timeout=0.2) == "timeout"
    assert len(fake.queries) == 2


def test_a_lost_datagram_is_sent_again(server: Start) -> None:
    """One lost question does not make a failure."""
    answer, seen = answering("192.88.99.1"), []

    def lossy(data: bytes, tcp: bool) -> list[bytes]:
        seen.append(data)
        return answer(data, tcp) if len(seen) > 1 else []

    fake = server(lossy)
    assert Resolver(fake.address, 1.0).resolve("allowed.test") == ["192.88.99.1"]


def test_a_failed_second_family_does_not_spoil_the_first(
    server: Start,
) -> None:
    """Some servers fail on AAAA: the IPv4 addresses still count."""

    def half(data: bytes, tcp: bool) -> list[bytes]:
        rcode = dnswire.SERVFAIL if parse_query(data).qtype == AAAA else 0
        return answering("192.88.99.1", rcode=rcode)(data, tcp)

    assert Resolver(server(half).address, 10).resolve("allowed.test") == ["192.88.99.1"]


def test_forged_answers_are_passed_over(server: Start) -> None:
    """A wrong id, another name, another type and garbage are ignored until the answer comes."""

    def noisy(data: bytes, _tcp: bool) -> list[bytes]:
        query = parse_query(data)
        others = [
            query._replace(id=query.id ^ 1),
            query._replace(name="denied.test"),
            query._replace(qtype=dnswire.TXT),
        ]
        forged = [build_answer(other, ["192.88.99.66"]) for other in others]
        return [*forged, b"\0", build_answer(query, ["192.88.99.1"])]

    assert Resolver(server(noisy).address, 10).resolve("allowed.test") == ["192.88.99.1"]


def test_only_garbage_is_garbage(server: Start) -> None:
    """A server that talks nonsense is told from a silent one."""
    assert reason_of(server(lambda _data, _tcp: [b"nonsense"]), timeout=1.0) == "garbage"


def test_a_truncated_answer_is_fetched_over_tcp(server: Start) -> None:
    """TC means: ask again over TCP (RFC 7766)."""
    many = [f"192.88.99.{number}" for number in range(1, 200)]
    fake = server(lambda data, tcp: answering(*many, truncated=not tcp)(data, tcp))
    assert Resolver(fake.address, 10).resolve("allowed.test") == many


@pytest.mark.parametrize("answer", [b"", b"\0" * 40])
def test_garbage_over_tcp_is_garbage(server: Start, answer: bytes) -> None:
    """An empty or nonsensical answer over TCP ends the attempt."""
    fake = server(lambda data, tcp: [answer] if tcp else answering(truncated=True)(data, tcp))
    assert reason_of(fake) == "garbage"


def test_an_answer_truncated_twice_is_garbage(server: Start) -> None:
    """TC over TCP makes no sense and is not tried again."""
    assert reason_of(server(answering(truncated=True))) == "garbage"


def test_a_connection_closed_early_is_garbage(server: Start) -> None:
    """A TCP connection that ends before the answer does is no answer."""
    fake = server(lambda data, tcp: [] if tcp else answering(truncated=True)(data, tcp))
    assert reason_of(fake) == "garbage"


def test_a_closed_port_is_unreachable() -> None:
    """Nobody there is not the same as no answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(("127.0.0.1", 9))  # takes datagrams from there only
        with pytest.raises(ResolutionError) as caught:
            Resolver(sock.getsockname(), 10).resolve("allowed.test")
    assert caught.value.reason == "unreachable"


def test_a_name_that_no_message_can_hold(server: Start) -> None:
    """An overlong label is never sent."""
    fake = server(answering())
    assert reason_of(fake, "a" * 64 + ".test") == "bad-name"
    assert not fake.queries


def test_a_literal_is_not_looked_up(server: Start) -> None:
    """The dialler takes an address as it is."""
    fake = server(answering())
    dialer = Dialer(Resolver(fake.address), [], 1)
    assert dialer.checked("192.88.99.1") == ["192.88.99.1"]
    assert not fake.queries


def test_own_addresses_are_recognised() -> None:
    """The loopback address is this machine's; an address of the lab is not."""
    assert is_own("127.0.0.1")
    assert not is_own("192.88.99.1")


def test_the_sidecar_does_not_dial_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """An own address is refused although it is public, unless only an exception let it pass."""
    monkeypatch.setattr(resolver, "is_own", lambda _address: True)
    dialer = Dialer(Resolver(("127.0.0.1", 53)), ["127.0.0.0/8"], 1)
    with pytest.raises(Stop) as caught:
        dialer.checked("192.88.99.1")
    assert (caught.value.decision, caught.value.reason) == ("deny", "self")
    assert dialer.checked("127.0.0.1") == ["127.0.0.1"]


def test_endpoints_are_readable() -> None:
    """IPv6 addresses stand in brackets."""
    assert endpoint(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert endpoint(("::1", 80, 0, 0)) == "[::1]:80"
