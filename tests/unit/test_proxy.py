"""The reference sidecar, over real sockets on loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_bottle.guest.dnswire import NXDOMAIN, build_answer, parse_query
from pytest_bottle.guest.proxy import Config, Timeouts, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import BufferedReader

    Handler = Callable[[socket.socket], None]
    Listen = Callable[[Handler], int]
    Start = Callable[..., "Sidecar"]

LOOPBACK = ("127.0.0.0/8",)
SHORT = Timeouts(connect=1.0, dns=0.2, head=2.0, idle=2.0, linger=0.5)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Reply(NamedTuple):
    """What came back for a request, as the standard library reads it."""

    status: int
    denied: str | None
    error: str | None
    body: bytes
    headers: dict[str, str]


class FakeDns:
    """A DNS server over UDP with a table of names; it remembers who was asked for."""

    def __init__(self) -> None:
        self.table = {"allowed.test": ["127.0.0.1"]}
        self.asked: list[str] = []
        self.silent = False
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.sock.getsockname()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def close(self) -> None:
        """End the thread with an empty datagram."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self.address)
        self.thread.join()
        self.sock.close()

    def _run(self) -> None:
        while True:
            data, source = self.sock.recvfrom(4096)
            if not data:
                return
            query = parse_query(data)
            self.asked.append(query.name)
            known = query.name in self.table
            addresses = self.table.get(query.name, [])
            answer = build_answer(query, addresses, rcode=0 if known else NXDOMAIN)
            if not self.silent:
                self.sock.sendto(answer, source)


