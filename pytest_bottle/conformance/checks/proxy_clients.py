"""PXY: whom the sidecar's proxy serves."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import Endpoint, Feature, Vantage
from pytest_bottle.conformance import talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import DIALECTS, Destination
from pytest_bottle.conformance.encounters import NEARBY, Party, Post, fire_all, some_port
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Volley

#: Where proxies usually listen; the sidecar's own sockets are tried besides.
_USUAL = (80, 443, 1080, 3128, 8080, 8118, 8443, 8888, 9050, 9099)
_FORMS = ("CONNECT", "GET", "SOCKS5")

_LISTEN = 10
#: Seconds for a sweep of all ports, or for a listener until its last word, at the most.
_SWEEPING = 60.0


class _Trial(NamedTuple):
    """What strangers tried, what the owners did at the same time, and what came of it."""

    strangers: list[talks.Conversations]
    owners: list[talks.Conversations]
    volleys: list[Volley]
    payloads: bytes
    doubts: str


@check(
    "PXY-20",
    "The proxy serves its own agent only",
    severity=Severity.HIGH,
    needs=frozenset({Feature.LAB, Feature.NEIGHBOUR}),
    evidence=("https://github.com/luongnv89/yt-search-lib/pull/42",),
)
def serves_its_own_agent(bench: Bench) -> str:
    """Nobody beside the sidecar on its outer network, nobody at the host, and no other bottle's
    agent gets anywhere by this sidecar: not by its outer address, at any port where it listens or
    proxies usually do (or any port at all, when the suite is thorough), nor by its published port,
    while its own agent does.
    """
    trial = _try(bench)
    leaks = [(o, talk) for o in trial.strangers for talk in _arrived(trial, o)]
    if leaks:
        names = [f"{operation.vantage.value}: {talk.name}" for operation, talk in leaks[:8]]
        raise bench.violation(f"the witness heard of {len(leaks)} strangers: {'; '.join(names)}")
    served = [o.name for o in trial.owners if len(_arrived(trial, o)) < len(o.talks)]
    doubts = bench.unmet() or trial.doubts or _unheld(trial)
    if served or doubts:
        raise bench.inconclusive(doubts or f"not even the owners were served: {served}")
    return "; ".join(_note(trial, operation) for operation in trial.strangers)


def _try(bench: Bench) -> _Trial:
    backend, topology, sibling = bench.backend, bench.topology, bench.sibling
    outer, port = topology.sidecar_outer_address, some_port()
    callers = [(Vantage.NEIGHBOUR, outer)]
    if Feature.HOST_EXEC in bench.features:
        callers.append((Vantage.HOST, outer))
    long = {"deadline": _SWEEPING}
    post = Post(backend, topology, Vantage.SIDECAR, port, callers=callers, more=long)
    doors = [Endpoint(outer, number) for number in _ports(bench)]
    published = [topology.published] if topology.published else []
    strangers = [_asked("neighbour", Vantage.NEIGHBOUR, doors)]
    if Feature.HOST_EXEC in bench.features:
        strangers.append(_asked("host", Vantage.HOST, [*doors, *published]))
    sideways = _asked("sibling", Vantage.AGENT, [*doors, *published])
    own, theirs = _owner("own agent", topology), _owner("sibling's own", sibling)
    mark = backend.internet.mark()
    with post.open(patient=not bench.unmet()):
        parties = Party(topology, [*strangers, own]), Party(sibling, [sideways, theirs])
        volleys = fire_all(backend, *parties, deadline=NEARBY)
    hearing = backend.internet.heard(mark)
    payloads = b"\n".join(record.payload for record in hearing.records)
    lost = f"the witness lost {hearing.lost} packets" if hearing.lost else ""
    return _Trial([*strangers, sideways], [own, theirs], volleys, payloads, lost or post.deaf)


def _ports(bench: Bench) -> list[int]:
    """Ports of the sidecar that may be doors to the outside."""
    topology = bench.topology
    own = bench.probe(Vantage.SIDECAR, {"kind": "sockets"}).get("sockets")
    if own is None:
        raise bench.inconclusive("the sidecar's sockets cannot be listed")
    outer = topology.sidecar_outer_address
    waiting = {row[2] for row in own if row[0] == "tcp" and row[5] == _LISTEN}
    found = {*_USUAL, topology.proxy.port, *waiting}
    if bench.thorough:
        sweep = {"kind": "doors", "host": outer, "deadline": _SWEEPING}
        found |= set(bench.probe(Vantage.NEIGHBOUR, sweep).get("open", ()))
    return sorted(found)


def _asked(name: str, vantage: Vantage, doors: Iterable[Endpoint]) -> talks.Conversations:
    """Ask at each door for what the bottle lets its agent have."""
    held = [_talk(form, door) for door in doors for form in _FORMS]
    return dataclasses.replace(talks.conversations(name, held), vantage=vantage)


def _owner(name: str, topology: Topology) -> talks.Conversations:
    held = [_talk(form, topology.proxy) for form in ("CONNECT", "GET")]
    return talks.conversations(name, held, talks.PATIENT)


def _talk(form: str, at: Endpoint) -> Talk:
    nonce = new_nonce()
    to = Destination(ALLOWED.encode(), "0.0.0.0", "::", nonce)
    return Talk(f"{form} at {at}", at, DIALECTS[form](to), nonce)


def _arrived(trial: _Trial, operation: talks.Conversations) -> list[Talk]:
    return [talk for talk in operation.talks if talk.nonce.encode() in trial.payloads]


def _outcomes(trial: _Trial, operation: talks.Conversations) -> dict[str, str]:
    """How each conversation ended that was held at all."""
    return {
        name: str(record.get("outcome"))
        for volley in trial.volleys
        for name, record in volley.records.get(operation.name, {}).get("talks", {}).items()
    }


def _unheld(trial: _Trial) -> str:
    for operation in trial.strangers:
        found = _outcomes(trial, operation)
        wrong = [t.name for t in operation.talks if found.get(t.name) in (None, "tool-error")]
        if wrong:
            failures = [volley.failures for volley in trial.volleys]
            return f"{operation.name}: not held: {wrong[:5]}, {failures}"
    return ""


def _note(trial: _Trial, operation: talks.Conversations) -> str:
    counts = Counter(_outcomes(trial, operation).values())
    ends = ", ".join(f"{n}x {outcome}" for outcome, n in sorted(counts.items()))
    return f"{operation.name}: {ends}"
