"""What the reference sidecar passes on, and how a connection through it ends."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.sidecars import (
    OK,
    SHORT,
    Recorder,
    answer,
    head,
    read_all,
    read_head,
    reset,
    resetting,
    saying,
    silent,
    wait_for,
)

if TYPE_CHECKING:
    from tests.sidecars import Handler, Listen, Start


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


def test_a_tunnel_relays_both_ways(sidecar: Start, listen: Listen) -> None:
    """CONNECT carries bytes both ways, those too that came with the head, and half-closes."""
    body = b"\0" + os.urandom(300_000)  # neither TLS nor a request

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
        sock.sendall(b"\0\r\n\r\n")
        assert read_all(sock) == b""
    assert proxy.event("closed")["reason"] == "reset"


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
