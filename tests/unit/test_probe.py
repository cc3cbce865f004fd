"""The probe, run as the suite runs it, against sinks on loopback: all but HTTP."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.guest.probe import core, direct, web
from tests.probing import NONCE, ask, attempt, never_accepts, nobody_listens, run, volley
from tests.sidecars import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.probing import Record
    from tests.sidecars import Handler, Listen

HERE = "127.0.0.1"
WORDS = b"BOTTLE " + NONCE.encode() + b"\n"


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    """A datagram socket on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HERE, 0))
        sock.settimeout(60)
        yield sock


def saying(answer: bytes) -> Handler:
    """A far end that hears the nonce out and says something."""

    def say(sock: socket.socket) -> None:
        assert sock.recv(100) == WORDS
        sock.sendall(answer)

    return say


# -- orders and records -------------------------------------------------------------------------


def test_every_operation_has_one_line_and_the_last_line_counts_them() -> None:
    """Who reads the output knows whether it is complete."""
    with nobody_listens() as port:
        operation = {"kind": "tcp", "host": HERE, "port": port, "nonce": NONCE}
        *records, last = volley([{**operation, "id": str(number)} for number in range(5)])
    assert sorted(record["id"] for record in records) == list("01234")
    assert {record["outcome"] for record in records} == {"refused"}
    assert last == {"done": 5}


def test_without_orders_there_is_nothing_but_the_count() -> None:
    """An empty list is no error."""
    assert volley([]) == [{"done": 0}]


@pytest.mark.parametrize(
    "orders",
    [b"", b"\xff\xfe", b"not JSON", b'{"deadline": 1, "operations": [', b'{"deadline": 1}'],
)
def test_garbage_in_gives_no_record(orders: bytes) -> None:
    """Orders that cannot be read end the probe with an error and without a count."""
    done = run(orders)
    assert done.returncode != 0
    assert done.stdout == b""
    assert done.stderr


def test_operations_run_at_once(udp: socket.socket) -> None:
    """Many that wait in vain take no longer than one."""
    operation = {"kind": "udp", "host": HERE, "port": udp.getsockname()[1], "answers": True}
    operations = [{**operation, "id": str(n), "nonce": NONCE} for n in range(30)]
    started = time.monotonic()
    *records, _ = volley(operations, deadline=1.0)
    assert time.monotonic() - started < 30 * 1.0
    assert [record["outcome"] for record in records] == ["timeout"] * 30


def test_an_operation_may_have_a_deadline_of_its_own(udp: socket.socket) -> None:
    """It goes before the deadline of all."""
    port = udp.getsockname()[1]
    operation = {"id": "x", "kind": "udp", "host": HERE, "port": port, "answers": True}
    record, _ = volley([{**operation, "nonce": NONCE, "deadline": 0.1}], deadline=60)
    assert record["outcome"] == "timeout"
    assert 0.1 <= record["elapsed"] < 30


def test_an_operation_may_be_held_back(udp: socket.socket) -> None:
    """The delay comes first and is no part of the time that the operation took."""
    started = time.monotonic()
    operation = {"id": "x", "kind": "udp", "host": HERE, "port": udp.getsockname()[1]}
    record, _ = volley([{**operation, "nonce": NONCE, "delay": 2.0}])
    assert time.monotonic() - started >= 2.0
    assert record["elapsed"] < 2.0


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"kind": "telepathy"}, "KeyError: 'telepathy'"),
        ({"kind": "tcp"}, "KeyError: 'host'"),
        ({"kind": "udp", "host": HERE, "port": 9, "prefix": "xy"}, "ValueError: "),
        ({"kind": "tcp", "host": HERE, "port": 70000}, "OverflowError: "),
        ({"kind": "status", "pids": ["nobody"]}, "[Errno 2] "),
        ({"kind": "netlink", "gateway": HERE, "device": "no-such0"}, "no interface "),
        ({"kind": "udp", "host": HERE, "port": 9, "via": HERE, "device": "no-such0"}, "no interf"),
    ],
)
def test_a_fault_of_the_probe_is_no_block(fields: Record, detail: str) -> None:
    """What could not even be tried is a tool error, and says why."""
    record = ask(**fields)
    assert record["outcome"] == "tool-error"
    assert record["detail"].startswith(detail)


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ECONNRESET, "reset"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.EPERM, "not-sendable"),
        (errno.EAGAIN, "tool-error"),  # of connect(2): no port is free
        (errno.EMFILE, "tool-error"),
        (errno.EINVAL, "tool-error"),
        (99999, "tool-error"),
        (None, "tool-error"),
    ],
)
def test_an_error_has_a_cause_or_is_the_probes_own(
    monkeypatch: pytest.MonkeyPatch, number: int | None, outcome: str
) -> None:
    """An errno that says nothing about the network never passes for a block."""

    def fail(*_: object) -> Record:
        raise OSError(number, "text") if number else OSError("text")

    monkeypatch.setitem(core.OPERATIONS, "tcp", fail)
    assert attempt("tcp", {}, 1.0)["outcome"] == outcome


