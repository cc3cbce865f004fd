"""LAT: who is on the same host and no part of the bottle, and what the agent listens on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Interface, ip_network
from itertools import combinations
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance.checks.lateral import (
    agent_addresses,
    count,
    echo,
    users,
)
from pytest_bottle.conformance.encounters import (
    NEARBY,
    Party,
    Post,
    attempt,
    fire_all,
    knocks,
    merge,
    settle,
    some_port,
)
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.firing import Volley, fire
from pytest_bottle.spec import EgressRoute
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Operation

_FAR = frozenset({Feature.LAB, Feature.OPEN_GUEST})


# -- strangers -------------------------------------------------------------------------------------


@check(
    "LAT-03",
    "Unrelated containers are strangers",
    severity=Severity.HIGH,
    needs=_FAR | {Feature.STRANGER, Feature.PRIVILEGED_PROBE},
    evidence=(
        "GHSA-4vq8-7jfc-9cvp",
        "https://github.com/moby/moby/pull/49325",
    ),
    apart=True,
)
def strangers_stay_strangers(bench: Bench) -> str:
    """A guest on a network of the same host that no bottle is on neither reaches the agent nor is
    reached by it, by address, by the gateway or by name; nor does the agent know a name of another
    bottle.
    """
    why = bench.unmet()
    with bench.another() as topology:
        stranger = bench.backend.address(topology, Vantage.STRANGER)
        there = _at_the_stranger(bench, topology, stranger, why)
        back = _at_the_agent(bench, topology, [Vantage.STRANGER], why, ping=True)
        names = _unknown_names(bench, topology)
    return f"there: {there}; back: {back}; {names}"


def _at_the_stranger(bench: Bench, topology: Topology, stranger: str, why: str) -> str:
    """Try a stranger's address, which its companion beside it reaches."""
    port = some_port()
    tries = [
        one
        for user in users(bench)
        for one in (
            *knocks(Vantage.AGENT, stranger, port, user=user),
            attempt(f"echo request to {stranger}", Vantage.AGENT, echo(stranger), user),
        )
    ]
    tries += knocks(Vantage.PRIVILEGED, stranger, port, via=topology.internal.gateway)
    callers = [(Vantage.COMPANION, stranger)]
    post = Post(bench.backend, topology, Vantage.STRANGER, port, callers=callers)
    with post.open(patient=not why):
        volley = fire(bench.backend, topology, tries, NEARBY)
    sources = {
        Vantage.AGENT: topology.agent_address,
        Vantage.PRIVILEGED: bench.backend.address(topology, Vantage.PRIVILEGED),
    }

    def heard(one: Operation) -> bool:
        answered = one.what["kind"] == "icmp" and volley.echo(one.name)
        return answered or post.book.names(one, sources[one.vantage])

    return settle(bench, volley, tries, heard, why or post.deaf)


def _unknown_names(bench: Bench, topology: Topology) -> str:
    """Require that names of others lead nowhere: a resolver of the engine's might know them."""
    hostname = bench.backend.exec(topology, Vantage.STRANGER, ["cat", "/proc/sys/kernel/hostname"])
    another = bench.topology
    names = {hostname.out, another.agent.name, another.sidecar.name} - {""}
    for name in sorted(names):
        what = {"kind": "resolve", "name": name, "raw": f"{new_nonce()}.test"}
        record = bench.probe(Vantage.AGENT, what, topology=topology)
        library = record.get("library", {})
        if library.get("outcome") == "answered":
            raise bench.violation(f"the agent knows {name}: {library['addresses']}")
        if library.get("outcome") != "dns-failure":
            raise bench.inconclusive(f"the agent could not look {name} up: {record}")
    return f"{len(names)} names are unknown"


# -- the agent's own ports -------------------------------------------------------------------------


def _at_the_agent(
    bench: Bench, topology: Topology, visitors: Sequence[Vantage], why: str, *, ping: bool = False
) -> str:
    """Require that nobody's visit comes to the agent, by what its listener and its kernel say.

    Who is not answered is counted all the same. The agent itself and the sidecar are the controls.
    """
    port = some_port()
    addresses = [str(one.ip) for one in agent_addresses(bench, topology)]
    callers = [
        *((Vantage.AGENT, host) for host in ("127.0.0.1", topology.agent_address)),
        (Vantage.SIDECAR, topology.agent_address),
    ]
    listens = ["0.0.0.0", *(["::"] if any(":" in host for host in addresses) else [])]
    where = (bench.backend, topology, Vantage.AGENT, port)
    post = Post(*where, callers=callers, addresses=listens)
    tries: list[Operation] = []
    volley, came = Volley(), {}
    with post.open(patient=not why):
        for who in visitors:
            visits = [one for host in addresses for one in knocks(who, host, port)]
            if ping:
                visits += [attempt(f"echo request to {h}", who, echo(h)) for h in addresses]
            before = count(bench, topology)
            merge(volley, fire(bench.backend, topology, visits, NEARBY))
            after = count(bench, topology)
            came[who] = {kind: after[kind] - before[kind] for kind in after}
            tries += visits

    def heard(one: Operation) -> bool:
        kind = str(one.what["kind"])
        return came[one.vantage]["echo" if kind == "icmp" else kind] > 0 or post.book.names(one)

    return settle(bench, volley, tries, heard, why or post.deaf)


