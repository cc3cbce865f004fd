"""Every dialect is what its RFC says, read by somebody else: a proxy that speaks it understands."""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress

import h11
import pytest

from pytest_bottle.conformance.dialects import (
    DIALECTS,
    Destination,
    Step,
    said_yes,
    socks5_name,
)
from pytest_bottle.conformance.greetings import client_hello, server_name

NONCE = "0123456789abcdef" * 2
WORDS = b"BOTTLE " + NONCE.encode() + b"\n"
TO = Destination(b"denied.test", "192.0.2.7", "2001:db8::7", NONCE)


def sent(dialect: str) -> list[bytes]:
    """What is sent in each step of a dialect."""
    return [step.send for step in DIALECTS[dialect](TO)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_conversation_carries_its_nonce_or_has_nothing_to_carry_it_in(dialect: str) -> None:
    """What gets through shows at the far side; BIND only asks for a door."""
    assert (NONCE.encode() in b"".join(sent(dialect))) == (dialect != "SOCKS5 BIND")


@pytest.mark.parametrize(
    ("dialect", "method", "target"),
    [
        ("GET", b"GET", b"http://denied.test/" + NONCE.encode()),
        ("POST", b"POST", b"http://denied.test/" + NONCE.encode()),
        ("CONNECT", b"CONNECT", b"denied.test:443"),
        ("CONNECT 1.0", b"CONNECT", b"denied.test:443"),
        ("origin-form", b"GET", b"/" + NONCE.encode()),
        ("h2c", b"GET", b"http://denied.test/" + NONCE.encode()),
        ("WebSocket", b"GET", b"http://denied.test/" + NONCE.encode()),
        ("CONNECT-UDP", b"GET", b"/.well-known/masque/udp/denied.test/443/"),
    ],
)
def test_http_is_http(dialect: str, method: bytes, target: bytes) -> None:
    """h11 reads the first message of each, whole."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(sent(dialect)[0])
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (method, target)
    while isinstance(event := server.next_event(), h11.Data):
        assert event.data == WORDS
    assert isinstance(event, h11.EndOfMessage) or event is h11.PAUSED


@pytest.mark.parametrize(
    ("dialect", "request_bytes"),
    [
        ("SOCKS4 IPv4", b"\4\1\0\x50\xc0\0\2\7bottle\0"),
        ("SOCKS4a", b"\4\1\0\x50\0\0\0\1bottle\0denied.test\0"),
    ],
)
def test_socks4_is_socks4(dialect: str, request_bytes: bytes) -> None:
    """The request names port 80 and the address, or the name behind an address that is none."""
    assert sent(dialect) == [request_bytes, WORDS]


@pytest.mark.parametrize(
    ("dialect", "request_bytes", "then"),
    [
        ("SOCKS5", b"\5\1\0\3\x0bdenied.test\0\x50", [WORDS]),
        ("SOCKS5 IPv4", b"\5\1\0\1\xc0\0\2\7\0\x50", [WORDS]),
        ("SOCKS5 IPv6", b"\5\1\0\4\x20\1\x0d\xb8" + bytes(11) + b"\7\0\x50", [WORDS]),
        ("SOCKS5 BIND", b"\5\2\0\3\x0bdenied.test\0\x50", []),
        ("SOCKS5 UDP", b"\5\3\0\1" + bytes(6), [b"\0\0\0\3\x0bdenied.test\0\x50" + WORDS]),
    ],
)
def test_socks5_is_socks5(dialect: str, request_bytes: bytes, then: list[bytes]) -> None:
    """A greeting without a password, then a request (RFC 1928, sections 3, 4 and 7)."""
    assert sent(dialect) == [b"\5\1\0", request_bytes, *then]


def test_only_udp_goes_by_datagram() -> None:
    """What is meant for the relay of UDP ASSOCIATE is a datagram, all else is not."""
    datagrams = {name for name in DIALECTS for step in DIALECTS[name](TO) if step.datagram}
    assert datagrams == {"SOCKS5 UDP"}


def test_a_name_of_socks_is_never_longer_than_its_length_can_say() -> None:
    """A name of more than 255 bytes is cut, as a length of one byte demands."""
    assert socks5_name(b"x" * 300) == b"\3\xff" + b"x" * 255


def test_http2_has_a_preface_and_whole_frames() -> None:
    """Behind the preface stand SETTINGS, a GET, a CONNECT and its data (RFC 9113, section 4.1)."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    (data,) = sent("h2")
    assert data.startswith(preface)
    rest, frames = data[len(preface) :], []
    while rest:
        size, kind, flags = int.from_bytes(rest[:3], "big"), rest[3], rest[4]
        frames.append((kind, flags, struct.unpack("!I", rest[5:9])[0], rest[9 : 9 + size]))
        assert len(rest) >= 9 + size
        rest = rest[9 + size :]
    assert [frame[:3] for frame in frames] == [(4, 0, 0), (1, 5, 1), (1, 4, 3), (0, 0, 3)]
    assert b"\1\x0bdenied.test" in frames[1][3]
    assert frames[2][3] == b"\2\7CONNECT\1\x0fdenied.test:443"
    assert frames[3][3] == WORDS


def test_a_websocket_frame_is_masked_and_whole() -> None:
    """A client's binary frame has its mask bit, its length and a mask (RFC 6455, section 5.2)."""
    frame = sent("WebSocket")[1]
    assert frame[:2] == bytes((0x82, 0x80 | len(WORDS)))
    assert bytes(c ^ frame[2 + n % 4] for n, c in enumerate(frame[6:])) == WORDS


def test_a_capsule_holds_one_datagram() -> None:
    """Type 0, a length, context 0 and the payload (RFC 9297, section 3.5; RFC 9298, section 5)."""
    capsule = sent("CONNECT-UDP")[1]
    assert capsule == bytes((0, len(WORDS) + 1, 0)) + WORDS


def test_the_greeting_is_tls_and_names_its_server() -> None:
    """OpenSSL reads the server's name out of it, and the session stands in it in the clear."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _, name, __: names.append(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(client_hello(NONCE.encode(), server_name(b"denied.test")))
    with suppress(ssl.SSLError):  # there is no certificate to go on with
        context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    assert names == ["denied.test"]
    assert NONCE.encode() in sent("TLS")[0]


@pytest.mark.parametrize(
    ("dialect", "answers", "yes"),
    [
        ("CONNECT", ["HTTP/1.1 200 OK\r\n\r\n"], True),
        ("CONNECT", ["HTTP/1.1 403 Forbidden\r\n\r\n"], False),
        ("WebSocket", ["HTTP/1.1 101 Switching Protocols\r\n\r\n"], True),
        ("SOCKS5", ["\5\0", "\5\0\0\1"], True),
        ("SOCKS5", ["\5\0", "\5\2\0\1"], False),
        ("SOCKS5", ["\5\0"], False),
        ("SOCKS5", [], False),
        ("SOCKS4a", ["\0\x5a"], True),
        ("SOCKS4a", ["\0\x5b"], False),
        ("TLS", ["\x16"], True),
        ("TLS", ["\x15"], False),
    ],
)
def test_a_yes_is_told_from_a_no(dialect: str, answers: list[str], yes: bool) -> None:
    """Each dialect has its own word for it."""
    assert said_yes(dialect, answers) is yes


def test_a_step_is_told_in_hex() -> None:
    """JSON carries any bytes."""
    assert Step(b"\0\xff", 3).order() == {"send": "00ff", "until": 3, "datagram": False}


def test_an_address_reads_back() -> None:
    """The kernel's own reading of the packed addresses is what was meant."""
    assert socket.inet_ntop(socket.AF_INET6, sent("SOCKS5 IPv6")[1][4:20]) == TO.v6
    assert socket.inet_ntoa(sent("SOCKS5 IPv4")[1][4:8]) == TO.v4
