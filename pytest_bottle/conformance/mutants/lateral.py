"""Mutants of the LAT checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.conformance.mutants.base import Leaky, mutant

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology


@mutant("LAT-05")
class RoutingSidecar(Leaky):
    """The sidecar forwards between its networks.

    The catalogue masquerades as well. Here there is no nft: the lab's own route back to the
    internal network, by H and the sidecar, does the same harm.
    """

    def weaken(self, topology: Topology) -> None:
        self.netns.configure(topology.sidecar.name, [["sysctl", "net/ipv4/ip_forward", "1"]])
        bridge = self.netns.bridges[topology.egress.name]
        inward = (topology.internal.subnet, topology.egress.subnet)
        self.add_rules(topology, *(Rule(40, iif=bridge, to=network) for network in inward))
