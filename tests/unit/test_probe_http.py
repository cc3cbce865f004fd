"""The probe's HTTP requests: direct, through the reference sidecar, and inside TLS."""

from __future__ import annotations

import base64
import os
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.probing import ask, never_accepts, nobody_listens
from tests.sidecars import OK, Recorder, read_all, read_head, reset, resetting, saying, silent

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.probing import Record
    from tests.sidecars import Handler, Listen, Start

HERE = "127.0.0.1"
BARE = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}


def headers(record: Record) -> dict[str, str]:
    """The headers of an answer."""
    return dict(record["headers"])


# -- direct -------------------------------------------------------------------------------------


def test_an_answer_is_recorded_whole(listen: Listen) -> None:
    """Status, headers in lower case and body, whatever the status is."""
    reply = b"HTTP/1.1 418 Teapot\r\nX-Nonce: N1\r\nContent-Length: 3\r\n\r\n\xffok"
    assert ask("http", url=f"http://{HERE}:{listen(Recorder(reply))}/") == {
        "outcome": "answered",
        "status": 418,
        "headers": [["x-nonce", "N1"], ["content-length", "3"]],
        "body": "\xffok",
    }


def test_a_request_is_that_of_an_ordinary_client(listen: Listen) -> None:
    """Origin form with its query, one Host, and nothing that was not asked for."""
    origin = Recorder()
    port = listen(origin)
    ask("http", url=f"http://{HERE}:{port}/path?q=1", headers={"X-Nonce": "n1"})
    assert origin.heads[0].decode() == (
        f"GET /path?q=1 HTTP/1.1\r\nHost: {HERE}:{port}\r\nX-Nonce: n1\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize("name", ["Host", "host"])
def test_the_host_can_be_said_otherwise(listen: Listen, name: str) -> None:
    """Then it replaces the URL's: two of them would be no valid request (RFC 9112, 3.2)."""
    origin = Recorder()
    ask("http", url=f"http://{HERE}:{listen(origin)}/", headers={name: "n1.allowed.test"})
    lines = origin.heads[0].decode().split("\r\n")
    hosts = [line for line in lines if line.lower().startswith("host:")]
    assert hosts == [f"{name}: n1.allowed.test"]


@pytest.mark.parametrize(("fields", "size"), [({"body": "\xe4b"}, 2), ({"size": 300_000}, 300_000)])
def test_a_body_is_sent_with_its_length(listen: Listen, fields: Record, size: int) -> None:
    """Given as Latin-1 text, or as a number of bytes."""
    origin = Recorder()
    record = ask("http", url=f"http://{HERE}:{listen(origin)}/", method="POST", **fields)
    assert (record["status"], record["body"]) == (200, "ok")
    assert len(origin.bodies[0]) == size


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        (silent, "timeout"),
        (resetting, "reset"),
        (saying(b""), "reset"),
        (saying(b"SSH-2.0-x\r\n\r\n"), "reset"),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), "reset"),
    ],
)
def test_what_is_no_answer_has_a_cause(listen: Listen, handler: Handler, outcome: str) -> None:
    """Silence is a timeout; an end, a reset and nonsense are a reset."""
    deadline = 0.5 if outcome == "timeout" else 30.0
    record = ask("http", url=f"http://{HERE}:{listen(handler)}/", deadline=deadline)
    assert record["outcome"] == outcome
    assert "status" not in record


def test_a_failed_connection_has_the_same_causes_as_without_http() -> None:
    """A closed port refuses, a full queue times out."""
    with nobody_listens() as closed, never_accepts() as full:
        assert ask("http", url=f"http://{HERE}:{closed}/")["outcome"] == "refused"
        assert ask("http", url=f"http://{HERE}:{full}/", deadline=0.2)["outcome"] == "timeout"


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"url": "http:///path"}, "ValueError: the URL names no host"),
        ({"url": f"ftp://{HERE}/"}, "KeyError: 'ftp'"),
        ({"url": f"http://{HERE}:x/"}, "ValueError: "),
        ({"url": f"http://{HERE}/", "proxy": f"socks5://{HERE}"}, "KeyError: 'socks5'"),
        ({"url": f"http://{HERE}/", "proxy": f"https://{HERE}"}, "ValueError: a proxy is spoken"),
        ({"url": f"http://{HERE}/", "proxy": "http://:80"}, "ValueError: the URL names no host"),
    ],
)
def test_a_request_that_makes_no_sense_is_no_block(fields: Record, detail: str) -> None:
    """Nothing was sent, so nothing was observed."""
    record = ask("http", **fields)
    assert record["outcome"] == "tool-error"
    assert record["detail"].startswith(detail)


def test_a_request_that_cannot_be_written_is_no_block(listen: Listen) -> None:
    """The connection was there, but the request was not sent: no reset by the network."""
    url = f"http://{HERE}:{listen(silent)}/"
    for fields in ({"url": url + "a b"}, {"url": url, "headers": {"X": "a\r\nb"}}):
        assert ask("http", **fields)["outcome"] == "tool-error"


# -- through a proxy ------------------------------------------------------------------------------


