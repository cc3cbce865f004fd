"""Mutants of the LAT checks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, Rule
from pytest_bottle.conformance.mutants.base import Leaky, NetnsBackend, mutant

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


@mutant("LAT-01", also={"LAT-02"})
class OneNetwork(NetnsBackend):
    """All bottles are on one internal network: the first one's, who must go down last."""

    def __init__(self) -> None:
        super().__init__()
        self._shared = ""
        self._sharing = threading.Lock()

    def _network(self, bottle: str, role: str, subnet: str) -> str:
        if role != "internal":
            return super()._network(bottle, role, subnet)
        with self._sharing:
            if not self._shared:
                self._shared = super()._network(bottle, role, subnet)
            return self._shared


@mutant("LAT-02")
class LentSidecars(Leaky):
    """The first bottle's agent reaches later bottles' sidecars, by the gateways, and them only.

    In the catalogue the sidecars' inner legs share a network. Here H forwards between the internal
    networks what is for those sidecars, and what they answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first: Topology | None = None

    def weaken(self, topology: Topology) -> None:
        if self._first is None:
            self._first = topology
            self._open(topology)
        else:
            self._open(topology)
            self._lend(topology, self._first)

    def _open(self, topology: Topology) -> None:
        """Let H forward for a bridge, but nothing yet."""
        bridge = self.netns.bridges[topology.internal.name]
        self.add_rules(topology, Rule(60, FR_ACT_PROHIBIT, iif=bridge))
        self.netns.configure("host", [["sysctl", f"net/ipv4/conf/{bridge}/forwarding", "1"]])

    def _lend(self, theirs: Topology, ours: Topology) -> None:
        mine, other = (self.netns.bridges[one.internal.name] for one in (ours, theirs))
        agent, sidecar = f"{ours.agent_address}/32", f"{theirs.sidecar_address}/32"
        there = Rule(50, iif=mine, source=agent, to=sidecar)
        back = Rule(50, iif=other, source=sidecar, to=agent)
        self.add_rules(theirs, there, back)
        for one, to in ((ours.agent, sidecar), (theirs.sidecar, agent)):
            gateway = (ours if one is ours.agent else theirs).internal.gateway
            change = ["route", to, {"via": gateway, "replace": True}]
            self.netns.configure(one.name, [change])