def run_in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], operations: list[Record]
) -> list[Record]:
    """Run the probe in this process, which may have been tampered with."""
    orders = json.dumps({"deadline": 5, "operations": operations})
    monkeypatch.setattr(sys, "stdin", io.StringIO(orders))
    core.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("limit", [0, 2])
def test_a_limit_of_processes_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    udp: socket.socket,
    limit: int,
) -> None:
    """Where no more threads can be had, operations run after each other."""
    start, started = threading.Thread.start, list[threading.Thread]()

    def start_some(thread: threading.Thread) -> None:
        if len(started) == limit:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    operation = {"kind": "udp", "host": HERE, "port": udp.getsockname()[1], "nonce": NONCE}
    operations = [{**operation, "id": str(number)} for number in range(5)]
    *records, last = run_in_process(monkeypatch, capsys, operations)
    assert sorted(record["id"] for record in records) == list("01234")
    assert {record["outcome"] for record in records} == {"sent"}
    assert last == {"done": 5}


# -- names: nothing here asks a real resolver ---------------------------------------------------


def test_a_name_that_does_not_exist_is_a_failure_of_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's answer is the cause, not the connection that was never tried."""

    def refuse(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    record = attempt("http", {"url": "http://missing.test/"}, 1.0)
    assert record["outcome"] == "dns-failure"
    assert "Name or service not known" in record["detail"]


def test_a_silent_resolver_is_a_failure_of_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the C library's half a minute."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: over.wait(30))
    monkeypatch.setattr(web, "_RESOLVING", 0.05)
    started = time.monotonic()
    record = attempt("http", {"url": "http://missing.test/"}, 0.05)
    over.set()
    assert record["outcome"] == "dns-failure"
    assert time.monotonic() - started < 20


def test_a_name_that_cannot_exist_is_a_fault_of_the_orders() -> None:
    """No resolver is asked for a label that is too long, so nothing was observed."""
    record = attempt("http", {"url": f"http://{'a' * 64}.test/"}, 1.0)
    assert record["outcome"] == "tool-error"
    assert "label" in record["detail"]


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch, listen: Listen) -> None:
    """One that refuses does not hide one that answers."""
    port = listen(lambda sock: sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n"))
    resolve = socket.getaddrinfo

    def both(host: str, *rest: object) -> object:
        if host != "two.test":
            return resolve(host, *rest)  # type: ignore[arg-type]
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.99", HERE)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    record = attempt("http", {"url": f"http://two.test:{port}/"}, 5.0)
    assert record["status"] == 204


# -- TCP ----------------------------------------------------------------------------------------


def test_the_far_end_proves_itself_with_the_nonce(listen: Listen) -> None:
    """A connection is there, and what answered had read these very bytes."""
    port = listen(saying(b"BOTTLE-ECHO " + NONCE.encode() + b" 10.0.0.1 1.1.1.1\n"))
    record = ask("tcp", host=HERE, port=port)
    answer = f"BOTTLE-ECHO {NONCE} 10.0.0.1 1.1.1.1\n"
    assert record == {"outcome": "connected", "echo": True, "answer": answer}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"SSH-2.0-x\r\n",
        b"BOTTLE-ECHO\n",
        b"BOTTLE-ECHO other\n",
        b"BOTTLE-ECHO " + NONCE.encode() + b"0\n",
        b"x" * 9000,
        WORDS,
    ],
)
def test_another_answer_is_no_echo(listen: Listen, answer: bytes) -> None:
    """A connection that ends somewhere else is a connection without the far end's proof."""
    record = ask("tcp", host=HERE, port=listen(saying(answer)))
    assert (record["outcome"], record["echo"]) == ("connected", False)
    assert record["answer"] == answer[:200].decode()


