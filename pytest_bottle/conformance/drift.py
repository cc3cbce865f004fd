"""Drift: what a bottle's network is made of is looked at again, and what differs is named."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.firing import run_one

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend, Topology

#: Where is looked: what a third party changes at the host shows in one of the two.
_PLACES = (Vantage.AGENT, Vantage.SIDECAR)
#: Seconds from one look to the next.
INTERVAL = 0.25

State = frozenset[str]


def state(backend: Backend, topology: Topology) -> State:
    """Look at the links, addresses, routes, listening ports and resolvers of agent and sidecar.

    Raises:
        TransportError: one of them cannot be looked at.
    """
    return frozenset(
        f"{place.value}: {word}"
        for place in _PLACES
        for word in run_one(backend, topology, place, {"kind": "network"})["network"]
    )


def differences(before: State, after: State) -> list[str]:
    """Name what came and what went."""
    return [*(f"new {one}" for one in sorted(after - before))] + [
        f"gone {one}" for one in sorted(before - after)
    ]


def watch(backend: Backend, topology: Topology, before: State, seconds: float) -> list[str]:
    """Look again and again until something differs from a state, or the time is over."""
    end = time.monotonic() + seconds
    while True:
        found = differences(before, state(backend, topology))
        if found or time.monotonic() > end:
            return found
        time.sleep(INTERVAL)


def address(word: str) -> str:
    """Read an address of /proc/net/route: hexadecimal, in the order of the machine's bytes."""
    return socket.inet_ntoa(int(word, 16).to_bytes(4, "little"))
