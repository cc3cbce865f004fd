"""HTTP requests, through the proxy or not, and the whole answer to each."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from pytest_bottle.guest.probe.core import operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import BufferedIOBase, RawIOBase
    from typing import Any

    from pytest_bottle.guest.probe.core import Operation, Record

    #: scheme, host, port, authority and path
    Url = dict[str, Any]
    Stream = RawIOBase | BufferedIOBase

#: Seconds that a name may take at least: a resolver's first retry, and the answer to it.
_RESOLVING = 6.0
#: More than this in a line of a head, or in lines, is no head.
_LONGEST_LINE, _MOST_HEADERS = 65536, 200


@operation("http")
def http(operation: Operation, deadline: float) -> Record:
    """Make one HTTP request, through a proxy if one is given, and return the whole answer."""
    url = _split(operation["url"])
    proxy, hop = operation.get("proxy"), url
    if proxy == "environment":
        proxy = _advertised(url, {**os.environ, **operation.get("environment", {})})
    if not proxy:
        with _dial(hop["host"], hop["port"], deadline) as sock:
            secure = url["scheme"] == "https"
            return _secured(sock, operation, url) if secure else _exchange(sock, operation, url)
    hop, own = _hop(proxy)
    with _dial(hop["host"], hop["port"], deadline) as sock:
        if url["scheme"] == "https":
            record = _tunnel(sock, url["host"], url["port"], own) or _secured(sock, operation, url)
        else:
            headers = {**own, **(operation.get("headers") or {})}
            there = f"http://{url['authority']}"
            record = _exchange(sock, {**operation, "headers": headers}, url, there)
    return dict(record, proxy=hop["authority"])


def _hop(proxy: str) -> tuple[Url, dict[str, str]]:
    """Take a proxy's URL apart: where it is, and the header that credentials in it ask for."""
    scheme, _, rest = (proxy if "://" in proxy else f"http://{proxy}").partition("://")
    user, known, authority = rest.rpartition("@")
    hop = _split(f"{scheme}://{authority}")
    if hop["scheme"] != "http":
        raise ValueError(f"a proxy is spoken to by http, not by {hop['scheme']}")
    if not known:
        return hop, {}
    import binascii  # few proxies ask who one is

    coded = binascii.b2a_base64(_unquoted(user), newline=False).decode()
    return hop, {"Proxy-Authorization": f"Basic {coded}"}


def _unquoted(text: str) -> bytes:
    """Undo percent-encoding (RFC 3986)."""
    first, *parts = text.encode().split(b"%")
    return first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in parts)


def _split(url: str) -> Url:
    """Take a URL apart (RFC 3986); importing urllib costs a tenth of a fetch."""
    scheme, _, rest = url.partition("://")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:].partition("#")[0]
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
    else:
        host, _, port = authority.partition(":")
    default = {"http": 80, "https": 443}[scheme]
    return {
        "scheme": scheme,
        "host": host.lower(),
        "port": int(port.lstrip(":") or default),
        "authority": authority,
        "path": path if path.startswith("/") else f"/{path}",
    }


def _advertised(url: Url, variables: dict[str, str]) -> str | None:
    """The proxy that variables name for a request; the lower case wins, as for curl and urllib."""

    def read(name: str) -> str:
        return variables.get(name, variables.get(name.upper(), ""))

    for entry in filter(None, read("no_proxy").replace(" ", "").lower().split(",")):
        if entry == "*" or f".{url['host']}".endswith(f".{entry.lstrip('.')}"):
            return None
    proxy = read(f"{url['scheme']}_proxy") or read("all_proxy")
    return None if not proxy or proxy.startswith("direct:") else proxy


def _dial(host: str | None, port: int, deadline: float) -> socket.socket:
    if not host:  # an empty one would mean ourselves
        raise ValueError("the URL names no host")
    problem = OSError("the name has no address")
    for address in addresses_of(host, port, deadline):
        try:
            return socket.create_connection(address, deadline)
        except OSError as error:
            problem = error
    raise problem


def addresses_of(host: str, port: int, deadline: float) -> list[tuple[str, int]]:
    """Resolve a name; who waits for a resolver that never answers, waits long (resolv.conf(5))."""
    found: list[tuple[str, int]] = []
    problems: list[Exception] = []

    def resolve() -> None:
        try:
            answer = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
            found.extend((str(entry[4][0]), port) for entry in answer)
        except Exception as error:  # noqa: BLE001 - it is raised again where it is waited for
            problems.append(error)

    thread = threading.Thread(target=resolve, daemon=True)
    try:
        thread.start()
        thread.join(max(deadline, _RESOLVING))
    except RuntimeError:  # a limit of processes: then without a limit of time
        resolve()
    if thread.is_alive():
        raise socket.gaierror(socket.EAI_AGAIN, "the resolver does not answer")
    if problems:
        raise problems[0]
    return found


