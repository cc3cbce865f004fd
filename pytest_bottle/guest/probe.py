"""The probe: one file, sent over standard input, that fires every stimulus of a vantage point.

It decides nothing. For each operation it prints one JSON line that says what happened, typed by
cause; a last line says how many there were. Standard library only, Python 3.8 or newer; heavy
modules are imported by the operations that need them.

Input: ``{"deadline": seconds, "operations": [{"id": …, "kind": …, …}, …]}``.
Output: ``{"id": …, "outcome": cause, "errno": name, "elapsed": seconds, …}`` per operation, then
``{"done": count}``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
import sys
import threading
import time

TYPE_CHECKING = False  # checkers know the name; the module that has it would cost every start
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator
    from io import BufferedIOBase, RawIOBase
    from typing import Any

    Operation = dict[str, Any]
    Record = dict[str, Any]
    #: scheme, host, port, authority and path
    Url = dict[str, Any]
    Stream = RawIOBase | BufferedIOBase
    #: tcp or udp, our port, the visitor's address, and its first words once they are there.
    Visitor = list[str | int]
    #: What to answer, if anything, to whom comes by tcp or udp and says something.
    Reply = Callable[[str, bytes], bytes]

_ECHO = b"BOTTLE-ECHO"
#: The port that packets come from which we make ourselves.
HANDMADE = 40000
#: Seconds that a name may take at least: a resolver's first retry, and the answer to it.
_RESOLVING = 6.0
#: More than this in a line of a head, or in lines, is no head.
_LONGEST_LINE, _MOST_HEADERS = 65536, 200
_PRINTING = threading.Lock()
_Timeout = socket.timeout  # TimeoutError itself since Python 3.10
#: Any other error says something about the probe and nothing about the network: "tool-error".
_CAUSES = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.ENOPROTOOPT: "unreachable",  # ICMP "protocol unreachable"
    errno.EADDRNOTAVAIL: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "reset",
    errno.EPIPE: "reset",
    errno.EACCES: "not-sendable",
    errno.EPERM: "not-sendable",
    errno.EPROTONOSUPPORT: "not-sendable",
    errno.EAFNOSUPPORT: "not-sendable",
}


#: What counts a packet that came, even one that nothing could be made of (RFC 4293, 4022, 4113).
_RECEIVED = (
    ("ip", "Ip:", ("InReceives",)),
    ("tcp", "Tcp:", ("InSegs",)),
    ("udp", "Udp:", ("InDatagrams", "NoPorts", "InErrors")),
    ("icmp", "Icmp:", ("InMsgs",)),
)


def main() -> None:
    """Run every operation that standard input names, all at once, and say how many there were."""
    request = json.load(sys.stdin)
    threads: list[threading.Thread] = []
    for operation in request["operations"]:
        _start(threads, operation, request["deadline"])
    for thread in threads:
        thread.join()
    _say({"done": len(request["operations"])})


def _start(threads: list[threading.Thread], operation: Operation, deadline: float) -> None:
    thread = threading.Thread(target=_run, args=(operation, deadline), daemon=True)
    try:
        thread.start()
        threads.append(thread)
    except RuntimeError:  # a limit of processes: those before have to end first
        for other in threads:
            other.join()
        _run(operation, deadline)


def _run(operation: Operation, deadline: float) -> None:
    time.sleep(operation.get("delay", 0))
    started = time.monotonic()
    record = _attempt(operation.get("kind"), operation, operation.get("deadline", deadline))
    elapsed = round(time.monotonic() - started, 4)
    _say(dict(record, id=operation["id"], elapsed=elapsed))


def _attempt(kind: str | None, operation: Operation, deadline: float) -> Record:
    try:
        return _OPERATIONS[kind or ""](operation, deadline)
    except _Timeout:
        return {"outcome": "timeout"}
    except socket.gaierror as error:
        return {"outcome": "dns-failure", "detail": str(error)}
    except OSError as error:
        number = error.errno or 0
        cause, name = _CAUSES.get(number, "tool-error"), errno.errorcode.get(number, str(number))
        return {"outcome": cause, "errno": name, "detail": str(error)}
    except Exception as error:  # noqa: BLE001 - a defect of the probe must be seen as one
        return {"outcome": "tool-error", "detail": f"{type(error).__name__}: {error}"}


def _say(record: Record) -> None:
    with _PRINTING:
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


# -- direct stimuli -----------------------------------------------------------------------------


def _socket(operation: Operation, kind: int, protocol: int = 0) -> socket.socket:
    if operation.get("via"):
        _add_route(operation)
    family = socket.AF_INET6 if ":" in operation["host"] else socket.AF_INET
    return socket.socket(family, kind, protocol)


def _limit(sock: socket.socket, end: float) -> None:
    left = end - time.monotonic()
    if left <= 0:
        raise _Timeout("the deadline is over")
    sock.settimeout(left)


def _tcp(operation: Operation, deadline: float) -> Record:
    """Connect, send the nonce, wait for its echo."""
    with _socket(operation, socket.SOCK_STREAM) as sock:
        end = time.monotonic() + deadline
        sock.settimeout(deadline)
        sock.connect((operation["host"], operation["port"]))
        return dict(_echo(sock, operation["nonce"].encode(), end), outcome="connected")


def _echo(sock: socket.socket, nonce: bytes, end: float) -> Record:
    said = b""
    # A handshake alone is what the outcome says; after an error the echo is missing.
    with contextlib.suppress(OSError):
        sock.sendall(b"BOTTLE " + nonce + b"\n")
        while b"\n" not in said and len(said) < 4096:
            _limit(sock, end)
            part = sock.recv(4096)
            if not part:
                break
            said += part
    return {"echo": said.split()[:2] == [_ECHO, nonce], "answer": said[:200].decode("latin-1")}


def _udp(operation: Operation, deadline: float) -> Record:
    """Send the nonce; report an error that comes back, wait for an answer only if one is due."""
    nonce, due = operation["nonce"].encode(), operation.get("answers")
    with _socket(operation, socket.SOCK_DGRAM) as sock:
        if operation.get("source"):  # several may speak from one port, each to one address
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", operation["source"]))
        _address_many(sock, operation)
        sock.connect((operation["host"], operation["port"]))
        # Before any deadline is set: a datagram that waits for its turn has not timed out.
        sock.send(_around(operation, nonce))
        sock.settimeout(deadline if due else 0.05)
        try:
            answer = sock.recv(2048)
        except _Timeout:
            return {"outcome": "timeout" if due else "sent"}
        return {"outcome": "answered", "echo": nonce in answer}


def _around(operation: Operation, nonce: bytes) -> bytes:
    """Put what stands before and behind a nonce around it."""
    before, behind = (bytes.fromhex(operation.get(part, "")) for part in ("prefix", "suffix"))
    return before + nonce + behind


def _address_many(sock: socket.socket, operation: Operation) -> None:
    """Allow a broadcast; ``device`` stands in for the route that "everybody here" has not."""
    if operation.get("broadcast"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        device = operation.get("device", "eth0").encode()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)


def _icmp(operation: Operation, deadline: float) -> Record:
    """Send an echo request with the nonce, by a ping socket or a raw one, and await the reply."""
    host, nonce = operation["host"], operation["nonce"].encode()
    version6 = ":" in host
    kind = socket.SOCK_RAW if operation.get("raw") else socket.SOCK_DGRAM
    protocol = socket.IPPROTO_ICMPV6 if version6 else socket.IPPROTO_ICMP
    message = struct.pack("!BBHHH", 128 if version6 else 8, 0, 0, os.getpid() & 0xFFFF, 1) + nonce
    if not version6:  # of ICMPv6 the kernel makes the checksum, which has the source address in it
        message = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
    with _socket(operation, kind, protocol) as sock:
        sock.connect((host, 0))
        sock.send(message)
        end = time.monotonic() + deadline
        while True:
            _limit(sock, end)
            reply = sock.recv(2048)
            if not version6 and reply[0] >> 4 == 4:  # the IP header stands before it
                reply = reply[(reply[0] & 15) * 4 :]
            if reply[:1] == (b"\x81" if version6 else b"\0") and nonce in reply:
                return {"outcome": "answered", "echo": True}


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def _syn_sweep(operation: Operation, _deadline: float) -> Record:
    """Send one bare SYN to each port of a list, or to every one."""
    host, ports = operation["host"], operation["ports"] or range(1, 65536)
    with _socket(operation, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        return _sweep(
            sock, ((packet, (host, 0)) for packet in _syns(_source_of(host), host, ports))
        )


def _udp_sweep(operation: Operation, _deadline: float) -> Record:
    """Send one datagram with the nonce to each port of a list, or to every one."""
    host, ports = operation["host"], operation["ports"] or range(1, 65536)
    nonce = operation["nonce"].encode()
    with _socket(operation, socket.SOCK_DGRAM) as sock:
        return _sweep(sock, ((nonce, (host, port)) for port in ports))


def _sweep(sock: socket.socket, packets: Iterable[tuple[bytes, tuple[str, int]]]) -> Record:
    """Send without waiting for anybody; only the far end can tell what became of them."""
    count = 0
    # Not connected: a firewall's rejection of one would be an error of the next.
    for packet, address in packets:
        sock.sendto(packet, address)
        count += 1
    return {"outcome": "sent", "count": count}


def _syns(source: str, host: str, ports: Iterable[int]) -> Iterator[bytes]:
    # Source port, destination port, sequence number 1, header of 5 words, SYN, window.
    head = struct.pack("!HHIIBBHHH", HANDMADE, 0, 1, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = _packed(source) + _packed(host) + struct.pack("!BBH", 0, 6, len(head))
    base = ~_checksum(pseudo + head) & 0xFFFF
    for port in ports:
        total = base + port
        checksum = ~((total >> 16) + total) & 0xFFFF
        yield head[:2] + struct.pack("!H", port) + head[4:16] + struct.pack("!HH", checksum, 0)


def _source_of(host: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, 9))
        return str(sock.getsockname()[0])


# -- through the proxy, or not ------------------------------------------------------------------


def _http(operation: Operation, deadline: float) -> Record:
    """Make one HTTP request, through a proxy if one is given, and return the whole answer."""
    url = _split(operation["url"])
    proxy, hop = operation.get("proxy"), url
    if proxy == "environment":
        proxy = _advertised(url, {**os.environ, **operation.get("environment", {})})
    if proxy:
        hop = _split(proxy if "://" in proxy else f"http://{proxy}")
        if hop["scheme"] != "http":
            raise ValueError(f"a proxy is spoken to by http, not by {hop['scheme']}")
    with _dial(hop["host"], hop["port"], deadline) as sock:
        if url["scheme"] == "https":
            refusal = _tunnel(sock, url["host"], url["port"]) if proxy else None
            return refusal or _secured(sock, operation, url)
        return _exchange(sock, operation, url, f"http://{url['authority']}" if proxy else "")


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
    for address in _addresses(host, port, deadline):
        try:
            return socket.create_connection(address, deadline)
        except OSError as error:
            problem = error
    raise problem


def _addresses(host: str, port: int, deadline: float) -> list[tuple[str, int]]:
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


def _tunnel(sock: socket.socket, host: str | None, port: int) -> Record | None:
    where = f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    sock.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
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


# -- what the agent can see of itself, and of its link ------------------------------------------


def _status(operation: Operation, _deadline: float) -> Record:
    """Read the identity and the capability sets of processes (proc(5)); ``*`` is all of them."""
    found = {}
    for pid in map(str, operation["pids"]):
        if pid != "*":
            found[pid] = _status_of(pid)
            continue
        for each in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[each] = _status_of(each)
    return {"outcome": "answered", "processes": found}


def _status_of(pid: str) -> dict[str, str | None]:
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    names = ("Name", "Uid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
    return {name: lines.get(name) for name in (*names, "Seccomp", "State")}


def _namespaces(_operation: Operation, _deadline: float) -> Record:
    """Read which namespaces we are in, and the kernel whose numbers these are (namespaces(7))."""
    found = {}
    for name in ("net", "pid", "ipc", "mnt", "uts", "user"):
        found[name] = os.readlink(f"/proc/self/ns/{name}")
    with open("/proc/sys/kernel/random/boot_id") as file:
        return {"outcome": "answered", "namespaces": found, "kernel": file.read().strip()}


def _setns(_operation: Operation, _deadline: float) -> Record:
    """Try to enter the network namespace of every process that we can see (setns(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    answers = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/ns/net") as file:
                code = ctypes.get_errno() if libc.setns(file.fileno(), 0x40000000) else 0
        except OSError as error:  # we may not even look at it, or it has ended
            code = error.errno or 0
        answers[pid] = errno.errorcode.get(code, str(code)) if code else "done"
    return {"outcome": "answered", "answers": answers}


def _addresses_here(_operation: Operation, _deadline: float) -> Record:
    """List the addresses of every interface here: its name, the address, the prefix's length."""
    found: list[list[str | int]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.send(struct.pack("IHHIIBxxxI", 24, 22, 0x301, 1, 0, 0, 0))  # RTM_GETADDR, all
        while True:
            for kind, body in _messages(sock.recv(1 << 16)):
                if kind != 20:  # RTM_NEWADDR; the end, or an error
                    return {"outcome": "answered", "addresses": found}
                family, length, _, _, index = struct.unpack_from("BBBBI", body)
                parts = dict(_messages(body[8:], "HH"))
                raw = parts.get(2) or parts.get(1)  # our own end, where the link has two
                if raw and family in (socket.AF_INET, socket.AF_INET6):
                    address = socket.inet_ntop(family, raw)
                    found.append([socket.if_indextoname(index), address, length])


def _messages(data: bytes, head: str = "IH") -> Iterator[tuple[int, bytes]]:
    """Take messages or attributes apart: the kind of each and what is in it (netlink(7))."""
    skip = 16 if head == "IH" else 4
    while len(data) >= skip:
        length, kind = struct.unpack_from(head, data)
        if length < skip:
            return
        yield kind, data[skip:length]
        data = data[(length + 3) & ~3 :]


def _netlink(operation: Operation, _deadline: float) -> Record:
    """Ask the kernel, without any tool, for changes of the network; report each answer."""
    requests = _changes(operation["gateway"], operation["device"])
    answers = {name: _ask(*request) for name, request in requests.items()}
    return {"outcome": "answered", "answers": answers}


def _changes(gateway: str, device: str) -> dict[str, tuple[int, int, bytes]]:
    index = socket.if_nametoindex(device)
    nobody = _packed(gateway)[:3] + b"\xfb"  # an address of the link that no guest has
    create, replace = 0x400, 0x100
    far = "203.0.113.7"  # a destination that nothing has a route to yet
    address = _attribute(1, _packed(far)) + _attribute(2, _packed(far))
    rule = struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)
    neighbour = struct.pack("BxxxiHBB", 2, index, 0x80, 0, 0)
    neighbour += _attribute(1, nobody) + _attribute(2, b"\x02\0\0\0\0\x01")
    link = struct.pack("BxHiII", 0, 0, index, 1, 1)
    return {
        "replace the default route": (24, create | replace, _route(gateway, "0.0.0.0", 0, index)),
        "add a host route": (24, create, _route(gateway, far, 32, index)),
        "add a rule": (32, create, rule + _attribute(6, struct.pack("I", 4242))),
        "set a link": (16, 0, link + _attribute(4, struct.pack("I", 1400))),
        "add an address": (20, create, struct.pack("BBBBI", 2, 32, 0, 0, index) + address),
        "set a neighbour": (28, create | replace, neighbour),
    }


def _route(gateway: str, destination: str, length: int, index: int) -> bytes:
    body = struct.pack("BBBBBBBBI", 2, length, 0, 0, 254, 4, 0, 1, 0)
    body += _attribute(1, _packed(destination)) if length else b""
    return body + _attribute(5, _packed(gateway)) + _attribute(4, struct.pack("i", index))


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _ask(kind: int, flags: int, body: bytes) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.bind((0, 0))
        sock.send(struct.pack("IHHII", 16 + len(body), kind, 1 | 4 | flags, 1, 0) + body)
        code = -int(struct.unpack_from("i", sock.recv(4096), 16)[0])
        return errno.errorcode.get(code, str(code)) if code else "done"


def _add_route(operation: Operation) -> None:
    """Send a privileged probe's packets to one destination by a next hop of our choice."""
    index = socket.if_nametoindex(operation.get("device", "eth0"))
    answer = _ask(24, 0x500, _route(operation["via"], operation["host"], 32, index))
    if answer not in ("done", "EEXIST"):
        raise OSError(getattr(errno, answer, 0), f"route via {operation['via']}: {answer}")


def _arp(operation: Operation, deadline: float) -> Record:
    """Ask for every address of a /24 on the link; report who answers (RFC 826)."""
    device = operation.get("device", "eth0")
    base = _packed(operation["subnet"].partition("/")[0])[:3]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as sock:
        sock.bind((device, 0x0806))
        mac = sock.getsockname()[4]
        mine = _packed(operation["source"])
        for number in range(1, 255):
            target = base + bytes([number])
            if target != mine:
                sock.send(_arp_request(mac, mine, target))
        return {"outcome": "answered", "neighbours": _arp_answers(sock, deadline)}


def _arp_request(mac: bytes, mine: bytes, target: bytes) -> bytes:
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + mine + b"\0" * 6 + target
    return b"\xff" * 6 + mac + b"\x08\x06" + arp


def _arp_answers(sock: socket.socket, deadline: float) -> dict[str, str]:
    found, end = {}, time.monotonic() + deadline
    try:
        while True:
            _limit(sock, end)
            frame = sock.recv(256)
            if frame[20:22] == b"\0\2":
                found[socket.inet_ntoa(frame[28:32])] = frame[22:28].hex(":")
    except _Timeout:
        return found


def _variables(operation: Operation, _deadline: float) -> Record:
    """Tell what some variables are that a program of this guest is given."""
    return {"outcome": "answered", "variables": {n: os.environ.get(n) for n in operation["names"]}}


# -- saying what no client would say ------------------------------------------------------------

#: How many conversations one operation holds at once: proxies have a limit of clients.
_AT_ONCE = 16
#: So many conversations of a group without a word, and none with one, speak for the rest of it.
_MUTE = 8


def _talks(operation: Operation, deadline: float) -> Record:
    """Hold many conversations, a few at a time; each may take ``patience`` seconds.

    Those that the deadline leaves no time for are not in the record. Those of a ``group`` that
    nobody answers, such as SOCKS at a proxy that has none, are skipped after a while.
    """
    end, patience = time.monotonic() + deadline, operation["patience"]
    waiting, records = operation["talks"][::-1], {}
    silences: dict[str, list[bool]] = {}

    def work() -> None:
        while waiting and time.monotonic() + patience < end:
            with contextlib.suppress(IndexError):  # somebody else took the last one
                talk = dict(waiting.pop(), answers=[])
                known = silences.setdefault(talk.get("group", ""), [])
                if talk.get("group") and len(known) >= _MUTE and all(known):
                    records[talk["name"]] = {"outcome": "skipped", "answers": []}
                    continue
                record = _attempt("talk", talk, patience)
                records[talk["name"]] = dict(record, answers=talk["answers"])
                known.append(record["outcome"] == "timeout" and not any(talk["answers"]))

    others = [threading.Thread(target=work, daemon=True) for _ in range(_AT_ONCE - 1)]
    started = []
    with contextlib.suppress(RuntimeError):  # a limit of processes: then fewer at a time
        for thread in others:
            thread.start()
            started.append(thread)
    work()
    for thread in started:
        thread.join()
    return {"outcome": "talked", "talks": records}


def _talk(operation: Operation, deadline: float) -> Record:
    """Say given bytes, step by step, and report what comes after each; the last words as well."""
    answers, end = operation.setdefault("answers", []), time.monotonic() + deadline
    with _socket(operation, socket.SOCK_STREAM) as sock:
        sock.settimeout(deadline)
        sock.connect((operation["host"], operation["port"]))
        for step in operation["steps"]:
            data = bytes.fromhex(step["send"])
            if step.get("datagram"):
                _to_relay(operation, data)
            else:
                _limit(sock, end)
                sock.sendall(data)
            answers.append("")
            if not _hear_out(sock, step.get("until", 0), end, answers):
                return {"outcome": "closed"}
    return {"outcome": "talked"}


def _hear_out(sock: socket.socket, until: int | str, end: float, answers: list[str]) -> bool:
    """Add to the last answer until there are so many bytes, or these; tell if it is complete."""
    while len(answers[-1]) < until if isinstance(until, int) else until not in answers[-1]:
        _limit(sock, end)
        part = sock.recv(4096)
        if not part or len(answers[-1]) > _LONGEST_LINE:
            return False
        answers[-1] += part.decode("latin-1")
    return True


def _to_relay(operation: Operation, data: bytes) -> None:
    """Send a datagram to the relay that a SOCKS5 reply names (RFC 1928), or else to the proxy."""
    said = "".join(operation["answers"][-1:]).encode("latin-1")
    host, port = operation["host"], operation["port"]
    if said[:2] == b"\5\0" and said[3:4] == b"\1" and len(said) >= 10:
        bound = socket.inet_ntoa(said[4:8])
        host, port = host if bound == "0.0.0.0" else bound, struct.unpack("!H", said[8:10])[0]
    with _socket({"host": host}, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, (host, port))


# -- packets made whole, and IPv6 -----------------------------------------------------------------

#: Where a packet comes from when the guest has no address of the family: some ULA (RFC 4193).
_SOMEBODY = "fd00:86::86"
#: Protocol numbers, and where each one's checksum stands in its header.
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_CHECKSUMS = {_TCP: 16, _UDP: 6, _ICMP: 2, _ICMPV6: 2}


def _frame(operation: Operation, deadline: float) -> Record:
    """Hand a packet to the link address of a next hop: no route and no IP stack of ours has a say.

    The link address is ``to``, or that of the address ``via``: one that does not answer ARP is no
    next hop, then nothing was sent, and nothing is proved. ``sender`` is where it says it is from.
    """
    device, host, via = operation.get("device", "eth0"), operation["host"], operation.get("via", "")
    kind = 0x86DD if ":" in host else 0x0800
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as sock:
        sock.bind((device, 0x0806))
        mac = sock.getsockname()[4]
        if operation.get("to"):
            hop = bytes.fromhex(operation["to"].replace(":", ""))
        else:
            hop = _link_address(sock, mac, via, deadline)
        source = operation.get("sender")
        source = source or (_global_address(device) if ":" in host else _source_of(via))
        sock.send(hop + mac + struct.pack("!H", kind) + _datagram(operation, source))
    return {"outcome": "sent", "hop": hop.hex(":"), "source": source}


def _link_address(sock: socket.socket, mac: bytes, address: str, deadline: float) -> bytes:
    target, end = _packed(address), time.monotonic() + deadline
    sock.send(_arp_request(mac, _packed(_source_of(address)), target))
    try:
        while True:
            _limit(sock, end)
            answer = sock.recv(256)
            if answer[20:22] == b"\0\2" and answer[28:32] == target:
                return answer[22:28]
    except _Timeout:
        raise RuntimeError(f"{address} does not answer ARP") from None


def _global_address(device: str) -> str:
    """An IPv6 address of ours that others may answer to, or one of nobody's."""
    for found in _own_addresses():
        if found["device"] == device and found["scope"] == 0:
            return str(found["address"])
    return _SOMEBODY


def _datagram(operation: Operation, source: str) -> bytes:
    """A whole IPv4 or IPv6 packet with a bare SYN, a datagram or an echo request in it."""
    host, data = operation["host"], _around(operation, operation["nonce"].encode())
    ports = (operation.get("source") or 40000, operation["port"])
    if operation["protocol"] == "tcp":
        number, body = _TCP, struct.pack("!HHIIBBHHH", *ports, 1, 0, 5 << 4, 2, 1024, 0, 0)
    elif operation["protocol"] == "udp":
        number, body = _UDP, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    else:
        number = _ICMPV6 if ":" in host else _ICMP
        body = struct.pack("!BBHHH", 128 if ":" in host else 8, 0, 0, os.getpid() & 0xFFFF, 1)
        body += data
    return _packet(source, host, number, body)


def _packet(source: str, host: str, number: int, body: bytes, hops: int = 64) -> bytes:
    """Put the IP header before a body, and the checksum into it (RFC 791, RFC 8200, 8.1)."""
    ends = _packed(source) + _packed(host)
    pseudo = b"" if number == _ICMP else ends + struct.pack("!II", len(body), number)
    at = _CHECKSUMS[number]
    body = body[:at] + struct.pack("!H", _checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]
    if ":" in host:
        return struct.pack("!IHBB", 6 << 28, len(body), number, hops) + ends + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, hops, number, 0)
    return head[:10] + struct.pack("!H", _checksum(head + ends)) + ends + body


def _advertise(operation: Operation, _deadline: float) -> Record:
    """Say on the link that we are a router and that a prefix is on it (RFC 4861, 4.2 and 4.6.2)."""
    router, device = "fe80::bad:1", operation.get("device", "eth0")
    seconds = operation["lifetime"]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((device, 0))
        mac = sock.getsockname()[4]
        body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, seconds, 0, 0)
        body += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, seconds, seconds, 0)
        body += _packed(operation["prefix"]) + struct.pack("!BB", 1, 1) + mac
        packet = _packet(router, "ff02::1", _ICMPV6, body, hops=255)
        for _ in range(operation.get("times", 3)):
            sock.send(b"\x33\x33\0\0\0\1" + mac + b"\x86\xdd" + packet)
            time.sleep(0.02)
    return {"outcome": "sent"}