@check(
    "LAT-06",
    "Agent ports are not exposed",
    level=Level.STRICT,
    severity=Severity.MEDIUM,
    needs=_FAR | {Feature.NEIGHBOUR},
    evidence=(
        "https://github.com/microsoft/mxc/pull/836",
        "https://github.com/moby/moby/pull/47356",
    ),
    apart=True,
)
def agent_ports_are_not_exposed(bench: Bench) -> str:
    """What the agent listens on cannot be reached from the outer segment, from a stranger's network
    (where the backend has one), nor from the host itself (where the backend says so: some engines
    let their host in by design). The catalogue lets the far side try as well; nothing is sent from
    there by order, so a neighbour of the host stands for it.
    """
    places = {
        Vantage.NEIGHBOUR: Feature.NEIGHBOUR,
        Vantage.STRANGER: Feature.STRANGER,
        Vantage.HOST: Feature.HOST_APART,
    }
    visitors = [vantage for vantage, feature in places.items() if feature in bench.features]
    why = bench.unmet()
    with bench.another() as topology:
        return _at_the_agent(bench, topology, visitors, why)


# -- many at once ----------------------------------------------------------------------------------

_QUICK, _MANY = 3, 8


@check(
    "LAT-07",
    "Concurrent bottles keep disjoint addresses and policies",
    level=Level.STRICT,
    severity=Severity.MEDIUM,
    needs=frozenset({Feature.LAB, Feature.OPEN_GUEST}),
    evidence=(
        "https://github.com/testground/testground/issues/1559",
        "agentcage 6.10 (a /24 for each)",
    ),
    apart=True,
)
def bottles_are_disjoint(bench: Bench) -> str:
    """Bottles that are brought up at once have networks that overlap neither each other's nor any
    other of the host, and each lets through what its own list says, and nothing of the others'.
    """
    names = [f"own{n}-{new_nonce()[:8]}.test" for n in range(_MANY if bench.thorough else _QUICK)]
    why = bench.unmet()
    with _together(bench, names) as topologies:
        _require_disjoint(bench, topologies)
        return f"{len(names)} bottles: {_matrix(bench, topologies, names, why)}"


@contextmanager
def _together(bench: Bench, names: Sequence[str]) -> Iterator[list[Topology]]:
    """Bring up bottles at once, each of which lets one name through."""
    specs = [replace(bench.spare, egress=(EgressRoute(name),)) for name in names]
    with ExitStack() as stack:
        with ThreadPoolExecutor(len(specs)) as pool:
            topologies = list(pool.map(lambda s: stack.enter_context(bench.another(s)), specs))
        yield topologies


def _require_disjoint(bench: Bench, topologies: Sequence[Topology]) -> None:
    everybody = [*topologies, bench.topology]
    networks = [net for one in everybody for net in (one.internal, one.egress)]
    for one, other in combinations(networks, 2):
        if ip_network(one.subnet).overlaps(ip_network(other.subnet)):
            raise bench.violation(f"{one.name} {one.subnet} overlaps {other.name} {other.subnet}")
    if Feature.HOST_EXEC not in bench.features:
        return
    record = bench.probe(Vantage.HOST, {"kind": "addresses"})
    here = [IPv4Interface(f"{h}/{size}") for _, h, size in record["addresses"] if ":" not in h]
    for network in networks:
        for interface in here:
            shadowed = interface.network.overlaps(ip_network(network.subnet))
            if shadowed and str(interface.ip) != network.gateway:
                raise bench.violation(f"{network.name} {network.subnet} shadows {interface}")


def _matrix(bench: Bench, topologies: Sequence[Topology], names: Sequence[str], why: str) -> str:
    """Let each agent ask for each name: its own arrives, and nobody else's does."""
    own: list[Operation] = []
    others: list[Operation] = []
    parties = []
    for topology, mine in zip(topologies, names, strict=True):
        asked = [
            attempt(
                f"{topology.id} for {name}",
                Vantage.AGENT,
                {"kind": "http", "url": f"http://{name}/%s", "proxy": "environment"},
            )
            for name in names
        ]
        own += [one for one, name in zip(asked, names, strict=True) if name == mine]
        others += [one for one, name in zip(asked, names, strict=True) if name != mine]
        parties.append(Party(topology, asked))
    mark, volley = bench.backend.internet.mark(), Volley()
    for more in fire_all(bench.backend, *parties, deadline=5.0):
        merge(volley, more)
    hearing = bench.backend.internet.heard(mark)
    payloads = b"\n".join(record.payload for record in hearing.records)

    def heard(one: Operation) -> bool:
        return str(one.what["nonce"]).encode() in payloads

    broken = [o.name for o in own if volley.records.get(o.name, {}).get("status") != 200]
    broken += [one.name for one in own if not heard(one)]
    if broken or hearing.lost:
        why = why or f"not even its own: {broken[:3]}; {hearing.lost} packets lost"
    return settle(bench, volley, others, heard, why)
