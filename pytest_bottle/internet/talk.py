"""What the origins say on a TCP connection: whatever the client's first bytes ask for."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.guest import dnswire
from pytest_bottle.internet.zone import Found, Zone, ZoneFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from pytest_bottle.internet.tls import Leaves

ECHO, ECHO_ANSWER = b"BOTTLE ", b"BOTTLE-ECHO "
_HANDSHAKE = b"\x16"  # RFC 8446 section 5.1: the type of a ClientHello's record
_IDLE = 30.0
_LINGER = 0.5
_PIECE = 1 << 16
_LONGEST_LINE = 4 * _PIECE


class Peer(NamedTuple):
    """Who asks, and which of the lab's addresses is asked."""

    client: str
    client_port: int
    server: str
    port: int


class Talk:
    """The origins' side of every conversation.

    Args:
        zone: the names.
        log: called with (kind, peer, **fields).
        dns_ports: ports that speak DNS.
        make_leaves: makes the TLS contexts on first use; None refuses TLS.
    """

    def __init__(
        self,
        zone: Zone,
        log: Callable[..., object],
        dns_ports: Container[int],
        make_leaves: Callable[[], Leaves] | None,
    ) -> None:
        self._zone = zone
        self._log = log
        self._dns_ports = dns_ports
        self._make_leaves = make_leaves

    def converse(self, connection: socket.socket, peer: Peer) -> None:
        """Serve one connection to its end and close it."""
        connection.settimeout(_IDLE)
        with connection, suppress(OSError):  # the client went away or kept silent
            first = connection.recv(1, socket.MSG_PEEK)
            if first == _HANDSHAKE:
                self._over_tls(connection, peer)
                return
            if peer.port in self._dns_ports and first != ECHO[:1]:
                self._dns(connection, peer)
            else:
                self._echo_or_http(connection, peer, "http")
            _linger(connection)

    def answer_query(self, data: bytes, peer: Peer, scheme: str) -> bytes | None:
        """Answer one DNS message; None when it is no question."""
        try:
            query = dnswire.parse_query(data)
        except ValueError as error:
            self._log("dns", peer, scheme=scheme, note=f"not a query: {error}")
            return None
        found, note = self._resolve(query)
        name = query.name.lower()
        self._log("dns", peer, scheme=scheme, name=name, qtype=query.qtype, note=note)
        # A name in its wire form may need more than the 255 bytes of one string.
        text = query.name.encode()[:255]
        texts = () if found.rcode else (text,)
        return dnswire.build_answer(query, **found._asdict(), texts=texts)

    def _resolve(self, query: dnswire.Query) -> tuple[Found, str]:
        try:
            return self._zone.resolve(query.name, query.qtype), ""
        except ZoneFullError as error:
            return Found(dnswire.SERVFAIL), str(error)

    def _over_tls(self, connection: socket.socket, peer: Peer) -> None:
        if self._make_leaves is None:
            return
        wrapped = self._make_leaves().wrap(connection)
        with wrapped:
            self._echo_or_http(wrapped, peer, "https")
            wrapped.settimeout(_LINGER)
            wrapped.unwrap()

    def _dns(self, connection: socket.socket, peer: Peer) -> None:
        # RFC 1035 section 4.2.2: each message behind its length, any number on a connection.
        while len(head := _exactly(connection, 2)) == 2:
            size = int.from_bytes(head, "big")
            data = _exactly(connection, size)
            answer = self.answer_query(data, peer, "tcp") if len(data) == size else None
            if answer is None:
                return
            connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _echo_or_http(self, connection: socket.socket, peer: Peer, scheme: str) -> None:
        heard = b""
        while len(heard) <= _LONGEST_LINE and (more := connection.recv(_PIECE)):
            heard += more
            while heard.startswith(ECHO) and b"\n" in heard:
                line, _, heard = heard.partition(b"\n")
                connection.sendall(echo(line[len(ECHO) :].strip(), peer))
            if not heard.startswith(ECHO) and not ECHO.startswith(heard):
                from pytest_bottle.internet import web

                resolve = partial(self.answer_query, peer=peer, scheme=scheme)
                web.converse(connection, heard, peer, scheme, self._log, resolve)
                return


def echo(nonce: bytes, peer: Peer) -> bytes:
    """The proof that the far end itself has answered."""
    return ECHO_ANSWER + nonce + f" {peer.client} {peer.server}\n".encode()


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return data


def _linger(connection: socket.socket) -> None:
    # Closing with unread data would reset the connection and take the answer back.
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(_LINGER)
    for _ in range(16):
        if not connection.recv(_PIECE):
            return
