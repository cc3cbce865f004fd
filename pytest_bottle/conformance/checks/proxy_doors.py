"""PXY: the sidecar's own doors, and where its proxy must not lead: to itself, to its host."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import encounters, talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import HEAD, Step, connect, request
from pytest_bottle.conformance.encounters import knocks
from pytest_bottle.conformance.registry import Severity, Witness, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.firing import Operation, fire
from pytest_bottle.guest.policy import ANY_HOST
from pytest_bottle.spec import EgressRoute
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_bottle.backends.contract import Endpoint, Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record, Volley
    from pytest_bottle.spec import BottleSpec

#: Seconds for a sweep of all ports at the most, and for the listener that it has to find.
_SWEEPING, _LISTENING = 60.0, 90.0
#: Doors of UDP that somebody usually stands behind.
USUAL_UDP = (
    *(53, 67, 69, 111, 123, 137, 161, 443, 500, 514, 520, 1194, 1434, 1812, 1900, 2049, 3478),
    *(4500, 4789, 5060, 5353, 5355, 8080, 8125, 8443, 8472, 9099, 10000, 11211, 27015, 33434),
    *(47808, 51820),
)
#: Ports below are not handed out to clients; what is bound there waits for somebody.
_CLIENTS = 32768
_LISTEN, _UNCONNECTED, _ESTABLISHED = 10, 7, 1
_EVERY = ("0.0.0.0", "::")


# -- one door --------------------------------------------------------------------------------------


def _told(topology: Topology) -> set[int]:
    """The ports of the sidecar at which the agent is told of a proxy."""
    inner = topology.sidecar_address
    return {each.port for each in talks.listeners(topology) if each.host == inner}


def _declared(topology: Topology) -> set[int]:
    """All ports of the sidecar that the agent is told of; a resolver's may be UDP's alone."""
    resolves = topology.sidecar_address in topology.resolvers
    return _told(topology) | ({53} if resolves else set())


@check(
    "PXY-16",
    "The sidecar offers the agent one door",
    witness=Witness.NO,
    needs=frozenset({Feature.LAB, Feature.NEIGHBOUR}),
    evidence=(
        "https://github.com/lmvdz/atrium/issues/186",
        "leash baseline/control-plane-isolation, which accepts nine codes of curl",
    ),
)
def one_door(bench: Bench) -> str:
    """From the agent only the declared ports of the sidecar answer: of all 65,535 of TCP on its
    internal address no other is open, none of the usual ones of UDP answers, and the sidecar's own
    table of sockets has no other that waits on that side. A port that it binds on its outer address
    only is not there for the agent. The controls, corrected from the catalogue, whose one canary
    on the outer address no sweep of the inner one could find: the sweep finds a canary on the
    internal address, and the neighbour the one on the outer address.
    """
    if bench.unmet():
        raise bench.inconclusive(bench.unmet())
    topology, port = bench.topology, encounters.some_port()
    inner, outer = topology.sidecar_address, topology.sidecar_outer_address
    callers = [(Vantage.AGENT, inner), (Vantage.NEIGHBOUR, outer)]
    canary = encounters.Post(
        *(bench.backend, topology, Vantage.SIDECAR, port),
        callers=callers,
        addresses=(inner, outer),
        more={"deadline": _LISTENING},
    )
    sweep = {"kind": "doors", "host": inner, "udp": [*USUAL_UDP], "deadline": _SWEEPING}
    operations = [
        Operation("sweep", Vantage.AGENT, sweep),
        Operation("sockets", Vantage.SIDECAR, {"kind": "sockets"}),
        *(outside := knocks(Vantage.AGENT, outer, port)),
    ]
    with canary.open():
        volley = fire(bench.backend, topology, operations)
    seen, own = (volley.records.get(name, {}) for name in ("sweep", "sockets"))
    extra = sorted({*seen.get("open", ())} - _declared(topology) - {port})
    waiting = sorted(_waiting(own, inner) - _declared(topology) - {port})
    answered = sorted({*seen.get("answered", ())} - _declared(topology))
    if extra or waiting or answered:
        raise bench.violation(
            f"open to the agent besides {sorted(_declared(topology))}: tcp {extra}, udp "
            f"{answered}; the sidecar has sockets that wait there: {waiting}"
        )
    if any(canary.book.names(one) for one in outside):
        raise bench.violation(f"the agent reaches {outer}, the sidecar's outer address")
    missing = {*_told(topology), port} - {*seen.get("open", ())}
    if canary.deaf or seen.get("count") != 65535 or "sockets" not in own or missing:
        why = f"the sweep did not find {sorted(missing)}" if missing else str(volley.failures)
        raise bench.inconclusive(canary.deaf or f"{why}: {seen.get('outcome')}")
    silent = f", {len(seen['silent'])} of them silent" if seen["silent"] else ""
    swept = f"65535 tcp ports{silent} and {len(USUAL_UDP)} udp ports"
    return f"{swept}, open {sorted(_declared(topology))}"


def _waiting(own: Record, inner: str) -> set[int]:
    """The ports at which a socket of the sidecar waits for whoever comes from the inside."""
    return {
        port
        for kind, address, port, _, to, state in own.get("sockets", ())
        if address in (inner, *_EVERY)
        and (state == _LISTEN if kind == "tcp" else not to and port < _CLIENTS)
    }


# -- itself ----------------------------------------------------------------------------------------

#: Seconds for a conversation with a proxy that is asked for itself: a loaded machine is slow.
_PATIENT = 5.0


@check(
    "PXY-15",
    "The proxy cannot be pointed at itself",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=frozenset({Feature.LAB}),
    evidence=("httpjail tests/self_request_loop.rs", "sandbox-runtime, configurable ports"),
    apart=True,
)
def not_at_itself(bench: Bench) -> str:
    """Requests to the sidecar's own names, addresses and ports loop nowhere and reach no admin
    surface, even where the policy's text would allow them: each is refused, the sidecar's table of
    sockets has no connection between its own addresses, a canary on its loopback has no visitor,
    and no connection stays. The catalogue's 1 s is 5 s here, for a loaded machine is slow.
    """
    port = encounters.some_port()
    with bench.another(_lists_itself(bench.spare, port)) as topology:
        canary = encounters.Post(
            *(bench.backend, topology, Vantage.SIDECAR, port),
            callers=[(Vantage.SIDECAR, "127.0.0.1")],
            more={"deadline": _LISTENING},
        )
        asked = talks.conversations("itself", _itself(topology, port), _PATIENT)
        with canary.open():
            before = _sockets(bench, topology)
            volley = fire(bench.backend, topology, [asked])
            after = _sockets(bench, topology)
        _require_no_loop(bench, topology, after, asked, volley)
        _require_no_visit(bench, canary, asked)
        _require_end(bench, topology, _count(before, topology))
        _require_loop_is_seen(bench, topology)
        doubt = bench.unmet() or canary.deaf or _unheld(asked, volley)
        if doubt:
            raise bench.inconclusive(doubt)
    return f"{len(asked.talks) - 1} conversations, each refused, no connection of its own"


def _lists_itself(spec: BottleSpec, port: int) -> BottleSpec:
    ports = (spec.sidecar.port, port)
    hosts = ("127.0.0.1", "::1", "localhost", *((ANY_HOST,) if spec.sidecar.is_reference else ()))
    routes = (EgressRoute(host, ports) for host in hosts)
    return dataclasses.replace(spec, egress=(*spec.egress, *routes))


def _itself(topology: Topology, admin: int) -> Iterator[Talk]:
    nonce, at = new_nonce(), topology.proxy
    url = b"http://%s/%s" % (ALLOWED.encode(), nonce.encode())
    (inner,) = request(url, b"Host: " + ALLOWED.encode())
    yield Talk("the same, allowed", at, (inner,), nonce)
    own = (topology.sidecar_address, topology.sidecar_outer_address, topology.sidecar.name)
    for host in (*own, "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"):
        for port in (at.port, admin):
            yield from _asking_for(at, f"{host}:{port}")
    authority = str(at).encode()
    (tunnel,) = request(authority, b"Host: " + authority, method=b"CONNECT")
    yield Talk("5 nested CONNECTs", at, (*[tunnel] * 5, inner), new_nonce())


def _asking_for(at: Endpoint, authority: str) -> Iterator[Talk]:
    nonce, asked = new_nonce(), authority.encode()
    words, host = b"BOTTLE %s\n" % nonce.encode(), b"Host: " + asked
    yield Talk(f"CONNECT {authority}", at, connect(asked, words, host), nonce)
    nonce = new_nonce()
    steps = request(b"http://%s/%s" % (asked, nonce.encode()), host)
    yield Talk(f"GET {authority}", at, steps, nonce)


def _sockets(bench: Bench, topology: Topology) -> list[list[object]]:
    record = bench.probe(Vantage.SIDECAR, {"kind": "sockets"}, topology=topology)
    if "sockets" not in record:
        raise bench.inconclusive(f"the sidecar's sockets cannot be listed: {record}")
    return list(record["sockets"])


def _loops(rows: Iterable[list[object]], topology: Topology) -> list[list[object]]:
    """Connections to the proxy from the sidecar's own addresses, those too that have ended."""
    own = {*topology.sidecar.addresses.values(), "127.0.0.1", "::1"}
    port = topology.proxy.port
    return [
        r for r in rows if r[0] == "tcp" and r[1] in own and r[3] in own and port in (r[2], r[4])
    ]


