"""LAT: sideways, from and to what stands beside the agent."""

from __future__ import annotations

import ipaddress
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.encounters import (
    Party,
    Post,
    attempt,
    fire_all,
    knocks,
    settle,
    some_port,
)
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.stimulus import Icmp, Stimulus, Tcp, Udp
from pytest_bottle.verdict import ANSWERED_OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.firing import Operation, Volley

#: Ports of the sweeps' controls.
_SOME = (22, 443, 8448, 40053)


def _through_the_sidecar(plan: Plan) -> None:
    topology, target = plan.topology, plan.target()
    via = topology.sidecar_address
    tcp = [Tcp(target, port) for port in (443, 80, 53, 8080)]
    udp = [Udp(target, port) for port in (443, 53, 123)]
    stimuli: list[Stimulus] = [*tcp, *udp, Icmp(target, raw=True)]
    for stimulus in stimuli:
        plan.block("LAT-05", Vantage.PRIVILEGED, stimulus, user=User.ROOT, via=via)
    for protocol in ("tcp", "udp"):
        plan.sweep("LAT-05", protocol, via, _SOME)
    plan.block_inside("LAT-05", Vantage.NEIGHBOUR, Vantage.AGENT, topology.sidecar_outer_address)


@check(
    "LAT-05",
    "The sidecar is not a router (explicit mode)",
    needs=frozenset({Feature.LAB, Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE, Feature.NEIGHBOUR}),
    evidence=(
        "bot-bottle spike S31 (its inverse)",
        "https://github.com/agentcage/agentcage/pull/91",
    ),
    stimuli=_through_the_sidecar,
)
def sidecar_does_not_route(bench: Bench) -> str:
    """The dual-homed container does not forward packets between its two networks in either
    direction.
    """
    note = bench.require_blocked()
    setting = bench.backend.exec(
        bench.topology, Vantage.SIDECAR, ["cat", "/proc/sys/net/ipv4/ip_forward"]
    )
    return f"{note}; ip_forward in the sidecar: {setting.out or setting.err}"


_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def users(bench: Bench) -> list[User]:
    """Whom commands of the agent can be run as."""
    return [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]


def agent_addresses(bench: Bench, topology: Topology) -> list[_Interface]:
    """Ask a bottle's agent for its own addresses."""
    record = bench.probe(Vantage.AGENT, {"kind": "addresses"}, topology=topology)
    if "addresses" not in record:
        raise bench.inconclusive(f"the agent does not tell its addresses: {record}")
    found = [ipaddress.ip_interface(f"{host}/{size}") for _, host, size in record["addresses"]]
    return [one for one in found if not one.ip.is_loopback and not one.ip.is_link_local]


def _on_the_subnet(interfaces: list[_Interface]) -> list[str]:
    """A handful of addresses of the IPv4 networks: the first ones, the last one, everybody's."""
    networks = [one.network for one in interfaces if one.version == 4]
    return [str(net[n]) for net in networks for n in (1, 2, 3, 4, 5, 6, 7, 8, -2)]


def _sideways(
    bench: Bench, source: Topology, targets: list[_Interface], port: int
) -> list[Operation]:
    """Try another bottle's agent, from our agent and by our gateway, and some of its subnet."""
    tries = []
    for host in (str(one.ip) for one in targets):
        for user in users(bench):
            tries += knocks(Vantage.AGENT, host, port, user=user)
            tries.append(attempt(f"echo request to {host}", Vantage.AGENT, echo(host), user))
        via = source.internal.gateway if ":" not in host else ""
        tries += knocks(Vantage.PRIVILEGED, host, port, via=via)
        ping = {**echo(host, raw=True), **({"via": via} if via else {})}
        tries.append(attempt(f"echo request to {host} via {via}", Vantage.PRIVILEGED, ping))
    others = sorted({*_on_the_subnet(targets)} - {str(one.ip) for one in targets})
    return [*tries, *(one for host in others for one in knocks(Vantage.AGENT, host, port))]


def echo(host: str, *, raw: bool = False) -> dict[str, object]:
    """What the probe is told about an echo request."""
    return {"kind": "icmp", "host": host, "raw": raw}


