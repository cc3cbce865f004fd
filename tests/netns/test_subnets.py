"""The networks' subnets: asked for, refused, chosen, and kept apart."""

from __future__ import annotations

import ipaddress
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engines.contract import GuestRequest
from pytest_bottle.backends.engines.netns import subnets
from pytest_bottle.backends.engines.netns.canary import WILDCARD_PORT
from pytest_bottle.backends.engines.netns.subnets import Subnet
from pytest_bottle.bottle import Bottle
from pytest_bottle.errors import BringUpError, ConfigurationError
from pytest_bottle.spec import BottleSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.mutants.base import NetnsBackend

pytestmark = pytest.mark.usefixtures("netns_works")

INNER, OUTER = "10.99.8.0/22", "172.31.77.16/29"
#: What a connection comes to that H refuses, and one that nobody answers.
REACH = (
    "import socket, sys; s = socket.socket(); s.settimeout(3)\n"
    "try: s.connect((sys.argv[1], int(sys.argv[2]))); print('connected')\n"
    "except OSError as error: print(type(error).__name__, error.errno)"
)


@pytest.fixture(scope="module")
def custom(netns: NetnsBackend) -> Iterator[Bottle]:
    """A bottle on subnets that were asked for."""
    with Bottle(netns, BottleSpec(internal_subnet=INNER, egress_subnet=OUTER)) as bottle:
        yield bottle


def test_subnets_that_were_asked_for(custom: Bottle) -> None:
    """Networks get the subnets, the gateways their first addresses, the guests' cards the size."""
    topology = custom.topology
    assert (topology.internal.subnet, topology.internal.gateway) == (INNER, "10.99.8.1")
    assert (topology.egress.subnet, topology.egress.gateway) == (OUTER, "172.31.77.17")
    assert topology.agent_address in ("10.99.8.2", "10.99.8.3")
    assert topology.sidecar_outer_address == "172.31.77.18"
    table = custom.agent.run("cat", "/proc/net/route").out.splitlines()[1:]
    assert [(row.split()[1], row.split()[7]) for row in table] == [("0008630A", "00FCFFFF")]


def test_everything_works_on_them(custom: Bottle) -> None:
    """The proxy, IPv4 and IPv6 from the egress network, and the way back all work."""
    page = custom.agent.fetch("https://allowed.test/").json()
    assert page["client"] == "172.31.77.18"
    for vantage in (Vantage.SIDECAR, Vantage.OPEN):
        for host in ("203.0.113.5", "[2606:4700:4700::1111]"):
            assert custom.guest(vantage).fetch(f"http://{host}/", proxy=None).status == 200
    assert custom.guest(Vantage.PRIVILEGED).run("true").ok


def test_bottles_on_custom_subnets_are_apart(netns: NetnsBackend, custom: Bottle) -> None:
    """Neither the custom bottle nor a default one gets at the other's networks over the host."""
    with Bottle(netns, BottleSpec()) as other:
        for here, there in ((custom, other), (other, custom)):
            guest, goal = here.guest(Vantage.NEIGHBOUR), there.topology
            for address in (goal.sidecar_outer_address, goal.sidecar_address, goal.agent_address):
                assert reach(guest, goal, address, 9099) == REFUSED
            # The same port is open to whom it is there for.
            assert reach(there.agent, goal, goal.sidecar_address, 9099) == "connected"


#: No way there, by H's word: a port where nobody listens would refuse otherwise.
REFUSED = "OSError 113"


def reach(guest: object, topology: Topology, host: str, port: int) -> str:
    """Try a TCP connection from a guest, straight."""
    argv = (topology.python, "-I", "-S", "-c", REACH, host, str(port))
    return str(guest.run(*argv).out)  # type: ignore[attr-defined]


def test_the_host_is_as_far_from_them_as_from_others(netns: NetnsBackend, custom: Bottle) -> None:
    """What a service of the host's answers to an agent does not depend on who chose the subnet."""
    with Bottle(netns, BottleSpec()) as other:
        other.guest(Vantage.HOST).run("true")  # its canaries are there from then on
        seen = [
            reach(one.agent, one.topology, one.topology.internal.gateway, WILDCARD_PORT)
            for one in (custom, other)
        ]
    assert seen[0] == seen[1]


def test_subnets_come_back(netns: NetnsBackend) -> None:
    """A subnet can be had again as soon as its bottle is down, and its rules are gone with it."""
    before = netns.inventory()
    for _ in range(3):
        with Bottle(netns, BottleSpec(internal_subnet="10.98.0.0/24")) as bottle:
            assert bottle.agent.fetch("http://allowed.test/").status == 200
    assert netns.inventory() == before


@pytest.mark.parametrize(
    ("subnet", "seen"),
    [
        ("10.86.3.0/24", "internal networks"),
        ("10.87.0.0/16", "egress networks"),
        ("198.18.0.0/24", "uplink"),
        ("198.19.0.0/16", "uplink"),
        ("192.88.0.0/16", "lab's names"),
        ("192.175.48.128/25", "targets"),
        ("127.0.0.0/16", "127.0.0.0/8"),
        ("169.254.169.0/24", "metadata"),
        ("239.1.0.0/16", "multicast"),
    ],
)
def test_what_is_in_use_is_refused(subnet: str, seen: str) -> None:
    """What the engine, the lab or the protocol needs itself is refused by name."""
    with pytest.raises(ConfigurationError, match="in use") as caught:
        subnets.check([("networks.egress", ""), ("networks.internal", subnet)])
    assert caught.value.where == f"networks.internal: {subnet}"
    assert seen in caught.value.seen