def test_an_allowed_request_goes_through_the_proxy(sidecar: Start, listen: Listen) -> None:
    """In absolute form: the origin answers and the proxy has it in its record."""
    origin = Recorder()
    port = listen(origin)
    proxy = sidecar(port)
    url = f"http://allowed.test:{port}/n1?a=b"
    record = ask("http", url=url, proxy=f"http://{HERE}:{proxy.port}")
    assert (record["status"], record["body"]) == (200, "ok")
    assert proxy.event()["target"] == url
    assert origin.heads[0].startswith(b"GET /n1?a=b HTTP/1.1\r\n")


def test_a_denied_request_is_answered_by_the_proxy(sidecar: Start) -> None:
    """The answer to a plain request is the proxy's own: status and reason say so."""
    record = ask("http", url="http://denied.test/", proxy=f"http://{HERE}:{sidecar(1).port}")
    assert (record["outcome"], record["status"]) == ("answered", 403)
    assert headers(record)["x-bottle-denied"] == "not-allowed"


def test_a_denied_tunnel_is_a_denial(sidecar: Start) -> None:
    """Status, reason and text come with it."""
    proxy = sidecar(1)
    record = ask("http", url="https://denied.test/", proxy=f"http://{HERE}:{proxy.port}")
    assert (record["outcome"], record["status"]) == ("proxy-denied", 403)
    assert headers(record)["x-bottle-denied"] == "not-allowed"
    assert record["body"].startswith("denied by the bottle's egress policy")
    assert proxy.event()["method"] == "CONNECT"


