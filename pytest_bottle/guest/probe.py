"""The probe: one file, sent over standard input, that fires every stimulus of a vantage point.

It decides nothing. For each operation it prints one JSON line that says what happened, typed by
cause; a last line says how many there were. Standard library only, Python 3.8 or newer; heavy
modules are imported by the operations that need them.

Input: ``{"deadline": seconds, "operations": [{"id": …, "kind": …, …}, …]}``.
Output: ``{"id": …, "outcome": cause, "errno": name, "elapsed": seconds, …}`` per operation, then
``{"done": count}``.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import sys
import threading
import time

_ECHO = b"BOTTLE-ECHO"
_PRINTING = threading.Lock()
_CAUSES = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.EAGAIN: "timeout",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.EACCES: "not-sendable",
    errno.EPERM: "not-sendable",
    errno.EPROTONOSUPPORT: "not-sendable",
    errno.EAFNOSUPPORT: "not-sendable",
}


def main():
    request = json.load(sys.stdin)
    operations = request["operations"]
    threads = [
        threading.Thread(target=_run, args=(operation, request["deadline"]), daemon=True)
        for operation in operations
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _say({"done": len(operations)})


def _run(operation, deadline):
    time.sleep(operation.get("delay", 0))
    started = time.monotonic()
    try:
        record = _OPERATIONS[operation["kind"]](operation, operation.get("deadline", deadline))
    except socket.timeout:
        record = {"outcome": "timeout"}
    except socket.gaierror as error:
        record = {"outcome": "dns-failure", "detail": str(error)}
    except OSError as error:
        record = _failure(error)
    except Exception as error:  # noqa: BLE001 - a defect of the probe must be seen as one
        record = {"outcome": "tool-error", "detail": "%s: %s" % (type(error).__name__, error)}
    elapsed = round(time.monotonic() - started, 4)
    _say(dict(record, id=operation["id"], elapsed=elapsed))


def _failure(error):
    cause = _CAUSES.get(error.errno, "tool-error")
    return {
        "outcome": cause,
        "errno": errno.errorcode.get(error.errno, str(error.errno)),
        "detail": str(error),
    }


def _say(record):
    with _PRINTING:
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


def _family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


# -- direct stimuli ------------------------------------------------------------------------------


def _tcp(operation, deadline):
    """Connect, send the nonce, wait for its echo."""
    host, nonce = operation["host"], operation["nonce"].encode()
    _prepare_route(operation)
    end = time.monotonic() + deadline
    with socket.socket(_family(host), socket.SOCK_STREAM) as sock:
        sock.settimeout(deadline)
        sock.connect((host, operation["port"]))
        return dict(_echo(sock, nonce, end), outcome="connected")


def _echo(sock, nonce, end):
    said = b""
    try:
        sock.sendall(b"BOTTLE " + nonce + b"\n")
        while b"\n" not in said and len(said) < 4096:
            sock.settimeout(max(0.001, end - time.monotonic()))
            part = sock.recv(4096)
            if not part:
                break
            said += part
    except OSError:
        pass  # a handshake alone is what the outcome says; the echo is missing
    return {"echo": said.startswith(_ECHO + b" " + nonce), "answer": said[:200].decode("latin-1")}


def _udp(operation, deadline):
    """Send the nonce; report an error that comes back, wait for an answer only if one is due."""
    host, port = operation["host"], operation["port"]
    _prepare_route(operation)
    payload = bytes.fromhex(operation.get("prefix", "")) + operation["nonce"].encode()
    with socket.socket(_family(host), socket.SOCK_DGRAM) as sock:
        sock.settimeout(deadline if operation.get("answers") else 0.05)
        sock.connect((host, port))
        sock.send(payload)
        try:
            answer = sock.recv(2048)
        except socket.timeout:
            return {"outcome": "timeout" if operation.get("answers") else "sent"}
        return {"outcome": "answered", "echo": operation["nonce"].encode() in answer}


def _icmp(operation, deadline):
    """Send an echo request with the nonce, by a ping socket or a raw one, and wait for the reply."""
    host, nonce = operation["host"], operation["nonce"].encode()
    _prepare_route(operation)
    version6 = ":" in host
    kind = socket.SOCK_RAW if operation.get("raw") else socket.SOCK_DGRAM
    protocol = socket.IPPROTO_ICMPV6 if version6 else socket.IPPROTO_ICMP
    message = struct.pack("!BBHHH", 128 if version6 else 8, 0, 0, os.getpid() & 0xFFFF, 1) + nonce
    if not version6:
        message = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
    end = time.monotonic() + deadline
    with socket.socket(_family(host), kind, protocol) as sock:
        sock.connect((host, 0))
        sock.send(message)
        while True:
            sock.settimeout(max(0.001, end - time.monotonic()))
            reply = sock.recv(2048)
            offset = 20 if operation.get("raw") and not version6 else 0
            if nonce in reply and reply[offset] in (0, 129):
                return {"outcome": "answered", "echo": True}


def _checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def _syn_sweep(operation, _deadline):
    """Send one bare SYN to each port of a range; only the far end can tell what became of them."""
    host = operation["host"]
    _prepare_route(operation)
    source = _source_of(host)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        sock.connect((host, 0))
        # Source port, destination port, sequence number 1, header of 5 words, SYN, window.
        head = struct.pack("!HHIIBBHHH", 40000, 0, 1, 0, 5 << 4, 2, 1024, 0, 0)
        pseudo = socket.inet_aton(source) + socket.inet_aton(host) + struct.pack("!BBH", 0, 6, 20)
        base = ~_checksum(pseudo + head) & 0xFFFF
        sent = 0
        for port in operation["ports"] or range(1, 65536):
            total = base + port
            total = (total >> 16) + (total & 0xFFFF)
            packet = head[:2] + struct.pack("!H", port) + head[4:16]
            sock.send(packet + struct.pack("!HH", ~total & 0xFFFF, 0))
            sent += 1
    return {"outcome": "sent", "count": sent}


def _source_of(host):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, 9))
        return sock.getsockname()[0]


# -- through the proxy, or not ---------------------------------------------------------------------


def _http(operation, deadline):
    """Make one HTTP request, through a proxy if one is given, and return the whole answer."""
    import http.client
    from urllib.parse import urlsplit

    target = urlsplit(operation["url"])
    secure = target.scheme == "https"
    port = target.port or (443 if secure else 80)
    proxy = operation.get("proxy")
    if proxy == "environment":
        proxy = _advertised(target.scheme, target.hostname)
    hop = urlsplit(proxy) if proxy else target
    name = (hop.hostname, (hop.port or 80) if proxy else port)
    path = (target.path or "/") + ("?" + target.query if target.query else "")
    with socket.create_connection(name, deadline) as sock:
        if secure:
            if proxy:
                refusal = _tunnel(http.client, sock, target.hostname, port)
                if refusal is not None:
                    return refusal
            sock = _tls(sock, operation, target.hostname)
            if isinstance(sock, dict):
                return sock
        elif proxy:
            path = "http://%s%s" % (target.netloc, path)
        return _exchange(http.client, sock, operation, target.netloc, path)


def _advertised(scheme, host):
    """The proxy that the guest's own variables name for a request."""
    if host in os.environ.get("NO_PROXY", "").split(","):
        return None
    return os.environ.get(scheme + "_proxy")


