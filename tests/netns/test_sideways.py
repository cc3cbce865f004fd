"""Checks of the host, of other bottles and of faults: harm that does not show in an answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import LOSSES, Fault, Vantage
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, Rule
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import Errand, Leaky, Meddler, NetnsBackend
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import Inconclusive, TransportError, Violation
from tests.judging import run_check

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology

pytestmark = pytest.mark.usefixtures("netns_works")


class HearsOnly(Leaky):
    """H takes in what comes from the internal network, and has no way to answer it."""

    def weaken(self, topology: Topology) -> None:
        """Switch the filter of sources off."""
        setting = f"net/ipv4/conf/{self.netns.bridges[topology.internal.name]}/rp_filter"
        self.netns.configure("host", [["sysctl", setting, "0"]])


class OneWayBetween(Leaky):
    """H forwards UDP between internal networks, one way: from the first bottle to later ones."""

    def __init__(self) -> None:
        super().__init__()
        self._first: Topology | None = None

    def weaken(self, topology: Topology) -> None:
        """Open the way."""
        bridge = self.netns.bridges[topology.internal.name]
        if self._first is None:
            self._first = topology
            self.netns.configure("host", [["sysctl", f"net/ipv4/conf/{bridge}/forwarding", "1"]])
            self.add_rules(topology, Rule(60, FR_ACT_PROHIBIT, iif=bridge))
            return
        inner = topology.internal.subnet
        way = Rule(50, iif=self.netns.bridges[self._first.internal.name], to=inner, protocol="udp")
        self.add_rules(topology, way)


class Knocks(Meddler):
    """When the agent asks its own proxy, somebody visits the port that the sibling publishes."""

    def meddle(self, errand: Errand) -> Errand:
        """Visit it from the host, as a proxy that reaches its host's loopback would."""
        asked = re.search(rb"to (127[.0-9]+:[0-9]+) by our own proxy", errand.stdin)
        if asked:
            url = f"http://{asked[1].decode()}/"
            code = f"import urllib.request as client; client.urlopen({url!r}).read()"
            argv = [errand.topology.python, "-c", code]
            assert super().exec(errand.topology, Vantage.HOST, argv).ok
        return errand


class Spared(NetnsBackend):
    """A backend that does not do one kind of harm, and says that it has."""

    spared = Fault.KILL_SIDECAR

    def fault(self, topology: Topology, fault: Fault) -> None:
        """Leave out one kind."""
        if fault is not self.spared:
            super().fault(topology, fault)


class DeafWithin(Meddler):
    """The agent's listener cannot even be reached by the agent itself."""

    def meddle(self, errand: Errand) -> Errand:
        """Fail where a listener is to start."""
        if b'"id": "listener at' in errand.stdin:
            raise TransportError("no listener today", where=errand.vantage.value)
        return errand


class LateFallback(Meddler, Leaky):
    """Rounds after the loss of a sidecar the agent gets a way out of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._lost: set[str] = set()

    def weaken(self, topology: Topology) -> None:
        """Leave the bottle sound, for now."""

    def fault(self, topology: Topology, fault: Fault) -> None:
        """Remember it."""
        super().fault(topology, fault)
        self._lost.add(topology.id)

    def meddle(self, errand: Errand) -> Errand:
        """Open the way before whatever the agent does first in the third round."""
        due = errand.topology.id in self._lost and b", round 3 " in errand.stdin
        if due and errand.is_the_agents:
            self._lost.remove(errand.topology.id)
            self.open_gateway(errand.topology)
            self.give_default_route(errand.topology)
        return errand


class BlindToTheLink(Meddler):
    """The look at who else is on the internal network finds nobody."""

    def meddle(self, errand: Errand) -> Errand:
        """Fail where it is looked at."""
        if b'"kind": "arp"' in errand.stdin:
            raise TransportError("no look at the link today", where=errand.vantage.value)
        return errand


def test_a_way_that_opens_late_is_found() -> None:
    """LIFE-02 is violated by a watchdog that takes its time."""
    with pytest.raises(Violation) as caught:
        run_check(LateFallback(), "LIFE-02")

    assert "round 1 as" not in caught.value.seen
    assert re.search(r"tcp/443 after the order to .*, round [34] as agent", caught.value.seen)


@pytest.mark.parametrize("identity", ["DNS-04", "HST-02"])
def test_a_link_that_was_not_looked_at_proves_nothing(identity: str) -> None:
    """Who asks everybody on the link has to know who is there; silence of nobody is no pass."""
    with pytest.raises(Inconclusive, match="does not even find the sidecar"):
        run_check(BlindToTheLink(), identity)


def test_a_host_that_only_hears_is_found_out() -> None:
    """HST-01 is violated by a datagram that nobody answers, also by one to everybody."""
    with pytest.raises(Violation) as caught:
        run_check(HearsOnly(), "HST-01")

    facts = caught.value.facts
    assert "udp/" in facts.sent
    assert "to 255.255.255.255" in facts.sent
    assert re.search(r"privileged: \d+x sent", facts.how)


def test_a_one_way_path_between_bottles_is_found() -> None:
    """LAT-01 is violated by datagrams of a privileged probe that no answer comes to."""
    with pytest.raises(Violation) as caught:
        run_check(OneWayBetween(), "LAT-01")

    assert "privileged: udp/" in caught.value.facts.sent
    assert re.search(r"privileged: \d+x sent", caught.value.facts.how)


def test_a_stranger_at_the_sidecar_is_found_in_its_record() -> None:
    """LAT-02 is violated by what only the sibling's sidecar knows: the prober was denied."""
    with pytest.raises(Violation, match="LAT-02") as caught:
        run_check(Knocks(), "LAT-02")

    assert "wrote down strangers" in caught.value.seen


@pytest.mark.parametrize("fault", [f for f in LOSSES if f is not Fault.CUT_EGRESS])
def test_a_fault_that_was_not_done_is_found_out(fault: Fault) -> None:
    """LIFE-02 never passes on the word of a backend; here the proxy even goes on to serve."""
    backend = Spared()
    backend.spared = fault
    with pytest.raises(Violation) as caught:
        run_check(backend, "LIFE-02")

    assert "by the proxy" in caught.value.seen
    assert fault.value in caught.value.seen


def test_without_a_listener_nothing_is_proved() -> None:
    """Silence is worth nothing where nobody could listen."""
    backend = DeafWithin()
    try:
        bench = Bench(backend)
        for check in all_checks():
            if check.id in ("HST-01", "HST-02", "LAT-01", "LAT-02"):
                with pytest.raises(Inconclusive, match="the listener did not report"):
                    bench.run(check)
    finally:
        backend.close()
