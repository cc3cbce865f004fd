"""The checks of IPv6 and of names on backends that a hasty check would misjudge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engines.netns.subnets import PREFIX6
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.conformance.mutants.ipv6 import Version6
from pytest_bottle.conformance.mutants.names import Forwards
from pytest_bottle.errors import Inconclusive, Violation
from tests.judging import named, run_check
from tests.mute import Mute

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.spec import BottleSpec

pytestmark = pytest.mark.usefixtures("netns_works")


# -- alone -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["DNS-04", "DNS-06", "PXY-13"])
def test_a_judge_of_names_rests_on_no_other_check(identity: str) -> None:
    """Who fires it alone has its controls all the same."""
    backend = NetnsBackend()
    try:
        checks = [named(one) for one in ("CTL-02", "PXY-01", identity)]
        assert Bench(backend, checks=checks).run(checks[-1])
    finally:
        backend.close()


# -- routers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ((Vantage.PRIVILEGED, "advertise", "sent"), "did not take the router's prefix up"),
        ((Vantage.BYSTANDER, "set", "tool-error"), "cannot be made to listen"),
        ((Vantage.AGENT, "ipv6", "tool-error"), "tables cannot be read"),
    ],
)
def test_a_router_that_nobody_heard_proves_nothing(
    backend: tuple[Vantage, str, str], why: str
) -> None:
    """Without its control, or the agent's own tables, IP6-02 is inconclusive."""
    with pytest.raises(Inconclusive, match=why):
        run_check(Mute(*backend), "IP6-02")


class Given(Version6):
    """The agent has IPv6 on purpose, or by mistake; nothing is forwarded."""

    declared = True

    def weaken(self, topology: Topology) -> None:
        """Give the agent an address and a router."""
        self.give_version6(topology)

    def up(self, spec: BottleSpec) -> Topology:
        """Bring a bottle up, and say so or not."""
        topology = super().up(spec)
        network = topology.internal._replace(
            subnet6=f"{self._prefix(topology)}/64" if self.declared else ""
        )
        return topology._replace(internal=network)


class Unmeant(Given):
    """Nobody declared it."""

    declared = False


def test_declared_addresses_are_as_they_should_be() -> None:
    """Where the topology has IPv6, its addresses are no violation; routers are ignored as ever."""
    assert f"{PREFIX6}2:" in run_check(Given(), "IP6-02")


def test_an_address_that_nobody_declared_is_found() -> None:
    """It needs no router to be one too many."""
    with pytest.raises(Violation, match="before any router spoke"):
        run_check(Unmeant(), "IP6-02")


# -- resolvers ------------------------------------------------------------------------------------


class Sinkhole(Forwards):
    """The bridge's address refuses every question, and asks nobody."""

    passes = "False"
    declared = True

    def up(self, spec: BottleSpec) -> Topology:
        """Bring a bottle up, and say so or not."""
        topology = super().up(spec)
        self.forward(topology, "host", topology.internal.gateway)
        return topology._replace(resolvers=(topology.internal.gateway,) if self.declared else ())


class Unknown(Sinkhole):
    """Nobody declared it."""

    declared = False


class Missing(NetnsBackend):
    """A resolver is declared, and there is none."""

    def up(self, spec: BottleSpec) -> Topology:
        """Bring a bottle up, and promise something."""
        topology = super().up(spec)
        return topology._replace(resolvers=(topology.internal.gateway,))


def test_a_declared_resolver_that_carries_nothing_out_is_fine() -> None:
    """DNS-04 is about recursion; a sinkhole that the topology names may answer."""
    assert "1 resolvers, none carries out" in run_check(Sinkhole(), "DNS-04")


@pytest.mark.parametrize(
    ("make", "why"), [(Unknown, "nobody declared"), (Missing, "and only .* answer")]
)
def test_resolvers_are_just_the_declared_ones(make: type[NetnsBackend], why: str) -> None:
    """One that nobody declared is one too many, although it asks nobody; so is an empty promise."""
    with pytest.raises(Violation, match=why):
        run_check(make(), "DNS-04")


# -- controls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "muted", "why"),
    [
        ("DNS-05", (Vantage.SIDECAR, "ask", "tool-error"), "was not heard"),
        ("DNS-08", (Vantage.OPEN, "rewritten", "answered"), "not even the open guest's question"),
        ("DNS-08", (Vantage.AGENT, "rewritten", "tool-error"), "did not report"),
        ("PXY-20", (Vantage.SIDECAR, "sockets", "tool-error"), "cannot be listed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_its_control_a_check_of_names_proves_nothing(
    identity: str, muted: tuple[Vantage, str, str], why: str
) -> None:
    """Who must be heard was not: silence about the others is no pass."""
    with pytest.raises(Inconclusive, match=why):
        run_check(Mute(*muted), identity)
