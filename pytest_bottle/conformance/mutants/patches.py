"""What tampered sidecars do instead: run by source, in the process that all sidecars descend from.

Nothing is imported there but the guests' own modules; see :func:`.proxy.tampered`.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

from pytest_bottle.guest import policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import h11

    from pytest_bottle.guest import proxy

    #: Tells the host to dial for the one that was asked for, or raises Stop.
    Approve = Callable[[proxy._Client, str, int], str]  # noqa: SLF001 - a mutant's

_TYPES = {1: (socket.AF_INET, 4), 4: (socket.AF_INET6, 16)}


def knows_its_policy_late() -> None:
    """Let everything through in the first moments of a sidecar."""
    import time

    strict, first = policy.Policy.judge, policy.Policy.__init__

    def begin(self: policy.Policy, routes: Iterable[tuple[str, Sequence[int]]]) -> None:
        first(self, routes)
        self.known = time.monotonic() + 0.3  # type: ignore[attr-defined]

    def judge(
        self: policy.Policy, method: str, target: str, version: str, headers: Mapping[str, str]
    ) -> policy.Verdict:
        verdict = strict(self, method, target, version, headers)
        known = time.monotonic() > self.known  # type: ignore[attr-defined]
        return verdict if known else verdict._replace(status=0, reason="allowed")

    policy.Policy.__init__ = begin  # type: ignore[method-assign]
    policy.Policy.judge = judge  # type: ignore[method-assign]


def lists_for_connect_only() -> None:
    """Apply the list in the CONNECT handler only (anthropics/claude-code issue 40213)."""
    strict = policy.Policy.judge

    def judge(
        self: policy.Policy, method: str, target: str, version: str, headers: Mapping[str, str]
    ) -> policy.Verdict:
        verdict = strict(self, method, target, version, headers)
        listed = method == "CONNECT" or verdict.reason != "not-allowed"
        return verdict if listed else verdict._replace(status=0, reason="allowed")

    policy.Policy.judge = judge  # type: ignore[method-assign]


def reads_to_the_nul() -> None:
    """Approve what stands behind a NUL and dial what stands before it.

    This is ``endswith()`` on the raw bytes and a resolver on the C string; in HTTP the NUL has to
    come percent-encoded.
    """
    strict = policy.Policy.decide

    def decide(self: policy.Policy, host: str, port: int) -> policy.Decision:
        front, nul, rest = host.partition("%00")
        decision = strict(self, rest.lstrip(".") if nul else host, port)
        return decision._replace(host=front) if nul and decision.allowed else decision

    policy.Policy.decide = decide  # type: ignore[method-assign]


def decides_on_host() -> None:
    """Look for the Host header in the list, and dial what the request's target says."""
    strict = policy.Policy.judge

    def judge(
        self: policy.Policy, method: str, target: str, version: str, headers: Mapping[str, str]
    ) -> policy.Verdict:
        verdict = strict(self, method, target, version, headers)
        host = headers.get("host", "").partition(":")[0]
        if verdict.reason in ("host-mismatch", "not-allowed") and verdict.port:
            allowed = self.decide(host, verdict.port).allowed
            return verdict._replace(status=0, reason="allowed") if allowed else verdict
        return verdict

    policy.Policy.judge = judge  # type: ignore[method-assign]


def keeps_old_tunnels() -> None:
    """Judge new requests by a new list, and let tunnels be that were approved by the old one."""
    from pytest_bottle.guest import live

    def end_tunnels(self: live.LivePolicy) -> int:  # noqa: ARG001 - it is a method
        return 0

    live.LivePolicy._end_tunnels = end_tunnels  # type: ignore[method-assign]  # noqa: SLF001


def judges_once() -> None:
    """Judge the first request of a connection, and none of those behind it."""
    from pytest_bottle.guest import proxy

    strict = proxy._Client._judge  # noqa: SLF001 - nobody else may have a way in
    approved: WeakSet[proxy._Client] = WeakSet()

    def judge(client: proxy._Client, request: h11.Request) -> policy.Verdict:
        if client not in approved:
            verdict = strict(client, request)
            approved.add(client)
            return verdict
        words = request.method.decode(), request.target.decode(), request.http_version.decode()
        return client.sidecar.policy.judge(*words, {})._replace(status=0)

    proxy._Client._judge = judge  # type: ignore[method-assign,assignment]  # noqa: SLF001 - likewise


