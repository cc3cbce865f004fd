"""The lab as the test process sees it: clients of the witness, the origins and the minter."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pytest_bottle import _wire
from pytest_bottle.errors import TransportError
from pytest_bottle.internet.records import Entry, Heard

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Entry", "Heard", "Hearing", "Mark", "MinterClient", "OriginClient", "WitnessClient"]


class Line(Protocol):
    """A way to ask a server of the far side."""

    def ask(self, request: _wire.Message) -> _wire.Message:
        """Ask one question.

        Raises:
            TransportError: there is no answer, or it says why there is none.
        """


class Mark(NamedTuple):
    """A point in what the witness hears; a window of silence begins and ends with one.

    Attributes:
        seq: the number of the last packet before it.
        time_ns: CLOCK_MONOTONIC.
        drops: how many packets the kernel had lost by then.
    """

    seq: int
    time_ns: int
    drops: int


class Hearing(NamedTuple):
    """What the witness heard in a window.

    Attributes:
        records: the packets, in order of arrival.
        end: the end of the window, to begin the next one with.
        missed: how many packets of the window were heard and forgotten again: the store was full.
        lost: how many packets of the window are missing altogether; known only if it began with a
            `Mark`. Silence is worth nothing unless this is 0.
    """

    records: tuple[Heard, ...]
    end: Mark
    missed: int
    lost: int | None

    @property
    def drops(self) -> int:
        """Every packet that is missing: lost by the kernel at any time, or missed here."""
        return self.end.drops + self.missed

    @property
    def traffic(self) -> tuple[Heard, ...]:
        """The records without the link's own chatter."""
        return tuple(record for record in self.records if not record.link)


