"""The lab: a hermetic internet that owns every address, as one object."""

from __future__ import annotations

import ipaddress
import itertools
import threading
from typing import TYPE_CHECKING, ClassVar

from pytest_bottle.internet.lab import OriginClient, WitnessClient

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_bottle.internet.lab import Hearing, Mark


class Lab:
    """The far side of a hermetic bottle: its witness and its origins.

    Args:
        witness: the control connection of :func:`pytest_bottle.internet.witness.serve`.
        origin: the control connection of :func:`pytest_bottle.internet.origin.serve`.
    """

    name = "lab"
    literals = True
    #: AS112 (RFC 7534, RFC 7535) and AMT (RFC 7450): global to address guards, and ours in here.
    #: The first are for whom needs one whole, the others for whom needs it at one port only.
    _POOLS: ClassVar = {
        4: (("192.175.48.0/24",), ("192.31.196.0/24", "192.52.193.0/24")),
        6: (("2620:4f:8000:ff::/121",), ("2620:4f:8000:ff::80/121",)),
    }

    def __init__(self, witness: socket.socket, origin: socket.socket) -> None:
        self._sockets = (witness, origin)
        self.witness = WitnessClient(witness)
        self.origin = OriginClient(origin)
        self._whole = {family: _cycle(whole) for family, (whole, _) in self._POOLS.items()}
        self._at: dict[tuple[int, str, int], Iterator[str]] = {}
        self._lock = threading.Lock()

    def mark(self) -> Mark:
        """Take the witness's place in time: what it hears from here on."""
        return self.witness.mark()

    def heard(self, since: Mark, destinations: Sequence[str] | None = None) -> Hearing:
        """Tell what the witness heard since a mark."""
        return self.witness.heard(since, destinations)

    def listen(self, *, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> None:
        """Make the far side answer on these ports, at every address."""
        self.origin.listen(tcp=tcp, udp=udp)

    def address_of(self, name: str) -> str:
        """Tell the IPv4 address that the lab's DNS gives a name."""
        return self.addresses_of(name)[0]

    def addresses_of(self, name: str) -> tuple[str, ...]:
        """Tell the addresses that the lab's DNS gives a name, IPv4 first."""
        return self.origin.addresses(name)

    def adopt(self, name: str) -> tuple[str, ...]:
        """Own a name for the rest of the session, and tell its addresses, IPv4 first."""
        return self.origin.adopt(name)

    def fresh_address(self, family: int = 4, at: tuple[str, int] | None = None) -> str:
        """Hand out an address that no stimulus has been sent to for a while, at that port at least.

        One of 254 (IPv6: 126), or at a port one of 508 (127).
        """
        with self._lock:  # checks ask for many, from many threads
            if at is None:
                return next(self._whole[family])
            key = (family, *at)
            if key not in self._at:
                self._at[key] = _cycle(self._POOLS[family][1])
            return next(self._at[key])

    def close(self) -> None:
        """Let go of the control connections."""
        for sock in self._sockets:
            sock.close()


def _cycle(networks: Iterable[str]) -> Iterator[str]:
    hosts = [str(host) for one in networks for host in ipaddress.ip_network(one).hosts()]
    return itertools.cycle(hosts)
