"""QRK: what a platform does with networks and guests. Recorded; beside the catalogue's own."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Fault, Feature, Vantage
from pytest_bottle.conformance import drift
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.conformance.runs import names_of

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import NetworkInfo, Topology
    from pytest_bottle.conformance.bench import Bench

_DEFAULT = "route to 00000000/00000000 by "


@check(
    "QRK-01",
    "A dual-homed guest has one default route, in either order",
    level=Level.QUIRK,
    severity=Severity.LOW,
    witness=Witness.NO,
    needs=frozenset({Feature.EITHER_ORDER}),
    evidence=(
        "bot-bottle spike S9, S11, S12",
        "https://github.com/agentcage/agentcage/issues/120",
        "https://github.com/apple/containerization/pull/697",
    ),
    apart=True,
)
def one_default_route_in_either_order(bench: Bench) -> str:
    """A guest on both networks has a leg on each and one default route, whichever is named first.
    With the egress network first that route is by the egress gateway; where it leads in the other
    order is the platform's own way, and recorded.
    """
    with bench.another() as topology:
        first = _way_out(bench, topology, Vantage.SIDECAR)
        if first != "egress":
            raise bench.violation(f"egress network first: the default route is {first}")
        turned = _way_out(bench, topology, Vantage.REVERSED)
    decides = "it is the kind that decides" if turned == first else "it is the order that decides"
    return f"egress network first: by its gateway; internal first: by the {turned} one, {decides}"


def _way_out(bench: Bench, topology: Topology, vantage: Vantage) -> str:
    """Name the network by whose gateway a dual-homed guest's one default route leads."""
    record = bench.probe(vantage, {"kind": "network"}, topology=topology)
    if record["outcome"] != "answered":
        raise bench.inconclusive(f"{vantage.value} does not tell its routes: {record}")
    told: list[str] = record["network"]
    for network in (topology.internal, topology.egress):
        if not any(_is_leg(word, network) for word in told):
            raise bench.violation(f"{vantage.value} has no leg on the {_kind(network)} network")
    routes = [word for word in told if word.startswith(_DEFAULT) and not word.endswith(" lo")]
    if len(routes) != 1:
        raise bench.violation(f"{vantage.value} has {len(routes)} default routes: {routes}")
    gateway = drift.address(routes[0].removeprefix(_DEFAULT).split()[0])
    known = {one.gateway: _kind(one) for one in (topology.internal, topology.egress)}
    return known.get(gateway, f"by {gateway}")


def _is_leg(word: str, network: NetworkInfo) -> bool:
    """Tell whether a word is of an address in a network's subnet."""
    kind, _, rest = word.partition(" ")
    if kind != "address" or ":" in rest:
        return False
    return ip_network(network.subnet).overlaps(ip_network(rest.partition("/")[0]))


def _kind(network: NetworkInfo) -> str:
    return "internal" if network.internal else "egress"


#: What ends with a guest's processes on any platform; everything else of it is to stay.
_PASSING = ("process", "listener")


@check(
    "QRK-02",
    "A stopped guest is still listed, until it is removed",
    level=Level.QUIRK,
    severity=Severity.LOW,
    witness=Witness.NO,
    needs=frozenset({Feature.STOP, Feature.INVENTORY}),
    evidence=(
        "bot-bottle commit 7fc5a3af: 'Apple Container removes containers when they stop'",
        "apple/container 1.0.0, source: only --rm removes by itself",
        "https://github.com/apple/container/issues/2286",
    ),
    apart=True,
    alone=True,
)
def stopped_guests_stay(bench: Bench) -> str:
    """When the agent is stopped, and not removed, all that was listed of its bottle is listed
    still, but for processes and listeners; when the bottle is taken down, nothing of it is left.
    """
    before = bench.backend.inventory()
    with bench.another() as topology:
        there = {one for one in bench.backend.inventory() - before if one.kind not in _PASSING}
        if not there:
            raise bench.inconclusive("the inventory lists nothing of a running bottle")
        bench.backend.fault(topology, Fault.STOP_AGENT)
        gone = there - bench.backend.inventory()
    if gone:
        raise bench.violation(f"not listed any more when the agent had stopped: {names_of(gone)}")
    left = bench.backend.inventory() - before
    if left:
        raise bench.violation(f"still listed when the bottle was taken down: {names_of(left)}")
    return f"{len(there)} resources stayed with the stopped agent, and went with its bottle"
