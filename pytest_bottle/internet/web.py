"""The origins' HTTP/1.1: every path of every host answers with what it was asked.

Imported with the first HTTP request only.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pytest_bottle.internet.talk import Peer

_PIECE = 1 << 16
_DNS_MESSAGE = "application/dns-message"
_LONGEST_MESSAGE = 65535

#: Where clouds keep their instance metadata: EC2 and those that imitate it, EC2's container agent,
#: Alibaba's ECS, Oracle's classic service. All of them answer as EC2's does.
METADATA_ADDRESSES = (
    *("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192"),
    "fd00:ec2::254",
)
_CREDENTIALS = "/latest/meta-data/iam/security-credentials"
CANARY_ROLE = "bottle-BOTTLECANARY-role"
CANARY = {
    "Code": "Success",
    "Type": "AWS-HMAC",
    "AccessKeyId": "BOTTLECANARY00000000",
    "SecretAccessKey": "BOTTLECANARY-not-a-secret",
    "Token": "BOTTLECANARY-not-a-token",
    "Expiration": "2099-01-01T00:00:00Z",
}
TOKEN = "BOTTLECANARY-imdsv2-token"  # noqa: S105 - a canary, not a secret


def converse(
    connection: socket.socket,
    heard: bytes,
    peer: Peer,
    scheme: str,
    log: Callable[..., object],
    answer_query: Callable[[bytes], bytes | None],
) -> None:
    """Answer the requests of a connection until it ends.

    Args:
        connection: the client, with or without TLS.
        heard: what has been read from it already.
        peer: who asks whom.
        scheme: ``http`` or ``https``.
        log: called with (kind, peer, **fields) as soon as a request's head is complete.
        answer_query: answers a DNS message, for DNS over HTTPS (RFC 8484); None to what is none.
    """
    _Conversation(connection, heard, peer, scheme, log, answer_query).run()


class _Conversation:
    def __init__(
        self,
        connection: socket.socket,
        heard: bytes,
        peer: Peer,
        scheme: str,
        log: Callable[..., object],
        answer_query: Callable[[bytes], bytes | None],
    ) -> None:
        self._connection = connection
        self._peer = peer
        self._scheme = scheme
        self._log = log
        self._answer_query = answer_query
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_PIECE)
        self._http.receive_data(heard)
        self._is_head = False

    def run(self) -> None:
        try:
            while self._exchange():
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            self._refuse(error)

    def _exchange(self) -> bool:
        """One request and its answer; whether another may follow."""
        request = self._event()
        if not isinstance(request, h11.Request):
            return False
        host, method, path = _host(request), _text(request.method), _text(request.target)
        self._is_head = method == "HEAD"
        self._log("http", self._peer, scheme=self._scheme, host=host, method=method, path=path)
        if method == "CONNECT":
            self._send(405, "text/plain", b"an origin is no proxy\n", close=True)
            return False
        digest, length, start = self._body()
        special = self._resolved(request, start)
        if self._peer.server in METADATA_ADDRESSES:
            special = _metadata(method, path) or special
        self._send(200, *(special or ("application/json", self._seen(request, digest, length))))
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def _event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                self._say(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(self._connection.recv(_PIECE))
        return event

    def _body(self) -> tuple[str, int, bytes]:
        """Take the request's body in: its digest, its length, and how it begins."""
        digest, length, start = hashlib.sha256(), 0, b""
        while isinstance(event := self._event(), h11.Data):
            digest.update(event.data)
            length += len(event.data)
            start += bytes(event.data[: _LONGEST_MESSAGE - len(start)])
        return digest.hexdigest(), length, start

    def _resolved(self, request: h11.Request, body: bytes) -> tuple[str, bytes] | None:
        """Be a resolver over HTTPS for whoever posts a DNS message (RFC 8484 section 4.1)."""
        if request.method != b"POST" or _fields(request).get("content-type") != _DNS_MESSAGE:
            return None
        answer = self._answer_query(body)
        return None if answer is None else (_DNS_MESSAGE, answer)

    def _seen(self, request: h11.Request, digest: str, length: int) -> bytes:
        return _json(
            {
                "host": _host(request),
                "method": _text(request.method),
                "path": _text(request.target),
                "body_sha256": digest,
                "body_length": length,
                "client": self._peer.client,
                "server": self._peer.server,
                "scheme": self._scheme,
                "headers": _fields(request),
            }
        )

    def _send(self, status: int, content_type: str, body: bytes, *, close: bool = False) -> None:
        headers = [
            ("X-Bottle-Origin", "lab"),
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
        ]
        if close:
            headers.append(("Connection", "close"))
        response = h11.Response(status_code=status, headers=headers)
        data = [] if self._is_head else [h11.Data(data=body)]
        self._say(response, *data, h11.EndOfMessage())

    def _say(self, *events: h11.Event) -> None:
        self._connection.sendall(b"".join(self._http.send(event) or b"" for event in events))

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = f"{error}\n".encode()
            self._send(error.error_status_hint, "text/plain", body, close=True)


def _host(request: h11.Request) -> str:
    # RFC 9112 section 3.2.2: the absolute form overrides the Host field.
    target = _text(request.target)
    if "://" in target.partition("?")[0]:
        return target.split("/", 3)[2]
    return _fields(request).get("host", "")


def _fields(request: h11.Request) -> dict[str, str]:
    fields: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = _text(raw_name), _text(raw_value)
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _metadata(method: str, path: str) -> tuple[str, bytes] | None:
    if method == "PUT" and path == "/latest/api/token":
        return "text/plain", TOKEN.encode()
    if path.rstrip("/") == _CREDENTIALS:
        return "text/plain", CANARY_ROLE.encode()
    if path.startswith(f"{_CREDENTIALS}/"):
        return "application/json", _json(CANARY)
    return None


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
