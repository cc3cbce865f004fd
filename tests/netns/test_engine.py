"""Networks, publishing, the lab behind them, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
import requests

from pytest_bottle.backends.contract import Endpoint, Resource, User, Vantage
from pytest_bottle.backends.engines.netns.canary import LOOPBACK_PORT
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.subnets import POOL6
from pytest_bottle.bottle import Bottle
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.errors import BringUpError
from pytest_bottle.firing import Operation, fire
from pytest_bottle.spec import BottleSpec, PublishedPort
from pytest_bottle.stimulus import Icmp, Shot, Tcp
from tests.family import family_of, named
from tests.sidecars import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.engines.contract import SidecarRequest


def without_pids(resources: frozenset[Resource]) -> set[Resource]:
    """Leave out what differs from run to run: numbers of processes."""
    return {r for r in resources if r.kind != "process"}


def test_the_agent_has_one_interface_and_no_way_on(shared_bottle: Bottle) -> None:
    """The agent is on the internal network only: one interface, no default route, no IPv6."""
    script = "cut -d: -f1 /proc/net/dev | tail -n +3; cat /proc/net/route; cat /proc/net/if_inet6"
    text = shared_bottle.agent.run("sh", "-c", script).out

    devices, _, rest = text.partition("Iface")
    destinations = [row.split()[1] for row in rest.splitlines() if row.startswith("eth0")]
    assert devices.split() == ["lo", "eth0"]
    assert destinations
    assert "00000000" not in destinations
    assert not any(row.endswith("eth0") for row in rest.splitlines())  # no IPv6 address


def test_a_gateway_keeps_its_link_address(netns: NetnsBackend) -> None:
    """Guests that are attached later do not change the address that others know a gateway by."""
    with Bottle(netns, BottleSpec()) as bottle:
        known = []
        for vantage in (Vantage.SIDECAR, Vantage.OPEN, Vantage.NEIGHBOUR):
            guest = bottle.guest(vantage)
            guest.fetch("http://198.51.100.9/", proxy=None)
            rows = [line.split() for line in guest.run("cat", "/proc/net/arp").out.splitlines()]
            known += [row[3] for row in rows if row[0] == bottle.egress_network.gateway]
        assert len(known) == 3
        assert len(set(known)) == 1


def test_the_sidecar_is_dual_homed_egress_first(shared_bottle: Bottle) -> None:
    """The sidecar's first interface is on the egress network and has the default route (S11)."""
    table = shared_bottle.sidecar.run("cat", "/proc/net/route").out

    default = next(line.split() for line in table.splitlines() if line.split()[1] == "00000000")
    gateway = socket.inet_ntoa(int(default[2], 16).to_bytes(4, "little"))
    assert (default[0], gateway) == ("eth0", shared_bottle.egress_network.gateway)


def test_the_sidecar_faces_the_agent_with_one_door(shared_bottle: Bottle) -> None:
    """Towards the agent the sidecar listens on the proxy's port and on nothing else."""
    table = shared_bottle.sidecar.run("cat", "/proc/net/tcp", "/proc/net/tcp6").out

    listening = [row.split()[1] for row in table.splitlines() if row.split()[3] == "0A"]
    address = socket.inet_aton(shared_bottle.topology.sidecar_address)[::-1].hex().upper()
    assert listening == [f"{address}:{9099:04X}"]


@pytest.mark.parametrize("address", ["1.1.1.1", "203.0.113.77", "2606:4700:4700::1111"])
def test_the_lab_owns_every_address(shared_bottle: Bottle, address: str) -> None:
    """Whatever the address, IPv4 or IPv6, the sidecar reaches the lab there."""
    host = f"[{address}]" if ":" in address else address

    response = shared_bottle.sidecar.fetch(f"http://{host}/", proxy=None)

    assert response.json()["server"] == address


def test_the_witness_hears_a_bare_syn(netns: NetnsBackend, shared_bottle: Bottle) -> None:
    """A connection to a port where nobody listens is heard at the far side all the same."""
    mark = netns.internet.mark()
    shared_bottle.sidecar.run(
        shared_bottle.topology.python,
        *("-I", "-S", "-c", "import socket; socket.socket().connect_ex(('198.41.0.4', 12345))"),
    )

    heard = netns.internet.heard(mark, ["198.41.0.4"])

    assert [(r.proto, r.dport) for r in heard.records][:1] == [(6, 12345)]
    assert heard.lost == 0