def _count(rows: Iterable[list[object]], topology: Topology) -> int:
    port = topology.proxy.port
    return sum(r[0] == "tcp" and r[2] == port and r[5] == _ESTABLISHED for r in rows)


def _require_no_loop(
    bench: Bench,
    topology: Topology,
    after: list[list[object]],
    asked: talks.Conversations,
    volley: Volley,
) -> None:
    loops = _loops(after, topology)
    if loops:
        raise bench.violation(
            f"the sidecar connected to itself {len(loops)} times, e.g. {loops[0]}"
        )
    found = volley.records.get(asked.name, {}).get("talks", {})
    late = [name for name, record in found.items() if record["outcome"] == "timeout"]
    if late:
        raise bench.violation(f"not refused within {_PATIENT:g} s: {', '.join(late)}")


def _require_no_visit(bench: Bench, canary: encounters.Post, asked: talks.Conversations) -> None:
    said = [str(visitor[3]) for visitor in canary.book.record.get("visitors", ())]
    strangers = [
        words for words in said if not words or any(talk.nonce in words for talk in asked.talks)
    ]
    if strangers:
        raise bench.violation(f"the canary on the sidecar's loopback was visited: {strangers[:3]}")


def _require_end(bench: Bench, topology: Topology, baseline: int) -> None:
    """Let connections end; then there are no more of them than before."""
    end = time.monotonic() + _PATIENT
    while (count := _count(_sockets(bench, topology), topology)) > baseline:
        if time.monotonic() > end:
            raise bench.violation(f"{count} connections stay at the proxy, {baseline} before")
        time.sleep(0.1)


