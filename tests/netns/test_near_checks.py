"""Checks of what is near: without their controls they prove nothing, and odd leaks are found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import ExecResult, User, Vantage
from pytest_bottle.conformance.mutants.base import Errand, Meddler, NetnsBackend
from pytest_bottle.errors import Inconclusive, Violation
from tests.judging import run_check, taken_apart
from tests.mute import Mute

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.spec import BottleSpec

pytestmark = pytest.mark.usefixtures("netns_works")


@pytest.mark.parametrize(
    ("identity", "silent", "why"),
    [
        ("NET-10", (Vantage.NEIGHBOUR, "listen", "tool-error"), "listener did not report"),
        ("NET-11", (Vantage.OPEN, "http", "timeout"), "got no token from 169.254.169.254"),
        ("NET-12", (Vantage.OPEN, "tcp", "timeout"), "nobody answers there at all"),
        ("LAT-03", (Vantage.STRANGER, "listen", "tool-error"), "listener did not report"),
        ("LAT-03", (Vantage.COMPANION, "tcp", "timeout"), "did not even hear companion"),
        ("LAT-04", (Vantage.PRIVILEGED, "claim", "sent"), "could not claim anything"),
        ("LAT-04", (Vantage.BYSTANDER, "udp", "sent"), "did not even hear the bystander"),
        ("LAT-06", (Vantage.SIDECAR, "tcp", "timeout"), "did not even hear sidecar"),
        ("HST-06", (Vantage.HOST, "http", "timeout"), "does not even answer at the host"),
        ("HST-06", (Vantage.NEIGHBOUR, "tcp", "timeout"), "did not even hear"),
        ("IP6-03", (Vantage.BYSTANDER, "set", "answered"), "does not even reach the bystander"),
        ("IP6-03", (Vantage.OPEN, "ping-all", "answered"), "finds no host on its own link"),
    ],
)
def test_without_its_control_it_proves_nothing(
    identity: str, silent: tuple[Vantage, str, str], why: str
) -> None:
    """Silence where nobody could have been heard is inconclusive."""
    with pytest.raises(Inconclusive, match=why):
        run_check(Mute(*silent), identity)


class SidecarOfVersion6(NetnsBackend):
    """The sidecar has IPv6 on inside, by its link-local address, and maybe a service there."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        super().__init__()

    def up(self, spec: BottleSpec) -> Topology:
        """Turn it on at its second network, the internal one, and start the service."""
        topology = super().up(spec)
        changes = [["sysctl", f"net/ipv6/conf/eth1/{name}", "0"] for name in _OFF]
        self.netns.configure(topology.sidecar.name, changes)
        if self._port:
            argv = [topology.python, "-c", _SERVICE, str(self._port)]
            assert self.exec(topology, Vantage.SIDECAR, argv, timeout=20).ok
        return topology


_OFF = ("accept_dad", "disable_ipv6")
_SERVICE = """
import os, socket, sys, time
sock = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6)
if os.fork():
    os._exit(0)
for descriptor in (0, 1, 2):
    os.close(descriptor)
time.sleep(600)
"""


def test_a_sidecar_on_the_link_without_a_door_is_fine() -> None:
    """It answers a call by IPv6, and a sweep of every port finds nothing."""
    seen = run_check(SidecarOfVersion6(), "IP6-03")

    assert "1 others answer on the link, none with a door of 65535" in seen


def test_a_door_that_nobody_thought_of_is_found() -> None:
    """A service of the sidecar's on any port of its link-local address is a way in."""
    with pytest.raises(Violation, match=r"doors on the link: fe80:.* tcp/43117\n"):
        run_check(SidecarOfVersion6(43117), "IP6-03")


def test_a_sweep_that_finds_no_open_door_proves_nothing() -> None:
    """Its control is a door of the suite's own beside it."""
    with pytest.raises(Inconclusive, match="a sweep does not find the bystander's door"):
        run_check(BlindSweep(), "IP6-03")


class BlindSweep(SidecarOfVersion6, Meddler):
    """A sweep says that it has tried every door, and has not."""

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Answer in its name."""
        if b'"kind": "doors"' not in errand.stdin:
            return errand
        names = [one["id"] for one in taken_apart(errand.stdin)[1]["operations"]]
        record = {"outcome": "answered", "count": 65535, "open": [], "answered": []}
        lines = [*({"id": name, **record} for name in names), {"done": len(names)}]
        return ExecResult(0, "\n".join(map(json.dumps, lines)).encode(), b"")


class Chatter(Meddler):
    """The neighbour's network speaks of groups while the neighbour is to hear nothing."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def meddle(self, errand: Errand) -> Errand:
        """Let the neighbour receive such a packet, beside its listener."""
        listens = b'"kind": "listen", "tcp": [46001]' in errand.stdin
        if errand.vantage is Vantage.NEIGHBOUR and listens and self.left:
            self.left -= 1
            own = self.address(errand.topology, Vantage.NEIGHBOUR)
            argv = [errand.topology.python, "-c", _REPORT, own]
            said = super().exec(errand.topology, Vantage.NEIGHBOUR, argv, user=User.ROOT)
            assert said.ok, said.err
        return errand


#: IGMP is no protocol of ours, and nobody answers it (RFC 3376).
_REPORT = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
sock.sendto(bytes.fromhex("2200dcff00000001" "04000000e000006a"), (sys.argv[1], 0))
"""


def test_chatter_of_the_network_is_no_doubt_for_ever() -> None:
    """A guest that received something of nobody's is listened at once more."""
    chatty = Chatter(1)
    assert run_check(chatty, "NET-09")
    assert not chatty.left


def test_what_comes_each_time_is_a_doubt() -> None:
    """A packet that comes in each round may be a claim's, dropped before it was counted."""
    with pytest.raises(Inconclusive, match="neighbour received 1 packets of no known protocol"):
        run_check(Chatter(3), "NET-09")


class SameSegment(Meddler):
    """What the agent says to groups is said on the outer segment, as on a bridge for both."""

    def meddle(self, errand: Errand) -> Errand:
        """Let it be said by the open guest."""
        moved = errand.is_the_agents and b"239.255.255.250" in errand.stdin
        return errand._replace(vantage=Vantage.OPEN) if moved else errand


def test_multicast_that_gets_out_is_heard() -> None:
    """The neighbour is in the groups, and hears what is said to everybody as well."""
    with pytest.raises(Violation) as caught:
        run_check(SameSegment(), "NET-10")

    for group in ("udp/5353 to 224.0.0.251", "udp/1900 to 239", "udp/67 to 255.255.255.255"):
        assert f"{group}" in str(caught.value)
