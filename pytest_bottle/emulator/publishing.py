"""Published ports: a listener bound to exactly what was asked for, before anything runs behind it.

Each is there twice: on this machine, where tests are, and at the emulated Mac, where its guests
could reach it. macOS has one loopback address until somebody adds another (S23).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from typing import TYPE_CHECKING

from pytest_bottle.emulator import faults
from pytest_bottle.emulator.values import RefusedError
from pytest_bottle.errors import BottleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_bottle.emulator.containers import Container
    from pytest_bottle.emulator.machine import Machine


def open_all(
    machine: Machine,
    container: Container,
    guest: str,
    loopbacks: Sequence[str],
    switched_on: frozenset[str],
) -> list[Callable[[], None]]:
    """Open a container's published ports, all of which lead to its first network's address.

    Returns:
        what waits for each until it leads there; it raises the same error.

    Raises:
        RefusedError: one cannot be bound.
    """
    opened = []
    for one in container.configuration["publishedPorts"]:
        if one["proto"] != "tcp":
            raise RefusedError("a published UDP port is not emulated")
        for step in range(one["count"]):
            at = (one["hostAddress"], one["hostPort"] + step)
            target = (guest, one["containerPort"] + step)
            opened.append(_open(machine, container, at, target, loopbacks, switched_on))
    return opened


def _open(
    machine: Machine,
    container: Container,
    at: tuple[str, int],
    target: tuple[str, int],
    loopbacks: Sequence[str],
    switched_on: frozenset[str],
) -> Callable[[], None]:
    with _listen(*at, loopbacks) as door, _telling(at):
        if faults.LOCAL_NETWORK_PRIVACY in switched_on:
            process = machine.slam(door, at)
            container.publishers.append(lambda: machine.signal(process))
            return lambda: None
        there = machine.publish(container.id, door, at, target)

    def wait() -> None:
        with _telling(at):
            there()

    return wait


@contextlib.contextmanager
def _telling(at: tuple[str, int]) -> Iterator[None]:
    try:
        yield
    except BottleError as error:
        raise RefusedError(f"failed to bind {at[0]}:{at[1]}: {error.what}") from error


def _listen(address: str, port: int, loopbacks: Sequence[str]) -> socket.socket:
    """Bind as macOS would let an ordinary user."""
    own = ipaddress.ip_address(address)
    if own.version == 6:
        said = "cannot configure IPv6 port forwarding for container with unknown IPv6 address"
        raise RefusedError(said)
    if own.is_unspecified:
        address = "127.0.0.1"  # of this machine no other address is touched
    elif address not in loopbacks:
        raise RefusedError(
            f"bind(descriptor:ptr:bytes:): Can't assign requested address ({address}:{port})"
        )
    elif port < 1024:
        said = f"Permission denied while binding to host port {port}."
        raise RefusedError(f"{said} Binding to ports below 1024 requires root privileges.")
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        taken = "Address already in use" if error.errno == errno.EADDRINUSE else error.strerror
        said = f"bind(descriptor:ptr:bytes:): {taken} ({address}:{port})"
        raise RefusedError(said) from error
    return sock