def _ipv6(operation: Operation, deadline: float) -> Record:
    """Read this guest's IPv6 addresses, default routes and settings (proc(5)).

    With a ``prefix`` it waits for an address of that, until the deadline.
    """
    end = time.monotonic() + deadline
    wanted = _packed(operation.get("prefix", "::"))[:8]
    while True:
        addresses = _own_addresses()
        there = any(_packed(str(one["address"]))[:8] == wanted for one in addresses)
        if there or "prefix" not in operation or time.monotonic() >= end:
            break
        time.sleep(0.01)
    return {
        "outcome": "answered",
        "addresses": addresses,
        "defaults": _default_routes(),
        "accept_ra": _settings("accept_ra"),
        "disabled": _settings("disable_ipv6"),
        "there": there,
    }


def _own_addresses() -> list[dict[str, str | int]]:
    return [
        {
            "address": socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0])),
            "scope": int(words[3], 16),
            "device": words[5],
        }
        for words in _lines("/proc/net/if_inet6")
    ]


def _default_routes() -> list[str]:
    """Devices and next hops of the routes to everywhere that lead out of this guest."""
    return [
        f"{words[9]} via {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[4]))}"
        for words in _lines("/proc/net/ipv6_route")
        if words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo"
    ]


def _lines(path: str) -> list[list[str]]:
    """The words of a table's lines; a kernel without IPv6 has no such table."""
    try:
        with open(path) as file:
            return [line.split() for line in file]
    except FileNotFoundError:
        return []