def test_metadata_service_answers_the_open_guest(shared_bottle: Bottle) -> None:
    """The lab has a cloud's metadata service, so that a sandbox which hides it hides something."""
    url = "http://169.254.169.254/latest/meta-data/iam/security-credentials/role"

    assert "BOTTLECANARY" in shared_bottle.guest(Vantage.OPEN).fetch(url, proxy=None).text


def test_a_unique_local_address_is_the_lab_s_even_beside_the_bottles_own(
    shared_bottle: Bottle,
) -> None:
    """A check draws such addresses: none may be lost in the bottles' networks by chance."""
    pool = ip_network(POOL6)
    beside = pool.network_address + pool.num_addresses

    assert shared_bottle.guest(Vantage.OPEN).probe(Tcp(str(beside), 443)).leaked
    assert pool.prefixlen >= 40


def test_https_is_verified_against_the_lab_s_authority(shared_bottle: Bottle) -> None:
    """A curl in the agent verifies the lab's certificate with what it finds in its own /etc/ssl."""
    result = shared_bottle.agent.run("curl", "-sS", "https://allowed.test/hello")

    assert '"scheme": "https"' in result.out, result.err


def test_probe_verdicts(shared_bottle: Bottle) -> None:
    """The same stimulus is blocked from the agent and gets out from the sidecar."""
    assert shared_bottle.agent.probe(Tcp("1.1.1.1", 443)).blocked
    assert shared_bottle.agent.probe(Icmp("1.1.1.1")).blocked
    assert shared_bottle.sidecar.probe(Tcp("1.1.1.1", 443)).leaked


def test_bottles_are_disjoint(netns: NetnsBackend) -> None:
    """Bottles that live at the same time share no subnet and no published address."""
    with ThreadPoolExecutor(4) as pool:
        bottles = list(pool.map(lambda _: Bottle(netns, BottleSpec()), range(4)))
    try:
        subnets = {n.subnet for b in bottles for n in (b.internal_network, b.egress_network)}
        assert len(subnets) == 8
        assert len({b.sidecar.published_at_host for b in bottles}) == 4
        assert {b.agent.fetch("http://allowed.test/").status for b in bottles} == {200}
    finally:
        for bottle in bottles:
            bottle.close()


def test_publish_answers_at_the_host_and_on_the_machine(shared_bottle: Bottle) -> None:
    """The published port answers on its alias at H, and by published_url from this process."""
    at_host = shared_bottle.guest(Vantage.HOST).run(
        "curl", "-s", f"http://{shared_bottle.sidecar.published_at_host}/"
    )

    assert at_host.out == '{"status": "ok"}'
    assert requests.get(shared_bottle.sidecar.published_url, timeout=30).json() == {"status": "ok"}


def test_the_spike_s_own_alias(netns: NetnsBackend) -> None:
    """A port can be published on any loopback address of H, such as the spike's (S18, S19)."""
    spec = BottleSpec(publish=PublishedPort("127.0.0.77", 18080))
    with Bottle(netns, spec) as bottle:
        host = bottle.guest(Vantage.HOST)
        assert host.run("curl", "-s", "http://127.0.0.77:18080/").ok
        assert host.run("curl", "-s", "http://127.0.0.1:18080/").exit_status == 7


def test_a_taken_port_on_the_machine(netns: NetnsBackend) -> None:
    """A machine port that somebody has is one clear error, and nothing of the bottle is left."""
    before = netns.inventory()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(BringUpError, match="the published port is taken") as caught:
            netns.up(BottleSpec(publish=PublishedPort(machine_port=port)))

    assert (caught.value.where, caught.value.seen) == (
        f"127.0.0.1:{port} of this machine",
        "Address already in use",
    )
    assert netns.inventory() == before


def test_a_taken_port_at_the_host(netns: NetnsBackend) -> None:
    """An alias and port that another bottle publishes is one clear error; nothing is left."""
    spec = BottleSpec(publish=PublishedPort("127.0.0.99", 18080))
    with Bottle(netns, spec):
        before = netns.inventory()
        with pytest.raises(BringUpError, match="a port cannot be published") as caught:
            netns.up(spec)
        assert caught.value.where == "127.0.0.99:18080 of the bottle's host"
        assert netns.inventory() == before


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        (("no-such-program", "-x"), "no-such-program: No such file or directory"),
        (("sh", "-c", "echo so long; exit 3"), "exit 3; output: 'so long\\n'"),
        (("sh", "-c", "kill -9 $$"), "signal 9"),
    ],
)
def test_a_command_that_does_not_stay(
    netns: NetnsBackend, command: tuple[str, ...], seen: str
) -> None:
    """An agent's command that does not exist or ends at once is told apart; nothing is left."""
    before = netns.inventory()

    with pytest.raises(BringUpError, match="ended at once") as caught:
        netns.up(BottleSpec(command=command))

    assert seen in caught.value.seen
    assert netns.inventory() == before


