"""The probe as a listener: who came, and what the kernel counted."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.guest.probe import listening
from tests.ports import free_port
from tests.probing import ask

if TYPE_CHECKING:
    from tests.probing import Record

HERE = "127.0.0.1"


def test_the_listener_counts_what_its_kernel_received(port: int) -> None:
    """Also what nobody could accept: here a datagram to a port on which nobody listens."""
    before = ask("listen", deadline=0)["counters"]["after"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"n", (HERE, port))
    after = ask("listen", deadline=0)["counters"]["before"]
    assert after.keys() == before.keys() == {"ip", "tcp", "udp", "icmp"}
    assert after["udp"] > before["udp"]
    assert after["ip"] > before["ip"]


def test_counters_that_cannot_be_read_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not nought: nothing can be concluded then."""
    monkeypatch.setattr(listening, "_RECEIVED", (("tcp", "Tcp:", ("NoSuchCounter",)),))
    assert listening._counters() == {}


@pytest.fixture
def port() -> int:
    """A number that is free on 127.0.0.1 for TCP and UDP, and that nobody else is given."""
    return free_port()


def connect(port: int, host: str = HERE) -> socket.socket:
    """Connect as soon as somebody listens."""
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((host, port), 30)
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_the_listener_reports_every_visitor(port: int) -> None:
    """Who came how to which port from where, and its first words; who was silent counts as well."""
    records: list[Record] = []

    def listener() -> None:
        records.append(ask("listen", tcp=[port], udp=[port], deadline=5.0))

    thread = threading.Thread(target=listener)
    thread.start()
    with connect(port), connect(port) as speaking, connect(port) as stranger:
        speaking.sendall(b"BOTTLE n1\n")
        assert speaking.recv(100) == b"BOTTLE-ECHO n1\n"
        stranger.sendall(b"hello\n")
        assert stranger.recv(100) == b""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0.1)
            sender.sendto(b"n2", (HERE, port))
            with pytest.raises(TimeoutError):
                sender.recv(100)
        thread.join()
    (record,) = records
    assert record["outcome"] == "listened"
    *spoke, last = record["visitors"]
    assert last == ["tcp", port, HERE, ""]
    assert sorted(spoke) == [
        ["tcp", port, HERE, "BOTTLE n1\n"],
        ["tcp", port, HERE, "hello\n"],
        ["udp", port, HERE, "n2"],
    ]


def test_a_listener_that_cannot_listen_is_no_silence(port: int) -> None:
    """A port that is taken is a fault of the probe, and not the absence of visitors."""
    with socket.create_server((HERE, port)):
        record = ask("listen", tcp=[port], deadline=0.1)
    assert (record["outcome"], record["errno"]) == ("tool-error", "EADDRINUSE")


def test_the_listener_ends_with_the_last_word(port: int) -> None:
    """Who says the word that it was told is its last visitor, long before the deadline."""
    records: list[Record] = []

    def listener() -> None:
        records.append(ask("listen", tcp=[port], udp=[port], until=["enough"], deadline=100))

    thread = threading.Thread(target=listener)
    thread.start()
    for word in (b"first\n", b"BOTTLE enough\n"):
        with connect(port) as sock:
            sock.sendall(word)
            sock.recv(100)
    thread.join(100)
    assert [said for *_, said in records[0]["visitors"]] == ["first\n", "BOTTLE enough\n"]


def test_the_listener_waits_for_all_words(port: int) -> None:
    """Of two words neither ends it alone, by whichever protocol they come, and in any order."""
    records: list[Record] = []

    def listener() -> None:
        records.append(ask("listen", tcp=[port], udp=[port], until=["one", "two"], deadline=100))

    thread = threading.Thread(target=listener)
    thread.start()
    with connect(port) as sock:
        sock.sendall(b"BOTTLE two\n")
        sock.recv(100)
    assert thread.is_alive()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"one", (HERE, port))
    thread.join(100)
    assert [said for *_, said in records[0]["visitors"]] == ["BOTTLE two\n", "one"]


def test_the_listener_binds_what_it_is_told(port: int) -> None:
    """On given addresses it hears who comes there, by IPv4 and by IPv6 alike."""
    records: list[Record] = []

    def listener() -> None:
        places = ["127.0.0.1", "::1"]
        record = ask("listen", tcp=[port], addresses=places, until=["enough"], deadline=100)
        records.append(record)

    thread = threading.Thread(target=listener)
    thread.start()
    connect(port, "::1").close()  # the last that is opened: the other is there by then
    with connect(port) as sock:
        sock.sendall(b"enough")
        thread.join(100)
    assert {peer for _, _, peer, _ in records[0]["visitors"]} == {"127.0.0.1", "::1"}
    assert records[0]["half_open"] == []


def test_an_error_about_what_we_sent_is_no_echo_request(port: int) -> None:
    """A datagram to a closed port brings an ICMP error, which is counted, and not as an echo."""
    before = ask("count")["counters"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"n", (HERE, port))
    after = ask("count")["counters"]
    assert after.keys() == before.keys() == {"ip", "tcp", "udp", "icmp", "echo"}
    assert after["icmp"] > before["icmp"]
    assert after["echo"] - before["echo"] < after["icmp"] - before["icmp"]
