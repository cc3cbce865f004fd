"""Origins to talk to, on loopback addresses that no other test uses."""

from __future__ import annotations

import http.client
import secrets
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bottle.internet import origin
from pytest_bottle.internet.lab import OriginClient
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack


class Running(NamedTuple):
    """Origins at one address."""

    client: OriginClient
    address: str
    port: int
    dns_port: int

    def connect(self, port: int | None = None) -> socket.socket:
        """Open a connection to the TCP port, or to another one."""
        return socket.create_connection((self.address, port or self.port), timeout=30)

    def http(self) -> http.client.HTTPConnection:
        """Open an HTTP connection."""
        return http.client.HTTPConnection(self.address, self.port, timeout=30)


def free_address() -> str:
    """A loopback address of one's own: every port of it is free."""
    return (
        f"127.{64 + secrets.randbelow(190)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
    )


def run_origins(stack: ExitStack, address: str, mint: socket.socket | None = None) -> Running:
    """Run origins in a thread until the stack unwinds."""
    ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
    dns_port = free_port(address)
    settings: dict[str, Any] = {"tcp": (0,), "dns": (dns_port,), "bind": address}
    thread = threading.Thread(target=origin.serve, args=(theirs, mint), kwargs=settings)
    thread.start()
    stack.callback(thread.join, 30)
    stack.callback(ours.close)
    client = OriginClient(ours)
    (port,) = set(client.listen().tcp) - {dns_port}
    return Running(client, address, port, dns_port)


class Trusted(NamedTuple):
    """Origins that speak TLS, and their authority."""

    origin: Running
    ca_pem: str

    def secure(self, name: str | None) -> ssl.SSLSocket:
        """Open a TLS connection that asks for a name, and verify it."""
        context = ssl.create_default_context(cadata=self.ca_pem)
        if name is None:
            context.check_hostname = False
        return context.wrap_socket(self.origin.connect(), server_hostname=name)


def query(
    running: Running, name: str, qtype: str = "A", how: Callable[..., Any] | None = None
) -> tuple[str, list[str]]:
    """Ask as an independent implementation does; the response code and the records."""
    import dns.message
    import dns.query
    import dns.rcode

    message = dns.message.make_query(name, qtype)
    ask = how or dns.query.udp
    answer = ask(message, running.address, port=running.dns_port, timeout=30)
    records = [str(record) for rrset in answer.answer for record in rrset]
    return dns.rcode.to_text(answer.rcode()), records