def test_an_echo_may_come_in_pieces(listen: Listen) -> None:
    """TCP may cut anywhere."""

    def slow(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (b"BOTTLE-", b"ECHO ", NONCE[:5].encode(), NONCE[5:].encode(), b"\n"):
            sock.sendall(piece)
            time.sleep(0.01)

    assert ask("tcp", host=HERE, port=listen(slow))["echo"]


def test_a_handshake_alone_is_a_connection(listen: Listen) -> None:
    """A far end that reads and says nothing does not undo what the outcome says."""
    record = ask("tcp", host=HERE, port=listen(silent), deadline=1.0)
    assert record == {"outcome": "connected", "echo": False, "answer": ""}


def test_a_closed_port_refuses() -> None:
    """The cause comes with the kernel's name for it."""
    with nobody_listens() as port:
        record = ask("tcp", host=HERE, port=port)
    assert (record["outcome"], record["errno"]) == ("refused", "ECONNREFUSED")


def test_a_handshake_that_never_ends_is_a_timeout() -> None:
    """Dropped packets have no errno."""
    with never_accepts() as port:
        assert ask("tcp", host=HERE, port=port, deadline=0.2) == {"outcome": "timeout"}


def test_no_way_there_is_unreachable() -> None:
    """TCP to the broadcast address ends in the own kernel: no packet leaves."""
    record = ask("tcp", host="255.255.255.255", port=9)
    assert (record["outcome"], record["errno"]) == ("unreachable", "ENETUNREACH")


# -- UDP ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering(sock: socket.socket, answer: bytes) -> Iterator[list[bytes]]:
    """Answer one datagram."""
    heard: list[bytes] = []

    def serve() -> None:
        said, peer = sock.recvfrom(2048)
        heard.append(said)
        sock.sendto(answer, peer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield heard
    thread.join()


@pytest.mark.parametrize("echo", [True, False])
def test_a_datagram_is_answered(udp: socket.socket, echo: bool) -> None:
    """An answer with the nonce in it is the far end's own."""
    with answering(udp, b"BOTTLE-ECHO " + NONCE.encode() if echo else b"no") as heard:
        record = ask("udp", host=HERE, port=udp.getsockname()[1], answers=True)
    assert record == {"outcome": "answered", "echo": echo}
    assert heard == [NONCE.encode()]


def test_a_datagram_looks_like_what_it_is_to_look_like(udp: socket.socket) -> None:
    """The prefix stands before the nonce."""
    assert ask("udp", host=HERE, port=udp.getsockname()[1], prefix="c000ff") == {"outcome": "sent"}
    assert udp.recv(100) == b"\xc0\x00\xff" + NONCE.encode()


def test_a_datagram_that_is_due_an_answer_times_out(udp: socket.socket) -> None:
    """Without one that is due it is merely sent: only the far end can say more."""
    port = udp.getsockname()[1]
    assert ask("udp", host=HERE, port=port, answers=True, deadline=0.1)["outcome"] == "timeout"
    assert ask("udp", host=HERE, port=port)["outcome"] == "sent"


def test_a_datagram_to_a_closed_port_is_refused() -> None:
    """The kernel's ICMP error comes back in time, though no answer was due."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HERE, 0))
        other.connect((HERE, 9))  # takes datagrams from there only
        record = ask("udp", host=HERE, port=other.getsockname()[1])
    assert (record["outcome"], record["errno"]) == ("refused", "ECONNREFUSED")


def test_what_the_own_kernel_refuses_to_send_is_not_sendable() -> None:
    """A broadcast needs a permission that the socket does not have."""
    record = ask("udp", host="255.255.255.255", port=9)
    assert (record["outcome"], record["errno"]) == ("not-sendable", "EACCES")


@pytest.mark.parametrize("raw", [True, False])
def test_an_echo_request_is_answered_or_cannot_be_sent(raw: bool) -> None:
    """A kernel may keep ICMP to itself; anything else works on loopback."""
    record = ask("icmp", host=HERE, raw=raw)
    assert record["outcome"] in ("answered", "not-sendable")
    assert record.get("echo", False) == (record["outcome"] == "answered")


def test_ipv6_works_like_ipv4() -> None:
    """The address alone tells which one it is."""
    with socket.socket(socket.AF_INET6) as tcp:
        try:
            tcp.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")
        port = tcp.getsockname()[1]
        assert ask("tcp", host="::1", port=port)["outcome"] == "refused"
        assert ask("udp", host="::1", port=port)["outcome"] in ("refused", "sent")
        assert ask("icmp", host="::1")["outcome"] in ("answered", "not-sendable")


ADDRESSES = st.ip_addresses(v=4).map(str)


@given(ADDRESSES, ADDRESSES, st.lists(st.integers(1, 65535), min_size=1, max_size=5))
def test_a_syn_is_whole(source: str, host: str, ports: list[int]) -> None:
    """Header and pseudo header add up to nothing in one's complement (RFC 9293, 3.1)."""
    packets = list(direct._syns(source, host, ports))
    assert [int.from_bytes(packet[2:4], "big") for packet in packets] == ports
    for packet in packets:
        assert (len(packet), packet[12] >> 4, packet[13]) == (20, 5, 2)
        pseudo = socket.inet_aton(source) + socket.inet_aton(host) + b"\0\x06\0\x14"
        # A number is its 16-bit digits' sum modulo 65535, as 9 divides sums of decimal digits.
        assert int.from_bytes(pseudo + packet, "big") % 0xFFFF == 0


def test_a_sweep_of_datagrams_carries_the_nonce(udp: socket.socket) -> None:
    """One datagram for each port; a port that refuses one spoils no other."""
    port = udp.getsockname()[1]
    with nobody_listens() as closed:
        record = ask("udp-sweep", host=HERE, ports=[closed, port, closed, port])
    assert (record["outcome"], record["count"]) == ("sent", 4)
    assert [udp.recv(100), udp.recv(100)] == [NONCE.encode()] * 2


def test_the_state_of_every_process_can_be_read() -> None:
    """The asterisk stands for all of them, this one among them."""
    record = ask("status", pids=["*"])
    assert str(os.getpid()) in record["processes"]
    assert all(status["CapEff"] for status in record["processes"].values())


# -- what the agent can see of itself -----------------------------------------------------------


def test_a_process_shows_its_identity() -> None:
    """Name, user, capability sets and seccomp mode are the kernel's own words."""
    record = ask("status", pids=["self", 1])
    for process in record["processes"].values():
        assert set(process) == {
            *("Name", "Uid", "NoNewPrivs", "Seccomp", "State"),
            *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
        }
        assert int(process["CapBnd"], 16) >= 0


def test_the_self_test_uses_every_kind_of_stimulus() -> None:
    """Each works on the probe's own loopback, and a closed port refuses (CTL-02)."""
    record = ask("selftest")
    outcomes = {name: one["outcome"] for name, one in record["records"].items()}
    assert outcomes.pop("icmp") in ("answered", "not-sendable")
    assert outcomes == {
        "tcp": "connected",
        "udp": "answered",
        "http": "answered",
        "closed": "refused",
    }
    assert record["records"]["tcp"]["echo"]
    assert record["records"]["udp"]["echo"]


# -- namespaces and addresses -------------------------------------------------------------------


def test_one_s_own_namespaces_are_told_with_their_kernel() -> None:
    """The numbers are the kernel's own, and the kernel is named: another's would mean nothing."""
    record = ask("namespaces")
    names = {name: os.readlink(f"/proc/self/ns/{name}") for name in record["namespaces"]}
    assert record["namespaces"] == names
    assert {"net", "pid", "ipc", "mnt", "uts", "user"} == names.keys()
    assert record["kernel"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_the_addresses_of_every_interface_are_listed() -> None:
    """Loopback's are among them, of both families, with the lengths of their prefixes."""
    addresses = ask("addresses")["addresses"]
    assert ["lo", "127.0.0.1", 8] in addresses
    assert ["lo", "::1", 128] in addresses


def test_an_abstract_socket_is_reached_and_listed() -> None:
    """The canary writes down who spoke to it; the other side says whether it found it listed."""
    records: list[Record] = []
    name = f"probe-{os.getpid()}"

    def canary() -> None:
        records.append(ask("abstract", name=name, until="enough", deadline=100))

    refused = {"outcome": "refused", "errno": "ECONNREFUSED", "listed": False}
    assert ask("unix", name=name) == refused  # nobody is there yet
    thread = threading.Thread(target=canary)
    thread.start()
    end = time.monotonic() + 60
    while (record := ask("unix", name=name))["outcome"] != "connected":
        assert (record["outcome"], record["errno"]) == ("refused", "ECONNREFUSED")
        assert time.monotonic() < end
    # The first that reached it may have looked at the list just before it was there.
    assert ask("unix", name=name, nonce="enough")["listed"]
    thread.join(100)
    assert records == [{"outcome": "listened", "said": [NONCE, "enough"]}]


def test_a_canary_is_a_process_of_its_name() -> None:
    """It can be found in /proc by those who may see it."""
    end, name = time.monotonic() + 60, f"probe{os.getpid() % 10**9}"
    orders = {"name": name, "until": "x", "deadline": 100}
    thread = threading.Thread(target=ask, args=("abstract",), kwargs=orders)
    thread.start()
    while ask("unix", name=name, nonce="hello")["outcome"] != "connected":
        assert time.monotonic() < end
    names = [status["Name"] for status in ask("status", pids=["*"])["processes"].values()]
    ask("unix", name=name, nonce="x")
    thread.join(100)
    assert name in names


def test_a_broadcast_is_not_sent_without_being_asked_for() -> None:
    """Leave to send to everybody is part of the order; without it the kernel refuses."""
    assert ask("udp", host="255.255.255.255", port=9)["outcome"] in ("not-sendable", "unreachable")
    record = ask("udp", host="255.255.255.255", port=9, broadcast=True, device="no-such0")
    assert (record["outcome"], record["errno"]) == ("tool-error", "ENODEV")
