"""The emulated ``container`` as tests use it: by its command line, and nothing else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pytest_bottle import emulator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = "example.test/agent:1"


#: Tells whether a TCP connection comes about, by the name of what went wrong. A kernel answers.
DIAL = """
import errno, socket
try:
    socket.create_connection(({host!r}, {port}), 1.0).close()
    print("connected")
except socket.timeout:
    print("timeout")
except socket.gaierror:
    print("no such name")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
#: A query for the address of a name, by hand: whether an answer with records came back. A process
#: answers, which a busy machine may keep waiting.
ASK = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(3.0)
labels = b"".join(bytes([len(w)]) + w for w in {name!r}.encode().split(b"."))
question = labels + bytes([0, 0, 1, 0, 1])
try:
    sock.connect(({host!r}, 53))
    sock.send(bytes([7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + question)
    print(len(sock.recv(512)) > len(question) + 12)
except OSError as error:
    print(type(error).__name__)
"""
PING = """
import os, socket, struct
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
sock.settimeout({seconds})
head = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
total = sum(struct.unpack("!4H", head))
sock.sendto(head[:2] + struct.pack("!H", ~total & 0xFFFF) + head[4:], ({host!r}, 0))
try:
    sock.recv(512)
    print("answered")
except OSError as error:
    print(type(error).__name__)
"""
FAR = "1.1.1.1"  # inside the lab only
SERVE = (
    "python3",
    "-ISc",
    "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)",
)


class Said(NamedTuple):
    """What a call came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, read as JSON."""
        return json.loads(self.out)


class Place(Protocol):
    """Where a command line is installed, and what it needs in its environment."""

    @property
    def path(self) -> Path:
        """The executable."""

    @property
    def environment(self) -> dict[str, str]:
        """Its variables."""


class Cli:
    """The executable of an emulator, with faults for single calls."""

    def __init__(self, daemon: Place) -> None:
        self.daemon = daemon
        self.folder = daemon.path.parent

    def __call__(
        self, *argv: str, stdin: bytes = b"", faults: str = "", program: str = "container"
    ) -> Said:
        """Make a call, whatever it comes to."""
        variables = {**os.environ, **self.daemon.environment}
        variables |= {"BOTTLE_EMULATOR_FAULTS": faults} if faults else {}
        done = subprocess.run(
            [self.folder / program, *argv],
            input=stdin,
            env=variables,
            capture_output=True,
            check=False,
            timeout=200,
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    def within(self, seconds: float, *argv: str, faults: str) -> None:
        """Make a call that is ended when it takes too long.

        Raises:
            TimeoutError: it did.
        """
        variables = {**os.environ, **self.daemon.environment, "BOTTLE_EMULATOR_FAULTS": faults}
        try:
            subprocess.run([self.daemon.path, *argv], env=variables, check=False, timeout=seconds)
        except subprocess.TimeoutExpired as late:
            raise TimeoutError from late

    def ok(self, *argv: str, stdin: bytes = b"", faults: str = "") -> str:
        """Make a call that has to succeed; returns its standard output."""
        said = self(*argv, stdin=stdin, faults=faults)
        assert said.status == 0, said
        return said.out

    def load(self) -> None:
        """Have an image."""
        self.ok("image", "load", stdin=emulator.archive(IMAGE))

    def run(self, name: str, *options: str, faults: str = "") -> None:
        """Start a container that sleeps."""
        self.ok("run", "-d", "--name", name, *options, IMAGE, "sleep", "600", faults=faults)

    def inspect(self, name: str) -> Any:
        """The one element of ``inspect``."""
        (found,) = json.loads(self.ok("inspect", name))
        return found

    def address(self, name: str, network: int = 0) -> str:
        """A container's address on one of its networks."""
        leg = self.inspect(name)["status"]["networks"][network]
        return str(leg["ipv4Address"]).partition("/")[0]

    def python(self, name: str, code: str, *options: str) -> str:
        """Run Python in a container; returns what it prints."""
        return self.ok("exec", *options, name, "python3", "-ISc", code).strip()

    def dial(self, name: str, host: str, port: int) -> str:
        """Connect from a container; returns what became of it."""
        return self.python(name, DIAL.format(host=host, port=port))

    def ask(self, name: str, server: str) -> bool:
        """Query a DNS server from a container by hand; whether it had an answer."""
        return self.python(name, ASK.format(host=server, name="allowed.test")) == "True"

    def ping(self, name: str, host: str) -> bool:
        """Ping from a container; whether it was answered."""
        return self.python(name, PING.format(host=host, seconds=1.0)) == "answered"

    def at_mac(self, *argv: str) -> Said:
        """Run a command at the emulated Mac."""
        return self(*argv, program="emulated-mac")

    def clean(self) -> None:
        """Remove all containers and networks."""
        self.ok("delete", "--all", "--force")
        self.ok("network", "prune")


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


def answered(address: str, port: int) -> bytes:
    """Ask for a page; returns the first bytes that come, nothing after a reset."""
    try:  # a reset may be there before the connection is known to be
        with socket.create_connection((address, port), 30) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return sock.recv(12)
    except ConnectionResetError:
        return b""
