"""What may begin a tunnel, byte by byte, and what comes of the rest."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bottle.conformance.greetings import (
    client_hello,
    encrypted,
    in_two_records,
    server_name,
)
from pytest_bottle.guest.tunnel import ALERT, look
from tests.sidecars import answer, head, read_all, wait_for

if TYPE_CHECKING:
    import socket

    from tests.sidecars import Listen, Start

HOST = "allowed.test"
SESSION = bytes(32)
ALLOWED = client_hello(SESSION, server_name(b"allowed.test"))


def greeting_of(name: str | None) -> bytes:
    """What Python's own TLS says first."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (greeting_of("allowed.test"), ""),
        (greeting_of("ALLOWED.test"), ""),
        (greeting_of("denied.test"), "tls-other-name"),
        (greeting_of("x.allowed.test"), "tls-other-name"),
        (greeting_of(None), "tls-no-name"),
        (ALLOWED, ""),
        (in_two_records(ALLOWED, len(ALLOWED) - 3), ""),
        (client_hello(SESSION), "tls-no-name"),
        (client_hello(SESSION, server_name(b"192.0.2.1")), "tls-other-name"),
        (client_hello(SESSION, server_name(b"allowed.test", b"denied.test")), "tls-unreadable"),
        (client_hello(SESSION, *[server_name(b"allowed.test")] * 2), "tls-unreadable"),
        (client_hello(SESSION, server_name(b"allowed.test\0.a")), "tls-unreadable"),
        (client_hello(SESSION, server_name(b"\xff")), "tls-unreadable"),
        (client_hello(SESSION, server_name(b"allowed.test")[:-4]), "tls-unreadable"),
        (client_hello(SESSION, server_name(b"allowed.test"), encrypted()), "tls-encrypted-name"),
        (b"\x16\x03\x01\x00\x00", "tls-unreadable"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "tls-unreadable"),
        (b"\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x01a", "tls-unreadable"),
        (b"GET / HTTP/1.1\r\n", "http-in-tunnel"),
        (b"\r\n\r\nbrew http://denied.test/ HTTP/1.0", "http-in-tunnel"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http-in-tunnel"),
        (b"SSH-2.0-client\r\n", ""),
        (b"BOTTLE nonce\n", ""),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", ""),
        (b"", None),
        (b"\r\n", None),
        (b"GET http://denied.test/", None),
    ],
)
def test_the_beginning_decides(data: bytes, reason: str | None) -> None:
    """A greeting with another name, or a request, is refused; what names no host is not."""
    assert look(data, HOST) == reason


@pytest.mark.parametrize("data", [ALLOWED, greeting_of("allowed.test")], ids=["own", "ssl"])
def test_a_greeting_that_is_not_complete_is_waited_for(data: bytes) -> None:
    """Whatever it is broken off at: nothing is passed on before its name is known."""
    assert {look(data[:end], HOST) for end in range(len(data))} == {None}


@given(st.binary(max_size=80), st.integers(0, len(ALLOWED)))
def test_no_greeting_makes_it_fail(noise: bytes, at: int) -> None:
    """Whatever stands in it, there is a verdict or none."""
    for data in (ALLOWED[:at] + noise, b"\x16" + noise, noise):
        assert look(data, HOST) in (
            *(None, "", "tls-unreadable", "tls-no-name", "tls-other-name"),
            *("tls-encrypted-name", "http-in-tunnel"),
        )


def test_an_address_is_not_named() -> None:
    """TLS to an approved address has no name (RFC 6066 section 3), and must have no other."""
    assert look(client_hello(SESSION), "192.0.2.1") == ""
    assert look(ALLOWED, "192.0.2.1") == "tls-other-name"


@pytest.mark.parametrize(
    ("said", "last", "reason"),
    [
        (client_hello(SESSION, server_name(b"denied.test")), ALERT, "tls-other-name"),
        (b"GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n", b"HTTP/1.1 403 ", "http-in-tunnel"),
        (ALLOWED[:40], ALERT, "tls-unreadable"),
    ],
    ids=["TLS", "HTTP", "half a greeting"],
)
@pytest.mark.parametrize("early", [True, False], ids=["with the head", "behind it"])
def test_a_tunnel_is_cut_before_the_origin_hears_a_byte(
    sidecar: Start, listen: Listen, said: bytes, last: bytes, reason: str, early: bool
) -> None:
    """The client is told why, the record has the denial, and the tunnel's two ends are closed."""
    heard: list[bytes] = []

    def origin(sock: socket.socket) -> None:
        heard.append(read_all(sock))

    port = listen(origin)
    proxy = sidecar(port)
    with proxy.connect() as sock:
        sock.sendall(head("CONNECT", f"allowed.test:{port}") + (said if early else b""))
        assert answer(sock, "CONNECT").status == 200
        if not early:
            sock.sendall(said)
        sock.shutdown(1)
        assert read_all(sock).startswith(last)
    closed = proxy.event("closed")
    assert (closed["decision"], closed["reason"], closed["sent"]) == ("deny", reason, 0)
    wait_for(lambda: bool(heard))
    assert heard == [b""]


def test_a_greeting_in_pieces_is_passed_on_whole(sidecar: Start, listen: Listen) -> None:
    """What was held back comes first, and all that follows is passed on as it is."""
    heard: list[bytes] = []

    def origin(sock: socket.socket) -> None:
        heard.append(read_all(sock))

    port = listen(origin)
    with sidecar(port).connect() as sock:
        sock.sendall(head("CONNECT", f"allowed.test:{port}"))
        answer(sock, "CONNECT")
        for at in range(0, len(ALLOWED), 7):
            sock.sendall(ALLOWED[at : at + 7])
        sock.sendall(b"GET / HTTP/1.1\r\n")
        sock.shutdown(1)
        assert read_all(sock) == b""
    assert heard == [ALLOWED + b"GET / HTTP/1.1\r\n"]