def count(bench: Bench, topology: Topology) -> Mapping[str, int]:
    """Read how many packets the kernel of a bottle's agent has received, by protocol."""
    record = bench.probe(Vantage.AGENT, {"kind": "count"}, topology=topology)
    counted = record.get("counters")
    if not counted:
        raise bench.inconclusive("the agent's kernel does not count what it receives")
    return dict(counted)


class _Way(NamedTuple):
    """What was tried from one bottle at another, and what that one's kernel received meanwhile."""

    tries: list[Operation]
    volley: Volley
    targets: frozenset[str]
    received: Mapping[str, int]
    sources: Mapping[Vantage, str]

    def heard(self, post: Post, one: Operation) -> bool:
        """Tell whether an attempt arrived: who is not answered is counted all the same."""
        kind, host = str(one.what["kind"]), one.what["host"]
        came = self.received["echo" if kind == "icmp" else kind]
        counted = host in self.targets and came > 0
        return counted or post.book.names(one, self.sources[one.vantage])

    @property
    def odd(self) -> str:
        """What came that is of no known protocol; a guest's own filter may have dropped it."""
        rest = self.received["ip"] - sum(self.received[kind] for kind in ("tcp", "udp", "icmp"))
        return f"an agent received {rest} packets of no known protocol" if rest > 0 else ""


def _one_way(bench: Bench, source: Topology, target: Topology, port: int) -> _Way:
    """Fire from one bottle at another, in which nobody else says a word meanwhile."""
    addresses = agent_addresses(bench, target)
    tries = _sideways(bench, source, addresses, port)
    before = count(bench, target)
    (volley,) = fire_all(bench.backend, Party(source, tries))
    after = count(bench, target)
    received = {kind: after[kind] - before[kind] for kind in after}
    targets = frozenset(str(one.ip) for one in addresses)
    return _Way(tries, volley, targets, received, _sources(bench, source))


def _sources(bench: Bench, source: Topology) -> dict[Vantage, str]:
    privileged = bench.backend.address(source, Vantage.PRIVILEGED)
    return {Vantage.AGENT: source.agent_address, Vantage.PRIVILEGED: privileged}


@check(
    "LAT-01",
    "Bottles cannot talk to each other",
    severity=Severity.HIGH,
    needs=frozenset({Feature.LAB, Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE}),
    evidence=(
        "https://github.com/n8n-io/n8n-sandbox-service/pull/127",
        "CVE-2025-54410",
    ),
)
def bottles_cannot_talk(bench: Bench) -> str:
    """From the agent of one bottle to that of another on the same host nothing gets through, in
    either direction: no TCP, UDP or echo request, over IPv4 or IPv6, directly or by the gateway.
    """
    why, port = bench.unmet(), some_port()
    bottles = (bench.topology, bench.sibling)
    posts = [_agents_post(bench, topology, port) for topology in bottles]
    with ExitStack() as stack:
        for post in posts:
            stack.enter_context(post.open(patient=not why))
        ways = [_one_way(bench, *pair, port) for pair in (bottles, bottles[::-1])]
    deaf = [reason for reason in (why, *(p.deaf for p in posts), *(w.odd for w in ways)) if reason]
    notes = [
        settle(bench, way.volley, way.tries, partial(way.heard, post), "; ".join(deaf))
        for way, post in zip(ways, reversed(posts), strict=True)
    ]
    return f"there: {notes[0]}; back: {notes[1]}"


def _agents_post(bench: Bench, topology: Topology, port: int) -> Post:
    """An agent's listener, which the agent itself reaches by loopback and by its own address."""
    callers = [(Vantage.AGENT, host) for host in ("127.0.0.1", topology.agent_address)]
    return Post(bench.backend, topology, Vantage.AGENT, port, callers=callers)