class WitnessClient:
    """Questions to the witness; threads may share it."""

    def __init__(self, line: socket.socket | Line, timeout: float = 5.0) -> None:
        self._line = _line_of(line, timeout, "the witness")

    def ping(self) -> None:
        """Return if the witness lives.

        Raises:
            TransportError: it does not answer; so do all methods of this class.
        """
        self._line.ask({"op": "ping"})

    def mark(self) -> Mark:
        """Remember this moment: every packet that has arrived by now lies before it."""
        return _mark(self._line.ask({"op": "mark"}))

    def heard(
        self,
        since: Mark | int,
        dsts: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Hearing:
        """Everything that arrived since a mark, to certain destinations or to any.

        Args:
            since: a mark, or the number of the last packet that is not wanted any more.
            dsts: addresses; None means every address.
            limit: stop after so many records.
        """
        wanted = None if dsts is None else sorted(set(dsts))
        start = since.seq if isinstance(since, Mark) else since
        answer = self._page(start, wanted, limit)
        # Packets keep coming: the window ends where it ended when the question was asked.
        end, missed = _mark(answer), int(answer["missed"])
        records = [Heard.from_row(row) for row in answer["records"]]
        while answer["next"] < end.seq and (limit is None or len(records) < limit):
            left = None if limit is None else limit - len(records)
            answer = self._page(answer["next"], wanted, left)
            missed += int(answer["missed"])
            records += map(Heard.from_row, answer["records"])
        inside = tuple(record for record in records if record.seq <= end.seq)
        lost = end.drops - since.drops + missed if isinstance(since, Mark) else None
        return Hearing(inside, end, missed, lost)

    def _page(self, since: int, dsts: Sequence[str] | None, limit: int | None) -> _wire.Message:
        return self._line.ask({"op": "heard", "since": since, "dsts": dsts, "limit": limit})


class Listening(NamedTuple):
    """The ports on which the origins listen now."""

    tcp: tuple[int, ...]
    udp: tuple[int, ...]
    udp_echo: tuple[int, ...]


class OriginClient:
    """Orders and questions to the origins; threads may share it."""

    def __init__(self, line: socket.socket | Line, timeout: float = 5.0) -> None:
        self._line = _line_of(line, timeout, "the origins")

    def ping(self) -> None:
        """Return if the origins live and hold the ports they were started with.

        Raises:
            TransportError: they do not, or an order failed; so do all methods of this class.
        """
        self._line.ask({"op": "ping"})

    def listen(
        self, tcp: Iterable[int] = (), udp: Iterable[int] = (), udp_echo: Iterable[int] = ()
    ) -> Listening:
        """Open further ports on every address; ports that are open already stay as they are.

        Args:
            tcp: ports that speak TLS, HTTP and the nonce echo.
            udp: ports that swallow datagrams.
            udp_echo: ports that answer datagrams.
        """
        request = {"op": "listen", "tcp": [*tcp], "udp": [*udp], "udp_echo": [*udp_echo]}
        answer = self._line.ask(request)
        return Listening(*(tuple(answer[key]) for key in ("tcp", "udp", "udp_echo")))

    def address(self, name: str) -> str:
        """The IPv4 address that the lab's DNS gives to ``name``."""
        return self.addresses(name)[0]

    def addresses(self, name: str) -> tuple[str, str]:
        """The IPv4 and the IPv6 address that the lab's DNS gives to ``name``."""
        answer = self._line.ask({"op": "address", "name": name})
        return str(answer["address"]), str(answer["address6"])

    def adopt(self, name: str) -> tuple[str, str]:
        """Let the lab's DNS own a name, whatever its last label is; tells its addresses."""
        answer = self._line.ask({"op": "adopt", "name": name})
        return str(answer["address"]), str(answer["address6"])

    def mark(self) -> int:
        """The number of the last log entry, to ask for later ones."""
        return int(self._line.ask({"op": "mark"})["seq"])

    def log(self, since: int = 0, *kinds: str) -> tuple[Entry, ...]:
        """The log entries after number ``since``, of all ``kinds`` or of certain ones."""
        answer = self._line.ask({"op": "log", "since": since})
        entries, end = [*answer["entries"]], answer["seq"]
        while answer["entries"] and answer["entries"][-1][0] < end:
            answer = self._line.ask({"op": "log", "since": entries[-1][0]})
            entries += answer["entries"]
        everything = (Entry(*row) for row in entries)
        return tuple(entry for entry in everything if not kinds or entry.kind in kinds)

    def dns_log(self, since: int = 0) -> tuple[Entry, ...]:
        """The DNS questions after entry ``since``."""
        return self.log(since, "dns")

    def http_log(self, since: int = 0) -> tuple[Entry, ...]:
        """The HTTP requests after entry ``since``."""
        return self.log(since, "http")

    def tcp_log(self, since: int = 0) -> tuple[Entry, ...]:
        """The TCP connections accepted after entry ``since``."""
        return self.log(since, "tcp")

    def tls_log(self, since: int = 0) -> tuple[Entry, ...]:
        """The TLS greetings after entry ``since``."""
        return self.log(since, "tls")


class MinterClient:
    """Asks the minter for certificates; threads may share it."""

    def __init__(self, sock: socket.socket, timeout: float = 10.0) -> None:
        self._line = _Line(sock, timeout, "the certificate minter")

    def ca_pem(self) -> str:
        """The certificate of the lab's own authority, for clients to trust."""
        return str(self._line.ask({"op": "ca"})["pem"])

    def leaf_pem(self, name: str) -> str:
        """A key and a certificate chain for a host name or an address."""
        return str(self._line.ask({"op": "leaf", "name": name})["key_and_chain"])


def refused(where: str, request: _wire.Message, answer: _wire.Message) -> TransportError:
    """Make the error for an answer that says why there is none."""
    return TransportError(
        "the far side could not do what it was asked",
        where=f"{where}: {request['op']}",
        seen=str(answer["error"]),
    )


def _line_of(line: socket.socket | Line, timeout: float, where: str) -> Line:
    return _Line(line, timeout, where) if isinstance(line, socket.socket) else line


class _Line:
    """A control connection: one question at a time, and none after it went wrong."""

    def __init__(self, sock: socket.socket, timeout: float, where: str) -> None:
        self._sock = sock
        self._timeout = timeout
        self._where = where
        self._lock = threading.Lock()
        self._broken = ""

    def ask(self, request: _wire.Message) -> _wire.Message:
        with self._lock:
            answer = self._exchange(request)
        if "error" in answer:
            raise refused(self._where, request, answer)
        return answer

    def _exchange(self, request: _wire.Message) -> _wire.Message:
        if not self._broken:
            try:
                return _wire.call(self._sock, request, timeout=self._timeout)[0]
            except TimeoutError:
                # Its answer may still come, and would be taken for that of the next question.
                self._broken = f"no answer to {request['op']!r} within {self._timeout} s"
            except (_wire.Closed, OSError) as error:
                self._broken = f"the connection is closed ({type(error).__name__})"
        raise TransportError(
            "a part of the lab does not answer",
            where=self._where,
            seen=self._broken,
            next_step="nothing can be concluded about the network: the session is lost; start "
            "pytest again",
        )


def _mark(answer: _wire.Message) -> Mark:
    return Mark(int(answer["seq"]), int(answer["time_ns"]), int(answer["drops"]))
