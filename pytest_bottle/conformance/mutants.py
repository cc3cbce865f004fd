"""Mutants: backends weakened on purpose, one for each check that must catch it.

Each is a wrapper over the netns engine or backend: routes, rules and forwarding over rtnetlink, no
switch inside the engine. Where the catalogue's own mutant cannot exist here, one that does the same
harm stands in, and says so.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING

from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, Rule
from pytest_bottle.spec import EgressRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bottle.backends.contract import Backend, BackendInfo, Topology
    from pytest_bottle.spec import BottleSpec


class NetnsBackend(EngineBackend):
    """An engine backend whose engine is known to be netns, so that it can be tampered with."""

    def __init__(self, engine: NetnsEngine | None = None) -> None:
        self.netns = engine or NetnsEngine()
        self.mutant = ""
        super().__init__(self.netns)

    def describe(self) -> BackendInfo:
        """Name the engine, and whose mutant it is."""
        return super().describe()._replace(mutant=self.mutant)


class _Leaky(NetnsBackend, abc.ABC):
    """A bottle whose host forwards some of what its internal network hands to it.

    The catalogue's mutants insert nft rules that accept and masquerade. Here routing rules and
    forwarding do the same harm, and the lab's own route back stands in for the masquerade.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rules: dict[str, list[Rule]] = {}

    def up(self, spec: BottleSpec) -> Topology:
        topology = super().up(spec)
        self.weaken(topology)
        return topology

    def down(self, topology: Topology) -> None:
        self._change("delete_rule", self._rules.pop(topology.id, []))
        super().down(topology)

    @abc.abstractmethod
    def weaken(self, topology: Topology) -> None:
        """Open what the mutant opens."""

    def open_gateway(self, topology: Topology, *rules: Rule) -> None:
        """Let H forward from the internal bridge: all of it, or only what ``rules`` let through."""
        bridge = f"int{topology.internal.subnet.split('.')[2]}"
        inner = [rule._replace(priority=50, iif=bridge) for rule in rules]
        rest = [Rule(60, FR_ACT_PROHIBIT, iif=bridge)] if rules else []
        # Replies get the way back that H refuses to everybody else.
        back = Rule(40, iif="up0", to=topology.internal.subnet)
        self.add_rules(topology, *inner, *rest, back)
        setting = f"net/ipv4/conf/{bridge}/forwarding"
        self.netns.configure("host", [["sysctl", setting, "1"]])

    def give_default_route(self, topology: Topology) -> None:
        """Let the agent itself use the gateway."""
        route = ["route", "0.0.0.0/0", {"via": topology.internal.gateway}]
        self.netns.configure(topology.agent.name, [route])

    def add_rules(self, topology: Topology, *rules: Rule) -> None:
        """Add routing rules to H, until the bottle goes down."""
        self._change("rule", rules)
        self._rules[topology.id] = [*self._rules.get(topology.id, []), *rules]

    def _change(self, verb: str, rules: Sequence[Rule]) -> None:
        self.netns.configure("host", [[verb, rule._asdict()] for rule in rules])


class _LiteralTcp(_Leaky):
    """NET-01: TCP to ports 80 and 443 gets out by address, as in apple/container#2062.

    The catalogue accepts and masquerades these ports in nft; here two routing rules do the harm.
    """

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, *(Rule(0, protocol="tcp", port=port) for port in (80, 443)))
        self.give_default_route(topology)


class _OnePort(_Leaky):
    """NET-04: TCP to port 8448, which is on no list, gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="tcp", port=8448))
        self.give_default_route(topology)


class _Quic(_Leaky):
    """NET-05: UDP to port 443 gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="udp", port=443))
        self.give_default_route(topology)


class _Router(_Leaky):
    """NET-09: H forwards for the internal bridge; the agent still has no default route."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology)


class _AllowAll(NetnsBackend):
    """PXY-02: the sidecar's default action is allow."""

    def up(self, spec: BottleSpec) -> Topology:
        everything = EgressRoute("*", (80, 443))
        return super().up(dataclasses.replace(spec, egress=(*spec.egress, everything)))


class _RoutingSidecar(_Leaky):
    """LAT-05: the sidecar forwards between its networks.

    The catalogue masquerades as well. Here there is no nft: the lab's own route back to the
    internal network, by H and the sidecar, does the same harm.
    """

    def weaken(self, topology: Topology) -> None:
        self.netns.configure(topology.sidecar.name, [["sysctl", "net/ipv4/ip_forward", "1"]])
        bridge = f"egr{topology.egress.subnet.split('.')[2]}"
        inward = (topology.internal.subnet, topology.egress.subnet)
        self.add_rules(topology, *(Rule(40, iif=bridge, to=network) for network in inward))


class _KeepsNetworks(NetnsEngine):
    """RES-01: an engine that forgets to remove networks."""

    def delete_networks(self, names: Sequence[str]) -> None:
        del names


MUTANTS: dict[str, Callable[[], NetnsBackend]] = {
    "NET-01": _LiteralTcp,
    "NET-04": _OnePort,
    "NET-05": _Quic,
    "NET-09": _Router,
    "PXY-02": _AllowAll,
    "LAT-05": _RoutingSidecar,
    "RES-01": lambda: NetnsBackend(_KeepsNetworks()),
}


def open_mutant(identity: str) -> Backend:
    """Open the backend that the check of this ID must catch."""
    backend = MUTANTS[identity]()
    backend.mutant = identity
    return backend