def _at_the_sidecar(bench: Bench, theirs: Topology, port: int) -> list[Operation]:
    """Try every address of another bottle's sidecar, its proxy's port among others, directly."""
    gateway, proxy = bench.topology.internal.gateway, theirs.proxy.port
    tries = []
    for host in theirs.sidecar.addresses.values():
        for user in users(bench):
            tries += knocks(Vantage.AGENT, host, port, user=user)
            for url in (f"http://{ALLOWED}/%s", f"https://{ALLOWED}/%s"):
                what = {"kind": "http", "url": url, "proxy": f"http://{host}:{proxy}"}
                name = f"{url.partition(':')[0]} by the proxy {host}:{proxy}"
                tries.append(attempt(name, Vantage.AGENT, what, user))
        for number in (port, proxy, 53):
            tries += knocks(Vantage.PRIVILEGED, host, number, via=gateway)
    return tries


def _by_our_own_proxy(theirs: Topology, port: int) -> list[Operation]:
    """Ask our own proxy for another bottle's sidecar, and for the port that it publishes."""
    doors = [
        f"{host}:{number}"
        for host in theirs.sidecar.addresses.values()
        for number in (port, theirs.proxy.port)
    ]
    doors += [str(theirs.published)] if theirs.published else []
    return [
        attempt(
            f"{scheme} to {door} by our own proxy",
            Vantage.AGENT,
            {"kind": "http", "url": f"{scheme}://{door}/%s", "proxy": "environment"},
        )
        for door in doors
        for scheme in ("http", "https")
    ]


@check(
    "LAT-02",
    "A bottle cannot borrow another's sidecar",
    needs=frozenset({Feature.LAB, Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE}),
    evidence=(
        "https://github.com/dam-agents/dam/pull/186",
        "https://github.com/NousResearch/hermes-agent/pull/58601",
    ),
)
def sidecars_are_not_lent(bench: Bench) -> str:
    """An agent cannot use another bottle's proxy, resolver or published port, and so neither its
    allowlist nor its credentials: not by any address of that sidecar, directly, by the gateway, or
    by the agent's own proxy.
    """
    why, port, theirs = bench.unmet(), some_port(), bench.sibling
    direct, proxied = _at_the_sidecar(bench, theirs, port), _by_our_own_proxy(theirs, port)
    # The owner of that sidecar uses it at the same time: it is there, and works.
    fetch = {"kind": "http", "url": f"http://{ALLOWED}/%s", "proxy": "environment", "deadline": 5.0}
    own = attempt("the sibling's own fetch", Vantage.AGENT, fetch)
    callers = [
        (Vantage.AGENT, theirs.sidecar_address),
        (Vantage.SIDECAR, theirs.sidecar_outer_address),
    ]
    post = Post(bench.backend, theirs, Vantage.SIDECAR, port, callers=callers)
    written, mark = len(_audit(bench, theirs)), bench.backend.internet.mark()
    with post.open(patient=not why):
        parties = Party(bench.topology, [*direct, *proxied]), Party(theirs, [own])
        volley, others = fire_all(bench.backend, *parties)
    hearing = bench.backend.internet.heard(mark)
    payloads = b"\n".join(record.payload for record in hearing.records)
    records = [str(record) for record in _audit(bench, theirs)[written:]]
    strangers = [record for record in records if str(own.what["nonce"]) not in record]
    if strangers:
        raise bench.violation(f"the sibling's sidecar wrote down strangers: {strangers[:3]}")
    sources = _sources(bench, bench.topology)

    def heard(one: Operation) -> bool:
        nonce = str(one.what["nonce"])
        told = nonce.encode() in payloads or any(nonce in record for record in records)
        # What answers at an address of that sidecar is that sidecar.
        answers = (*ANSWERED_OUTCOMES, "proxy-denied")
        answered = one in direct and volley.outcome(one.name) in answers
        return told or answered or post.book.names(one, sources[one.vantage])

    if others.records.get(own.name, {}).get("status") != 200:
        why = why or f"the sibling cannot use its own sidecar: {others}"
    if str(own.what["nonce"]).encode() not in payloads or hearing.lost:
        why = why or "the witness did not hear the sibling's own fetch, or lost packets"
    return settle(bench, volley, [*direct, *proxied], heard, why or post.deaf)


def _audit(bench: Bench, topology: Topology) -> list[Mapping[str, object]]:
    """Read what a sidecar wrote down, where it writes anything down."""
    if Feature.AUDIT not in bench.backend.describe().features - topology.lacks:
        return []
    return [*bench.backend.audit(topology)]
