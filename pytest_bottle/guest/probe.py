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
        _address_many(sock, operation)
        sock.connect((operation["host"], operation["port"]))
        # Before any deadline is set: a datagram that waits for its turn has not timed out.
        sock.send(bytes.fromhex(operation.get("prefix", "")) + nonce)
        sock.settimeout(deadline if due else 0.05)
        try:
            answer = sock.recv(2048)
        except _Timeout:
            return {"outcome": "timeout" if due else "sent"}
        return {"outcome": "answered", "echo": nonce in answer}


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
        proxy = _advertised(url)
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


def _advertised(url: Url) -> str | None:
    """The proxy that the guest's own variables name for a request."""
    if url["host"] in os.environ.get("NO_PROXY", "").split(","):
        return None
    return os.environ.get(f"{url['scheme']}_proxy")


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
    return socket.inet_pton(socket.AF_INET, address)


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
                arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + mine + b"\0" * 6 + target
                sock.send(b"\xff" * 6 + mac + b"\x08\x06" + arp)
        return {"outcome": "answered", "neighbours": _arp_answers(sock, deadline)}


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


def _frame(operation: Operation, _deadline: float) -> Record:
    """Send a SYN, or a datagram with the nonce, in a frame to a link address of our choice.

    So a packet gets on the wire that our own kernel would not send, to 127.0.0.1 for example.
    """
    host, source, port = operation["host"], operation["source"], operation["port"]
    if operation["protocol"] == "tcp":
        number, body = 6, next(_syns(source, host, [port]))
    else:
        nonce = operation["nonce"].encode()
        number, body = 17, struct.pack("!HHHH", HANDMADE, port, 8 + len(nonce), 0) + nonce
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(body), 1, 0, 64, number)
    ends = _packed(source) + _packed(host)
    packet = head + struct.pack("!H", _checksum(head + b"\0\0" + ends)) + ends + body
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((operation.get("device", "eth0"), 0))
        mac = sock.getsockname()[4]
        sock.send(bytes.fromhex(operation["to"].replace(":", "")) + mac + b"\x08\0" + packet)
    return {"outcome": "sent"}


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
            for address in operation.get("addresses", ("0.0.0.0",))
        ]
        visitors = _attend(doors, end, _greeting, operation.get("until"))
        half_open = _half_open(operation.get("tcp", ()))
    return {
        "outcome": "listened",
        "visitors": visitors,
        "half_open": half_open,
        "counters": {"before": before, "after": _counters()},
    }


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


_OPERATIONS: dict[str, Callable[[Operation, float], Record]] = {
    "tcp": _tcp,
    "udp": _udp,
    "icmp": _icmp,
    "syn-sweep": _syn_sweep,
    "udp-sweep": _udp_sweep,
    "http": _http,
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
    "count": _count,
    "selftest": _selftest,
}

if __name__ == "__main__":
    main()
