"""Mutants of the LIFE checks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import LOSSES, Fault, User
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, Rule
from pytest_bottle.conformance.mutants.base import Errand, Leaky, Meddler, NetnsBackend, mutant
from pytest_bottle.conformance.mutants.proxy import tampered
from pytest_bottle.errors import BringUpError

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import ExecResult, Topology, Vantage


class _Later(Leaky):
    """A bottle that is sound when it comes up."""

    def weaken(self, topology: Topology) -> None:
        """Leave the bottle sound, for now."""


@mutant("LIFE-02")
class DirectFallback(_Later):
    """When the sidecar is lost, a watchdog gives the agent a way out of its own.

    In the catalogue it attaches the agent to the outer network. Here H begins to forward for the
    internal one, and the agent gets its default route.
    """

    def fault(self, topology: Topology, fault: Fault) -> None:
        super().fault(topology, fault)
        if fault in LOSSES:
            self.open_gateway(topology)
            self.give_default_route(topology)


@mutant("LIFE-01")
class FilteredLate(_Later):
    """The agent's command is started 200 ms before the host stops forwarding for it."""

    def _start_agent(self, topology: Topology) -> None:
        self.open_gateway(topology)
        self.give_default_route(topology)
        super()._start_agent(topology)
        time.sleep(0.2)
        self.close_gateway(topology)


@mutant("LIFE-04")
class KeyedToTheFirst(_Later):
    """What isolates the agent is keyed to its first incarnation; the second one is let out."""

    def fault(self, topology: Topology, fault: Fault) -> None:
        super().fault(topology, fault)
        if fault is Fault.RESTART_AGENT:
            self.open_gateway(topology)
            self.give_default_route(topology)


@mutant("LIFE-03")
def policy_comes_late() -> NetnsBackend:
    """The sidecar listens at once, and knows its policy 300 ms later."""
    return tampered("knows_its_policy_late")


@mutant("LIFE-05")
class HeldByRules(_Later):
    """The host forwards for the internal network but for a rule, which a reload does not set anew.

    It is a routing rule, as everything that stands for a firewall is here.
    """

    def weaken(self, topology: Topology) -> None:
        bridge = self.netns.bridges[topology.internal.name]
        self.open_gateway(topology)
        self.give_default_route(topology)
        self.add_rules(topology, Rule(10, FR_ACT_PROHIBIT, iif=bridge))

    def fault(self, topology: Topology, fault: Fault) -> None:
        super().fault(topology, fault)
        if fault is Fault.RELOAD_FIREWALL:
            self.drop_rules(topology, 10)


@mutant("LIFE-06")
class OpensLater(Meddler, _Later):
    """When the agent of a further bottle makes namespaces, the host begins to forward for it.

    In the catalogue a timer in the test's body flushes the filter.
    """

    def meddle(self, errand: Errand) -> Errand:
        asks = errand.is_the_agents and b'"kind": "nest"' in errand.stdin
        if asks and errand.topology.id != "b1" and errand.user is User.AGENT:
            self.open_gateway(errand.topology)
            self.give_default_route(errand.topology)
        return errand


@mutant("LIFE-06-M2")
class LooksOnce(Meddler):
    """Who looks for drift sees what was there at the first look."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, Vantage], ExecResult] = {}

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        if b'"kind": "network"' not in errand.stdin:
            return errand
        place = errand.topology.id, errand.vantage
        if place not in self._seen:
            self._seen[place] = NetnsBackend.exec(
                self, errand.topology, errand.vantage, errand.argv, stdin=errand.stdin
            )
        return self._seen[place]


@mutant("LIFE-07")
class StartsAnyway(NetnsBackend):
    """When the sidecar does not get ready, the agent is started all the same."""

    def _complete(self, topology: Topology) -> None:
        try:
            super()._complete(topology)
        except BringUpError:
            self._start_agent(topology)