def open_tunnel(host: str, port: int, deadline: float) -> tuple[socket.socket, Record | None]:
    """Ask the advertised proxy for a tunnel; returns the socket, and the denial if there is one."""
    proxy = _advertised(_split(f"https://{host}:{port}"), dict(os.environ))
    if not proxy:
        raise ValueError("no variable names a proxy")
    hop, own = _hop(proxy)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(_dial(hop["host"], hop["port"], deadline))
        denial = _tunnel(sock, host, port, own)
        stack.pop_all()
    return sock, denial


def _tunnel(
    sock: socket.socket, host: str | None, port: int, headers: dict[str, str]
) -> Record | None:
    where = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    sock.sendall(_request("CONNECT", where, {"Host": where, **headers}))
    # Unbuffered: what follows the head of a 200 belongs to TLS.
    with sock.makefile("rb", buffering=0) as stream:
        try:
            answer = _head(stream)
        except _GarbledError as error:
            return {"outcome": "reset", "detail": str(error)}
        if answer["status"] == 200:
            return None
        with contextlib.suppress(_GarbledError, OSError):  # the denial is in status and headers
            answer["body"] = _body(stream, answer, "GET").decode("latin-1")
    return dict(answer, outcome="proxy-denied")


def _secured(sock: socket.socket, operation: Operation, url: Url) -> Record:
    import ssl

    try:
        context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
    except ssl.SSLError as error:  # its number is OpenSSL's and no errno
        raise ValueError(f"the certificates of this guest cannot be read: {error}") from error
    if operation.get("untrusting"):  # as if no authority had ever been installed
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if operation.get("insecure"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    name = operation.get("sni") or url["host"]
    try:
        with context.wrap_socket(sock, server_hostname=name) as secure:
            return _exchange(secure, operation, url)
    except ssl.SSLCertVerificationError as error:
        return {"outcome": "tls-untrusted", "detail": str(error)}
    except ssl.SSLError as error:
        return {"outcome": "reset", "detail": str(error)}


def _exchange(sock: socket.socket, operation: Operation, url: Url, prefix: str = "") -> Record:
    method = operation.get("method", "GET")
    path = f"{prefix}{url['path']}"
    headers = dict(operation.get("headers") or {}, Connection="close")
    body = "x" * operation["size"] if "size" in operation else operation.get("body")
    data = b"" if body is None else body.encode("latin-1")
    if body is not None:
        headers.setdefault("Content-Length", str(len(data)))
    if not any(name.lower() == "host" for name in headers):
        headers = {"Host": url["authority"], **headers}
    sock.sendall(_request(method, path, headers) + data)
    # Not http.client: importing it takes longer than all the rest of a fetch.
    with sock.makefile("rb") as stream:
        try:
            answer = _head(stream)
            answer["body"] = _body(stream, answer, method).decode("latin-1")
        except _GarbledError as error:
            return {"outcome": "reset", "detail": str(error)}
    return dict(answer, outcome="answered")


def _request(method: str, path: str, headers: dict[str, str]) -> bytes:
    """Put a request's head together (RFC 9112); what would end it too early is refused."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    if len(lines[0].split(" ")) != 3 or any(not line.isprintable() for line in lines):
        raise ValueError(f"this cannot be sent as a request: {lines!r}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


class _GarbledError(Exception):
    """What came is no HTTP answer, or only a part of one."""


def _head(stream: Stream) -> Record:
    """Read status and headers (RFC 9112, sections 4 and 5); interim answers are passed over."""
    line = stream.readline(_LONGEST_LINE)
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise _GarbledError(f"not a status line: {line[:80]!r}")
    headers: list[list[str]] = []
    for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
        if not line.strip():
            break
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or len(headers) > _MOST_HEADERS:
            raise _GarbledError(f"not a header: {line[:80]!r}")
        headers.append([name.strip().lower(), value.strip()])
    else:
        raise _GarbledError("the headers have no end")
    status = int(words[1])
    if 100 <= status < 200:
        return _head(stream)
    return {"status": status, "headers": headers, "body": ""}


def _body(stream: Stream, answer: Record, method: str) -> bytes:
    """Read an answer's body, as long as RFC 9112, section 6.3, says it is."""
    headers = dict(answer["headers"])
    if method == "HEAD" or answer["status"] in (204, 304):
        return b""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return b"".join(iter(lambda: _chunk(stream), b""))
    if "content-length" in headers:
        return _exactly(stream, int(headers["content-length"]))
    return stream.read()


def _chunk(stream: Stream) -> bytes:
    line = stream.readline(_LONGEST_LINE).partition(b";")[0].strip()
    try:
        size = int(line, 16)
    except ValueError:
        raise _GarbledError(f"not the size of a chunk: {line[:80]!r}") from None
    data = _exactly(stream, size)
    if size:
        stream.readline(_LONGEST_LINE)
    return data


def _exactly(stream: Stream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:  # an unbuffered stream may give less than is asked for
        part = stream.read(size - len(data))
        if not part:
            raise _GarbledError(f"{len(data)} of {size} bytes, then the end")
        data += part
    return bytes(data)