def _settings(name: str) -> dict[str, str]:
    found, folder = {}, "/proc/sys/net/ipv6/conf"
    with contextlib.suppress(FileNotFoundError):
        for device in os.listdir(folder):
            with open(f"{folder}/{device}/{name}") as file:
                found[device] = file.read().strip()
    return found


def _set(operation: Operation, _deadline: float) -> Record:
    """Write settings of a guest's own network, in their order (sysctl(8), with slashes)."""
    for name, value in operation["values"]:
        with open(f"/proc/sys/{name}", "w") as file:
            file.write(value)
    return {"outcome": "answered"}


# -- names --------------------------------------------------------------------------------------


def _resolve(operation: Operation, deadline: float) -> Record:
    """Look names up as this guest is set up to, and by hand at each server that it is given.

    ``name`` goes to the C library, ``raw`` with types A and AAAA to the servers of resolv.conf; a
    guest without any asks its own loopback (resolv.conf(5)).
    """
    lines = _lines("/etc/resolv.conf")
    servers = [words[1] for words in lines if words[:1] == ["nameserver"] and words[1:]]
    answers = {
        f"{server} {qtype}": _attempt_query(server, operation["raw"], qtype, deadline)
        for server in (servers or ["127.0.0.1"])
        for qtype in (1, 28)
    }
    try:
        found = sorted({address for address, _ in _addresses(operation["name"], 0, deadline)})
        library = {"outcome": "answered", "addresses": found}
    except OSError as error:
        library = {"outcome": "dns-failure", "detail": str(error)}
    return {"outcome": "answered", "servers": servers, "raw": answers, "library": library}


