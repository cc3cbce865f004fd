"""The origins: DNS, HTTP, TLS and nonce echoes at every address there is.

One loop accepts connections and answers datagrams; each connection has a thread of its own.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_bottle.internet import sockets
from pytest_bottle.internet._control import answer_one, survive_hang_ups
from pytest_bottle.internet.records import Entry
from pytest_bottle.internet.talk import ECHO_ANSWER, Peer, Talk
from pytest_bottle.internet.zone import NUMBERS, Zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_bottle._wire import Message
    from pytest_bottle.internet.tls import Leaves

TCP_PORTS = (80, 443)
DNS_PORTS = (53,)
_BURST = 4096
_MOST_CONVERSATIONS = 400  # well below the usual limit of 1024 open files
_LOG_CAPACITY = 100_000
_LOG_PAGE = 2000


def serve(
    control: socket.socket,
    minter: socket.socket | None,
    *,
    tcp: Sequence[int] = TCP_PORTS,
    dns: Sequence[int] = DNS_PORTS,
    bind: str = "::",
    numbers: range = NUMBERS,
    version6: bool = True,
    then: Callable[[], None] | None = None,
) -> None:
    """Be the origins until ``control`` is closed.

    Args:
        control: takes ``ping``, ``mark``, ``listen``, ``address``, ``adopt`` and ``log`` requests.
        minter: the connection to the minter; None refuses TLS.
        tcp: ports to listen on from the beginning.
        dns: ports that speak DNS, over UDP and TCP.
        bind: the address to listen on; ``::`` means every address of both families.
        numbers: as for :class:`~pytest_bottle.internet.zone.Zone`.
        version6: likewise.
        then: is called on a thread of its own when the first request is answered: whoever asked
            waited for that, and the conversations come later.
    """
    survive_hang_ups()
    origin = Origin(minter, bind, Zone(numbers, version6=version6))
    try:
        origin.start(tcp, dns)
        origin.run(control, then)
    finally:
        origin.close()


def preload() -> None:
    """Import what is imported on first use, for a process that will lose sight of its files."""
    from pytest_bottle.internet import tls, web  # noqa: F401


class Log:
    """What clients made the origins do; safe to write from any thread."""

    def __init__(self, capacity: int = _LOG_CAPACITY) -> None:
        self._capacity = capacity
        self._entries: list[Entry] = []
        self._forgotten = 0
        self._lock = threading.Lock()

    def add(self, kind: str, peer: Peer, **fields: Any) -> None:
        """Write one entry."""
        with self._lock:
            n = self._forgotten + len(self._entries) + 1
            self._entries.append(Entry(n, kind, time.monotonic_ns(), *peer, **fields))
            if len(self._entries) > self._capacity:
                count = max(1, self._capacity // 8)
                del self._entries[:count]
                self._forgotten += count

    @property
    def last(self) -> int:
        """The number of the newest entry."""
        with self._lock:
            return self._forgotten + len(self._entries)

    def page(self, since: int) -> list[Entry]:
        """Some entries after number ``since``.

        Raises:
            LookupError: it reaches back to entries that are forgotten; silence would be a lie.
        """
        with self._lock:
            if since < self._forgotten:
                raise LookupError(f"entries up to {self._forgotten} are forgotten: ask from a mark")
            start = since - self._forgotten
            return self._entries[start : start + _LOG_PAGE]


class Origin:
    """The listeners, and the loop that serves them."""

    def __init__(self, minter: socket.socket | None, bind: str, zone: Zone) -> None:
        self._minter = minter
        self._bind = bind
        self._zone = zone
        self._log = Log()
        self._dns_ports: set[int] = set()
        self._listeners: dict[str, dict[int, socket.socket]] = {
            kind: {} for kind in ("tcp", "udp", "udp_echo", "dns")
        }
        self._failures: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._leaves: Leaves | None = None
        self._leaves_lock = threading.Lock()
        self._seats = threading.BoundedSemaphore(_MOST_CONVERSATIONS)
        make_leaves = None if minter is None else self._get_leaves
        self._talk = Talk(self._zone, self._log.add, self._dns_ports, make_leaves)

    def start(self, tcp: Iterable[int], dns: Iterable[int]) -> None:
        """Open the first ports; what fails is told to whoever asks first."""
        dns = tuple(dns)
        self._dns_ports.update(dns)
        self._failures += self._open_all("tcp", (*tcp, *dns))
        self._failures += self._open_all("dns", dns)

    def run(self, control: socket.socket, then: Callable[[], None] | None = None) -> None:
        """Serve until ``control`` is closed; ``then`` as for :func:`serve`."""
        self._selector.register(control, selectors.EVENT_READ)
        while True:
            asked = False
            for key, _ in self._selector.select():
                if key.fileobj is control:
                    asked = True
                else:
                    key.data(key.fileobj)
            # Last, so that what came before the question is in the answer.
            if asked and not answer_one(control, self._handle):
                return
            if asked and then is not None:
                threading.Thread(target=then, daemon=True).start()
                then = None

    def close(self) -> None:
        """Close every listener; conversations end when their clients do."""
        self._selector.close()
        for listeners in self._listeners.values():
            for sock in listeners.values():
                sock.close()

    # -- requests -----------------------------------------------------------------

    def _handle(self, request: Message) -> Message:
        handler = {
            "ping": self._ping,
            "mark": lambda _: {"seq": self._log.last},
            "listen": self._listen,
            "address": lambda r: self._address(str(r["name"])),
            "adopt": self._adopt,
            "log": self._page,
        }.get(request["op"])
        if handler is not None:
            return handler(request)
        raise ValueError(f"unknown request {request['op']!r}")

    def _ping(self, _request: Message) -> Message:
        return {"error": "; ".join(self._failures)} if self._failures else {"ok": True}

    def _adopt(self, request: Message) -> Message:
        self._zone.adopt(str(request["name"]))
        return self._address(str(request["name"]))

    def _page(self, request: Message) -> Message:
        return {"entries": self._log.page(int(request["since"])), "seq": self._log.last}

    def _listen(self, request: Message) -> Message:
        failures = [
            failure
            for kind in ("tcp", "udp", "udp_echo")
            for failure in self._open_all(kind, map(int, request.get(kind, ())))
        ]
        if failures:
            return {"error": "; ".join(failures)}
        kinds = ("tcp", "udp", "udp_echo")
        return {"ok": True, **{kind: sorted(self._listeners[kind]) for kind in kinds}}

    def _address(self, name: str) -> Message:
        pair = self._zone.addresses(name)
        if pair is None:
            raise LookupError(f"{name} does not exist")
        return {"address": pair[0], "address6": pair[1]}

    # -- listeners ----------------------------------------------------------------

    def _open_all(self, kind: str, ports: Iterable[int]) -> list[str]:
        failures = []
        for port in ports:
            try:
                self._open(kind, port)
            except (OSError, OverflowError) as error:
                protocol = "tcp" if kind == "tcp" else "udp"
                failures.append(f"cannot listen on {protocol} {port}: {error}")
        return failures

    def _open(self, kind: str, port: int) -> None:
        listeners = self._listeners[kind]
        if port in listeners or (kind == "udp" and port in self._listeners["dns"]):
            return
        make = sockets.tcp_listener if kind == "tcp" else sockets.udp_socket
        sock = make(self._bind, port)
        number = sock.getsockname()[1]
        listeners[number] = sock
        serve_one: Callable[[socket.socket, int], None] = {
            "tcp": self._accept,
            "udp": self._swallow,
            "udp_echo": self._echo,
            "dns": self._resolve,
        }[kind]
        self._selector.register(sock, selectors.EVENT_READ, partial(_repeat, serve_one, number))

    def _accept(self, listener: socket.socket, port: int) -> None:
        connection, (client, client_port, *_) = listener.accept()
        server = sockets.plain(connection.getsockname()[0])
        peer = Peer(sockets.plain(client), client_port, server, port)
        seated = self._seats.acquire(blocking=False)
        self._log.add("tcp", peer, scheme="tcp", note="" if seated else "turned away: full")
        if not seated:
            connection.close()
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._converse, args=(connection, peer), daemon=True).start()

    def _converse(self, connection: socket.socket, peer: Peer) -> None:
        try:
            self._talk.converse(connection, peer)
        except ImportError as error:  # see preload(): nobody would understand the client's error
            self._failures.append(f"cannot import what a conversation needs: {error}")
        finally:
            self._seats.release()

    def _resolve(self, sock: socket.socket, port: int) -> None:
        question = sockets.receive(sock)
        peer = Peer(question.client, question.client_port, question.asked, port)
        answer = self._talk.answer_query(question.data, peer, "udp")
        if answer is not None:
            sockets.answer(sock, question, answer)

    def _echo(self, sock: socket.socket, _: int) -> None:
        datagram = sockets.receive(sock)
        sockets.answer(sock, datagram, ECHO_ANSWER + datagram.data)

    def _swallow(self, sock: socket.socket, _: int) -> None:
        sock.recv(1)

    # -- TLS ------------------------------------------------------------------------

    def _get_leaves(self) -> Leaves:
        with self._leaves_lock:
            if self._leaves is None:
                from pytest_bottle.internet.tls import Leaves

                assert self._minter is not None
                self._leaves = Leaves(self._minter, self._greeted)
            return self._leaves

    def _greeted(self, connection: socket.socket, name: str, error: str) -> None:
        client, client_port, *_ = connection.getpeername()
        server, port, *_ = connection.getsockname()
        peer = Peer(sockets.plain(client), client_port, sockets.plain(server), port)
        self._log.add("tls", peer, scheme="https", name=name, note=error)


def _repeat(
    serve_one: Callable[[socket.socket, int], None], port: int, sock: socket.socket
) -> None:
    """Serve all that waits at a socket."""
    with suppress(OSError):  # EAGAIN: nothing more; anything else concerns one client only
        for _ in range(_BURST):
            serve_one(sock, port)
