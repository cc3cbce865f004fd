"""Mutants of the PXY checks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.conformance.mutants import patches
from pytest_bottle.conformance.mutants.base import Errand, Meddler, NetnsBackend, mutant, patched
from pytest_bottle.spec import EgressRoute

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_bottle.backends.contract import Endpoint, GuestInfo, Topology
    from pytest_bottle.backends.engines.contract import GuestRequest, SidecarRequest
    from pytest_bottle.spec import BottleSpec


class _Permissive(NetnsBackend):
    """The sidecar lets through more than it is told to."""

    more: tuple[EgressRoute, ...]

    def up(self, spec: BottleSpec) -> Topology:
        return super().up(dataclasses.replace(spec, egress=(*spec.egress, *self.more)))


@mutant("PXY-01", harness=True)
class EmptyList(NetnsBackend):
    """The sidecar's list is empty: it is the bottle that is broken, and no silence in it counts."""

    def up(self, spec: BottleSpec) -> Topology:
        return super().up(dataclasses.replace(spec, egress=()))


@mutant(
    "PXY-02",
    also={
        *("DNS-02", "DNS-06", "DNS-07", "PXY-03", "PXY-05", "PXY-06", "PXY-12", "PXY-13"),
        "PXY-19",
    },
)
class AllowAll(_Permissive):
    """The sidecar's default action is allow."""

    more = (EgressRoute("*", (80, 443)),)


@mutant("PXY-04", also={"PXY-12"})
def decides_on_host() -> NetnsBackend:
    """The sidecar decides on the Host header, and dials the request's target."""
    return tampered("decides_on_host")


@mutant("PXY-05", also={"PXY-06"})
def judges_once() -> NetnsBackend:
    """The sidecar judges the first request of each connection only; PXY-06 hides second ones."""
    return tampered("judges_once")


@mutant("PXY-06")
def forwards_both_framings() -> NetnsBackend:
    """The sidecar passes on messages that have both Content-Length and Transfer-Encoding."""
    return tampered("forwards_both_framings")


@mutant("PXY-07")
def looks_into_no_tls() -> NetnsBackend:
    """The sidecar goes by what CONNECT asked for, whatever TLS names inside."""
    return tampered("looks_into_no_tls")


@mutant("PXY-09")
class AnyPort(_Permissive):
    """The sidecar forgets ports when it looks for a host in its list."""

    more = (EgressRoute("allowed.test", tuple(range(1, 65536))),)


@mutant("PXY-22")
def keeps_old_tunnels() -> NetnsBackend:
    """A list that is made shorter holds for new connections only."""
    return tampered("keeps_old_tunnels")


def tampered(patch: str, home: ModuleType = patches) -> NetnsBackend:
    """Open a backend whose sidecars have been patched before they were born.

    ``patch`` is a function of :mod:`.patches`, or of another module that can do without the suite.
    It goes by source, to the process that they all descend from: nothing is imported there.
    """
    source = Path(str(home.__file__)).read_text()
    return patched(f"patches = {{}}; exec({source!r}, patches); patches[{patch!r}]()")


@mutant(
    "PXY-03",
    also={"DNS-06", "DNS-07", "PXY-02", "PXY-05", "PXY-06", "PXY-12", "PXY-13", "PXY-19"},
)
def lists_for_connect_only() -> NetnsBackend:
    """The sidecar looks at its list when it is asked for a tunnel, and only then."""
    return tampered("lists_for_connect_only")


@mutant("PXY-03-M2", also={"DNS-06", "PXY-12"})
def socks_without_a_list() -> NetnsBackend:
    """The sidecar speaks SOCKS5 too, TCP and UDP, and there it has no list."""
    return tampered("socks_without_a_list")


@mutant("PXY-12")
def reads_to_the_nul() -> NetnsBackend:
    """The sidecar's list and its resolver do not agree where a name ends."""
    return tampered("reads_to_the_nul")


@mutant("PXY-12-M2")
def socks_reads_to_the_nul() -> NetnsBackend:
    """The sidecar speaks SOCKS5 too, and there its list and its resolver do not agree."""
    return tampered("socks_reads_to_the_nul")


class _AnyAddress(NetnsEngine):
    """An engine whose sidecars may dial any address."""

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint | None:
        config = {**request.config, "address_exceptions": ["0.0.0.0/0", "::/0"]}
        return super().run_sidecar(guest, request._replace(config=config))


@mutant("PXY-10")
def any_address() -> NetnsBackend:
    """The sidecar does not look at the class of an address."""
    return NetnsBackend(_AnyAddress())


@mutant("PXY-15")
def points_at_itself() -> NetnsBackend:
    """The sidecar dials its own addresses, and those of any other class."""
    return tampered("points_at_itself")


@mutant("PXY-16")
def has_an_admin_door() -> NetnsBackend:
    """The sidecar serves a page on 0.0.0.0:8081, which stands in for mitmweb."""
    return tampered("has_an_admin_door")


@mutant("PXY-17", also={"DNS-09"})
def knows_its_host() -> NetnsBackend:
    """The sidecar takes the host's alias for an ordinary name, one that it lets through."""
    return tampered("knows_its_host")


@mutant("PXY-19")
def trusts_its_own_port() -> NetnsBackend:
    """The sidecar exempts clients by the port that they call from."""
    return tampered("trusts_its_own_port")


@mutant("PXY-21")
def empty_means_all() -> NetnsBackend:
    """The sidecar lets everything through if its list is empty."""
    return tampered("empty_means_all")


@mutant("PXY-23", also={"DNS-02", "DNS-06", "PXY-02"})
def forgets_refused_tunnels() -> NetnsBackend:
    """The sidecar leaves denials of CONNECT out of its record; others look for one there."""
    return tampered("forgets_refused_tunnels")


@mutant("PXY-24")
class SharedFolder(Meddler):
    """What the sidecar keeps in its folder is in the agent's as well.

    The catalogue's mutant mounts it there; here whatever is put into one is put into both.
    """

    def meddle(self, errand: Errand) -> Errand:
        if errand.vantage is Vantage.SIDECAR and b'"kind": "keep"' in errand.stdin:
            self.exec(errand.topology, Vantage.AGENT, errand.argv, stdin=errand.stdin)
        return errand


class _Outside(NetnsEngine):
    """An engine that puts agents on the egress network too: only variables lead to the proxy."""

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        if request.name.endswith("-agent"):
            egress = request.networks[0].replace("-internal", "-egress")
            request = request._replace(networks=(*request.networks, egress))
        return super().run_guest(request)


@mutant(
    "PXY-18",
    also={
        *("DNS-01", "DNS-02", "DNS-04", "HST-01", "HST-05", "IP6-01", "LAT-01", "NET-01"),
        *("NET-02", "NET-03", "NET-04", "NET-05", "NET-06", "NET-08", "NET-10", "NET-11"),
        "PXY-16",
    },
)
def isolated_by_variables() -> NetnsBackend:
    """Nothing but the proxy's variables keeps the agent from the outer network."""
    return NetnsBackend(_Outside())