def _attempt_query(server: str, name: str, qtype: int, deadline: float) -> str:
    """Say what a server made of a question: ``rcode N``, or the error's own name."""
    question = _question(name, qtype)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(deadline)
            sock.connect((server, 53))
            sock.send(question)
            return f"rcode {sock.recv(4096)[3] & 15}"
    except _Timeout:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def _question(name: str, qtype: int) -> bytes:
    """A recursive query for one name (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    ident = int.from_bytes(os.urandom(2), "big")
    head = struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0)
    return head + labels + b"\0" + struct.pack("!HH", qtype, 1)


def _dns_sweep(operation: Operation, deadline: float) -> Record:
    """Ask many addresses for a name each, over UDP and, those of ``tcp``, over TCP too.

    ``udp`` and ``tcp`` are addresses; the name that each is asked for begins with its place in the
    list. Who answers with a DNS message is a resolver.
    """
    end, name = time.monotonic() + deadline, operation["name"]
    answered: dict[str, list[str]] = {"udp": [], "tcp": []}
    failed: dict[str, int] = {}

    def over_tcp(number: int, host: str) -> None:
        cause = _ask_over_tcp(host, _question(f"t{number}.{name}", 1), end)
        if cause:
            failed[cause] = failed.get(cause, 0) + 1
        else:
            answered["tcp"].append(host)

    threads: list[threading.Thread] = []
    for number, host in enumerate(operation["tcp"]):
        thread = threading.Thread(target=over_tcp, args=(number, host), daemon=True)
        thread.start()
        threads.append(thread)
    answered["udp"] = _ask_over_udp(operation["udp"], name, end, failed)
    for thread in threads:
        thread.join()
    return {"outcome": "answered", "answered": answered, "failed": failed}


def _ask_over_udp(hosts: list[str], name: str, end: float, failed: dict[str, int]) -> list[str]:
    found: set[str] = set()
    with contextlib.ExitStack() as stack:
        socks = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            socks[family] = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        for number, host in enumerate(hosts):
            sock = socks[socket.AF_INET6 if ":" in host else socket.AF_INET]
            try:
                sock.sendto(_question(f"u{number}.{name}", 1), (host, 53))
            except OSError as error:
                cause = errno.errorcode.get(error.errno or 0, str(error))
                failed[cause] = failed.get(cause, 0) + 1
        while time.monotonic() < end:
            left = max(0.0, end - time.monotonic())
            for sock in select.select(list(socks.values()), [], [], left)[0]:
                with contextlib.suppress(OSError):
                    answer, peer = sock.recvfrom(4096)
                    if len(answer) >= 12 and answer[2] & 0x80:
                        found.add(peer[0])
    return sorted(found)


def _ask_over_tcp(host: str, question: bytes, end: float) -> str:
    """Ask over TCP (RFC 1035, 4.2.2); empty if a DNS message came back, or else the cause."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            _limit(sock, end)
            sock.connect((host, 53))
            sock.sendall(struct.pack("!H", len(question)) + question)
            answer = b""
            while len(answer) < 14:
                _limit(sock, end)
                part = sock.recv(4096)
                if not part:
                    return "no answer"
                answer += part
            return "" if answer[4] & 0x80 else "no answer"
    except _Timeout:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


