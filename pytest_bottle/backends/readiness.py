"""Waiting until a part of a bottle is ready, or dead, or late.

Ports are looked at from the internal network, where the agent sits: what accepts at the host, or on
the way, may accept before the service listens (testcontainers-python issue 1114).
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_bottle.errors import BringUpError, ConfigurationError, DeadlineError, TransportError
from pytest_bottle.waiting import AllOf, AnyOf, Condition, Exec, File, Http, Log, Port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.backends.contract import Endpoint
    from pytest_bottle.backends.engines.contract import Engine

#: Seconds between two looks: the first time, and at most; and how fast they grow.
_FIRST, _LONGEST, _GROWTH = 0.05, 1.0, 1.5
#: Seconds for one connection.
_CONNECT = 2.0
_LAST_LINES = 50
#: Connects and, if a path is given, asks for it; prints what came of it.
_VISIT: Final = """
import socket, sys
host, port, path, wait = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
try:
    with socket.create_connection((host, port), wait) as s:
        if path:
            head = "GET %s HTTP/1.1\\r\\nHost: %s:%d\\r\\nConnection: close\\r\\n\\r\\n"
            s.sendall((head % (path, host, port)).encode())
            print((s.makefile("rb").readline(200).split() + [b"", b"", b""])[1].decode("latin-1"))
        else:
            print("accepts")
except OSError as error:
    print(error.strerror or error)
"""
_EXISTS: Final = "import os, sys; print('there' if os.path.exists(sys.argv[1]) else 'not there')"


class Part(NamedTuple):
    """A guest whose own command is waited for.

    Attributes:
        guest: its name.
        visitor: the guest on the internal network that ports are looked at from.
        address: its internal address, and the port that a condition means by 0.
        python: the interpreter in both guests.
        command: what runs, for messages.
        user: whom it runs as.
        environment: its variables.
    """

    engine: Engine
    guest: str
    visitor: str
    address: Endpoint
    python: str
    command: Sequence[str]
    user: str
    environment: Mapping[str, str]


def check(condition: Condition, where: str) -> None:
    """Refuse a condition that no part could ever meet.

    Raises:
        ConfigurationError: a pattern is no regular expression.
    """
    for one in condition.conditions if isinstance(condition, AllOf | AnyOf) else ():
        check(one, where)
    if isinstance(condition, Log):
        try:
            re.compile(condition.pattern)
        except re.error as error:
            raise ConfigurationError(
                "a pattern cannot be read",
                where=where,
                expected="a regular expression of Python's",
                seen=f"{condition.pattern!r}: {error}",
            ) from None


def wait(part: Part, condition: Condition, timeout: float) -> None:
    """Wait until a condition is met.

    Raises:
        BringUpError: the part's command has ended, or the time is over.
    """
    started, pause, seen = time.monotonic(), _FIRST, ""
    while True:
        left = started + timeout - time.monotonic()
        end = part.engine.ended(part.guest)
        if end is None and left > 0:
            try:
                seen = _look(part, condition, left)
            except DeadlineError:  # the time was over in the middle of it: the one before counts
                seen = seen or "the first look took too long"
            end = part.engine.ended(part.guest, min(pause, left) if seen else 0.0)
            if end is None and not seen:
                return
        waited = time.monotonic() - started
        if end is not None:
            raise _failed(part, condition, "ended before it was ready", f"{end}, after", waited)
        if waited >= timeout:
            raise _failed(part, condition, "was not ready in time", f"{seen}, after", waited)
        pause = min(pause * _GROWTH, _LONGEST)


def _failed(part: Part, condition: Condition, what: str, seen: str, waited: float) -> BringUpError:
    lines = part.engine.output(part.guest).decode(errors="replace").splitlines()
    words = "\n".join(["its last words:", *lines[-_LAST_LINES:]]) if lines else "it wrote nothing"
    return BringUpError(
        f"the sidecar {what}",
        where=f"{part.guest}: {' '.join(part.command)[:200]}",
        expected=f"a command that stays, and {describe(condition, part.address)}",
        seen=f"{seen} {waited:.1f} s; {words}",
        next_step="let it run in the foreground and listen on BOTTLE_ADDRESS, BOTTLE_PORT; or "
        "change what is waited for, or the timeout",
    )


def describe(condition: Condition, address: Endpoint) -> str:
    """Say what is waited for, in words."""
    if isinstance(condition, Port):
        return f"port {condition.number or address.port} of {address.host} accepts"
    if isinstance(condition, Http):
        where = f"http://{address.host}:{condition.port or address.port}{condition.path}"
        return f"{where} answers {condition.status}"
    if isinstance(condition, Log):
        return f"a line of output matches {condition.pattern!r}"
    if isinstance(condition, Exec):
        return f"{' '.join(condition.argv)!r} ends with 0"
    if isinstance(condition, File):
        return f"{condition.path} exists"
    word = " and " if isinstance(condition, AllOf) else " or "
    return f"({word.join(describe(one, address) for one in condition.conditions)})"


def _look(part: Part, condition: Condition, left: float) -> str:
    """Look once; returns what is still amiss, empty if nothing is."""
    if isinstance(condition, AllOf):
        looks = (_look(part, one, left) for one in condition.conditions)
        return next(filter(None, looks), "")
    if isinstance(condition, AnyOf):
        seen = []
        for one in condition.conditions:
            seen.append(_look(part, one, left))
            if not seen[-1]:
                return ""
        return "; ".join(seen)
    try:
        return _look_at(part, condition, left)
    except DeadlineError:
        raise
    except TransportError as error:
        return f"{error.what}: {error.seen}"


def _look_at(part: Part, condition: Port | Http | Log | Exec | File, left: float) -> str:
    if isinstance(condition, Port):
        seen = _visit(part, condition.number, "", left)
        return "" if seen == "accepts" else seen
    if isinstance(condition, Http):
        seen = _visit(part, condition.port, condition.path, left)
        return "" if seen == str(condition.status) else seen or "no answer"
    if isinstance(condition, Log):
        lines = part.engine.output(part.guest).decode(errors="replace").splitlines()
        found = any(re.search(condition.pattern, line) for line in lines)
        return "" if found else f"{len(lines)} lines, none of them"
    if isinstance(condition, Exec):
        result = part.engine.exec(
            part.guest,
            condition.argv,
            user=part.user,
            environment=part.environment,
            timeout=left,
        )
        return "" if result.ok else f"exit {result.exit_status} {result.err[-200:]}".strip()
    argv = (part.python, "-I", "-S", "-c", _EXISTS, condition.path)
    seen = part.engine.exec(part.guest, argv, user="root", timeout=left).out
    return "" if seen == "there" else seen


def _visit(part: Part, port: int, path: str, left: float) -> str:
    host, number = part.address.host, port or part.address.port
    argv = [part.python, "-I", "-S", "-c", _VISIT, host, str(number), path]
    result = part.engine.exec(part.visitor, [*argv, str(min(left, _CONNECT))], timeout=left)
    return result.out or result.err
