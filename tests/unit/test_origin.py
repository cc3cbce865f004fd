"""The origins, on loopback addresses that no other test uses."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h11
import pytest

from pytest_bottle.errors import TransportError
from pytest_bottle.internet import minter, origin
from pytest_bottle.internet.lab import MinterClient, OriginClient
from pytest_bottle.internet.talk import Peer
from pytest_bottle.internet.tls import covering
from pytest_bottle.internet.web import METADATA_ADDRESSES
from tests.origins import Running, Trusted, free_address, query, run_origins
from tests.ports import free_port

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trusted() -> Iterator[Trusted]:
    """Origins with a minter."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        for _, theirs in pairs:
            stack.enter_context(theirs)
        thread = threading.Thread(target=minter.serve, args=([pair[1] for pair in pairs], []))
        thread.start()
        stack.callback(thread.join, 30)
        for ours, _ in pairs:
            stack.enter_context(ours)
        ca_pem = MinterClient(pairs[0][0]).ca_pem()
        yield Trusted(run_origins(stack, free_address(), pairs[1][0]), ca_pem)


# -- nonce echo -------------------------------------------------------------------------


def test_a_nonce_comes_back_with_both_addresses(running: Running) -> None:
    """The answer is a proof that the far end has seen these very bytes."""
    with running.connect() as sock:
        sock.sendall(b"BOTTLE n1\n")
        assert sock.makefile().readline() == f"BOTTLE-ECHO n1 127.0.0.1 {running.address}\n"


def test_several_nonces_share_a_connection(running: Running) -> None:
    """A long-lived connection can be asked again whether it still leads to the far end."""
    with running.connect() as sock, sock.makefile() as lines:
        for nonce in ("n1", "n2", "n3"):
            sock.sendall(f"BOTTLE {nonce}\n".encode())
            assert lines.readline().split()[1] == nonce


def test_a_nonce_may_come_in_pieces(running: Running) -> None:
    """TCP may cut anywhere."""
    with running.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (b"BO", b"TTLE n", b"4", b"\n"):
            sock.sendall(piece)
        assert sock.makefile().readline().startswith("BOTTLE-ECHO n4 ")


def test_the_dns_port_echoes_too(running: Running) -> None:
    """Every TCP port has the same positive control, port 53 included."""
    with running.connect(running.dns_port) as sock:
        sock.sendall(b"BOTTLE n5\n")
        assert sock.makefile().readline().startswith("BOTTLE-ECHO n5 ")


def test_an_endless_line_is_cut_off(running: Running) -> None:
    """A client cannot fill the origins' memory."""
    with running.connect() as sock, pytest.raises(OSError, match=r"reset|Broken pipe"):
        sock.sendall(b"BOTTLE " + bytes(16 << 20))


# -- HTTP ---------------------------------------------------------------------------------


def ask(running: Running, method: str, path: str, **request: Any) -> http.client.HTTPResponse:
    """Send one request and return the answer."""
    connection = running.http()
    connection.request(method, path, **request)
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def seen(running: Running, method: str, path: str, **request: Any) -> dict[str, Any]:
    """What the origin says it was asked."""
    response = ask(running, method, path, **request)
    assert (response.status, response.headers["X-Bottle-Origin"]) == (200, "lab")
    return dict(json.loads(response.body))  # type: ignore[attr-defined]


def test_any_request_is_described(running: Running) -> None:
    """Every host and path exists, and the answer tells what arrived."""
    answer = seen(running, "GET", "/a?b=c", headers={"Host": "allowed.test", "X-Nonce": "n6"})
    assert answer["host"] == "allowed.test"
    assert (answer["method"], answer["path"], answer["scheme"]) == ("GET", "/a?b=c", "http")
    assert (answer["client"], answer["server"]) == ("127.0.0.1", running.address)
    assert (answer["body_length"], answer["body_sha256"]) == (0, hashlib.sha256().hexdigest())
    assert answer["headers"]["x-nonce"] == "n6"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_arrives_whole(running: Running, chunked: bool) -> None:
    """Its digest proves it, with a length and in chunks."""
    body = secrets.token_bytes(300_000)
    pieces = [body[:1], body[1:70_000], body[70_000:]]
    request = {"body": iter(pieces), "encode_chunked": True} if chunked else {"body": body}
    headers = {"Transfer-Encoding": "chunked"} if chunked else {}
    answer = seen(running, "POST", "/upload", headers=headers, **request)
    assert answer["body_length"] == len(body)
    assert answer["body_sha256"] == hashlib.sha256(body).hexdigest()


