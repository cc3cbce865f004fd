"""Mutants of the NET checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.conformance.mutants.base import Leaky, mutant

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology


@mutant("NET-01", also={"IP6-01", "NET-03", "NET-04", "NET-09", "PXY-18"})
class LiteralTcp(Leaky):
    """TCP to ports 80 and 443 gets out by address, as in apple/container#2062.

    The catalogue accepts and masquerades these ports in nft; here two routing rules do the harm.
    """

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, *(Rule(0, protocol="tcp", port=port) for port in (80, 443)))
        self.give_default_route(topology)


@mutant("NET-04")
class OnePort(Leaky):
    """TCP to port 8448, which is on no list, gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="tcp", port=8448))
        self.give_default_route(topology)


@mutant("NET-05", also={"IP6-01", "NET-09"})
class Quic(Leaky):
    """UDP to port 443 gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="udp", port=443))
        self.give_default_route(topology)


@mutant("NET-09", also={"DNS-01", "LAT-01", "LAT-02", "NET-04", "NET-05"})
class Router(Leaky):
    """H forwards for the internal bridge; the agent still has no default route."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology)
