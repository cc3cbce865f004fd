"""What the sidecar passes on: bytes of a tunnel, and HTTP messages that are written anew.

A flow is one direction. Two of them run side by side on one thread, each as fast as its receiver.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TYPE_CHECKING

import h11

from pytest_bottle.guest.policy import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bottle.guest.policy import Verdict

    Head = h11.Request | h11.Response | h11.InformationalResponse

#: How much is read at once.
CHUNK = 65536
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL
_VIA = (b"Via", b"1.1 bottle")
#: Meant for the next hop only (RFC 9110 section 7.6.1); ``Proxy-*`` goes as well.
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"))
#: What ``Connection`` may not name away: without these a message would end somewhere else.
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


def failed(reason: str, status: int = 502) -> Stop:
    """End a request that was tried and could not be served."""
    return Stop("error", status, reason)


class Flow:
    """One direction: what came from ``source`` and waits to go into ``sink``.

    As it is, it copies a tunnel's bytes and passes the end of one side on to the other.
    """

    def __init__(self, source: socket.socket, sink: socket.socket, pending: bytes = b"") -> None:
        self.source = source
        self.sink = sink
        self.pending = pending
        self.ended = False
        self.taken = self.given = 0

    @property
    def done(self) -> bool:
        """Whether the source has ended, and all of it is passed on."""
        return self.ended and not self.pending

    def wants(self) -> tuple[int, int]:
        """The descriptor to wait for, and the events that let the next step go on."""
        if self.pending:
            return self.sink.fileno(), select.POLLOUT
        return self.source.fileno(), 0 if self.ended else select.POLLIN

    def step(self) -> None:
        """Read once, or write once."""
        if self.pending:
            sent = self.sink.send(self.pending)
            self.given += sent
            self.pending = self.pending[sent:]
        else:
            data = self.source.recv(CHUNK)
            self.taken += len(data)
            self.pending = self._feed(data)
        if self.done:
            self._finish()

    def _feed(self, data: bytes) -> bytes:
        self.ended = not data
        return data

    def _finish(self) -> None:
        with contextlib.suppress(OSError):  # the other side may be gone altogether
            self.sink.shutdown(socket.SHUT_WR)


class _HttpFlow(Flow):
    """One message: read by one h11 connection, and written anew by another."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        reader: h11.Connection,
        writer: h11.Connection,
    ) -> None:
        super().__init__(source, sink)
        self.reader = reader
        self.writer = writer

    def _finish(self) -> None:
        """Leave the connection open: an answer or the next request is still to come."""

    def _translate(self) -> bytes:
        """Everything that can be passed on by now; ends the flow with the message."""
        parts = []
        while not self.ended:
            event = self.reader.next_event()
            if event is h11.NEED_DATA:
                break
            parts.append(self._rewrite(event))
        return b"".join(parts)

    def _rewrite(self, event: object) -> bytes:
        if isinstance(event, h11.Data):
            return self.writer.send(event) or b""
        if isinstance(event, h11.EndOfMessage):
            self.ended = True  # trailers stay here (RFC 9110 section 6.5.1 allows that)
            return self.writer.send(h11.EndOfMessage()) or b""
        raise h11.RemoteProtocolError(f"{event!r} is out of place")


class RequestFlow(_HttpFlow):
    """A request on its way to the origin."""

    def begin(self, head: bytes) -> None:
        """Take the rewritten head, and what came together with it."""
        self.pending = head + self._taken_in()

    def step(self) -> None:
        """Read or write once; what the client did wrong is told from what the origin did."""
        writing = bool(self.pending)
        try:
            super().step()
        except OSError:
            if not writing:
                raise failed("client-closed", 400) from None
            # The origin may have answered early and closed (RFC 9112 section 9.5): read that.
            self.ended, self.pending = True, b""

    def _feed(self, data: bytes) -> bytes:
        if not data:
            raise failed("client-closed", 400)
        self.reader.receive_data(data)
        return self._taken_in()

    def _taken_in(self) -> bytes:
        try:
            return self._translate()
        except h11.ProtocolError:
            raise Stop("error" if self.given else "deny", 400, "bad-request") from None


class ResponseFlow(_HttpFlow):
    """A response on its way to the agent; ``on_head`` is told its status before it goes out."""

    on_head: Callable[[int], None]

    def step(self) -> None:
        """Read or write once; a reset is the fault of the side that it came from."""
        writing = bool(self.pending)
        try:
            super().step()
        except OSError:
            late = failed("client-closed", 400) if writing else failed("reset")
            raise late from None

    def _feed(self, data: bytes) -> bytes:
        try:
            self.reader.receive_data(data)
            return self._translate()
        except h11.ProtocolError:
            raise failed("bad-response" if self.taken else "closed") from None

    def _rewrite(self, event: object) -> bytes:
        if isinstance(event, h11.Response):
            self.on_head(event.status_code)
        if isinstance(event, (h11.Response, h11.InformationalResponse)):
            return self._head(event)
        return super()._rewrite(event)

    def _head(self, event: h11.Response | h11.InformationalResponse) -> bytes:
        kind = type(event)
        if kind is h11.InformationalResponse and self.writer.their_http_version != b"1.1":
            return b""  # RFC 9110 section 15.2
        headers = [*_end_to_end(event), _VIA]
        status = event.status_code
        return (
            self.writer.send(kind(status_code=status, reason=event.reason, headers=headers)) or b""
        )


def relay(flows: Sequence[Flow], idle: float, finished: Callable[[], bool]) -> None:
    """Move bytes in every direction until it is finished; a pause longer than ``idle`` ends it."""
    while not finished():
        poller, wanted = select.poll(), {flow: flow.wants() for flow in flows}
        masks: dict[int, int] = {}
        for descriptor, mask in wanted.values():
            masks[descriptor] = masks.get(descriptor, 0) | mask
        for descriptor, mask in masks.items():
            if mask:
                poller.register(descriptor, mask)
        ready = dict(poller.poll(idle * 1000))
        if not ready:
            raise socket.timeout("idle")  # noqa: UP041 - they became one in Python 3.10
        for flow, (descriptor, mask) in wanted.items():
            if mask and ready.get(descriptor, 0) & (mask | _BROKEN):
                flow.step()


def rewritten(request: h11.Request, target: Verdict) -> h11.Request:
    """The request as the origin gets it: in origin form, with the host that was judged."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    authority = host if target.port == 80 else f"{host}:{target.port}"
    kept = [item for item in _end_to_end(request) if item[0].lower() != b"host"]
    headers = [(b"Host", authority.encode()), *kept, _VIA, (b"Connection", b"close")]
    return h11.Request(method=request.method, target=target.path.encode(), headers=headers)


def _end_to_end(message: Head) -> list[tuple[bytes, bytes]]:
    named = {
        token.strip().lower()
        for name, value in message.headers
        if name == b"connection"
        for token in value.split(b",")
    }
    dropped = (_HOP_BY_HOP | named) - _FRAMING
    return [
        (name, value)
        for name, value in message.headers.raw_items()
        if name.lower() not in dropped and not name.lower().startswith(b"proxy-")
    ]