class Sidecar:
    """A running proxy, its two doors and its audit record."""

    def __init__(self, config: Config) -> None:
        self.events: list[dict[str, Any]] = []
        self.doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.status_port = (door.getsockname()[1] for door in self.doors)
        arguments = (config, self.doors[:1], self.doors[1:], self.events.append)
        self.thread = threading.Thread(target=serve, args=arguments)
        self.thread.start()

    def close(self) -> None:
        """Shut both doors, which ends ``serve``."""
        for door in self.doors:
            door.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        for door in self.doors:
            door.close()

    def connect(self, port: int = 0) -> socket.socket:
        """A connection of the agent."""
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=5)

    def ask(self, *parts: bytes) -> Reply:
        """Send one request and read its answer, on a connection of its own."""
        with self.connect() as sock:
            for part in parts:
                sock.sendall(part)
            return answer(sock, parts[0].split(b" ")[0].decode("latin-1"))

    def get(self, target: str, *headers: str) -> Reply:
        """GET a target."""
        return self.ask(head("GET", target, *headers))

    def event(self, kind: str = "request") -> dict[str, Any]:
        """The only event of its kind, as soon as it is there."""
        found = self.wait(kind, 1)
        assert len(found) == 1
        return found[0]

    def wait(self, kind: str, count: int) -> list[dict[str, Any]]:
        """The events of a kind, as soon as there are enough."""
        wait_for(lambda: len([e for e in self.events if e["event"] == kind]) >= count)
        return [event for event in self.events if event["event"] == kind]


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until something holds."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def head(method: str, target: str, *headers: str) -> bytes:
    """A request head; its Host agrees with the target unless the headers have one."""
    authority = target if method == "CONNECT" else target.partition("://")[2].partition("/")[0]
    lines = [f"{method} {target} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append(f"Host: {authority}")
    return "\r\n".join([*lines, "", ""]).encode()


def answer(sock: socket.socket, method: str = "GET") -> Reply:
    """Read one response, and not a byte more."""
    response = http.client.HTTPResponse(Unbuffered(sock), method=method)  # type: ignore[arg-type]
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    tunnel = method == "CONNECT" and response.status == 200
    body = b"" if tunnel else response.read()
    denied, error = headers.get("x-bottle-denied"), headers.get("x-bottle-error")
    return Reply(response.status, denied, error, body, headers)


class Unbuffered:
    """A socket whose file reads nothing ahead."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def makefile(self, mode: str) -> BufferedReader:
        """As ``http.client`` wants it."""
        assert mode == "rb"
        return self.sock.makefile("rb", buffering=1)


def read_head(sock: socket.socket) -> bytes:
    """Read to the end of a message head, byte by byte."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = sock.recv(1)
        if not part:
            break
        data += part
    return data


def read_all(sock: socket.socket) -> bytes:
    """Read to the end."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


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
                            connection.settimeout(5)
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


def silent(sock: socket.socket) -> None:
    """An origin that listens to the end and says nothing."""
    read_all(sock)


def greeting(sock: socket.socket) -> None:
    """An origin that speaks first."""
    sock.sendall(b"secret")
    read_all(sock)


def reset(sock: socket.socket) -> None:
    """Let the coming close be a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def resetting(sock: socket.socket) -> None:
    """An origin that takes a head and resets the connection."""
    read_head(sock)
    reset(sock)


class Recorder:
    """An origin that keeps the heads and bodies it got and says ``ok``."""

    def __init__(self, reply: bytes = OK) -> None:
        self.reply = reply
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    def __call__(self, sock: socket.socket) -> None:
        """Serve one connection with one request."""
        text = read_head(sock)
        self.heads.append(text)
        size = [line for line in text.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = b""
        while size and len(body) < int(size[0].partition(b":")[2]):
            body += sock.recv(65536)
        if b"transfer-encoding: chunked" in text.lower():
            while not body.endswith(b"0\r\n\r\n"):
                body += sock.recv(65536)
        self.bodies.append(body)
        sock.sendall(self.reply)


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


def test_a_large_post_arrives_intact(sidecar: Start, listen: Listen) -> None:
    """A body of a megabyte goes through unchanged, while its echo already comes back."""
    body = os.urandom(1 << 20)

    def echo(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        left = len(body)
        while left:
            part = sock.recv(65536)
            sock.sendall(part)
            left -= len(part)

    port = listen(echo)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        request = head("POST", f"http://allowed.test:{port}/", f"Content-Length: {len(body)}")
        sender = threading.Thread(target=sock.sendall, args=(request + body,))
        sender.start()
        assert answer(sock, "POST").body == body
        sender.join()


def test_chunks_go_both_ways(sidecar: Start, listen: Listen) -> None:
    """Chunked bodies are passed on, trailers are not."""
    origin = Recorder(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    port = listen(origin)
    request = head("POST", f"http://allowed.test:{port}/", "Transfer-Encoding: chunked")
    reply = sidecar(port).ask(request, b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n")
    assert reply.body == b"ok"
    assert origin.bodies[0] == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


def test_a_body_without_length_ends_with_the_connection(sidecar: Start, listen: Listen) -> None:
    """The answer of an HTTP/1.0 origin is passed on as chunks."""
    port = listen(Recorder(b"HTTP/1.0 200 OK\r\n\r\nsome text"))
    reply = sidecar(port).get(f"http://allowed.test:{port}/")
    assert reply.body == b"some text"
    assert reply.headers["transfer-encoding"] == "chunked"


def test_an_old_client_is_served(sidecar: Start, listen: Listen) -> None:
    """HTTP/1.0 without Host gets no chunks and no interim answers, and the connection closes."""
    chunks = b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    port = listen(Recorder(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n" + chunks))
    with sidecar(port).connect() as sock:
        sock.sendall(b"GET http://allowed.test:%d/ HTTP/1.0\r\n\r\n" % port)
        data = read_all(sock)
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(b"\r\n\r\nok")


def test_head_has_no_body(sidecar: Start, listen: Listen) -> None:
    """The length in an answer to HEAD is not waited for."""
    port = listen(Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"))
    proxy = sidecar(port)
    reply = proxy.ask(head("HEAD", f"http://allowed.test:{port}/"))
    assert (reply.status, reply.headers["content-length"]) == (200, "5")
    with proxy.connect() as sock:
        sock.sendall(head("HEAD", "http://denied.test/"))
        refusal = read_all(sock)
    assert refusal.startswith(b"HTTP/1.1 403 ")
    assert refusal.endswith(b"\r\n\r\n")


def test_continue_is_passed_on(sidecar: Start, listen: Listen) -> None:
    """100 comes from the origin, not from the proxy, and the body follows it."""
    bodies = []

    def patient(sock: socket.socket) -> None:
        assert b"expect: 100-continue" in read_head(sock).lower()
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(sock.recv(4))
        sock.sendall(OK)

    port = listen(patient)
    fields = ("Expect: 100-continue", "Content-Length: 4")
    with sidecar(port).connect() as sock:
        sock.sendall(head("POST", f"http://allowed.test:{port}/", *fields))
        assert read_head(sock).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"body")
        assert answer(sock).body == b"ok"
    assert bodies == [b"body"]


def test_an_early_answer_is_passed_on(sidecar: Start, listen: Listen) -> None:
    """An origin that refuses a body half-way is heard; that connection is then closed."""

    def impatient(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    port = listen(impatient)
    with sidecar(port).connect() as sock:
        sock.sendall(head("POST", f"http://allowed.test:{port}/", "Content-Length: 9") + b"half")
        assert answer(sock).status == 413
        assert read_all(sock) == b""


def test_an_early_answer_before_a_reset_is_passed_on(sidecar: Start, listen: Listen) -> None:
    """The answer of an origin that does not read the body survives its reset."""

    def impatient(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        reset(sock)

    port = listen(impatient)
    body = bytes(1 << 24)
    request = head("POST", f"http://allowed.test:{port}/", f"Content-Length: {len(body)}")
    with sidecar(port, timeouts=SHORT._replace(linger=5.0)).connect() as sock:
        sock.sendall(request + body)
        assert answer(sock).status == 413


def test_headers_for_the_next_hop_stay_here(sidecar: Start, listen: Listen) -> None:
    """Hop-by-hop fields go in both directions, with those that Connection names (RFC 9110 7.6.1).

    What frames the message stays although Connection names it.
    """
    origin = Recorder(
        b"HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    port = listen(origin)
    reply = sidecar(port).ask(
        head(
            "POST",
            f"http://allowed.test:{port}/",
            "Connection: X-Secret, content-length",
            "X-Secret: 1",
            "Proxy-Authorization: Basic x",
            "Upgrade: websocket",
            "TE: trailers",
            "Keep-Alive: 5",
            "Content-Length: 1",
        )
        + b"z"
    )
    sent = origin.heads[0].lower()
    for name in (b"x-secret", b"proxy-", b"upgrade", b"\nte:", b"keep-alive"):
        assert name not in sent
    assert b"content-length: 1\r\n" in sent
    assert origin.bodies == [b"z"]
    assert "x-a" not in reply.headers
    assert reply.body == b"ok"


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


def test_a_tunnel_relays_both_ways(sidecar: Start, listen: Listen) -> None:
    """CONNECT carries bytes both ways, those too that came with the head, and half-closes."""
    body = os.urandom(300_000)

    def origin(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        data = read_all(sock)  # to the end of the agent's half
        sock.sendall(data[::-1])

    port = listen(origin)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        sock.sendall(head("CONNECT", f"allowed.test:{port}") + body[:10])
        assert answer(sock, "CONNECT").status == 200
        assert sock.recv(5, socket.MSG_WAITALL) == b"hello"
        sock.sendall(body[10:])
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == body[::-1]
    closed = proxy.event("closed")
    assert (closed["sent"], closed["received"]) == (len(body), len(body) + 5)
    assert (closed["reason"], closed["host"], closed["port"]) == ("eof", "allowed.test", port)


def test_the_origin_may_close_its_half_first(sidecar: Start, listen: Listen) -> None:
    """The agent can go on sending after the origin has ended its own half."""
    heard = []

    def origin(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        heard.append(read_all(sock))

    port = listen(origin)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        sock.sendall(head("CONNECT", f"allowed.test:{port}"))
        answer(sock, "CONNECT")
        assert sock.recv(1) == b""
        sock.sendall(b"still here")
    wait_for(lambda: bool(heard))
    assert heard == [b"still here"]


def test_a_tunnel_is_recorded_when_it_opens(sidecar: Start, listen: Listen) -> None:
    """Who has read the 200 finds the record; a second event follows when the tunnel ends."""
    port = listen(silent)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        sock.sendall(head("CONNECT", f"allowed.test:{port}"))
        answer(sock, "CONNECT")
        (event,) = proxy.events
        assert (event["event"], event["decision"], event["method"]) == (
            "request",
            "allow",
            "CONNECT",
        )
        assert event["upstream"] == f"127.0.0.1:{port}"
    proxy.event("closed")


def test_a_silent_tunnel_is_closed(sidecar: Start, listen: Listen) -> None:
    """A tunnel without traffic ends at the idle deadline."""
    port = listen(silent)
    proxy = sidecar(port, timeouts=SHORT._replace(idle=0.1))
    with proxy.connect() as sock:
        sock.sendall(head("CONNECT", f"allowed.test:{port}"))
        answer(sock, "CONNECT")
        assert read_all(sock) == b""
    assert proxy.event("closed")["reason"] == "idle"


def test_a_tunnel_can_be_reset(sidecar: Start, listen: Listen) -> None:
    """A reset of the origin ends the tunnel and is told as one."""
    port = listen(resetting)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        sock.sendall(head("CONNECT", f"allowed.test:{port}"))
        answer(sock, "CONNECT")
        sock.sendall(b"\r\n\r\n")
        assert read_all(sock) == b""
    assert proxy.event("closed")["reason"] == "reset"


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


def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_refused_connection_is_no_denial(sidecar: Start, method: str) -> None:
    """An origin that refuses is a 502 and an error in the record."""
    port = unused_port()
    proxy = sidecar(port)
    scheme = "" if method == "CONNECT" else "http://"
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
    reply = sidecar(80).get("http://allowed.test/")
    assert (reply.status, reply.denied, reply.error) == (504, None, "dns-timeout")


def test_a_silent_origin_is_a_timeout(sidecar: Start, listen: Listen) -> None:
    """An origin that accepts and says nothing is a 504."""
    port = listen(silent)
    proxy = sidecar(port, timeouts=SHORT._replace(idle=0.1))
    reply = proxy.get(f"http://allowed.test:{port}/")
    assert (reply.status, reply.denied, reply.error) == (504, None, "timeout")
    assert proxy.event()["decision"] == "error"


def test_a_silent_client_is_not_the_origins_fault(sidecar: Start, listen: Listen) -> None:
    """A body that never comes is a 408."""
    port = listen(silent)
    proxy = sidecar(port, timeouts=SHORT._replace(idle=0.1))
    reply = proxy.ask(head("POST", f"http://allowed.test:{port}/", "Content-Length: 5"))
    assert (reply.status, reply.error) == (408, "client-timeout")


def saying(text: bytes) -> Handler:
    """An origin that takes a head and says something that is no answer."""

    def say(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(text)

    return say


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        (saying(b""), "closed"),
        (resetting, "reset"),
        (saying(b"SSH-2.0-x\r\n\r\n"), "bad-response"),
        (saying(b"HTTP/1.1 101 Switching\r\n\r\n"), "bad-response"),
        (
            saying(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            "bad-response",
        ),
    ],
)
def test_an_origin_that_breaks_off(
    sidecar: Start, listen: Listen, origin: Handler, reason: str
) -> None:
    """An empty, reset or nonsensical answer is a 502 with its reason."""
    port = listen(origin)
    proxy = sidecar(port)
    reply = proxy.get(f"http://allowed.test:{port}/")
    assert (reply.status, reply.error) == (502, reason)
    assert proxy.event()["upstream"] == f"127.0.0.1:{port}"


def test_a_cut_answer_is_not_made_whole(sidecar: Start, listen: Listen) -> None:
    """When the origin breaks off in the middle, so does the proxy: once is recorded, as allowed."""
    port = listen(Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"))
    proxy = sidecar(port)
    with pytest.raises(http.client.IncompleteRead):
        proxy.get(f"http://allowed.test:{port}/")
    assert proxy.event()["decision"] == "allow"


def test_a_client_that_goes_away_leaves_a_record(sidecar: Start, listen: Listen) -> None:
    """A request that broke off after its origin was dialled is recorded, once."""
    port = listen(silent)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        sock.sendall(head("POST", f"http://allowed.test:{port}/", "Content-Length: 5"))
    event = proxy.event()
    assert (event["decision"], event["reason"]) == ("error", "client-closed")


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
    with socket.create_connection(door.getsockname(), timeout=5) as sock:
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
            with socket.create_connection((address, int(number)), timeout=5) as sock:
                sock.sendall(head("GET", f"http://allowed.test:{port}/"))
                assert answer(sock).body == b"ok"
            event = json.loads(process.stdout.readline())
        finally:
            process.kill()
    assert ready["event"] == "ready"
    assert (event["event"], event["decision"]) == ("request", "allow")