@pytest.mark.parametrize("where", ["internal_subnet", "egress_subnet"])
def test_a_refused_subnet_makes_nothing(netns: NetnsBackend, where: str) -> None:
    """A bottle that asks for one of the engine's own subnets never begins."""
    before = netns.inventory()
    with pytest.raises(ConfigurationError, match="in use"):
        netns.up(BottleSpec(**{where: "10.86.3.0/24"}))  # type: ignore[arg-type]
    assert netns.inventory() == before


@pytest.mark.parametrize(
    "text",
    [
        *("10.99.0.0", "10.99.0.0/15", "10.99.0.0/30", "10.99.0.1/24", "10.99.0.0/24/1"),
        *("fd00::/64", "10.99/16", "ten", " 10.99.0.0/24", "10.99.0.0/+24", "10.99.0.0/2_4"),
    ],
)
def test_no_subnet_at_all(text: str) -> None:
    """What is no IPv4 network, has host bits or a size out of range is refused as such."""
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        subnets.check([("networks.egress", text)])
    assert caught.value.seen == repr(text)


def test_the_bottle_s_own_two_must_differ() -> None:
    """One subnet inside the other is refused."""
    wanted = [("networks.internal", "10.99.0.0/16"), ("networks.egress", "10.99.7.0/24")]
    with pytest.raises(ConfigurationError, match="in use") as caught:
        subnets.check(wanted)
    assert "this bottle's own networks.internal" in caught.value.seen


def test_a_small_subnet_is_full(netns: NetnsBackend) -> None:
    """In a /29 five guests have room beside the gateway; the sixth is refused, and no more."""
    engine = netns.netns
    engine.create_network("small", internal=True, subnet="10.96.0.0/29")
    (network,) = engine.networks(["small"])
    names = [f"small-{number}" for number in range(6)]
    try:
        guests = [engine.run_guest(GuestRequest(name, ("small",), name)) for name in names[:5]]
        with pytest.raises(BringUpError, match="no address left") as caught:
            engine.run_guest(GuestRequest(names[5], ("small",), names[5]))
    finally:
        engine.remove_guests(names)
        engine.delete_networks(["small"])
    assert network.gateway == "10.96.0.1"
    assert [guest.addresses["small"] for guest in guests] == [f"10.96.0.{n}" for n in range(2, 7)]
    assert caught.value.seen == "5 guests"


def test_another_bottle_s_subnet(netns: NetnsBackend, custom: Bottle) -> None:
    """A subnet of a bottle that runs is refused, and nothing is left of the one that asked."""
    before = netns.inventory()
    for where in ("internal_subnet", "egress_subnet"):
        with pytest.raises(BringUpError, match="in use") as caught:
            netns.up(BottleSpec(**{where: "10.99.11.0/24"}))  # type: ignore[arg-type]
        assert custom.topology.internal.name in caught.value.seen
    assert netns.inventory() == before
    assert custom.agent.fetch("http://allowed.test/").status == 200


def test_the_machine_s_networks_are_known() -> None:
    """A network of this machine is refused, even a part of one."""
    reserved = [Subnet.parse(text) for text in subnets._RESERVED]
    own = [
        net
        for net in subnets.machine_networks()
        if 8 <= net.bits <= 29 and not any(net.overlaps(other) for other in reserved)
    ]
    if not own:
        pytest.skip("NOT RUN: this machine has no network but loopback")
    part = f"{own[0].address(0)}/29"

    with pytest.raises(ConfigurationError, match="in use") as caught:
        subnets.check([("networks.internal", part)])

    assert "a network of this machine" in caught.value.seen


ROUTES = (
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FCFFFF\t0\t0\t0\n"
).splitlines()
TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
        +-- 203.0.113.0/24 2 0 2
           |-- 203.0.113.9
              /32 host LOCAL
           |-- 203.0.113.255
              /32 link BROADCAST
""".splitlines()


def test_the_kernel_s_tables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes but the default one count, and so do addresses."""
    monkeypatch.setattr(subnets, "_lines", lambda path: ROUTES if "route" in path else TRIE)

    assert {str(net) for net in subnets.machine_networks()} == {"192.168.0.0/22", "203.0.113.9/32"}


def test_eight_at_once_are_disjoint(netns: NetnsBackend) -> None:
    """Eight bottles from eight threads have sixteen subnets, no two of which overlap."""
    with ThreadPoolExecutor(8) as pool:
        topologies = list(pool.map(netns.up, [BottleSpec()] * 8))
        nets = [net.subnet for t in topologies for net in (t.internal, t.egress)]
        assert all(
            not a.overlaps(b) for a, b in itertools.combinations(map(ipaddress.ip_network, nets), 2)
        )
        assert len({t.published for t in topologies}) == 8
        assert len({t.machine_published for t in topologies}) == 8
        list(pool.map(netns.down, topologies))


def test_one_of_eight_gets_the_subnet(netns: NetnsBackend) -> None:
    """Of eight that ask for one subnet at once one gets it, and seven are told."""

    def ask(_number: int) -> Topology | BringUpError:
        try:
            return netns.up(BottleSpec(internal_subnet="10.97.0.0/16"))
        except BringUpError as error:
            return error

    before = netns.inventory()
    with ThreadPoolExecutor(8) as pool:
        came = list(pool.map(ask, range(8)))
    up = [one for one in came if not isinstance(one, BringUpError)]
    for topology in up:
        netns.down(topology)

    assert len(up) == 1
    assert netns.inventory() == before
