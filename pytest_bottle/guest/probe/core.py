"""The probe's heart: it reads the orders, runs every operation, and types each outcome by cause.

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
import socket
import sys
import threading
import time

TYPE_CHECKING = False  # checkers know the name; the module that has it would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Operation = dict[str, Any]
    Record = dict[str, Any]
    #: What is done for an operation, by a deadline in seconds.
    Act = Callable[[Operation, float], Record]

#: What a far end of the lab says before a nonce that it has read.
ECHO = b"BOTTLE-ECHO"
Timeout = socket.timeout  # TimeoutError itself since Python 3.10
#: Any other error says something about the probe and nothing about the network: "tool-error".
CAUSES = {
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
#: What each kind of operation does; filled by the modules that are here, see :func:`operation`.
OPERATIONS: dict[str, Act] = {}
_PRINTING = threading.Lock()


def operation(kind: str) -> Callable[[Act], Act]:
    """Bind a kind of operation to the function that does it: the only place that says so."""

    def bind(act: Act) -> Act:
        OPERATIONS[kind] = act
        return act

    return bind


def main() -> None:
    """Run every operation that standard input names, all at once, and say how many there were."""
    request = json.load(sys.stdin)
    threads: list[threading.Thread] = []
    for order in request["operations"]:
        _start(threads, order, request["deadline"])
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
    record = attempt(operation.get("kind"), operation, operation.get("deadline", deadline))
    elapsed = round(time.monotonic() - started, 4)
    _say(dict(record, id=operation["id"], elapsed=elapsed))


def attempt(kind: str | None, operation: Operation, deadline: float) -> Record:
    """Do an operation; whatever goes wrong has a cause, or is a fault of the probe's own."""
    return typed(lambda: OPERATIONS[kind or ""](operation, deadline))


def typed(act: Callable[[], Record]) -> Record:
    """Do something and return its record; an error becomes one, typed by cause."""
    try:
        return act()
    except Timeout:
        return {"outcome": "timeout"}
    except socket.gaierror as error:
        return {"outcome": "dns-failure", "detail": str(error)}
    except OSError as error:
        number = error.errno or 0
        cause, name = CAUSES.get(number, "tool-error"), errno.errorcode.get(number, str(number))
        return {"outcome": cause, "errno": name, "detail": str(error)}
    except Exception as error:  # noqa: BLE001 - a defect of the probe must be seen as one
        return {"outcome": "tool-error", "detail": f"{type(error).__name__}: {error}"}


def _say(record: Record) -> None:
    with _PRINTING:
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()


# -- what many operations need --------------------------------------------------------------------


def limit(sock: socket.socket, end: float) -> None:
    """Give a socket the time that is left; raises what it would raise if none is."""
    left = end - time.monotonic()
    if left <= 0:
        raise Timeout("the deadline is over")
    sock.settimeout(left)


def packed(address: str) -> bytes:
    """The bytes of an address, IPv4 or IPv6."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def place(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """A socket's address; of a zone, as in ``fe80::1%eth0``, Python wants the number (RFC 4007)."""
    address, zone, device = host.partition("%")
    return (address, port, 0, socket.if_nametoindex(device)) if zone else (host, port)


def table(path: str) -> list[list[str]]:
    """The words of a table's lines; a kernel without IPv6 has no such table."""
    try:
        with open(path) as file:
            return [line.split() for line in file]
    except FileNotFoundError:
        return []


def answer(trial: Callable[[], str]) -> str:
    """The name of the kernel's answer; a prober's own defect passes through."""
    try:
        return trial()
    except Timeout:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
