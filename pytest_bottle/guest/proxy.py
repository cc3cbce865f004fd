"""The reference sidecar: an explicit forward proxy that lets through what its policy lists.

One thread per connection and one request at a time, in this order and no other: read, judge,
resolve, check the addresses, dial one of them, record, answer. HTTP is parsed by h11 on both sides,
and every message that leaves is written anew from what was parsed: nothing is passed on that was
not understood. Only the inside of an approved CONNECT tunnel is opaque.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import h11

from pytest_bottle.guest.live import LivePolicy
from pytest_bottle.guest.policy import Config, Policy, Stop, Timeouts, Verdict
from pytest_bottle.guest.relay import (
    CHUNK,
    Flow,
    RequestFlow,
    ResponseFlow,
    failed,
    relay,
    rewritten,
)
from pytest_bottle.guest.resolver import TIMEOUTS, Dialer, Resolver, endpoint, family
from pytest_bottle.guest.tunnel import ALERT, TunnelFlow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Event = dict[str, object]
    Audit = Callable[[Event], None]
    #: Serves one accepted connection; the text is the peer's address.
    Handler = Callable[[socket.socket, str], None]

__all__ = ["Config", "Timeouts", "main", "serve"]

_MAX_HEAD = 65536
_MAX_TARGET = 2048
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}
_HEALTH = ((b"GET", b"/"), (b"GET", b"/healthz"))


def serve(
    config: Config,
    listeners: Sequence[socket.socket],
    status_listeners: Sequence[socket.socket],
    audit: Audit,
) -> None:
    """Serve until every listener is shut down; that is, for ever.

    Args:
        config: the policy and the waits.
        listeners: listening sockets that face the agent.
        status_listeners: listening sockets of the published port; they never proxy.
        audit: takes one event at a time. A request whose record cannot be written is not served.
    """
    sidecar = _Sidecar(config, audit)
    doors = [(listener, sidecar.proxy) for listener in listeners]
    doors += [(listener, sidecar.status) for listener in status_listeners]
    threading.Thread(target=sidecar.live.watch, daemon=True).start()
    threads = [
        threading.Thread(target=_accept, args=(*door, config.connections), daemon=True)
        for door in doors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(argv: Sequence[str], ready: Callable[[], object] = lambda: None) -> int:
    """Run from a command line: the one argument is the configuration as JSON.

    Besides the fields of ``Config`` it has ``listen`` and perhaps ``status``, each an address and a
    port. Events go to standard output, one JSON object per line. ``ready`` is called when it
    listens.
    """
    settings = json.loads(argv[0])
    listen, status = settings.pop("listen"), settings.pop("status", None)
    config = Config.from_json(settings)
    doors = [_listen(*listen)]
    status_doors = [_listen(*status)] if status else []
    _print({"event": "ready", "listen": endpoint(doors[0].getsockname())})
    ready()
    serve(config, doors, status_doors, _print)
    return 0


def _print(event: Event) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _listen(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), family=family(address))


def _accept(listener: socket.socket, handle: Handler, connections: int) -> None:
    slots = threading.Semaphore(connections)
    listener.settimeout(None)
    while True:
        slots.acquire()
        try:
            connection, peer = listener.accept()
        except OSError as error:
            slots.release()
            if error.errno in (errno.EBADF, errno.EINVAL):  # closed, shut down
                return
            time.sleep(0.01)  # out of files or memory: it passes, and the door stays open
            continue
        arguments = (handle, connection, endpoint(peer), slots)
        try:
            threading.Thread(target=_guarded, args=arguments, daemon=True).start()
        except RuntimeError:  # no more threads for now
            connection.close()
            slots.release()


def _guarded(
    handle: Handler, connection: socket.socket, peer: str, slots: threading.Semaphore
) -> None:
    # An OSError here is the client's own: it went away, and its requests have their records.
    try:
        with connection, contextlib.suppress(OSError):
            handle(connection, peer)
    finally:
        slots.release()


class _Sidecar:
    """What all connections share; nothing of it changes but the policy."""

    def __init__(self, config: Config, audit: Audit) -> None:
        self.timeouts = config.timeouts
        resolver = Resolver(config.resolver, config.timeouts.dns)
        self.dialer = Dialer(resolver, config.address_exceptions, config.timeouts.connect)
        self._audit = audit
        self._lock = threading.Lock()
        self.live = LivePolicy(config.routes, config.routes_file, self.record)

    @property
    def policy(self) -> Policy:
        """What holds now."""
        return self.live.policy

    def record(self, event: Event) -> None:
        with self._lock:
            self._audit({"time": time.time(), **event})

    def proxy(self, sock: socket.socket, peer: str) -> None:
        _prepare(sock, self.timeouts.head)
        _Client(self, sock, peer).run()
        _linger(sock, self.timeouts.linger)

    def status(self, sock: socket.socket, peer: str) -> None:
        self.record({"event": "status", "client": peer})
        _prepare(sock, self.timeouts.head)
        try:
            request = _next_request(h11.Connection(h11.SERVER), sock)
        except Stop:
            request = None
        found = request is not None and (request.method, request.target) in _HEALTH
        body = '{"status": "ok"}' if found else '{"status": "not found"}'
        sock.sendall(_reply(200 if found else 404, "Content-Type: application/json", body))
        _linger(sock, self.timeouts.linger)


class _Client:
    """One connection of the agent."""

    def __init__(self, sidecar: _Sidecar, sock: socket.socket, peer: str) -> None:
        self.sidecar = sidecar
        self.sock = sock
        self.peer = peer
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self.event: Event = {}
        self.flows: tuple[Flow, Flow] | None = None
        self.recorded = False

    def run(self) -> None:
        """Serve requests until the connection ends; each is judged anew (PXY-05)."""
        while self._serve_one():
            self.http.start_next_cycle()

    def _serve_one(self) -> bool:
        self.event = {"method": "", "host": "", "port": 0, "target": "", "client": self.peer}
        self.event["upstream"] = self.flows = None
        self.recorded = False
        try:
            request = _next_request(self.http, self.sock)
            if request is None:
                return False
            target = self._judge(request)
            with self._dial(target) as upstream:
                if request.method == b"CONNECT":
                    return self._tunnel(target, upstream)
                return self._forward(request, target, upstream)
        except Stop as stop:
            self._end(stop)
            return False

    def _judge(self, request: h11.Request) -> Verdict:
        method, target, version = (
            part.decode("ascii") for part in (request.method, request.target, request.http_version)
        )
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
        verdict = self.sidecar.policy.judge(method, target, version, headers)
        self.event.update(method=method, target=target[:_MAX_TARGET])
        self.event.update(host=verdict.host[:_MAX_TARGET], port=verdict.port)
        if verdict.status:
            raise Stop("deny", verdict.status, verdict.reason)
        return verdict

    def _dial(self, target: Verdict) -> socket.socket:
        def note(address: str) -> None:
            self.event["upstream"] = address

        return self.sidecar.dialer.dial(target.host, target.port, note)

    def _forward(self, request: h11.Request, target: Verdict, upstream: socket.socket) -> bool:
        origin = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        asking = RequestFlow(self.sock, upstream, self.http, origin)
        answering = ResponseFlow(upstream, self.sock, origin, self.http)
        answering.on_head = self._allow
        self.flows = (asking, answering)
        try:
            asking.begin(origin.send(rewritten(request, target)) or b"")
            relay(self.flows, self.sidecar.timeouts.idle, lambda: answering.done)
        except TIMEOUTS:
            ours = asking.ended or asking.pending  # all that the client owes has come
            raise (failed("timeout", 504) if ours else failed("client-timeout", 408)) from None
        return self.http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    def _tunnel(self, target: Verdict, upstream: socket.socket) -> bool:
        early, _ = self.http.trailing_data
        self._allow(200)
        up = TunnelFlow(self.sock, upstream, target.host)
        down = Flow(upstream, self.sock, _ESTABLISHED)
        self.flows = (up, down)
        reason = "eof"
        live = self.sidecar.live.tunnel(target.host, target.port, self.sock, upstream)
        try:
            with live:
                up.receive(early)
                relay(self.flows, self.sidecar.timeouts.idle, lambda: up.done and down.done)
        except Stop as stop:
            self._cut(stop, up, down)
            return False
        except TIMEOUTS:
            reason = "idle"
        except OSError:
            reason = "reset"
        self._record("closed", "allow", reason, 200)
        return False

    def _cut(self, stop: Stop, up: TunnelFlow, down: Flow) -> None:
        """End a tunnel that began with what it must not carry."""
        self._record("closed", stop.decision, stop.reason, stop.status)
        last = ALERT if up.greets else self._refusal(stop)
        self.sock.settimeout(self.sidecar.timeouts.linger)
        self.sock.sendall(down.pending + last)

    def _allow(self, status: int) -> None:
        self._record("request", "allow", "allowed", status)

    def _record(self, kind: str, decision: str, reason: str, status: int) -> None:
        self.recorded = True
        sent, received = (self.flows[0].given, self.flows[1].taken) if self.flows else (0, 0)
        verdict = {"event": kind, "decision": decision, "reason": reason, "status": status}
        self.sidecar.record({**verdict, **self.event, "sent": sent, "received": received})

    def _end(self, stop: Stop) -> None:
        if self.recorded:  # the head of the answer is out: closing is all that is left to say
            return
        self._record("request", stop.decision, stop.reason, stop.status)
        self.sock.sendall(self._refusal(stop))

    def _refusal(self, stop: Stop) -> bytes:
        where = "{host}:{port}".format(**self.event)
        if stop.decision == "deny":
            field, text = "X-Bottle-Denied", "denied by the bottle's egress policy"
        else:
            field, text = "X-Bottle-Error", "the bottle's proxy failed to reach"
        body = "" if self.event["method"] == "HEAD" else f"{text}: {stop.reason}: {where}\n"
        return _reply(stop.status, f"{field}: {stop.reason}", body)


def _next_request(http: h11.Connection, sock: socket.socket) -> h11.Request | None:
    try:
        while True:
            event = http.next_event()
            if event is not h11.NEED_DATA:
                return event if isinstance(event, h11.Request) else None
            http.receive_data(sock.recv(CHUNK))
    except h11.RemoteProtocolError:
        raise Stop("deny", 400, "bad-request") from None


def _reply(status: int, field: str, body: str) -> bytes:
    data = body.encode()
    lines = [f"HTTP/1.1 {status} {_PHRASES[status]}", field, f"Content-Length: {len(data)}"]
    if not field.startswith("Content-Type"):
        lines.append("Content-Type: text/plain")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + data


def _prepare(sock: socket.socket, timeout: float) -> None:
    sock.settimeout(timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _linger(sock: socket.socket, timeout: float) -> None:
    """Close so that the peer gets our last words: unread data would turn the end into a reset."""
    end = time.monotonic() + timeout
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(timeout)
    while time.monotonic() < end and sock.recv(CHUNK):
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