# -- waiting for others -------------------------------------------------------------------------


def _listen(operation: Operation, deadline: float) -> Record:
    """Listen for visitors until the deadline; report each, with the first bytes it sent.

    One who says the word ``until`` is the last, so that nobody need guess how long it takes.
    A visitor that our answers do not reach cannot be accepted: it stays half open, and the kernel's
    counters, from before and after, tell that it came.
    """
    end = time.monotonic() + deadline
    before = _counters()
    with contextlib.ExitStack() as stack:
        doors = [
            _door(stack, kind, address, port)
            for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp"))
            for port in operation.get(name, ())
            for address in filter(_is_known, operation.get("addresses", ("0.0.0.0",)))
        ]
        visitors = _attend(doors, end, _greeting, operation.get("until"))
        half_open = _half_open(operation.get("tcp", ()))
    return {
        "outcome": "listened",
        "visitors": visitors,
        "half_open": half_open,
        "counters": {"before": before, "after": _counters()},
    }


def _is_known(address: str) -> bool:
    """Tell whether this kernel has an address's family at all."""
    try:
        socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError:
        return False
    return True


def _counters(more: Iterable[Any] = ()) -> dict[str, int]:
    """How many packets this network namespace has received (proc(5)); empty if it cannot tell."""
    try:
        with open("/proc/net/snmp") as file:
            lines = [line.split() for line in file]
        tables = {lines[at][0]: lines[at : at + 2] for at in range(0, len(lines), 2)}
        return {
            name: sum(int(tables[table][1][tables[table][0].index(field)]) for field in fields)
            for name, table, fields in (*_RECEIVED, *more)
        }
    except (OSError, LookupError, ValueError):
        return {}


