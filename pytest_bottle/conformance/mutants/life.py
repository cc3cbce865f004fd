"""Mutants of the LIFE checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.conformance.mutants.base import Leaky, mutant

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Fault, Topology


@mutant("LIFE-02")
class DirectFallback(Leaky):
    """When the sidecar is lost, a watchdog gives the agent a way out of its own.

    In the catalogue it attaches the agent to the outer network. Here H begins to forward for the
    internal one, and the agent gets its default route.
    """

    def weaken(self, topology: Topology) -> None:
        """Leave the bottle sound, for now."""

    def fault(self, topology: Topology, fault: Fault) -> None:
        super().fault(topology, fault)
        self.open_gateway(topology)
        self.give_default_route(topology)
