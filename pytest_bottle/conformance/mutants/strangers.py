"""Mutants of the checks about strangers, the agent's ports, spoofing and bottles side by side."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.conformance.mutants.base import Leaky, NetnsBackend, mutant
from pytest_bottle.conformance.mutants.lateral import OneNetwork

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import GuestInfo, Topology
    from pytest_bottle.spec import BottleSpec, EgressRoute


@mutant("LAT-03")
class NoWallToStrangers(NetnsBackend):
    """The host forwards from the strangers' network to the bottle's.

    The catalogue flushes the rules between bridges; here one rule stands before them.
    """

    def _attach(self, topology: Topology, vantage: Vantage) -> GuestInfo:
        guest = super()._attach(topology, vantage)
        if vantage is Vantage.STRANGER:
            bridge = self.netns.bridges[next(iter(guest.addresses))]
            self.add_rules(topology, Rule(40, iif=bridge, to=topology.internal.subnet))
        return guest


@mutant("LAT-06")
class Routed(Leaky):
    """The internal network is routed: the outer segment reaches it by the host."""

    def weaken(self, topology: Topology) -> None:
        bridge = self.netns.bridges[topology.egress.name]
        self.add_rules(topology, Rule(40, iif=bridge, to=topology.internal.subnet))


@mutant("LAT-04", also={"LAT-01", "LAT-02"})
class SharedSegment(OneNetwork):
    """All bottles are on one bridge, on which a privileged probe says what it likes.

    In the catalogue the agent has NET_RAW as well; here the probe stands for such an agent.
    """


@mutant("LAT-07")
class OnePolicy(NetnsBackend):
    """All bottles have one policy: what any of them was told so far."""

    def __init__(self) -> None:
        super().__init__()
        self._routes: dict[EgressRoute, None] = {}
        self._telling = threading.Lock()

    def up(self, spec: BottleSpec) -> Topology:
        with self._telling:
            self._routes |= dict.fromkeys(spec.egress)
            return super().up(dataclasses.replace(spec, egress=tuple(self._routes)))