def _count(_operation: Operation, _deadline: float) -> Record:
    """Read how many packets came, and how many of ICMP's were echo requests.

    Our own kernel sends us errors about what we sent ourselves, seconds later: they are no visit.
    """
    return {"outcome": "answered", "counters": _counters([("echo", "Icmp:", ("InEchos",))])}


def _half_open(ports: Iterable[int]) -> list[Visitor]:
    """Who has begun a handshake with one of our ports and not ended it: port, address, its port.

    The kernel lists such a connection while it repeats its own part of the handshake (proc(5)).
    """
    found: list[Visitor] = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{name}") as file:
            for local, remote, state in (line.split()[1:4] for line in file):
                port = int(local.rpartition(":")[2], 16) if state == "03" else -1  # SYN_RECV
                if port in ports:
                    words = [remote[at : at + 8] for at in range(0, len(remote) - 5, 8)]
                    raw = b"".join(struct.pack("=I", int(word, 16)) for word in words)
                    theirs = int(remote.rpartition(":")[2], 16)
                    found.append([port, socket.inet_ntop(family, raw), theirs])
    return found


def _door(stack: contextlib.ExitStack, kind: int, address: str, port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, kind))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(16)
    sock.settimeout(0)
    return sock


def _greeting(kind: str, said: bytes) -> bytes:
    words = said.split()
    known = kind == "tcp" and len(words) == 2 and words[0] == b"BOTTLE"
    return b"%s %s\n" % (_ECHO, words[1]) if known else b""


def _attend(
    doors: list[socket.socket], end: float, reply: Reply, until: str | None = None
) -> list[Visitor]:
    """Receive visitors until the end; those that connect and say nothing come last."""
    visitors: list[Visitor] = []
    silent: dict[socket.socket, Visitor] = {}
    while time.monotonic() < end and not (until and any(until in str(v[3]) for v in visitors)):
        left = max(0.0, end - time.monotonic())
        for sock in select.select([*doors, *silent], [], [], left)[0]:
            with contextlib.suppress(BlockingIOError):  # it has gone again
                if sock in silent:
                    visitors.append([*silent.pop(sock), _converse(sock, reply)])
                elif sock.type == socket.SOCK_DGRAM:
                    visitors.append(_take(sock, reply))
                else:
                    connection, peer = sock.accept()
                    silent[connection] = ["tcp", sock.getsockname()[1], peer[0]]
    for sock, visitor in silent.items():
        sock.close()
        visitors.append([*visitor, ""])
    return visitors


def _converse(sock: socket.socket, reply: Reply) -> str:
    said = b""
    with sock, contextlib.suppress(OSError):  # it has come, and that counts
        said = sock.recv(512)
        sock.sendall(reply("tcp", said))
    return said.decode("latin-1")


def _take(sock: socket.socket, reply: Reply) -> Visitor:
    said, peer = sock.recvfrom(512)
    answer = reply("udp", said)
    if answer:
        sock.sendto(answer, peer)
    return ["udp", sock.getsockname()[1], peer[0], said.decode("latin-1")]


def _abstract(operation: Operation, deadline: float) -> Record:
    """Be a canary on an abstract UNIX socket until the deadline: report what visitors said.

    The process takes the same name, for others to find, or not, in their ``/proc``. Who says the
    word ``until`` is the last.
    """
    name, end = operation["name"], time.monotonic() + deadline
    said: list[str] = []
    with open("/proc/self/comm", "w") as file:
        file.write(name[:15])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(f"\0{name}")
        sock.listen(16)
        with contextlib.suppress(_Timeout):
            while operation.get("until") not in said:
                _limit(sock, end)
                connection = sock.accept()[0]
                with connection:
                    _limit(connection, end)
                    said.append(connection.recv(512).decode("latin-1"))
    return {"outcome": "listened", "said": said}


