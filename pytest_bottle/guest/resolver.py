"""From an approved host to a connection: a stub resolver, and a dialler that checks addresses.

The C library would read ``/etc/hosts`` and add search domains: the sidecar has to dial what it
judged, so it asks one server by itself and keeps only what that server says about the very name
(RFC 5452 lists what an answer has to match).
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from pytest_bottle.guest import dnswire
from pytest_bottle.guest.policy import Stop, address_allowed, is_literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Both mean that the other side is silent; they became one in Python 3.10.
TIMEOUTS = (socket.timeout, TimeoutError)

_MAX_DATAGRAM = 4096
_MAX_ADDRESSES = 4
#: The response codes that have a name of their own; every other failure is the server's.
_REASONS = {dnswire.NXDOMAIN: "nxdomain", dnswire.REFUSED: "refused"}


class ResolutionError(Exception):
    """A name has no usable address.

    Attributes:
        reason: ``nxdomain``, ``no-data``, ``timeout``, ``refused`` (the server says so),
            ``servfail`` (any other failure of the server), ``unreachable`` (no server there),
            ``garbage`` (what came back is no answer) or ``bad-name`` (no DNS message can hold it).
    """

    def __init__(self, reason: str, name: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


class Resolver:
    """Asks one DNS server.

    Args:
        server: address and port.
        timeout: seconds for one question, all attempts together.
        attempts: how often a question is sent over UDP.
    """

    def __init__(self, server: tuple[str, int], timeout: float = 2.0, attempts: int = 2) -> None:
        self._server = server
        self._family = family(server[0])
        self._timeout = timeout
        self._attempts = attempts

    def resolve(self, name: str) -> list[str]:
        """All addresses of a name, IPv4 first.

        Raises:
            ResolutionError: there is none, or it could not be found out.
        """
        found = self._ask(name, dnswire.A)
        try:
            found += self._ask(name, dnswire.AAAA)
        except ResolutionError:
            if not found:
                raise
        if not found:
            raise ResolutionError("no-data", name)
        return found

    def _ask(self, name: str, qtype: int) -> list[str]:
        answer = self._over_udp(name, qtype)
        if answer.truncated:
            answer = self._attempt(name, qtype, self._exchange_tcp, self._timeout)
        if answer.rcode:
            raise ResolutionError(_REASONS.get(answer.rcode, "servfail"), name)
        if answer.truncated:
            raise ResolutionError("garbage", name)
        return list(answer.addresses)

    def _over_udp(self, name: str, qtype: int) -> dnswire.Answer:
        for left in range(self._attempts - 1, -1, -1):
            try:
                share = self._timeout / self._attempts
                return self._attempt(name, qtype, self._exchange_udp, share)
            except ResolutionError as error:
                if not left or error.reason == "bad-name":
                    raise
        raise ResolutionError("timeout", name)

    def _attempt(
        self,
        name: str,
        qtype: int,
        exchange: Callable[[bytes, float], dnswire.Answer],
        timeout: float,
    ) -> dnswire.Answer:
        """Ask once, with an id and a source port that no other attempt has."""
        try:
            query = dnswire.build_query(name, qtype, int.from_bytes(os.urandom(2), "big"))
        except ValueError:
            raise ResolutionError("bad-name", name) from None
        try:
            return exchange(query, time.monotonic() + timeout)
        except ValueError:
            raise ResolutionError("garbage", name) from None
        except TIMEOUTS:
            raise ResolutionError("timeout", name) from None
        except OSError:
            raise ResolutionError("unreachable", name) from None

    def _exchange_udp(self, query: bytes, end: float) -> dnswire.Answer:
        with socket.socket(self._family, socket.SOCK_DGRAM) as sock:
            # Connected: the kernel drops what others send, and reports a closed port.
            sock.connect(self._server)
            sock.send(query)
            heard = b""
            while True:
                try:
                    sock.settimeout(_left(end))
                    heard = sock.recv(_MAX_DATAGRAM)
                    return _matching(query, heard)
                except ValueError:
                    continue  # perhaps forged: the real answer may still come
                except TIMEOUTS:
                    if not heard:
                        raise
                    raise ValueError("only garbage came") from None

    def _exchange_tcp(self, query: bytes, end: float) -> dnswire.Answer:
        with socket.socket(self._family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_left(end))
            sock.connect(self._server)
            sock.sendall(len(query).to_bytes(2, "big") + query)
            size = int.from_bytes(_exactly(sock, 2, end), "big")
            return _matching(query, _exactly(sock, size, end))


class Dialer:
    """Connects to approved hosts; what was checked is what is dialled (PXY-11).

    Args:
        resolver: finds the addresses of names.
        exceptions: networks that may be dialled although they are not public.
        timeout: seconds for one connection, all its addresses together.
    """

    def __init__(self, resolver: Resolver, exceptions: Sequence[str], timeout: float) -> None:
        self._resolver = resolver
        self._exceptions = exceptions
        self._timeout = timeout

    def dial(self, host: str, port: int, note: Callable[[str], None]) -> socket.socket:
        """Connect to a canonical host; ``note`` is told of each address before it is tried.

        Raises:
            Stop: there is no address, one may not be dialled, or none answers.
        """
        addresses = self.checked(host)[:_MAX_ADDRESSES]
        problems = []
        for address in addresses:
            note(endpoint((address, port)))
            try:
                return _connect(address, port, self._timeout / len(addresses))
            except OSError as error:
                problems.append(error)
        raise _unreached(problems[0])

    def checked(self, host: str) -> list[str]:
        """The addresses of a host. A single bad one spoils them all.

        Raises:
            Stop: there is none, or one may not be dialled.
        """
        try:
            addresses = [host] if is_literal(host) else self._resolver.resolve(host)
        except ResolutionError as error:
            status = 504 if error.reason == "timeout" else 502
            raise Stop("error", status, f"dns-{error.reason}") from error
        for address in addresses:
            if not address_allowed(address, self._exceptions):
                raise Stop("deny", 403, "address-class")
            # One that passes only as an exception may well be here: the bottle asked for it.
            if address_allowed(address) and is_own(address):
                raise Stop("deny", 403, "self")
        return addresses


def is_own(address: str) -> bool:
    """Whether this machine itself has an address (PXY-15). Nothing is sent to find out."""
    with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((address, 9))
        except OSError:
            return False
        return bool(sock.getsockname()[0] == address)


def family(address: str) -> int:
    """The address family of an address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def endpoint(address: Sequence[object]) -> str:
    """A socket address as text."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def _connect(address: str, port: int, timeout: float) -> socket.socket:
    sock = socket.socket(family(address), socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def _unreached(error: OSError) -> Stop:
    if isinstance(error, TIMEOUTS):
        return Stop("error", 504, "timeout")
    refused = isinstance(error, ConnectionRefusedError)
    return Stop("error", 502, "refused" if refused else "unreachable")


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise socket.timeout("no answer in time")  # noqa: UP041 - they became one in Python 3.10
    return left


def _exactly(sock: socket.socket, size: int, end: float) -> bytes:
    data = b""
    while len(data) < size:
        sock.settimeout(_left(end))
        part = sock.recv(size - len(data))
        if not part:
            raise ValueError("the server closed in the middle of an answer")
        data += part
    return data


def _matching(query: bytes, data: bytes) -> dnswire.Answer:
    asked, answer = dnswire.parse_query(query), dnswire.parse_answer(data)
    wanted = (asked.id, asked.name.lower(), asked.qtype, asked.qclass)
    if wanted != (answer.id, answer.name.lower(), answer.qtype, answer.qclass):
        raise ValueError("this answers another question")
    return answer
