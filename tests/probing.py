"""Running the probe as the suite does: its program and its orders on standard input."""

from __future__ import annotations

import json
import pkgutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bottle.firing import _BOOT, probe_program
from pytest_bottle.guest import probe
from pytest_bottle.guest.probe import core

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import ModuleType

NONCE = "0123456789abcdef" * 2
Record = dict[str, Any]


def modules() -> list[ModuleType]:
    """All modules of the probe, imported."""
    names = [found.name for found in pkgutil.iter_modules(probe.__path__)]
    return [import_module(f"{probe.__name__}.{name}") for name in names]


def attempt(kind: str, operation: Record, deadline: float = 1.0) -> Record:
    """Do one operation in this process, whose kernel or library may have been tampered with."""
    modules()
    return core.attempt(kind, operation, deadline)


def run(
    orders: bytes, kinds: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the probe with the given bytes behind its program, which is for these kinds."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", _BOOT],
        input=probe_program(kinds) + orders,
        capture_output=True,
        check=False,
        timeout=200,
        env=None if environment is None else dict(environment),
    )


def volley(
    operations: list[Record], deadline: float = 30.0, environment: Mapping[str, str] | None = None
) -> list[Record]:
    """Run operations at once; returns every line that the probe wrote, in the order of writing."""
    orders = json.dumps({"deadline": deadline, "operations": operations}).encode()
    done = run(orders, [operation["kind"] for operation in operations], environment)
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


def ask(
    kind: str,
    *,
    deadline: float = 30.0,
    environment: Mapping[str, str] | None = None,
    **fields: object,
) -> Record:
    """Run one operation and return its record."""
    operation = {"id": "one", "kind": kind, "nonce": NONCE, **fields}
    record, last = volley([operation], deadline, environment)
    assert (record.pop("id"), last) == ("one", {"done": 1})
    assert record.pop("elapsed") >= 0
    return record


@contextmanager
def nobody_listens() -> Iterator[int]:
    """A TCP port of 127.0.0.1 that refuses, and that nobody else can take meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def never_accepts() -> Iterator[int]:
    """A TCP port of 127.0.0.1 whose queue is full: a handshake with it never ends."""
    with socket.socket() as sock, socket.socket() as first, socket.socket() as second:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()[1]


def look(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of the tests beside us, in a network of its own perhaps; returns what it saw."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