def _unix(operation: Operation, deadline: float) -> Record:
    """Look for an abstract UNIX socket in the kernel's list, and say the nonce to it."""
    with open("/proc/net/unix") as file:
        listed = any(line.rstrip("\n").endswith(f" @{operation['name']}") for line in file)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(deadline)
            sock.connect(f"\0{operation['name']}")
            sock.sendall(operation["nonce"].encode())
    except OSError as error:
        number = error.errno or 0
        name = errno.errorcode.get(number, str(number))
        return {"outcome": _CAUSES.get(number, "tool-error"), "errno": name, "listed": listed}
    return {"outcome": "connected", "listed": listed}


# -- the probe's own control --------------------------------------------------------------------


def _selftest(operation: Operation, deadline: float) -> Record:
    """Run every kind of stimulus against sinks on our own loopback (CTL-02)."""
    with contextlib.ExitStack() as stack:
        tcp = _door(stack, socket.SOCK_STREAM, "127.0.0.1")
        udp = _door(stack, socket.SOCK_DGRAM, "127.0.0.1")
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        sinks = threading.Thread(target=_serve, args=([tcp, udp], deadline * 5), daemon=True)
        sinks.start()
        stack.callback(sinks.join)
        stack.callback(tcp.shutdown, socket.SHUT_RDWR)
        ports = [sock.getsockname()[1] for sock in (tcp, udp, closed)]
        here = {"host": "127.0.0.1", "nonce": operation["nonce"]}
        trials: dict[str, tuple[str, Operation]] = {
            "tcp": ("tcp", dict(here, port=ports[0])),
            "udp": ("udp", dict(here, port=ports[1], answers=True)),
            "icmp": ("icmp", here),
            "http": ("http", {"url": f"http://127.0.0.1:{ports[0]}/{operation['nonce']}"}),
            "closed": ("tcp", dict(here, port=ports[2])),
        }
        records = {name: _attempt(*trial, deadline) for name, trial in trials.items()}
    return {"outcome": "answered", "records": records}


def _serve(doors: list[socket.socket], seconds: float) -> None:
    with contextlib.suppress(OSError):  # shut down: the self-test is over
        _attend(doors, time.monotonic() + seconds, _play)


def _play(kind: str, said: bytes) -> bytes:
    if kind == "udp":
        return b"%s %s" % (_ECHO, said)
    return _greeting(kind, said) or b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


# -- what only a privileged process may do ------------------------------------------------------

#: The bpf(2) system call's number (asm/unistd.h).
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}


def _filters(_operation: Operation, deadline: float) -> Record:
    """Ask the kernel, without any tool, for changes of packet filters; report each answer.

    What is made is a table of our own and a queue of loopback's, and both are removed again; what
    is to be replaced in the legacy tables is not well-formed, which nobody looks at who refuses.
    """
    nothing = b"filter".ljust(96, b"\0")  # a replacement of 0 entries
    trials: dict[str, Callable[[], str]] = {
        "nftables": lambda: _nftables(deadline),
        "iptables": lambda: _replace_table(socket.AF_INET, 0, 64, nothing),
        "ip6tables": lambda: _replace_table(socket.AF_INET6, 41, 64, nothing),
        "ebtables": lambda: _replace_table(socket.AF_INET, 0, 128, nothing),
        "tc": _queue,
        "bpf": _load_program,
    }
    return {"outcome": "answered", "answers": {name: _answer(trials[name]) for name in trials}}


def _answer(trial: Callable[[], str]) -> str:
    """The name of the kernel's answer; a prober's own defect passes through."""
    try:
        return trial()
    except _Timeout:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def _nftables(deadline: float) -> str:
    """Make a table with a chain that accepts all, and flush it: one batch (nfnetlink)."""
    name = b"bottle_probe\0"
    hook = _attribute(1, struct.pack("!I", 3)) + _attribute(2, struct.pack("!I", 0))
    chain = _attribute(1, name) + _attribute(3, b"output\0") + _attribute(4 | 0x8000, hook)
    chain += _attribute(5, struct.pack("!I", 1)) + _attribute(7, b"filter\0")
    table = _attribute(1, name)
    # NEWTABLE, NEWCHAIN with the policy "accept", DELRULE of every rule in the table.
    answer = _batch([(0, 0x400, table), (3, 0x400, chain), (8, 4, table)], deadline)
    if answer == "done":
        _batch([(2, 4, table)], deadline)  # DELTABLE
    return answer


def _batch(messages: list[tuple[int, int, bytes]], deadline: float) -> str:
    """Send a batch, whose last message asks for an answer, and tell the first that comes."""
    edge = struct.pack("!BBH", 0, 0, 10)  # for the subsystem of nftables
    parts = [(0x10, 0, edge)]
    parts += [(10 << 8 | kind, flags, b"\2\0\0\0" + body) for kind, flags, body in messages]
    parts.append((0x11, 0, edge))
    data = b"".join(
        struct.pack("IHHII", 16 + len(body), kind, 1 | flags, number, 0) + body
        for number, (kind, flags, body) in enumerate(parts)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.settimeout(deadline)
        sock.bind((0, 0))
        sock.send(data)
        code = -int(struct.unpack_from("i", sock.recv(4096), 16)[0])
        return errno.errorcode.get(code, str(code)) if code else "done"


def _replace_table(family: int, level: int, option: int, value: bytes) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, option, value)
    return "done"


def _queue() -> str:
    """Give loopback a queueing discipline (RTM_NEWQDISC), and take it away again."""
    index = socket.if_nametoindex("lo")
    root = struct.pack("BxxxiIII", 0, index, 0, 0xFFFFFFFF, 0)
    answer = _ask(36, 0x400 | 0x100, root + _attribute(1, b"pfifo\0"))
    if answer == "done":
        _ask(37, 0, root)
    return answer


