"""Mutants of the NET checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engine_backend import RESOLVER
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, RTN_BLACKHOLE, Rule
from pytest_bottle.conformance.mutants.base import Leaky, mutant

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import GuestInfo, Topology
    from pytest_bottle.backends.engines.contract import GuestRequest


@mutant(
    "NET-01",
    also={
        *("IP6-01", "NET-03", "NET-04", "NET-06", "NET-08", "NET-09", "NET-10", "NET-11"),
        "PXY-18",
    },
)
class LiteralTcp(Leaky):
    """TCP to ports 80 and 443 gets out by address, as in apple/container#2062.

    The catalogue accepts and masquerades these ports in nft; here two routing rules do the harm.
    """

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, *(Rule(0, protocol="tcp", port=port) for port in (80, 443)))
        self.give_default_route(topology)


@mutant("NET-04")
class OnePort(Leaky):
    """TCP to port 8448, which is on no list, gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="tcp", port=8448))
        self.give_default_route(topology)


@mutant("NET-05", also={"IP6-01", "NET-08", "NET-09"})
class Quic(Leaky):
    """UDP to port 443 gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="udp", port=443))
        self.give_default_route(topology)


@mutant(
    "NET-09",
    also={"DNS-01", "LAT-01", "LAT-02", "NET-04", "NET-05", "NET-06", "NET-07", "NET-08"},
)
class Router(Leaky):
    """H forwards for the internal bridge; the agent still has no default route."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology)


@mutant("NET-02", also={"LAT-01", "NET-09"})
class Pings(Leaky):
    """ICMP gets out, and nothing else."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="icmp"))
        self.give_default_route(topology)


class _Resolving(NetnsEngine):
    """An engine whose agents ask the sidecars' resolver."""

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        if request.name.endswith("-agent"):
            request = request._replace(resolver=RESOLVER.host)
        return super().run_guest(request)


@mutant("NET-03", also={"DNS-03", "DNS-05", "DNS-07", "PXY-18"})
class WayByName(Leaky):
    """The agent has a route to the far side's names only: TCP 443 there, and their resolver.

    The catalogue opens the one address of the allowed name. Here the resolver has to be open too:
    a name with a nonce in it is in no file of hosts.
    """

    #: Where the lab's names are, and its resolver (:mod:`pytest_bottle.internet.zone`).
    names = "192.88.99.0/24"

    def __init__(self) -> None:
        super().__init__(_Resolving())

    def weaken(self, topology: Topology) -> None:
        web = Rule(0, protocol="tcp", port=443, to=self.names)
        resolver = Rule(0, protocol="udp", port=53, to=f"{RESOLVER.host}/32")
        self.open_gateway(topology, web, resolver)
        self.give_route(topology, self.names)


@mutant("NET-10", also={"HST-05"})
class HomeLan(Leaky):
    """A part of the private networks can be reached, as on a bridge to a home's LAN."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, to="192.168.0.0/16"))
        self.give_route(topology, "192.168.0.0/16")


@mutant("NET-11")
class Metadata(Leaky):
    """The agent has a route to the metadata service, and the host forwards it."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, to="169.254.169.254/32"))
        self.give_route(topology, "169.254.169.254/32")


@mutant("NET-12")
class Silent(Leaky):
    """The agent has a default route, and the gateway drops what comes by it without a word."""

    def weaken(self, topology: Topology) -> None:
        self.give_default_route(topology)


@mutant(
    "NET-06",
    also={
        *("DNS-02", "IP6-01", "LAT-01", "LAT-02", "NET-01", "NET-03", "NET-04", "NET-08"),
        *("HST-05", "NET-09", "NET-10", "NET-11", "PXY-18"),
    },
)
class DropsReplies(Leaky):
    """TCP gets out by the gateway, and only what comes back is dropped: the far side's answers are.

    The catalogue drops them at the host. There they would have to be told from what shows that
    there is a way back, without which the host takes nothing in.
    """

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, Rule(0, protocol="tcp"))
        self.give_default_route(topology)
        hole = ["route", topology.internal.subnet, {"kind": RTN_BLACKHOLE, "replace": True}]
        self.netns.configure("lab", [hole])


@mutant("NET-07")
class ThreeProtocols(Leaky):
    """The host drops TCP, UDP and ICMP of the internal network, and forwards everything else."""

    def weaken(self, topology: Topology) -> None:
        known = [Rule(0, FR_ACT_PROHIBIT, protocol=name) for name in ("tcp", "udp", "icmp")]
        self.open_gateway(topology, *known, Rule(0))


@mutant("NET-08", also={"DNS-01"})
class FromPort53(Leaky):
    """What comes from port 53, by TCP or UDP, gets out."""

    def weaken(self, topology: Topology) -> None:
        self.open_gateway(topology, *(Rule(0, protocol=name, origin=53) for name in ("tcp", "udp")))
        self.give_default_route(topology)
