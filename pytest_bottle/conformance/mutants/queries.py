"""Mutants of the DNS checks about other protocols, other records, and the proxy's lookups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engine_backend import RESOLVER
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, Rule
from pytest_bottle.conformance.mutants import name_patches
from pytest_bottle.conformance.mutants.base import (
    Leaky,
    NetnsBackend,
    mutant,
    patched_engine,
)
from pytest_bottle.conformance.mutants.host import AnsweringGateway
from pytest_bottle.conformance.mutants.names import Forwards, GivesResolver
from pytest_bottle.conformance.mutants.proxy import tampered

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.spec import BottleSpec


@mutant("DNS-02", also={"NET-04"})
class DnsOverTls(Leaky):
    """TCP to port 853 of any IPv4 address gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="tcp", port=853))
        self.give_default_route(topology)


class _Filters(Forwards):
    """The agent's own resolver, at the sidecar, passes on some of what it is asked."""

    def __init__(self) -> None:
        super().__init__(GivesResolver())

    def up(self, spec: BottleSpec) -> Topology:
        topology = super().up(spec)
        self.forward(topology, topology.sidecar.name, topology.sidecar_address)
        return topology._replace(resolvers=(topology.sidecar_address,))


@mutant("DNS-05")
class FiltersTwoTypes(_Filters):
    """The agent's own resolver refuses questions for A and AAAA, and passes on all others."""

    passes = r"data[-4:-2] not in (b'\0\1', b'\0\x1c')"


@mutant(
    "DNS-06",
    also={
        *("DNS-02", "DNS-07", "PXY-02", "PXY-03", "PXY-04", "PXY-05", "PXY-06"),
        *("PXY-12", "PXY-13", "PXY-19"),
    },
)
def resolves_first() -> NetnsBackend:
    """The sidecar looks a name up, and then looks at its list."""
    return tampered("resolves_first", name_patches)


@mutant("DNS-07", also={"NET-03"})
class PassesChildrenOn(_Filters):
    """The agent's own resolver takes a rule for one host for a rule about all names below it."""

    passes = r"b'\7allowed\4test\0' in data.lower()"


@mutant("DNS-08", also={"DNS-01", "DNS-04", "NET-05", "NET-10"})
class FiltersOneResolver(Leaky):
    """UDP to port 53 is kept from one resolver's address, the sidecar's, and from no other."""

    def weaken(self, topology: Topology) -> None:
        known = Rule(0, FR_ACT_PROHIBIT, to=f"{RESOLVER.host}/32", protocol="udp", port=53)
        self.open_gateway(topology, known, Rule(1, protocol="udp", port=53))
        self.give_default_route(topology)


#: Gives every guest without a resolver of its own a name for its gateway, in /etc/hosts.
_ALIAS = """
from pytest_bottle.backends.engines.netns import guests
own = guests._identity
def identity(hostname, cables, resolver):
    found = own(hostname, cables, resolver)
    names = "".join(f"{cable.gateway} host.docker.internal\\n" for cable in cables)
    return found if resolver else found._replace(hosts=found.hosts + names)
guests._identity = identity
"""


@mutant("DNS-09", also={"HST-01", "HST-05"})
class HostByItsAlias(AnsweringGateway):
    """The agent knows its host as ``host.docker.internal``, and is answered there."""

    def __init__(self) -> None:
        super().__init__(patched_engine(f"exec({_ALIAS!r}, {{}})"))
