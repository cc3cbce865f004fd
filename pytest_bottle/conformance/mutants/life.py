"""Mutants of the LIFE checks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import LOSSES, Fault
from pytest_bottle.conformance.mutants.base import Leaky, NetnsBackend, mutant
from pytest_bottle.conformance.mutants.proxy import tampered

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology


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