def _load_program() -> str:
    """Load a program of two instructions that would let every packet of a cgroup pass (bpf(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    code = ctypes.create_string_buffer(struct.pack("BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0), 16)
    license_ = ctypes.create_string_buffer(b"GPL")
    # BPF_PROG_TYPE_CGROUP_SKB, 2 instructions; what follows the addresses is zero.
    words = struct.pack("IIQQ", 8, 2, ctypes.addressof(code), ctypes.addressof(license_))
    attributes = ctypes.create_string_buffer(words, 72)
    number = ctypes.c_long(_SYS_BPF[os.uname().machine])
    fd = libc.syscall(number, ctypes.c_int(5), attributes, ctypes.c_uint(72))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    os.close(fd)
    return "done"


def _raw(operation: Operation, _deadline: float) -> Record:
    """Open what sends packets of one's own making, and devices; report each answer."""
    sockets = {
        "SOCK_RAW IPv4": (socket.AF_INET, socket.SOCK_RAW, 255),
        "SOCK_RAW IPv6": (socket.AF_INET6, socket.SOCK_RAW, 255),
        "AF_PACKET": (socket.AF_PACKET, socket.SOCK_RAW, 0),
        "AF_XDP": (44, socket.SOCK_RAW, 0),
    }
    answers = {}
    for name, what in sockets.items():
        answers[name] = _answer(lambda what=what: _open_socket(*what))  # type: ignore[misc]
    for path in operation["devices"]:
        answers[path] = _answer(lambda path=path: _open_device(path))  # type: ignore[misc]
    return {"outcome": "answered", "answers": answers}


def _open_socket(family: int, kind: int, protocol: int) -> str:
    socket.socket(family, kind, protocol).close()
    return "done"


def _open_device(path: str) -> str:
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    return "done"


# -- what a process was started with, and what it could gain ------------------------------------


def _inherited(_operation: Operation, _deadline: float) -> Record:
    """Read the open files and the first environment of this process and of all others."""
    found: dict[str, Record] = {}
    for pid in ("self", *filter(str.isdigit, os.listdir("/proc"))):
        if pid != str(os.getpid()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[pid] = {"files": _files_of(pid), "environment": _environment_of(pid)}
    return {"outcome": "answered", "processes": found}


def _files_of(pid: str) -> dict[str, list[str]] | str:
    """Where each open file leads, and of what kind it is; or why that cannot be told."""
    folder, found = f"/proc/{pid}/fd", {}
    try:
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # the listing's own
                kind = "folder" if os.path.isdir(f"{folder}/{name}") else "file"
                found[name] = [os.readlink(f"{folder}/{name}"), kind]
    except PermissionError as error:
        return str(error)
    return found


def _environment_of(pid: str) -> list[str] | str:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return [one.decode("latin-1") for one in file.read().split(b"\0") if one]
    except PermissionError as error:
        return str(error)


def _find_setuid(operation: Operation, deadline: float) -> Record:
    """Find files that change who runs them, in some folders and those just below (inode(7))."""
    found: dict[str, str] = {}
    looked_at, end = 0, time.monotonic() + deadline
    folders = dict.fromkeys(map(os.path.realpath, operation["folders"]))  # /bin is a link often
    waiting = [(folder, operation.get("depth", 2)) for folder in folders]
    while waiting and time.monotonic() < end:
        folder, depth = waiting.pop(0)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting += [(entry.path, depth - 1)] if depth else []
                elif entry.is_file(follow_symlinks=False):
                    looked_at += 1
                    found.update(_power_of(entry))
    return {"outcome": "answered", "found": found, "files": looked_at, "complete": not waiting}


def _power_of(entry: os.DirEntry[str]) -> dict[str, str]:
    mode = entry.stat(follow_symlinks=False).st_mode
    if mode & 0o6000:
        return {entry.path: f"{mode & 0o7777:o}"}
    if mode & 0o111:
        with contextlib.suppress(OSError):
            return {entry.path: os.getxattr(entry.path, "security.capability").hex()}
    return {}


def _plant(operation: Operation, _deadline: float) -> Record:
    """Make copies of ``cat`` that would run as their owner, or with NET_ADMIN (capabilities(7))."""
    import shutil

    source = shutil.which("cat")
    if source is None:
        raise ValueError("there is no cat here")
    # VFS_CAP_REVISION_2 with the effective flag; NET_ADMIN is bit 12 of the permitted set.
    power = struct.pack("<5I", 0x02000001, 1 << 12, 0, 0, 0)
    steps: dict[str, Callable[[str], None]] = {
        "setuid": lambda path: os.chmod(path, 0o4755),  # noqa: S103 - that is the bait
        "capable": lambda path: os.setxattr(path, "security.capability", power),
    }
    answers = {}
    for name, step in steps.items():
        folder = f"{operation['folder']}/{name}"
        os.makedirs(folder)
        path = shutil.copy(source, f"{folder}/cat")  # some programs go by their names
        os.chmod(path, 0o755)  # noqa: S103 - another user runs it
        answers[path] = _answer(lambda step=step, path=path: step(path) or "done")  # type: ignore
    return {"outcome": "answered", "answers": answers}


def _gains(operation: Operation, deadline: float) -> Record:
    """Run programs, all at once, and report what each said by the deadline."""
    import subprocess

    started: list[subprocess.Popen[bytes] | str] = []
    for argv in operation["programs"]:
        try:
            started.append(
                subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        except OSError as error:
            started.append(errno.errorcode.get(error.errno or 0, str(error)))
    end = time.monotonic() + deadline
    return {"outcome": "answered", "said": [_last_words(one, end) for one in started]}


def _last_words(process: subprocess.Popen[bytes] | str, end: float) -> Record:
    import subprocess

    if isinstance(process, str):
        return {"errno": process}
    try:
        output, _ = process.communicate(timeout=max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return {"status": process.returncode, "output": output[:4096].decode("latin-1")}


_OPERATIONS: dict[str, Callable[[Operation, float], Record]] = {
    "tcp": _tcp,
    "udp": _udp,
    "icmp": _icmp,
    "syn-sweep": _syn_sweep,
    "udp-sweep": _udp_sweep,
    "http": _http,
    "talk": _talk,
    "talks": _talks,
    "variables": _variables,
    "status": _status,
    "namespaces": _namespaces,
    "setns": _setns,
    "addresses": _addresses_here,
    "frame": _frame,
    "abstract": _abstract,
    "unix": _unix,
    "netlink": _netlink,
    "arp": _arp,
    "listen": _listen,
    "advertise": _advertise,
    "ipv6": _ipv6,
    "set": _set,
    "resolve": _resolve,
    "dns-sweep": _dns_sweep,
    "count": _count,
    "selftest": _selftest,
    "filters": _filters,
    "raw": _raw,
    "inherited": _inherited,
    "find-setuid": _find_setuid,
    "plant": _plant,
    "gains": _gains,
}

if __name__ == "__main__":
    main()