def test_head_has_no_body(running: Running) -> None:
    """The length is that of the answer to GET, the body is not sent (RFC 9110 section 9.3.2)."""
    response = ask(running, "HEAD", "/")
    assert response.status == 200
    assert int(response.headers["Content-Length"]) > 0
    assert response.body == b""  # type: ignore[attr-defined]


def test_a_connection_serves_many_requests(running: Running) -> None:
    """Keep-alive, with a body in between."""
    connection = running.http()
    for number in range(3):
        connection.request("PUT", f"/{number}", body=b"x" * number)
        assert json.loads(connection.getresponse().read())["body_length"] == number
    connection.close()


def test_the_client_that_waits_for_100_continue_gets_it(running: Running) -> None:
    """Curl asks before it sends a large body, and would wait a second in vain."""
    with running.connect() as sock, sock.makefile("rb") as lines:
        sock.sendall(
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert lines.readline().startswith(b"HTTP/1.1 100")
        assert lines.readline() == b"\r\n"
        sock.sendall(b"ok")
        assert lines.readline().startswith(b"HTTP/1.1 200")


def test_the_absolute_form_names_the_host(running: Running) -> None:
    """It overrides the Host field (RFC 9112 section 3.2.2)."""
    answer = seen(running, "GET", "http://absolute.test/x", headers={"Host": "other.test"})
    assert answer["host"] == "absolute.test"


def test_an_origin_is_no_proxy(running: Running) -> None:
    """CONNECT must not look as if a tunnel had been opened."""
    assert ask(running, "CONNECT", "allowed.test:443").status == 405


@pytest.mark.parametrize(
    "text",
    [
        b"GET\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_refused(running: Running, text: bytes) -> None:
    """A broken request is answered with 400 and nothing else happens."""
    with running.connect() as sock:
        sock.sendall(text)
        assert sock.makefile("rb").readline().startswith(b"HTTP/1.1 400")
    running.client.ping()


def test_a_request_is_logged_before_its_body_has_arrived(running: Running) -> None:
    """An exfiltration that is cut off half-way has been seen."""
    since = running.client.mark()
    with running.connect() as sock:
        sock.sendall(b"POST /secret HTTP/1.1\r\nHost: h.test\r\nContent-Length: 9\r\n")
        sock.sendall(b"Expect: 100-continue\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100")
        (entry,) = running.client.http_log(since)
    assert (entry.method, entry.host, entry.path) == ("POST", "h.test", "/secret")
    assert (entry.client, entry.server, entry.port) == ("127.0.0.1", running.address, running.port)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_there_is_no_metadata_service_elsewhere(running: Running, method: str) -> None:
    """Only the metadata addresses give the canary; elsewhere its path is a path like any other."""
    assert running.address not in METADATA_ADDRESSES
    assert "host" in seen(running, method, "/latest/api/token")


def test_the_metadata_service_gives_token_role_and_canary(
    fresh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls that an SDK makes (IMDSv2), each with a value that can be searched for."""
    monkeypatch.setattr("pytest_bottle.internet.web.METADATA_ADDRESSES", (fresh.address,))
    base = "/latest/meta-data/iam/security-credentials/"
    token = ask(fresh, "PUT", "/latest/api/token").body.decode()  # type: ignore[attr-defined]
    role = ask(fresh, "GET", base).body.decode()  # type: ignore[attr-defined]
    assert "BOTTLECANARY" in token
    assert "BOTTLECANARY" in role
    canary = json.loads(ask(fresh, "GET", base + role).body)  # type: ignore[attr-defined]
    assert canary["Code"] == "Success"
    assert canary["AccessKeyId"].startswith("BOTTLECANARY")
    assert "host" in seen(fresh, "GET", "/latest/meta-data/")


# -- TLS ------------------------------------------------------------------------------------


def test_every_name_has_a_certificate(trusted: Trusted) -> None:
    """Two names at one address, each verified, with HTTP inside."""
    for name in ("allowed.test", "packages.test"):
        with trusted.secure(name) as sock:
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            text = sock.makefile().read()
        assert json.loads(text.partition("\n\n")[2])["scheme"] == "https"


def test_a_nonce_is_echoed_inside_tls(trusted: Trusted) -> None:
    """The same positive control, encrypted."""
    with trusted.secure("allowed.test") as sock:
        sock.sendall(b"BOTTLE n7\n")
        assert sock.makefile().readline().startswith("BOTTLE-ECHO n7 ")


def test_without_a_name_the_certificate_is_for_the_address(trusted: Trusted) -> None:
    """A client that dials an address verifies an address."""
    with trusted.secure(None) as sock:
        certificate = sock.getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("IP Address", trusted.origin.address),)


def test_a_greeting_is_logged_even_if_the_client_distrusts_it(trusted: Trusted) -> None:
    """The name in the ClientHello has got out, whatever became of the handshake."""
    since = trusted.origin.client.mark()
    distrustful = ssl.create_default_context()
    with trusted.origin.connect() as sock, pytest.raises(ssl.SSLCertVerificationError):
        distrustful.wrap_socket(sock, server_hostname="sni-nonce.test")
    (entry,) = trusted.origin.client.tls_log(since)
    assert (entry.name, entry.server) == ("sni-nonce.test", trusted.origin.address)


def test_a_name_without_a_certificate_is_an_alert(trusted: Trusted) -> None:
    """The client is told, the log says why, and the next client is served."""
    since = trusted.origin.client.mark()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert internal error"):
        trusted.secure("under_score.test")
    (entry,) = trusted.origin.client.tls_log(since)
    assert entry.note
    trusted.secure("allowed.test").close()


def test_a_certificate_is_loaded_without_proc_too(
    trusted: Trusted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In another PID namespace than /proc shows, a file stands in, and is removed."""
    monkeypatch.setattr("pytest_bottle.internet.tls._OPEN_FILES", str(tmp_path / "proc"))
    ours = f"bottle-leaf-{os.getpid()}-*"
    before = set(Path("/tmp").glob(ours))
    trusted.secure("no-proc.test").close()
    assert set(Path("/tmp").glob(ours)) <= before


def test_many_first_contacts_at_once(trusted: Trusted) -> None:
    """Concurrent clients that ask for new names each get their domain's certificate."""
    names = [f"n{number}.crowd{number % 3}.test" for number in range(8)]
    subjects: dict[str, Any] = {}

    def visit(name: str) -> None:
        with trusted.secure(name) as sock:
            certificate = sock.getpeercert()
            subjects[name] = certificate and certificate["subjectAltName"]

    threads = [threading.Thread(target=visit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert subjects == {name: (("DNS", f"*.{name.partition('.')[2]}"),) for name in names}


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("nonce.allowed.test", "*.allowed.test"),
        ("a.b.allowed.test", "*.b.allowed.test"),
        *((own, own) for own in ("allowed.test", "test", "192.88.99.7", "2001:db8::1", "a.b.", "")),
        *((own, own) for own in (".allowed.test", "a..test", "a.192.0.2.7")),
    ],
)
def test_a_certificate_is_for_a_domain_below_the_second_level(name: str, covered: str) -> None:
    """Nonces are labels, and one certificate is good for all of them; addresses have their own."""
    assert covering(name) == covered


def test_without_a_minter_tls_is_refused(running: Running) -> None:
    """The connection is closed, as a port without TLS would."""
    context = ssl.create_default_context()
    with running.connect() as sock, pytest.raises(OSError, match=r"EOF|reset"):
        context.wrap_socket(sock, server_hostname="allowed.test")


def test_curl_accepts_the_certificate(trusted: Trusted, tmp_path: Path) -> None:
    """OpenSSL's, Python's and curl's ideas of a good certificate differ; all must agree."""
    if shutil.which("curl") is None:
        pytest.skip("the tool 'curl' is not installed")
    (tmp_path / "ca.pem").write_text(trusted.ca_pem)
    where = f"allowed.test:{trusted.origin.port}"
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", "ca.pem"]
    command += ["--resolve", f"{where}:{trusted.origin.address}", f"https://{where}/curl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert json.loads(done.stdout)["path"] == "/curl"


# -- control ----------------------------------------------------------------------------------


def test_an_accepted_connection_is_logged(running: Running) -> None:
    """Even if it says nothing at all."""
    since = running.client.mark()
    with running.connect() as sock:
        (entry,) = running.client.tcp_log(since)
        assert entry.client_port == sock.getsockname()[1]
    assert (entry.kind, entry.server, entry.port) == ("tcp", running.address, running.port)


def test_ports_are_opened_once(running: Running) -> None:
    """Asking again for what is open changes nothing; the answer lists all."""
    port = free_port(running.address)
    for _ in range(2):
        listening = running.client.listen(tcp=[port], udp=[port])
        assert port in listening.tcp
        assert port in listening.udp
    running.connect(port).close()


def test_a_udp_echo_answers_and_a_sink_does_not(running: Running) -> None:
    """One is the positive control of the other."""
    listening = running.client.listen(udp=[0], udp_echo=[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        for port in (*listening.udp, *listening.udp_echo):
            sock.sendto(b"%d" % port, (running.address, port))
        assert sock.recv(100) == b"BOTTLE-ECHO %d" % listening.udp_echo[0]
        sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            sock.recv(100)


def test_the_dns_port_counts_as_a_udp_listener(running: Running) -> None:
    """A check may name port 53 like any other."""
    running.client.listen(tcp=[running.dns_port], udp=[running.dns_port])
    assert query(running, "allowed.test")[0] == "NOERROR"


def test_a_port_that_is_taken_is_named(running: Running) -> None:
    """The error says which port; the others are open nevertheless."""
    with socket.socket() as taken:
        taken.bind((running.address, 0))
        port, other = taken.getsockname()[1], free_port(running.address)
        with pytest.raises(TransportError, match=f"cannot listen on tcp {port}"):
            running.client.listen(tcp=[port, other])
    running.connect(other).close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port_is_named(running: Running, port: int) -> None:
    """A wrong order is refused, and the origins go on."""
    with pytest.raises(TransportError, match=f"cannot listen on udp {port}"):
        running.client.listen(udp=[port])
    running.client.ping()


def test_a_port_that_could_not_be_opened_at_the_start_is_told() -> None:
    """Origins that lack a port are not fit for use."""
    with ExitStack() as stack:
        address = free_address()
        taken = stack.enter_context(socket.socket())
        taken.bind((address, 0))
        port = taken.getsockname()[1]
        ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
        settings = {"tcp": (port,), "dns": (), "bind": address}
        thread = threading.Thread(target=origin.serve, args=(theirs, None), kwargs=settings)
        thread.start()
        stack.callback(thread.join, 30)
        stack.callback(ours.close)
        with pytest.raises(TransportError, match=f"cannot listen on tcp {port}"):
            OriginClient(ours).ping()


def test_what_can_wait_begins_when_the_first_request_is_answered() -> None:
    """Whoever asks whether the origins are there does not wait for it, and it happens once."""
    asked, began = threading.Event(), threading.Semaphore(0)

    def begin() -> None:
        assert asked.wait(5)
        began.release()

    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(sock) for sock in socket.socketpair())
        settings = {"tcp": (), "dns": (), "bind": free_address(), "then": begin}
        thread = threading.Thread(target=origin.serve, args=(theirs, None), kwargs=settings)
        thread.start()
        stack.callback(thread.join, 5)
        stack.callback(ours.close)
        client = OriginClient(ours)
        client.ping()
        assert not began.acquire(blocking=False)
        asked.set()
        assert began.acquire(timeout=5)
        client.ping()
        assert not began.acquire(timeout=0.1)


def test_an_address_can_be_asked_for(running: Running) -> None:
    """The control connection and the DNS give the same one; a foreign name is an error."""
    assert query(running, "asked.test")[1] == [running.client.address("asked.test")]
    with pytest.raises(TransportError, match=r"example\.com does not exist"):
        running.client.address("example.com")


def test_a_long_log_comes_in_pages(fresh: Running) -> None:
    """The client puts them together, complete and in order."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(2500):
            sock.sendto(b"x", (fresh.address, fresh.dns_port))
            if number % 50 == 0:
                fresh.client.ping()
    entries = fresh.client.log()
    assert [entry.n for entry in entries] == list(range(1, 2501))
    assert fresh.client.log(2499)[0].n == 2500


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """Every session imports the servers at its start; `preload` gets the rest in time."""
    code = f"""if True:
        import sys
        sys.path[:0] = {[str(ROOT), str(Path(h11.__file__).parents[1])]!r}
        from pytest_bottle.internet import origin, witness
        late = {{"ssl", "hashlib", "h11"}}
        heavy = late | {{"asyncio", "dataclasses", "email", "http.server", "pathlib", "tempfile"}}
        print(*sorted(heavy & set(sys.modules)))
        origin.preload()
        print(*sorted(late - set(sys.modules)))
    """
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("\n\n", "")


def test_a_forgotten_log_does_not_look_like_silence() -> None:
    """A question that reaches back too far is an error instead of an empty answer."""
    log = origin.Log(capacity=8)
    for _ in range(20):
        log.add("tcp", Peer("127.0.0.1", 1, "127.0.0.2", 53))
    assert log.last == 20
    assert [entry.n for entry in log.page(18)] == [19, 20]
    with pytest.raises(LookupError, match="forgotten"):
        log.page(0)