def _tunnel(client, sock, host, port):
    where = "%s:%d" % ("[%s]" % host if ":" in host else host, port)
    sock.sendall(("CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (where, where)).encode())
    answer = client.HTTPResponse(sock, method="CONNECT")
    try:
        answer.begin()
    except client.HTTPException as error:
        return {"outcome": "reset", "detail": repr(error)}
    if answer.status == 200:
        return None
    return _answer(answer, "proxy-denied", tunnel=True)


def _tls(sock, operation, name):
    import ssl

    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
    if operation.get("insecure"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return context.wrap_socket(sock, server_hostname=operation.get("sni") or name)
    except ssl.SSLCertVerificationError as error:
        return {"outcome": "tls-untrusted", "detail": str(error)}
    except ssl.SSLError as error:
        return {"outcome": "reset", "detail": str(error)}


def _exchange(client, sock, operation, authority, path):
    connection = client.HTTPConnection(authority)
    connection.sock = sock
    body = operation.get("body")
    headers = dict(operation.get("headers") or {}, Connection="close")
    if "size" in operation:
        body = "x" * operation["size"]
    try:
        connection.putrequest(operation.get("method", "GET"), path, skip_accept_encoding=True)
        if body is not None:
            headers.setdefault("Content-Length", str(len(body.encode("latin-1"))))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body.encode("latin-1") if body is not None else None)
        return _answer(connection.getresponse(), "answered")
    except client.HTTPException as error:
        return {"outcome": "reset", "detail": repr(error)}


def _answer(answer, outcome, tunnel=False):
    body = b"" if tunnel and answer.status == 200 else answer.read()
    return {
        "outcome": outcome,
        "status": answer.status,
        "headers": [[name.lower(), value] for name, value in answer.getheaders()],
        "body": body.decode("latin-1"),
    }


# -- what the agent can see of itself ----------------------------------------------------------------


def _status(operation, _deadline):
    """Read the identity and the capability sets of processes (proc(5))."""
    found = {}
    for pid in operation["pids"]:
        with open("/proc/%s/status" % pid) as file:
            lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        names = ("Name", "Uid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
        found[str(pid)] = {name: lines.get(name) for name in (*names, "Seccomp")}
    return {"outcome": "answered", "processes": found}


def _netlink(operation, _deadline):
    """Ask the kernel, without any tool, for changes of the network; report each answer."""
    requests = _changes(operation["gateway"], operation["device"])
    return {
        "outcome": "answered",
        "answers": {name: _ask(*request) for name, request in requests.items()},
    }


def _changes(gateway, device):
    index = socket.if_nametoindex(device)
    nobody = _packed(gateway)[:3] + b"\xfb"  # an address of the link that no guest has
    create, replace = 0x400, 0x100
    far = "203.0.113.7"  # a destination that nothing has a route to yet
    address = _attribute(1, _packed(far)) + _attribute(2, _packed(far))
    rule = struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)
    neighbour = struct.pack("BxxxiHBB", 2, index, 0x80, 0, 0)
    link = struct.pack("BxHiII", 0, 0, index, 1, 1)
    return {
        "replace the default route": (24, create | replace, _route(gateway, "0.0.0.0", 0, index)),
        "add a host route": (24, create, _route(gateway, far, 32, index)),
        "add a rule": (32, create, rule + _attribute(6, struct.pack("I", 4242))),
        "set a link": (16, 0, link + _attribute(4, struct.pack("I", 1400))),
        "add an address": (20, create, struct.pack("BBBBI", 2, 32, 0, 0, index) + address),
        "set a neighbour": (
            28,
            create | replace,
            neighbour + _attribute(1, nobody) + _attribute(2, b"\x02\0\0\0\0\x01"),
        ),
    }


def _route(gateway, destination, length, index):
    body = struct.pack("BBBBBBBBI", 2, length, 0, 0, 254, 4, 0, 1, 0)
    body += _attribute(1, _packed(destination)) if length else b""
    return body + _attribute(5, _packed(gateway)) + _attribute(4, struct.pack("i", index))


def _attribute(kind, data):
    return struct.pack("HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _packed(address):
    return socket.inet_pton(socket.AF_INET, address)


def _ask(kind, flags, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(2)
        sock.bind((0, 0))
        sock.send(struct.pack("IHHII", 16 + len(body), kind, 1 | 4 | flags, 1, 0) + body)
        answer = sock.recv(4096)
        code = -struct.unpack_from("i", answer, 16)[0]
        return errno.errorcode.get(code, str(code)) if code else "done"


def _prepare_route(operation):
    """Send a privileged probe's packets to one destination by a next hop of our choice."""
    if not operation.get("via"):
        return
    index = socket.if_nametoindex(operation.get("device", "eth0"))
    answer = _ask(24, 0x500, _route(operation["via"], operation["host"], 32, index))
    if answer not in ("done", "EEXIST"):
        raise OSError(getattr(errno, answer, 0), "route via %s: %s" % (operation["via"], answer))


def _arp(operation, deadline):
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


def _arp_answers(sock, deadline):
    found, end = {}, time.monotonic() + deadline
    while True:
        left = end - time.monotonic()
        if left <= 0:
            return found
        sock.settimeout(left)
        try:
            frame = sock.recv(256)
        except socket.timeout:
            return found
        if frame[20:22] == b"\0\2":
            found[socket.inet_ntoa(frame[28:32])] = frame[22:28].hex(":")


def _listen(operation, deadline):
    """Listen for visitors until the deadline; report each, with the first bytes it sent."""
    visitors = []
    end = time.monotonic() + deadline
    workers = []
    for kind, ports in (("tcp", operation.get("tcp", [])), ("udp", operation.get("udp", []))):
        for port in ports:
            args = (kind, port, end, visitors)
            workers.append(threading.Thread(target=_await_visitors, args=args, daemon=True))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"outcome": "listened", "visitors": visitors}


def _await_visitors(kind, port, end, visitors):
    with socket.socket(
        socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    ) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", port))
        if kind == "tcp":
            sock.listen(16)
        while time.monotonic() < end:
            sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                visitor, said = _visit(kind, sock)
            except socket.timeout:
                return
            visitors.append([kind, port, visitor, said.decode("latin-1")])


def _visit(kind, sock):
    if kind == "udp":
        said, peer = sock.recvfrom(512)
        return peer[0], said
    connection, peer = sock.accept()
    with connection:
        connection.settimeout(0.5)
        try:
            said = connection.recv(512)
            words = said.split()
            if len(words) == 2 and words[0] == b"BOTTLE":
                connection.sendall(_ECHO + b" " + words[1] + b"\n")
        except OSError:
            said = b""
        return peer[0], said


# -- the probe's own control ---------------------------------------------------------------------------


def _selftest(operation, deadline):
    """Run every kind of stimulus against sinks on our own loopback (CTL-02)."""
    nonce = operation["nonce"]
    records = {}
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen(8)
        udp.bind(("127.0.0.1", 0))
        tcp_port, udp_port = tcp.getsockname()[1], udp.getsockname()[1]
        for serve, sock in ((_serve_tcp, tcp), (_serve_udp, udp)):
            threading.Thread(target=serve, args=(sock, deadline), daemon=True).start()
        here = {"host": "127.0.0.1", "nonce": nonce}
        url = "http://127.0.0.1:%d/%s" % (tcp_port, nonce)
        trials = {
            "tcp": (_tcp, dict(here, port=tcp_port)),
            "udp": (_udp, dict(here, port=udp_port, answers=True)),
            "icmp": (_icmp, here),
            "http": (_http, {"url": url}),
            "closed": (_tcp, dict(here, port=1)),
        }
        for name, (run, arguments) in trials.items():
            try:
                records[name] = run(arguments, deadline)
            except OSError as error:
                records[name] = _failure(error)
    return {"outcome": "answered", "records": records}


def _serve_tcp(sock, deadline):
    sock.settimeout(deadline)
    try:
        while True:
            connection, _ = sock.accept()
            with connection:
                said = connection.recv(4096)
                if said.startswith(b"BOTTLE "):
                    connection.sendall(_ECHO + b" " + said[7:])
                else:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    except OSError:
        pass  # the self-test is over


def _serve_udp(sock, deadline):
    sock.settimeout(deadline)
    try:
        said, peer = sock.recvfrom(2048)
        sock.sendto(_ECHO + b" " + said, peer)
    except OSError:
        pass  # the self-test is over


_OPERATIONS = {
    "tcp": _tcp,
    "udp": _udp,
    "icmp": _icmp,
    "syn-sweep": _syn_sweep,
    "http": _http,
    "status": _status,
    "netlink": _netlink,
    "arp": _arp,
    "listen": _listen,
    "selftest": _selftest,
}

if __name__ == "__main__":
    main()
