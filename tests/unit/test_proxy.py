"""The reference sidecar, over real sockets on loopback: what it lets through, and its record."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.guest.proxy import Config, serve
from tests.probing import nobody_listens
from tests.sidecars import LOOPBACK, OK, SHORT, Recorder, answer, greeting, head, read_all

if TYPE_CHECKING:
    from tests.sidecars import FakeDns, Listen, Start


def test_an_allowed_get_works(sidecar: Start, listen: Listen) -> None:
    """GET in absolute form reaches the origin in origin form, and the answer comes back."""
    origin = Recorder()
    port = listen(origin)
    proxy = sidecar(port)
    reply = proxy.get(f"http://allowed.test:{port}/path?q=1", "X-Nonce: n1")
    assert (reply.status, reply.body) == (200, b"ok")
    lines = origin.heads[0].decode().split("\r\n")
    assert lines[:2] == ["GET /path?q=1 HTTP/1.1", f"Host: allowed.test:{port}"]
    assert "X-Nonce: n1" in lines


def test_an_allowed_request_is_recorded(sidecar: Start, listen: Listen) -> None:
    """There is one record with destination, verdict, address and byte counts."""
    origin = Recorder()
    port = listen(origin)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        client = "{}:{}".format(*sock.getsockname())
        sock.sendall(head("GET", f"http://allowed.test:{port}/n1?a=b"))
        answer(sock)
    event = proxy.event()
    assert abs(event.pop("time") - time.time()) < 60
    assert event == {
        "event": "request",
        "decision": "allow",
        "reason": "allowed",
        "method": "GET",
        "host": "allowed.test",
        "port": port,
        "target": f"http://allowed.test:{port}/n1?a=b",
        "client": client,
        "upstream": f"127.0.0.1:{port}",
        "status": 200,
        "sent": len(origin.heads[0]),
        "received": len(OK),
    }


@pytest.mark.parametrize(
    ("method", "target", "reason"),
    [
        ("GET", "http://n1.denied.test/", "not-allowed"),
        ("CONNECT", "n1.denied.test:443", "not-allowed"),
        ("GET", "http://allowed.test:22/", "port-not-allowed"),
        ("CONNECT", "allowed.test:22", "port-not-allowed"),
        ("GET", "http://2130706433/", "bad-host"),
        ("CONNECT", "0x7f.1:443", "bad-host"),
        ("CONNECT", "allowed.test@denied.test:443", "bad-host"),
        ("GET", "http://denied.test%00.allowed.test/", "bad-host"),
    ],
)
def test_a_denied_request_is_never_looked_up(
    sidecar: Start, dns: FakeDns, method: str, target: str, reason: str
) -> None:
    """A denial is a 403 that says so, one record, and not a single DNS query (DNS-06)."""
    proxy = sidecar(1)
    reply = proxy.ask(head(method, target))
    event = proxy.event()
    where = f"{event['host']}:{event['port']}"
    assert (reply.status, reply.denied, reply.error) == (403, reason, None)
    text = f"denied by the bottle's egress policy: {reason}: {where}\n"
    assert reply.body.decode() == text
    assert (event["decision"], event["reason"], event["status"]) == ("deny", reason, 403)
    assert (event["method"], event["target"], event["upstream"]) == (method, target, None)
    assert dns.asked == []


def test_a_denial_is_recorded_before_it_is_told(sidecar: Start) -> None:
    """Who has read the 403 finds the record without waiting."""
    proxy = sidecar(1)
    proxy.get("http://denied.test/")
    assert [event["decision"] for event in proxy.events] == ["deny"]


def test_an_allowed_name_is_looked_up(sidecar: Start, dns: FakeDns, listen: Listen) -> None:
    """The positive control of the denials: an allowed twin makes its queries."""
    port = listen(Recorder())
    sidecar(port).get(f"http://ALLOWED.test.:{port}/")
    assert set(dns.asked) == {"allowed.test"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "origin-form"),
        (head("GET", "https://allowed.test/"), "scheme-not-supported"),
        (head("GET", "http://allowed.test/", "Host: denied.test"), "host-mismatch"),
        (head("GET", "http://denied.test/", "Host: allowed.test"), "host-mismatch"),
        (head("CONNECT", "allowed.test:443", "Host: denied.test:443"), "host-mismatch"),
        (head("GET", "http://allowed.test/", "Host: a.test", "Host: b.test"), "bad-request"),
        (b"GET http://allowed.test/ HTTP/1.1\r\n\r\n", "bad-request"),
        (b"GET http://allowed.test/\x00 HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "bad-request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "bad-target"),
        (b"\x05\x01\x00", "bad-request"),
        (b"\x16\x03\x01\x00\xa5", "bad-request"),
        (head("CONNECT", "allowed.test"), "bad-target"),
    ],
)
def test_what_is_no_proxy_request_is_refused(
    sidecar: Start, dns: FakeDns, raw: bytes, reason: str
) -> None:
    """Other forms, other dialects and disagreeing hosts are a 400 with one record."""
    proxy = sidecar(80, 443)
    reply = proxy.ask(raw)
    event = proxy.event()
    assert (reply.status, reply.denied) == (400, reason)
    assert (event["decision"], event["reason"], event["status"]) == ("deny", reason, 400)
    assert dns.asked == []


HIDDEN = b"GET http://denied.test/hidden HTTP/1.1\r\nHost: denied.test\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "body", "reason"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], b"0\r\n\r\n", "ambiguous-framing"),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], b"0\r\n\r\n", "ambiguous-framing"),
        (["Content-Length: 0", "Content-Length: 5"], b"", "bad-request"),
        (["Content-Length: 0, 5"], b"", "bad-request"),
        (["Content-Length: +5"], b"", "bad-request"),
        (["Transfer-Encoding: xchunked"], b"", "bad-request"),
        (["Transfer-Encoding: chunked, identity"], b"", "bad-request"),
        (["Transfer-Encoding : chunked"], b"", "bad-request"),
        (["Transfer-Encoding: chunked"], b"zz\r\n", "bad-request"),
        (["Transfer-Encoding: chunked"], b"2\r\nabXY0\r\n\r\n", "bad-request"),
        (["X: a\0b"], b"", "bad-request"),
    ],
)
def test_a_second_request_is_not_smuggled(
    sidecar: Start, listen: Listen, fields: list[str], body: bytes, reason: str
) -> None:
    """Ambiguous bodies are refused, closed upon and never forwarded (PXY-06, CVE-2025-43859)."""
    origin = Recorder()
    port = listen(origin)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        sock.sendall(head("POST", f"http://allowed.test:{port}/", *fields) + body + HIDDEN)
        reply = answer(sock)
        assert (reply.status, reply.denied) == (400, reason)
        assert read_all(sock) == b""
    assert proxy.event()["reason"] == reason
    assert b"".join(origin.heads + origin.bodies) == b""


def test_each_request_of_a_connection_is_judged(sidecar: Start, listen: Listen) -> None:
    """After two allowed requests a third one is denied, and the connection closed (PXY-05)."""
    origin = Recorder()
    port = listen(origin)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        for _ in range(2):
            sock.sendall(head("GET", f"http://allowed.test:{port}/"))
            assert answer(sock).status == 200
        sock.sendall(head("GET", f"http://denied.test:{port}/"))
        assert answer(sock).denied == "not-allowed"
        assert read_all(sock) == b""
    assert [event["decision"] for event in proxy.events] == ["allow", "allow", "deny"]
    assert len(origin.heads) == 2


def test_pipelined_requests_are_judged(sidecar: Start, listen: Listen) -> None:
    """So is a denied request in the same segment as an allowed one."""
    origin = Recorder()
    port = listen(origin)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        sock.sendall(head("GET", f"http://allowed.test:{port}/") + HIDDEN)
        assert answer(sock).status == 200
        assert answer(sock).denied == "not-allowed"
    assert len(origin.heads) == 1


def test_bytes_after_a_refused_connect_go_nowhere(sidecar: Start, listen: Listen) -> None:
    """A client that does not wait for the answer gains nothing: the connection closes."""
    origin = Recorder()
    port = listen(origin)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        early = head("GET", f"http://allowed.test:{port}/")
        sock.sendall(head("CONNECT", "denied.test:443") + early)
        assert answer(sock, "CONNECT").denied == "not-allowed"
        assert read_all(sock) == b""
    assert origin.heads == []
    assert len(proxy.events) == 1


def test_a_denial_survives_a_large_body(sidecar: Start) -> None:
    """A client that is still sending reads its 403, not a reset."""
    with sidecar(1, timeouts=SHORT._replace(linger=5.0)).connect() as sock:
        body = bytes(1 << 24)
        request = head("POST", "http://denied.test/", f"Content-Length: {len(body)}")
        sock.sendall(request + body)
        assert answer(sock).status == 403


def test_an_allowed_name_that_leads_inward_is_refused(
    sidecar: Start, dns: FakeDns, listen: Listen
) -> None:
    """A name that resolves to loopback is denied by its address, and nothing arrives (PXY-11)."""
    origin = Recorder()
    port = listen(origin)
    proxy = sidecar(port, exceptions=())
    reply = proxy.get(f"http://allowed.test:{port}/")
    assert (reply.status, reply.denied) == (403, "address-class")
    event = proxy.event()
    assert (event["decision"], event["reason"], event["upstream"]) == (
        "deny",
        "address-class",
        None,
    )
    assert dns.asked
    assert origin.heads == []


def test_one_bad_address_spoils_them_all(sidecar: Start, dns: FakeDns, listen: Listen) -> None:
    """A mixed answer is refused as a whole."""
    port = listen(Recorder())
    dns.table["allowed.test"] = ["127.0.0.1", "169.254.169.254"]
    assert sidecar(port).get(f"http://allowed.test:{port}/").denied == "address-class"


@pytest.mark.parametrize("exceptions", [(), LOOPBACK])
def test_a_literal_needs_a_route_and_an_address_class(
    sidecar: Start, dns: FakeDns, listen: Listen, exceptions: tuple[str, ...]
) -> None:
    """An address is let through when it is listed and public or excepted, and never looked up."""
    port = listen(Recorder())
    proxy = sidecar(routes=[("127.0.0.1", [port])], exceptions=exceptions)
    reply = proxy.get(f"http://127.0.0.1:{port}/")
    assert (reply.status, reply.denied) == ((200, None) if exceptions else (403, "address-class"))
    assert proxy.get(f"http://127.0.0.2:{port}/").denied == "not-allowed"
    assert dns.asked == []


def test_the_address_that_was_checked_is_dialled(
    sidecar: Start, dns: FakeDns, listen: Listen
) -> None:
    """One request makes one look-up of each family: there is no second one to rebind (PXY-11)."""
    port = listen(Recorder())
    assert sidecar(port).get(f"http://allowed.test:{port}/").status == 200
    assert len(dns.asked) == 2


def test_the_next_address_is_tried(sidecar: Start, dns: FakeDns, listen: Listen) -> None:
    """An address that refuses does not hide one that answers."""
    port = listen(Recorder())
    dns.table["allowed.test"] = ["127.0.0.99", "127.0.0.1"]
    proxy = sidecar(port)
    assert proxy.get(f"http://allowed.test:{port}/").status == 200
    assert proxy.event()["upstream"] == f"127.0.0.1:{port}"


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_refused_connection_is_no_denial(sidecar: Start, method: str) -> None:
    """An origin that refuses is a 502 and an error in the record."""
    scheme = "" if method == "CONNECT" else "http://"
    with nobody_listens() as port:
        proxy = sidecar(port)
        reply = proxy.ask(head(method, f"{scheme}allowed.test:{port}"))
    assert (reply.status, reply.denied, reply.error) == (502, None, "refused")
    event = proxy.event()
    assert (event["decision"], event["reason"], event["status"]) == ("error", "refused", 502)


def test_a_missing_name_is_no_denial(sidecar: Start) -> None:
    """NXDOMAIN is a 502 that says so."""
    proxy = sidecar(routes=[("missing.test", [80])])
    reply = proxy.get("http://missing.test/")
    assert (reply.status, reply.denied, reply.error) == (502, None, "dns-nxdomain")


def test_a_silent_resolver_is_a_timeout(sidecar: Start, dns: FakeDns) -> None:
    """No answer from DNS is a 504."""
    dns.silent = True
    reply = sidecar(80, timeouts=SHORT._replace(dns=0.2)).get("http://allowed.test/")
    assert (reply.status, reply.denied, reply.error) == (504, None, "dns-timeout")


def test_a_connection_without_request_leaves_no_record(sidecar: Start) -> None:
    """Opening and closing a connection asks for nothing."""
    proxy = sidecar(1)
    with proxy.connect() as sock:
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    assert proxy.events == []


def test_a_long_target_is_cut_in_the_record(sidecar: Start) -> None:
    """The record keeps 2048 characters."""
    proxy = sidecar(1)
    proxy.get("http://denied.test/" + "a" * 5000)
    assert len(proxy.event()["target"]) == 2048


def test_without_its_record_nothing_is_let_through(listen: Listen, dns: FakeDns) -> None:
    """A request whose record cannot be written gets no tunnel: what is not told is not done."""
    port = listen(greeting)

    def broken(event: dict[str, object]) -> None:
        raise OSError("the pipe is closed")

    door = socket.create_server(("127.0.0.1", 0))
    config = Config([("allowed.test", [port])], dns.address, LOOPBACK, SHORT)
    thread = threading.Thread(target=serve, args=(config, [door], [], broken))
    thread.start()
    with socket.create_connection(door.getsockname(), timeout=30) as sock:
        sock.sendall(head("CONNECT", f"allowed.test:{port}"))
        assert read_all(sock) == b""
    door.shutdown(socket.SHUT_RDWR)
    thread.join()
    door.close()


def test_many_connections_at_once(sidecar: Start, listen: Listen) -> None:
    """Idle connections do not keep a request waiting."""
    port = listen(Recorder())
    proxy = sidecar(port)
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(proxy.connect())
        assert proxy.get(f"http://allowed.test:{port}/").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("GET", "/healthz", 200), ("GET", "/x", 404), ("POST", "/", 404)],
)
def test_the_published_port_answers(sidecar: Start, method: str, path: str, status: int) -> None:
    """The status door says that the sidecar lives, and records who asked."""
    proxy = sidecar(1)
    with proxy.connect(proxy.status_port) as sock:
        client = "{}:{}".format(*sock.getsockname())
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        reply = answer(sock)
        assert read_all(sock) == b""
    assert reply.status == status
    assert (json.loads(reply.body) == {"status": "ok"}) == (status == 200)
    (event,) = proxy.events
    assert (event["event"], event["client"]) == ("status", client)


def test_a_connection_is_recorded_before_it_speaks(sidecar: Start) -> None:
    """A bare connection to the status door is in the record at once."""
    proxy = sidecar(1)
    with proxy.connect(proxy.status_port):
        proxy.event("status")


def test_the_published_port_is_no_proxy(sidecar: Start, listen: Listen, dns: FakeDns) -> None:
    """Neither CONNECT nor absolute form works at the status door (PXY-20)."""
    port = listen(Recorder())
    proxy = sidecar(port)
    for request in (
        head("CONNECT", f"allowed.test:{port}"),
        head("GET", f"http://allowed.test:{port}/"),
        b"\x05\x01\x00",
    ):
        with proxy.connect(proxy.status_port) as sock:
            sock.sendall(request)
            assert answer(sock).status == 404
    assert dns.asked == []


def test_it_runs_from_a_command_line(dns: FakeDns, listen: Listen) -> None:
    """As a program it says where it listens, then writes one line per event."""
    port = listen(Recorder())
    config = Config([("allowed.test", [port])], dns.address, LOOPBACK, SHORT).to_json()
    settings = json.dumps({**config, "listen": ["127.0.0.1", 0], "status": ["127.0.0.1", 0]})
    command = [sys.executable, "-m", "pytest_bottle.guest.proxy", settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            ready = json.loads(process.stdout.readline())
            address, _, number = ready["listen"].rpartition(":")
            with socket.create_connection((address, int(number)), timeout=30) as sock:
                sock.sendall(head("GET", f"http://allowed.test:{port}/"))
                assert answer(sock).body == b"ok"
            event = json.loads(process.stdout.readline())
        finally:
            process.kill()
    assert ready["event"] == "ready"
    assert (event["event"], event["decision"]) == ("request", "allow")
