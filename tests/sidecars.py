"""Sidecars to talk to over loopback: the reference proxy, a DNS server, and origins of any kind."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bottle.guest.dnswire import NXDOMAIN, build_answer, parse_query
from pytest_bottle.guest.proxy import Config, Timeouts, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader

    Handler = Callable[[socket.socket], None]
    Listen = Callable[[Handler], int]
    Start = Callable[..., "Sidecar"]

LOOPBACK = ("127.0.0.0/8",)
SHORT = Timeouts(connect=10.0, dns=10.0, head=10.0, idle=10.0, linger=0.5)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Reply(NamedTuple):
    """What came back for a request, as the standard library reads it."""

    status: int
    denied: str | None
    error: str | None
    body: bytes
    headers: dict[str, str]


class FakeDns:
    """A DNS server over UDP with a table of names; it remembers who was asked for."""

    def __init__(self) -> None:
        self.table = {"allowed.test": ["127.0.0.1"]}
        self.asked: list[str] = []
        self.silent = False
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.sock.getsockname()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def close(self) -> None:
        """End the thread with an empty datagram."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self.address)
        self.thread.join()
        self.sock.close()

    def _run(self) -> None:
        while True:
            data, source = self.sock.recvfrom(4096)
            if not data:
                return
            query = parse_query(data)
            self.asked.append(query.name)
            known = query.name in self.table
            addresses = self.table.get(query.name, [])
            answer = build_answer(query, addresses, rcode=0 if known else NXDOMAIN)
            if not self.silent:
                self.sock.sendto(answer, source)


class Sidecar:
    """A running proxy, its two doors and its audit record."""

    def __init__(self, config: Config) -> None:
        self.events: list[dict[str, Any]] = []
        self.doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.status_port = (door.getsockname()[1] for door in self.doors)
        arguments = (config, self.doors[:1], self.doors[1:], self.events.append)
        self.thread = threading.Thread(target=serve, args=arguments)
        self.thread.start()

    def close(self) -> None:
        """Shut both doors, which ends ``serve``."""
        for door in self.doors:
            door.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        for door in self.doors:
            door.close()

    def connect(self, port: int = 0) -> socket.socket:
        """A connection of the agent."""
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=30)

    def ask(self, *parts: bytes) -> Reply:
        """Send one request and read its answer, on a connection of its own."""
        with self.connect() as sock:
            for part in parts:
                sock.sendall(part)
            return answer(sock, parts[0].split(b" ")[0].decode("latin-1"))

    def get(self, target: str, *headers: str) -> Reply:
        """GET a target."""
        return self.ask(head("GET", target, *headers))

    def event(self, kind: str = "request") -> dict[str, Any]:
        """The only event of its kind, as soon as it is there."""
        found = self.wait(kind, 1)
        assert len(found) == 1
        return found[0]

    def wait(self, kind: str, count: int) -> list[dict[str, Any]]:
        """The events of a kind, as soon as there are enough."""
        wait_for(lambda: len([e for e in self.events if e["event"] == kind]) >= count)
        return [event for event in self.events if event["event"] == kind]


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def head(method: str, target: str, *headers: str) -> bytes:
    """A request head; its Host agrees with the target unless the headers have one."""
    authority = target if method == "CONNECT" else target.partition("://")[2].partition("/")[0]
    lines = [f"{method} {target} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append(f"Host: {authority}")
    return "\r\n".join([*lines, "", ""]).encode()


def answer(sock: socket.socket, method: str = "GET") -> Reply:
    """Read one response, and not a byte more."""
    response = http.client.HTTPResponse(Unbuffered(sock), method=method)  # type: ignore[arg-type]
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    tunnel = method == "CONNECT" and response.status == 200
    body = b"" if tunnel else response.read()
    denied, error = headers.get("x-bottle-denied"), headers.get("x-bottle-error")
    return Reply(response.status, denied, error, body, headers)


class Unbuffered:
    """A socket whose file reads nothing ahead."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def makefile(self, mode: str) -> BufferedReader:
        """As ``http.client`` wants it."""
        assert mode == "rb"
        return self.sock.makefile("rb", buffering=1)


def read_head(sock: socket.socket) -> bytes:
    """Read to the end of a message head, byte by byte."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        part = sock.recv(1)
        if not part:
            break
        data += part
    return data


def read_all(sock: socket.socket) -> bytes:
    """Read to the end."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def silent(sock: socket.socket) -> None:
    """An origin that listens to the end and says nothing."""
    read_all(sock)


def greeting(sock: socket.socket) -> None:
    """An origin that speaks first."""
    sock.sendall(b"secret")
    read_all(sock)


def reset(sock: socket.socket) -> None:
    """Let the coming close be a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def resetting(sock: socket.socket) -> None:
    """An origin that takes a head and resets the connection."""
    read_head(sock)
    reset(sock)


class Recorder:
    """An origin that keeps the heads and bodies it got and says ``ok``."""

    def __init__(self, reply: bytes = OK) -> None:
        self.reply = reply
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    def __call__(self, sock: socket.socket) -> None:
        """Serve one connection with one request."""
        text = read_head(sock)
        self.heads.append(text)
        size = [line for line in text.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = b""
        while size and len(body) < int(size[0].partition(b":")[2]):
            body += sock.recv(65536)
        if b"transfer-encoding: chunked" in text.lower():
            while not body.endswith(b"0\r\n\r\n"):
                body += sock.recv(65536)
        self.bodies.append(body)
        sock.sendall(self.reply)


def saying(text: bytes) -> Handler:
    """An origin that takes a head and says something that is no answer."""

    def say(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(text)

    return say
