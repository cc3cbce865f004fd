"""Mutants of the IP6 checks."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_BLACKHOLE, FR_ACT_PROHIBIT, Rule
from pytest_bottle.backends.engines.netns.subnets import PREFIX6
from pytest_bottle.conformance.mutants import name_patches
from pytest_bottle.conformance.mutants.base import Leaky, NetnsBackend, mutant
from pytest_bottle.conformance.mutants.proxy import tampered

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.spec import BottleSpec

_EVERYTHING = "::/0"


class Version6(Leaky):
    """IPv6 is on at the internal network's gateway, and H forwards all of it or some."""

    def open_version6(self, topology: Topology, *rules: Rule) -> None:
        """Let H forward IPv6 from the internal bridge: all of it, or what ``rules`` let through."""
        bridge = self.netns.bridges[topology.internal.name]
        on = ["sysctl", f"net/ipv6/conf/{bridge}/disable_ipv6", "0"]
        address = ["address", bridge, {"cidr": f"{self._prefix(topology)}1/64"}]
        self.netns.configure("host", [on, address])
        inner = [rule._replace(priority=50, iif=bridge, family=socket.AF_INET6) for rule in rules]
        rest = Rule(60, FR_ACT_PROHIBIT, iif=bridge, family=socket.AF_INET6)
        self.add_rules(topology, *inner, *([rest] if rules else []))

    def give_version6(self, topology: Topology) -> None:
        """Give the agent an address, and the gateway as its way to everywhere."""
        prefix = self._prefix(topology)
        on = ["sysctl", "net/ipv6/conf/eth0/disable_ipv6", "0"]
        address = ["address", "eth0", {"cidr": f"{prefix}2/64"}]
        route = ["route", _EVERYTHING, {"via": f"{prefix}1"}]
        self.netns.configure(topology.agent.name, [on, address, route])

    def _prefix(self, topology: Topology) -> str:
        """A network of the pool that the lab knows the way back to, beside the egress networks."""
        number = int(topology.internal.subnet.split(".")[2])
        return f"{PREFIX6}2:{number:x}::"


@mutant("IP6-01", also={"DNS-01", "DNS-02", "HST-01", "LAT-01", "NET-11"})
class OpenVersion6(Version6):
    """Only IPv4 is held back: no policy was ever made for IPv6."""

    def weaken(self, topology: Topology) -> None:
        self.open_version6(topology)
        self.give_version6(topology)


@mutant("IP6-01-M2", also={"DNS-01"})
class RouterOfVersion6(Version6):
    """H forwards IPv6 for the internal bridge; the agent itself has no address."""

    def weaken(self, topology: Topology) -> None:
        self.open_version6(topology)


@mutant("IP6-02")
class BelievesRouters(NetnsBackend):
    """The agent believes whoever says on its link that he is a router."""

    def up(self, spec: BottleSpec) -> Topology:
        topology = super().up(spec)
        settings = {"accept_ra": "2", "disable_ipv6": "0"}
        changes = [["sysctl", f"net/ipv6/conf/eth0/{name}", to] for name, to in settings.items()]
        self.netns.configure(topology.agent.name, changes)
        return topology


@mutant("IP6-03")
class LinkLocalHost(Version6):
    """IPv6 is on at the host's end of the internal network, and nothing else is changed.

    H forwards nothing from there: it only has an address, at which its services answer.
    """

    def weaken(self, topology: Topology) -> None:
        bridge = self.netns.bridges[topology.internal.name]
        on = ["sysctl", f"net/ipv6/conf/{bridge}/disable_ipv6", "0"]
        self.netns.configure("host", [on, ["address", bridge, {"cidr": "fe80::1/64"}]])
        # In silence: H's refusals would quote what was sent, to whomever it names as its sender.
        self.add_rules(topology, Rule(60, FR_ACT_BLACKHOLE, iif=bridge, family=socket.AF_INET6))


@mutant("IP6-04")
def looks_at_version4_only() -> NetnsBackend:
    """The sidecar looks at the class of IPv4 addresses only."""
    return tampered("looks_at_version4_only", name_patches)