def test_a_denial_without_an_end_is_a_denial(listen: Listen) -> None:
    """A proxy that leaves its connection open has said no all the same."""

    def lazy(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nX-Denied: yes\r\n\r\n")
        read_all(sock)

    proxy = f"http://{HERE}:{listen(lazy)}"
    record = ask("http", url="https://denied.test/", proxy=proxy, deadline=2.0)
    assert (record["outcome"], record["status"]) == ("proxy-denied", 403)
    assert headers(record) == {"x-denied": "yes"}


@pytest.mark.parametrize("handler", [saying(b""), resetting, saying(b"no HTTP\r\n\r\n")])
def test_a_proxy_that_breaks_off_has_not_denied(listen: Listen, handler: Handler) -> None:
    """An empty or nonsensical reply to CONNECT is no denial (PXY-02)."""
    record = ask("http", url="https://denied.test/", proxy=f"http://{HERE}:{listen(handler)}")
    assert record["outcome"] == "reset"


def test_a_tunnel_names_its_target_with_the_port(listen: Listen) -> None:
    """IPv6 addresses stand in brackets."""
    origin = Recorder(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    proxy = f"http://{HERE}:{listen(origin)}"
    for host, where in (("a.test", "a.test:443"), ("[::1]:8443", "[::1]:8443")):
        ask("http", url=f"https://{host}/", proxy=proxy)
        assert origin.heads.pop() == f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()


def test_a_proxy_may_ask_who_one_is(listen: Listen) -> None:
    """Credentials in its URL go to the proxy, decoded, and to nobody else (RFC 7617)."""
    origin = Recorder(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    where = f"{HERE}:{listen(origin)}"
    header = f"Proxy-Authorization: Basic {base64.b64encode(b'me.x=:a b@').decode()}\r\n"
    for url in ("http://a.test/", "https://a.test/"):
        record = ask("http", url=url, proxy=f"http://me.x%3D:a%20b%40@{where}")
        assert record["proxy"] == where
        assert header in origin.heads.pop().decode()
    ask("http", url=f"http://{where}/", environment={**BARE}, proxy="environment")
    assert b"Authorization" not in origin.heads.pop()


def test_the_proxy_is_taken_from_the_guests_variables(sidecar: Start, listen: Listen) -> None:
    """By scheme; with or without a scheme of its own; and not for what NO_PROXY names."""
    port = listen(Recorder())
    proxy = sidecar(port)
    where = f"{HERE}:{proxy.port}"
    url = f"http://allowed.test:{port}/"
    for value in (f"http://{where}", where):
        record = ask(
            "http", url=url, proxy="environment", environment={**BARE, "http_proxy": value}
        )
        assert record["status"] == 200
    secure = {**BARE, "https_proxy": f"http://{where}"}
    record = ask("http", url="https://denied.test/", proxy="environment", environment=secure)
    assert record["outcome"] == "proxy-denied"
    exempt = {**BARE, "http_proxy": f"http://{where}", "NO_PROXY": f"localhost,{HERE}"}
    direct = f"http://{HERE}:{port}/"
    assert ask("http", url=direct, proxy="environment", environment=exempt)["status"] == 200
    assert len(proxy.wait("request", 3)) == 3


def test_without_a_proxy_variable_a_request_goes_direct(listen: Listen) -> None:
    """As an ordinary client's would."""
    url = f"http://{HERE}:{listen(Recorder())}/"
    assert ask("http", url=url, proxy="environment", environment=BARE)["status"] == 200


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    """An authority of the tests' own."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a guest that trusts it."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_bytes(ca.cert_pem.bytes())
    return {**BARE, "SSL_CERT_FILE": str(path)}


class Secure:
    """An origin behind TLS; it remembers which names it was asked for."""

    def __init__(self, ca: trustme.CA, *names: str, clients: bool = False) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*names).configure_cert(self.context)
        self.context.sni_callback = lambda _, name, __: self.asked.append(name)
        self.asked: list[str | None] = []
        self.heads: list[bytes] = []
        if clients:
            self.context.verify_mode = ssl.CERT_REQUIRED
            ca.configure_trust(self.context)

    def __call__(self, sock: socket.socket) -> None:
        """Serve one connection with one request."""
        try:
            with self.context.wrap_socket(sock, server_side=True) as secure:
                self.heads.append(read_head(secure))
                secure.sendall(OK)
        except ssl.SSLError:
            pass  # the client distrusts us, or we distrust it


def test_a_trusted_origin_answers(ca: trustme.CA, trust: dict[str, str], listen: Listen) -> None:
    """With the authority that the guest's own variable names."""
    origin = Secure(ca, HERE)
    record = ask("http", url=f"https://{HERE}:{listen(origin)}/", environment=trust)
    assert (record["outcome"], record["status"], record["body"]) == ("answered", 200, "ok")


def test_an_unknown_authority_is_untrusted(ca: trustme.CA, listen: Listen) -> None:
    """Something answered, and it is not whom we asked for: no block, and no reset."""
    record = ask("http", url=f"https://{HERE}:{listen(Secure(ca, HERE))}/", environment=BARE)
    assert record["outcome"] == "tls-untrusted"
    assert "CERTIFICATE_VERIFY_FAILED" in record["detail"]


def test_a_certificate_for_somebody_else_is_untrusted(
    ca: trustme.CA, trust: dict[str, str], listen: Listen
) -> None:
    """A known authority is not enough."""
    url = f"https://{HERE}:{listen(Secure(ca, 'other.test'))}/"
    assert ask("http", url=url, environment=trust)["outcome"] == "tls-untrusted"


def test_a_name_can_be_asked_for_at_an_address(ca: trustme.CA, listen: Listen) -> None:
    """The name goes out in the clear, in the ClientHello, and no certificate is asked for."""
    origin = Secure(ca, "other.test")
    url = f"https://{HERE}:{listen(origin)}/"
    name = "n1.allowed.test"
    record = ask("http", url=url, sni=name, headers={"Host": name}, insecure=True)
    assert record["status"] == 200
    assert origin.asked == [name]
    assert b"\r\nHost: n1.allowed.test\r\n" in origin.heads[0]


def test_tls_goes_through_a_tunnel(
    ca: trustme.CA, trust: dict[str, str], sidecar: Start, listen: Listen
) -> None:
    """The proxy sees the name and the port; the certificate is the origin's."""
    origin = Secure(ca, "allowed.test")
    port = listen(origin)
    proxy = sidecar(port)
    url = f"https://allowed.test:{port}/n1"
    record = ask("http", url=url, proxy=f"http://{HERE}:{proxy.port}", environment=trust)
    assert (record["outcome"], record["status"]) == ("answered", 200)
    assert origin.heads[0].startswith(f"GET /n1 HTTP/1.1\r\nHost: allowed.test:{port}\r\n".encode())
    assert proxy.event()["method"] == "CONNECT"


def alerting(sock: socket.socket) -> None:
    """An origin that ends the handshake with a fatal alert."""
    sock.recv(65536)
    sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")


def ending(sock: socket.socket) -> None:
    """An origin that closes in the middle of the handshake."""
    sock.recv(65536)


def cutting(sock: socket.socket) -> None:
    """An origin that resets the handshake."""
    sock.recv(10)
    reset(sock)


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        (alerting, "reset"),
        (ending, "reset"),
        (cutting, "reset"),
        (silent, "timeout"),
    ],
)
def test_a_handshake_that_fails_has_a_cause(listen: Listen, handler: Handler, outcome: str) -> None:
    """It ended, or nothing more came."""
    deadline = 0.5 if outcome == "timeout" else 30.0
    record = ask("http", url=f"https://{HERE}:{listen(handler)}/", deadline=deadline)
    assert record["outcome"] == outcome


def test_an_alert_after_the_handshake_is_a_reset(
    ca: trustme.CA, trust: dict[str, str], listen: Listen
) -> None:
    """TLS 1.3 refuses a client afterwards; OpenSSL's number for it is the errno of EPERM."""
    url = f"https://{HERE}:{listen(Secure(ca, HERE, clients=True))}/"
    assert ask("http", url=url, environment=trust)["outcome"] == "reset"


@pytest.mark.parametrize(
    "text", [None, "", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"]
)
def test_certificates_that_cannot_be_read_are_no_block(
    ca: trustme.CA, listen: Listen, tmp_path: Path, text: str | None
) -> None:
    """The network was not even asked; and the numbers of OpenSSL's errors are no errnos."""
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    environment = {**BARE, "SSL_CERT_FILE": str(path)}
    url = f"https://{HERE}:{listen(Secure(ca, HERE))}/"
    record = ask("http", url=url, environment=environment)
    assert record["outcome"] == "tool-error", record
