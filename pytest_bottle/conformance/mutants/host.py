"""Mutants of the HST checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.conformance.mutants.base import Errand, Leaky, Meddler, mutant

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology


@mutant("HST-01")
class AnsweringGateway(Leaky):
    """H's services answer the internal network, by every address of H.

    So does an internal network of Docker's without ``gateway_mode_ipv4=isolated``. Here H is given
    its way back to the internal network, ahead of the rule that takes it away.
    """

    def weaken(self, topology: Topology) -> None:
        self.add_rules(topology, Rule(10, iif="lo", to=topology.internal.subnet))


@mutant("HST-02")
class LoopbackOnTheWire(Leaky):
    """H takes packets for 127.0.0.0/8 from its internal bridge, and answers them (CVE-2020-8558).

    ``route_localnet`` alone lets nothing in: H has no way back to an internal network. So it gets
    one, for what 127.0.0.0/8 answers.
    """

    def weaken(self, topology: Topology) -> None:
        bridge = self.netns.bridges[topology.internal.name]
        self.netns.configure("host", [["sysctl", f"net/ipv4/conf/{bridge}/route_localnet", "1"]])
        inner = topology.internal.subnet
        self.add_rules(topology, Rule(10, iif="lo", to=inner, source="127.0.0.0/8"))


class _InPlaceOf(Meddler):
    """What inspects the agent finds itself in the place of another.

    Only that: were all that the agent sends sent from there, every other check would see it too.
    """

    place: Vantage

    def meddle(self, errand: Errand) -> Errand:
        moved = errand.is_the_agents and b'"id": "HST-08' in errand.stdin
        return errand._replace(vantage=self.place) if moved else errand


@mutant("HST-08")
class ContainerOfTheSidecar(_InPlaceOf):
    """The agent shares the sidecar's namespaces, as with ``--network container:S``."""

    place = Vantage.SIDECAR


@mutant("HST-08-M2")
class NamespacesOfTheHost(_InPlaceOf):
    """The agent shares the host's, as with ``--pid=host``, ``--network=host`` and the like."""

    place = Vantage.HOST