def test_a_command_that_stays(netns: NetnsBackend) -> None:
    """An agent's own command runs on beside what the test runs, with its output kept."""
    with Bottle(netns, BottleSpec(command=("sh", "-c", "echo hello; exec sleep 1000"))) as bottle:
        assert bottle.agent.run("sh", "-c", "cat /proc/[0-9]*/cmdline").out.count("1000") >= 1
        wait_for(lambda: netns.netns.output(bottle.topology.agent.name) == b"hello\n")


def test_canaries_hear_who_comes(netns: NetnsBackend, shared_bottle: Bottle) -> None:
    """The host's canaries greet and write down a visitor, each with its port."""
    host = shared_bottle.guest(Vantage.HOST)
    script = (
        f"import socket; print(socket.create_connection(('127.0.0.1', {LOOPBACK_PORT})).recv(99))"
    )

    said = host.run(shared_bottle.topology.python, "-I", "-S", "-c", script).out

    assert said == "b'BOTTLE-CANARY\\n'"
    assert b'"port": %d' % LOOPBACK_PORT in netns.engine.logs("host")


def test_nothing_is_left_of_many_bottles(netns: NetnsBackend) -> None:
    """After ten bottles in a row the kernel knows of nothing that was not there before."""
    with Bottle(netns, BottleSpec()) as first:
        first.guest(Vantage.HOST).run("true")  # H's own first process stays for the session
    before = netns.inventory()

    for _ in range(10):
        Bottle(netns, BottleSpec()).close()

    assert netns.inventory() == before


def test_close_is_idempotent(netns: NetnsBackend) -> None:
    """A bottle that is down can be taken down again."""
    bottle = Bottle(netns, BottleSpec())
    bottle.close()
    bottle.close()


def test_the_inventory_sees_a_bottle(netns: NetnsBackend) -> None:
    """Every kind of thing that a bottle is made of shows in the inventory while it lives."""
    before = netns.inventory()
    with Bottle(netns, BottleSpec()):
        kinds = {resource.kind for resource in netns.inventory() - before}
    assert kinds == {"process", "namespace", "link", "listener", "file"}


def nursery_of(netns: NetnsBackend) -> int:
    """Find whoever forks the sidecars of a session: the oldest of its name, the parent of all."""
    return named("bottle-nursery", family_of(netns.netns.client.keeper_pid).processes)[0]