def forwards_both_framings() -> None:
    """Pass a message on that has both Content-Length and Transfer-Encoding, with what follows."""
    from pytest_bottle.guest import proxy
    from pytest_bottle.guest.relay import Flow, relay

    careful, strict = policy._problem, proxy._Client._forward  # noqa: SLF001 - as above

    def problem(target: policy.Verdict, version: str, headers: Mapping[str, str]) -> str:
        found = careful(target, version, headers)
        return "" if found == "ambiguous-framing" else found

    def forward(
        client: proxy._Client, request: h11.Request, target: policy.Verdict, upstream: socket.socket
    ) -> bool:
        if not {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
            return strict(client, request, target, upstream)
        lines = [b"%s: %s" % item for item in request.headers.raw_items()]
        head = [b"%s %s HTTP/1.1" % (request.method, target.path.encode()), *lines, b"", b""]
        upstream.sendall(b"\r\n".join(head) + client.http.trailing_data[0])
        answer = Flow(upstream, client.sock)
        relay((Flow(client.sock, upstream), answer), 1.0, lambda: answer.done)
        return False

    policy._problem = problem  # noqa: SLF001 - likewise
    proxy._Client._forward = forward  # type: ignore[method-assign,assignment]  # noqa: SLF001 - likewise


def looks_into_no_tls() -> None:
    """Let TLS name whatever it likes in a tunnel to an approved host."""
    from pytest_bottle.guest import tunnel

    strict = tunnel.look

    def look(data: bytes, host: str) -> str | None:
        return "" if data[:1] == b"\x16" else strict(data, host)

    tunnel.look = look


def empty_means_all() -> None:
    """Take a list without entries for one that does not matter: ``if not allow: return True``."""
    strict = policy.Policy.decide

    def decide(self: policy.Policy, host: str, port: int) -> policy.Decision:
        decision = strict(self, host, port)
        if self._ports or not decision.host:
            return decision
        return decision._replace(allowed=True, reason="allowed")

    policy.Policy.decide = decide  # type: ignore[method-assign]


def forgets_refused_tunnels() -> None:
    """Write down all that is decided, but for denials of CONNECT."""
    from pytest_bottle.guest import proxy

    strict = proxy._Sidecar.record  # noqa: SLF001 - nobody else may have a way in

    def record(self: proxy._Sidecar, event: proxy.Event) -> None:
        if (event.get("method"), event.get("decision")) != ("CONNECT", "deny"):
            strict(self, event)

    proxy._Sidecar.record = record  # type: ignore[method-assign]  # noqa: SLF001 - likewise


def points_at_itself() -> None:
    """Dial any address, the sidecar's own as well."""
    from pytest_bottle.guest import resolver

    vars(resolver).update(address_allowed=lambda *_: True, is_own=lambda _: False)


def has_an_admin_door() -> None:
    """Serve a page on every address of the sidecar, at a port that nobody is told of."""
    from pytest_bottle.guest import proxy

    strict = proxy.serve

    def serve(
        config: proxy.Config,
        listeners: Sequence[socket.socket],
        status_listeners: Sequence[socket.socket],
        audit: proxy.Audit,
    ) -> None:
        door = socket.create_server(("0.0.0.0", 8081))
        strict(config, listeners, [*status_listeners, door], audit)

    proxy.serve = serve


def knows_its_host() -> None:
    """Take the host's alias for an ordinary name, and dial the gateway for it."""
    from pytest_bottle.guest import resolver

    alias = "host.docker.internal"
    strict, careful = policy.Policy.decide, resolver.Dialer.checked

    def decide(self: policy.Policy, host: str, port: int) -> policy.Decision:
        decision = strict(self, host, port)
        return decision._replace(allowed=True) if host == alias else decision

    def checked(self: resolver.Dialer, host: str) -> list[str]:
        return [_gateway()] if host == alias else careful(self, host)

    policy.Policy.decide = decide  # type: ignore[method-assign]
    resolver.Dialer.checked = checked  # type: ignore[method-assign]


def _gateway() -> str:
    with open("/proc/net/route") as file:
        rows = [line.split() for line in file]
    return next(
        socket.inet_ntoa(struct.pack("=I", int(row[2], 16))) for row in rows if row[1] == "0" * 8
    )


def trusts_its_own_port() -> None:
    """Exempt clients that call from the proxy's own port, as if they were itself."""
    from pytest_bottle.guest import proxy

    strict = proxy._Client._judge  # noqa: SLF001 - nobody else may have a way in

    def judge(client: proxy._Client, request: h11.Request) -> policy.Verdict:
        if client.sock.getpeername()[1] != client.sock.getsockname()[1]:
            return strict(client, request)
        words = request.method.decode(), request.target.decode(), request.http_version.decode()
        return client.sidecar.policy.judge(*words, {})._replace(status=0)

    proxy._Client._judge = judge  # type: ignore[method-assign,assignment]  # noqa: SLF001 - likewise


def socks_without_a_list() -> None:
    """Speak SOCKS5 at the proxy's port as well, to wherever it is asked for."""
    _speak_socks(lambda _client, host, _port: host)


def socks_reads_to_the_nul() -> None:
    """Speak SOCKS5 with a list that is matched from behind, and a resolver on the C string.

    So did the Claude Code sandbox (cited in NVIDIA/OpenShell issue 1498).
    """

    def approve(client: proxy._Client, host: str, port: int) -> str:
        front, nul, rest = host.partition("\0")
        decision = client.sidecar.policy.decide(rest.lstrip(".") if nul else host, port)
        if not decision.allowed:
            raise policy.Stop("deny", 403, decision.reason)
        return front if nul else decision.host

    _speak_socks(approve)


def _speak_socks(approve: Approve) -> None:
    from pytest_bottle.guest import proxy

    http_only = proxy._Client.run  # noqa: SLF001 - nobody else may have a way in

    def run(client: proxy._Client) -> None:
        if client.sock.recv(1, socket.MSG_PEEK) == b"\5":
            with suppress(policy.Stop):
                _socks5(client, approve)
        else:
            http_only(client)

    proxy._Client.run = run  # type: ignore[method-assign,assignment]  # noqa: SLF001 - likewise


def _socks5(client: proxy._Client, approve: Approve) -> None:
    from pytest_bottle.guest.relay import Flow, relay

    client.sock.recv(3)
    client.sock.sendall(b"\5\0")
    asked = client.sock.recv(512)
    if asked[1] == 3:
        _relay_datagram(client, approve)
        return
    host, port, _ = _destination(asked[3:])
    host = approve(client, host, port)
    with client.sidecar.dialer.dial(host, port, lambda _: None) as upstream:
        client.sock.sendall(b"\5\0\0\1" + bytes(6))
        flows = Flow(client.sock, upstream), Flow(upstream, client.sock)
        relay(flows, 5.0, lambda: flows[0].done and flows[1].done)


def _relay_datagram(client: proxy._Client, approve: Approve) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        sock.settimeout(5.0)
        client.sock.sendall(b"\5\0\0\1" + struct.pack("!4xH", sock.getsockname()[1]))
        host, port, words = _destination(sock.recv(512)[3:])
        address = client.sidecar.dialer.checked(approve(client, host, port))[0]
        sock.sendto(words, (address, port))


def _destination(data: bytes) -> tuple[str, int, bytes]:
    """Take address, port and the rest out of a SOCKS5 message (RFC 1928 section 5)."""
    if data[0] == 3:
        end = 2 + data[1]
        host = data[2:end].decode("latin-1")
    else:
        family, size = _TYPES[data[0]]
        end = 1 + size
        host = socket.inet_ntop(family, data[1:end])
    return host, struct.unpack("!H", data[end : end + 2])[0], data[end + 2 :]
