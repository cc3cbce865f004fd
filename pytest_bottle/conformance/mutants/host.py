"""Mutants of the HST checks."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from pytest_bottle.backends.contract import Endpoint, Vantage
from pytest_bottle.backends.engines.netns.client import Client
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.conformance.mutants.base import Errand, Leaky, Meddler, NetnsBackend, mutant
from pytest_bottle.spec import SPIKE_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle._wire import Message
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.backends.engines.contract import SidecarRequest
    from pytest_bottle.spec import BottleSpec


@mutant("HST-01", also={"HST-05"})
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


@mutant("HST-06")
class LoopbackFromOutside(Leaky):
    """H takes packets for 127.0.0.0/8 from its outer segment.

    The catalogue takes Docker's rule against it away; here it is the kernel's own that goes.
    """

    def weaken(self, topology: Topology) -> None:
        bridge = self.netns.bridges[topology.egress.name]
        self.netns.configure("host", [["sysctl", f"net/ipv4/conf/{bridge}/route_localnet", "1"]])


class _Everywhere(NetnsEngine):
    """An engine that publishes a session's first port at every address of H."""

    def __init__(self) -> None:
        super().__init__()
        self._first = ""

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint | None:
        self._first = self._first or guest
        if request.publish and guest == self._first:
            request = request._replace(publish=request.publish._replace(host="0.0.0.0"))
        return super().run_sidecar(guest, request)


@mutant("HST-03", also={"HST-01", "HST-04", "HST-05"})
class PublishedEverywhere(AnsweringGateway):
    """The first bottle's port is published on 0.0.0.0, and H answers the internal network.

    Without the latter nothing would come of it here: no service of H does (HST-01). Further bottles
    publish other ports, for this one is taken at every address.
    """

    def __init__(self) -> None:
        super().__init__(_Everywhere())
        self._ports = itertools.count(SPIKE_PORT)

    def up(self, spec: BottleSpec) -> Topology:
        publish = spec.publish and dataclasses.replace(spec.publish, port=next(self._ports))
        return super().up(dataclasses.replace(spec, publish=publish))


class _Hardcoded(Client):
    """A line to the server that asks for 127.0.0.1 as well, for the first published port."""

    _done = False

    def call(
        self, operation: str, fds: Sequence[int] = (), /, **fields: Any
    ) -> tuple[Message, list[int]]:
        if operation == "sidecar" and fields["publish"] and not self._done:
            self._done = True
            fields["publish"] = [*fields["publish"], Endpoint("127.0.0.1", SPIKE_PORT)]
        return super().call(operation, fds, **fields)


@mutant("HST-04")
def published_at_a_fixed_address() -> NetnsBackend:
    """A fixture hard-codes 127.0.0.1, so the port is published there as well as at its alias.

    The catalogue's fixture only looks there, and finds nobody; then HST-03 has no control left.
    """
    return NetnsBackend(NetnsEngine(_Hardcoded()))