@contextlib.contextmanager
def stopped_nursery(netns: NetnsBackend) -> Iterator[None]:
    """Let whoever forks the sidecars of a session do nothing for a while."""
    nursery = nursery_of(netns)
    os.kill(nursery, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(nursery, signal.SIGCONT)


def test_a_part_that_was_too_slow_leaves_nothing(netns: NetnsBackend) -> None:
    """A bottle with a part that is not there in time is removed whole; the session goes on."""
    before = netns.inventory()

    with stopped_nursery(netns), pytest.raises(BringUpError, match="not ready in time") as caught:
        netns.up(BottleSpec(timeout=3.0))

    assert "the sidecar in b" in caught.value.what
    assert "--bottle-timeout" in caught.value.next_step
    assert netns.inventory() == before
    with Bottle(netns, BottleSpec()) as bottle:
        assert bottle.agent.run("true").ok


def test_nobody_waits_for_a_part_of_another_bottle(netns: NetnsBackend) -> None:
    """While a bottle waits for its sidecar, guests start and commands run in others."""
    with Bottle(netns, BottleSpec()) as bottle, ThreadPoolExecutor() as pool:
        there = len(netns.netns.pids())
        with stopped_nursery(netns):
            waiting = pool.submit(netns.up, BottleSpec(timeout=200.0))
            wait_for(lambda: len(netns.netns.pids()) >= there + 2)
            assert netns.exec(bottle.topology, Vantage.OPEN, ["true"], timeout=60).ok
            assert bottle.agent.run("true", timeout=60).ok
            assert not waiting.done()
        netns.down(waiting.result(60))


class BreaksOne(NetnsEngine):
    """An engine whose third bottle has a sidecar that cannot start: its address is not there."""

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint | None:
        """Give the third one's an address of the documentation (RFC 5737)."""
        if guest == "b3-sidecar":
            request = request._replace(listen=Endpoint("192.0.2.1", 9099))
        return super().run_sidecar(guest, request)


def test_a_bottle_fails_in_its_own_thread(netns_works: None) -> None:
    """Of eight bottles at once one fails, in its own words, and the others are whole and apart."""
    backend = NetnsBackend(BreaksOne())
    try:
        with ThreadPoolExecutor(8) as pool:
            ways_up = [pool.submit(Bottle, backend, BottleSpec()) for _ in range(8)]
        (error,) = (way.exception() for way in ways_up if way.exception())
        assert isinstance(error, BringUpError)
        assert error.what == "the sidecar in b3-sidecar did not start"
        assert error.seen == "Cannot assign requested address"
        assert not [r for r in backend.inventory() if "b3-" in r.name]

        bottles = [way.result() for way in ways_up if not way.exception()]
        topologies = [bottle.topology for bottle in bottles]
        assert len({topology.published for topology in topologies} - {None}) == 7
        assert len({t.internal.subnet for t in topologies}) == 7
        assert len({t.egress.subnet for t in topologies}) == 7
        statuses = [bottle.agent.fetch("http://allowed.test/").status for bottle in bottles]
        assert statuses == [200] * 7
    finally:
        backend.close()


def test_a_vantage_point_is_attached_once(netns: NetnsBackend) -> None:
    """Threads that first use a vantage point at the same time share one guest there."""
    with Bottle(netns, BottleSpec()) as bottle, ThreadPoolExecutor(4) as pool:
        before = netns.inventory()
        addresses = list(pool.map(netns.address, [bottle.topology] * 4, [Vantage.OPEN] * 4))
        more = {r.kind: r.name for r in netns.inventory() - before}
    assert len(set(addresses)) == 1
    assert sorted(more) == ["file", "link", "namespace", "process"]


def test_subnets_run_out_with_an_error(netns: NetnsBackend) -> None:
    """When every subnet is taken the next bottle is refused, and the session goes on."""
    made: list[str] = []

    def make_them_all() -> None:
        for number in range(255):
            netns.netns.create_network(f"n{number}", internal=True)
            made.append(f"n{number}")

    try:
        with pytest.raises(BringUpError, match="there is no subnet left"):
            make_them_all()
    finally:
        netns.netns.delete_networks(made)
    with Bottle(netns, BottleSpec()) as bottle:
        assert bottle.agent.run("true").ok


def test_a_talkative_command_fills_only_its_own_place(netns: NetnsBackend) -> None:
    """An agent's command that writes without end harms neither its sidecar nor other bottles."""
    with Bottle(netns, BottleSpec(command=("sh", "-c", "yes; sleep 1000"))) as talkative:
        name = talkative.topology.agent.name
        wait_for(lambda: len(netns.netns.output(name)) >= 60_000_000, 100)
        assert talkative.agent.fetch("http://allowed.test/").status == 200
        with Bottle(netns, BottleSpec()) as other:
            assert other.agent.fetch("http://allowed.test/").status == 200


def test_a_dead_nursery_is_told(netns: NetnsBackend) -> None:
    """If what forks the sidecars is gone, a new bottle says so and leaves nothing."""
    backend = NetnsBackend()
    try:
        # The first answer comes when the origins have started: they are forked by the nursery too.
        before = backend.inventory()
        os.kill(nursery_of(backend), signal.SIGKILL)
        with pytest.raises(BringUpError, match="the nursery of sidecars is gone"):
            backend.up(BottleSpec())
        assert {r for r in backend.inventory() - before if r.kind != "process"} == set()
    finally:
        backend.close()


def test_routers_ask_for_their_ipv6_neighbours_from_the_start(netns: NetnsBackend) -> None:
    """H has a link-local address on each of its networks as soon as that is there.

    Without one its first question is not sent, and all IPv6 of each new bottle waits for a second.
    Of several bottles one at least is there sooner, whatever else the machine does meanwhile.
    """
    outcomes = []
    for _ in range(5):
        with Bottle(netns, BottleSpec()) as bottle:
            table = bottle.guest(Vantage.HOST).run("cat", "/proc/net/if_inet6").out.splitlines()
            bridge = netns.netns.bridges[bottle.topology.egress.name]
            shot = Shot("one", Vantage.SIDECAR, Tcp("2620:4f:8000::7", 443), User.AGENT)
            volley = fire(netns, bottle.topology, [Operation.of(shot)], deadline=0.8)

        own = {words[5] for words in map(str.split, table) if words[0][:4] == "fe80"}
        assert {"up0", bridge} <= own
        outcomes.append(volley.outcome("one"))
        if outcomes[-1] == "connected":
            break
    assert outcomes[-1] == "connected", outcomes