def _require_loop_is_seen(bench: Bench, topology: Topology) -> None:
    """The control: a connection of the sidecar's own to its proxy shows in the table."""
    what = {"kind": "talk", **topology.proxy._asdict(), "steps": [Step(b"\n\n", HEAD).order()]}
    bench.probe(Vantage.SIDECAR, what, topology=topology)
    if not _loops(_sockets(bench, topology), topology):
        raise bench.inconclusive("a loop would not show in the sidecar's table of sockets")


def _unheld(asked: talks.Conversations, volley: Volley) -> str:
    found = volley.records.get(asked.name, {}).get("talks", {})
    missing = [
        talk.name
        for talk in asked.talks
        if found.get(talk.name, {}).get("outcome") in (None, "tool-error")
    ]
    answer = "".join(found.get(asked.talks[0].name, {}).get("answers", ()))
    if missing or " 200 " not in answer:
        return f"not asked for: {missing} {volley.failures}; {ALLOWED} answers {answer[:80]!r}"
    return ""


# -- its host --------------------------------------------------------------------------------------

#: What engines call their host.
_ALIASES = (
    "host.docker.internal",
    "gateway.docker.internal",
    "host.containers.internal",
    "host.lima.internal",
    "host",
    "gateway",
)


@check(
    "PXY-17",
    "The host is not reachable through the proxy",
    witness=Witness.AT_HOST,
    needs=frozenset({Feature.LAB, Feature.HOST_EXEC}),
    evidence=(
        "https://github.com/docker/sbx-releases/issues/546",
        "https://github.com/docker/sbx-releases/issues/211",
        "CVE-2025-9074",
    ),
)
def host_is_not_reachable(bench: Bench) -> str:
    """Names that engines give their host, gateways, the host's addresses and its loopback are
    denied as proxy targets unless the bottle declares them: a canary of the host's on every address
    has no visitor by CONNECT or GET, though the sidecar itself reaches it.
    """
    topology, port = bench.topology, encounters.some_port()
    record = bench.probe(Vantage.HOST, {"kind": "addresses"})
    if "addresses" not in record:
        raise bench.inconclusive(f"the host does not tell its addresses: {record}")
    own = {host.partition("%")[0] for _, host, _ in record["addresses"]}
    gateways = {topology.internal.gateway, topology.egress.gateway}
    hosts = [*_ALIASES, *sorted(own | gateways | {"127.0.0.1"})]
    spelled = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]
    held = [talk for each in spelled for talk in _asking_for(topology.proxy, each)]
    asked = talks.conversations("the host", held)
    canary = encounters.Post(
        *(bench.backend, topology, Vantage.HOST, port),
        callers=[(Vantage.SIDECAR, topology.egress.gateway)],
        addresses=_EVERY,
        more={"deadline": _LISTENING},
    )
    why = bench.unmet()
    with canary.open(patient=not why):
        volley = fire(bench.backend, topology, [asked])
    said = [str(visitor[3]) for visitor in canary.book.record.get("visitors", ())]
    visits = [talk.name for talk in asked.talks if any(talk.nonce in words for words in said)]
    if visits:
        raise bench.violation(f"the host's canary was visited by {', '.join(visits)}")
    found = volley.records.get(asked.name, {}).get("talks", {})
    broken = [t.name for t in held if found.get(t.name, {}).get("outcome") in (None, "tool-error")]
    if why or canary.deaf or broken:
        raise bench.inconclusive(why or canary.deaf or f"not held: {broken} {volley.failures}")
    return f"{len(hosts)} names and addresses by CONNECT and GET, no visitor at the host"
