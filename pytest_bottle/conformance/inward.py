"""Addresses inside, and whether a sidecar can be made to dial one: listeners there, and a witness.

The sidecar listens on its own addresses, the host on its; the far side owns all others. Who comes
to a listener tells, and a handshake that the witness hears.
"""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import talks, telling
from pytest_bottle.conformance.dialects import connect, request
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.errors import Facts, TransportError
from pytest_bottle.firing import Operation, fire
from pytest_bottle.guest.policy import ANY_HOST
from pytest_bottle.spec import EgressRoute
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.dialects import Steps
    from pytest_bottle.conformance.talks import Conversations
    from pytest_bottle.firing import Record, Volley
    from pytest_bottle.internet.lab import Hearing
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.spec import BottleSpec

#: Where everybody listens.
PORT = 46010
#: A name that no other bottle lists. Like an outward address beside it, it is listed with them.
LISTED = "listed.test"
#: Seconds for a guest's listener at the most; a word ends it.
_LISTENING = 20.0
#: What a listener hears from beside it, first and last.
_HELLO, _ENOUGH = "HELLO", "ENOUGH"
_TCP = 6


class _Door(NamedTuple):
    """A guest that listens, and an address to tell it by that that is enough."""

    vantage: Vantage
    address: str


def listing(spec: BottleSpec, hosts: Iterable[str], *, all_hosts: bool = False) -> BottleSpec:
    """A bottle that lists hosts at the listeners' port; ``all_hosts`` lists any other besides.

    That is said to the reference sidecar only: nobody else knows of such a route.
    """
    more = (ANY_HOST,) if all_hosts and spec.sidecar.is_reference else ()
    routes = (EgressRoute(host, (PORT,)) for host in (*hosts, *more))
    return dataclasses.replace(spec, egress=(*spec.egress, *routes))


class Asked(NamedTuple):
    """What came of asking a sidecar's proxy for addresses inside.

    Attributes:
        held: the conversations with the proxy, and ``answers`` what the probe recorded of them.
        direct: what the sidecar itself, without its proxy, got from each host.
        reached: the hosts that answered it.
        hearing: what the witness heard meanwhile.
    """

    held: tuple[Conversations, ...]
    answers: Volley
    direct: Mapping[str, Record]
    reached: frozenset[str]
    hearing: Hearing


def ask(
    bench: Bench,
    topology: Topology,
    hosts: Iterable[str],
    watched: Collection[str],
    *held: Conversations,
) -> Asked:
    """Hold conversations with the proxy, and require that they lead to nobody inside.

    Args:
        bench: whose check it is.
        topology: the bottle.
        hosts: what the sidecar itself is to reach first, as the controls.
        watched: addresses that the witness must not hear dialled.
        held: the conversations.
    """
    backend = bench.backend
    controls = {host: _direct(host) for host in hosts}
    with _listening(bench, topology) as visits:
        direct = fire(backend, topology, controls.values())
        opened = backend.internet.mark()
        answers = fire(backend, topology, held)
    hearing = backend.internet.heard(opened)
    _require_silence(bench, visits, {str(o.what["nonce"]) for o in controls.values()})
    _require_undialled(bench, hearing, watched)
    records = {host: direct.records.get(one.name, {}) for host, one in controls.items()}
    reached = frozenset(host for host, record in records.items() if record.get("echo"))
    return Asked(held, answers, records, reached, hearing)


def conversations(name: str, topology: Topology, hosts: Iterable[str]) -> Conversations:
    """Ask the proxy for each host by CONNECT and by GET; an IPv6 address may have its brackets."""
    held = []
    for number, bare in enumerate(hosts):
        host = f"[{bare}]" if ":" in bare and "[" not in bare else bare
        authority = f"{host}:{PORT}".encode()
        for form in ("CONNECT", "GET"):
            nonce = new_nonce()
            steps = _say(form, authority, nonce)
            held.append(Talk(f"{form} {host} {number}", topology.proxy, steps, nonce))
    return talks.conversations(name, held)


def _say(form: str, authority: bytes, nonce: str) -> Steps:
    field = b"Host: " + authority
    if form == "GET":
        return request(b"http://%s/%s" % (authority, nonce.encode()), field)
    return connect(authority, b"BOTTLE %s\n" % nonce.encode(), field)


def _direct(host: str) -> Operation:
    """Let the sidecar itself say a nonce to a host, without its proxy."""
    # A first SYN may be lost while a next hop is looked for: the second comes after a second.
    what = {"kind": "tcp", "host": host, "port": PORT, "nonce": new_nonce(), "deadline": 2.5}
    return Operation(f"{host} (sidecar, direct)", Vantage.SIDECAR, what)


def _doors(bench: Bench) -> list[_Door]:
    doors = [_Door(Vantage.SIDECAR, "127.0.0.1")]
    if Feature.HOST_EXEC in bench.features:
        doors.append(_Door(Vantage.HOST, "127.0.0.1"))
    return doors


# -- listeners inside ------------------------------------------------------------------------------


@contextmanager
def _listening(bench: Bench, topology: Topology) -> Iterator[dict[Vantage, list[str]]]:
    """Listen at the sidecar and at the host; who came, by first words, is known at the end.

    The sidecar says to both when it is enough, so that the silence before it is worth something.
    """
    visits: dict[Vantage, list[str]] = {}
    doors = _doors(bench)
    what: dict[str, object] = {"kind": "listen", "tcp": [PORT], "addresses": ["0.0.0.0", "::"]}
    what |= {"until": [_ENOUGH], "deadline": _LISTENING}
    with ThreadPoolExecutor(len(doors)) as pool:
        rounds: Mapping[_Door, Future[Record]] = {
            door: pool.submit(bench.probe, door.vantage, what, topology=topology) for door in doors
        }
        try:
            for door in doors:
                _knock(bench, topology, door, _HELLO)
            yield visits
        finally:
            for door in doors:
                _knock(bench, topology, door, _ENOUGH)
    for door, future in rounds.items():
        visits[door.vantage] = [visit[3] for visit in future.result().get("visitors", ())]


def _knock(bench: Bench, topology: Topology, door: _Door, word: str) -> None:
    """Visit a listener from beside it, until it is there."""
    what = {"kind": "tcp", "host": door.address, "port": PORT, "nonce": word}
    end = time.monotonic() + _LISTENING / 2
    while not bench.probe(door.vantage, what, topology=topology).get("echo"):
        if time.monotonic() > end:
            raise TransportError(
                "a guest's listener does not answer",
                where=f"{door.vantage.value} {door.address}:{PORT}",
            )


# -- judging ---------------------------------------------------------------------------------------


def _require_silence(bench: Bench, visits: Mapping[Vantage, list[str]], controls: set[str]) -> None:
    known = (_HELLO, _ENOUGH, *controls)
    strangers = {
        vantage.value: [word for word in said if not any(one in word for one in known)]
        for vantage, said in visits.items()
    }
    if any(strangers.values()):
        seen = "; ".join(f"{who} {len(said)}x, {said[:1]}" for who, said in strangers.items())
        raise bench.violation(f"listeners were visited through the proxy: {seen}")


def _require_undialled(bench: Bench, hearing: Hearing, watched: Collection[str]) -> None:
    heard = [r for r in hearing.records if r.dst in watched and _is_new(r)]
    if heard:
        where = sorted({f"{r.dst}:{r.dport}" for r in heard})
        facts = Facts(heard=telling.packets(heard), how="the sidecar dialled")
        raise bench.violation(f"the sidecar dialled {', '.join(where)}", facts)
    if hearing.lost:
        raise bench.inconclusive(f"the witness lost {hearing.lost} packets")


def _is_new(record: Heard) -> bool:
    return not record.link and (record.proto != _TCP or bool(record.payload or record.flags & 2))


def require_asked(bench: Bench, asked: Asked, needed: Collection[str]) -> None:
    """The controls: all conversations were held, and these hosts answer the sidecar itself."""
    missing = [
        talk.name
        for operation in asked.held
        for talk in operation.talks
        if _found(asked, operation).get(talk.name, {}).get("outcome") in (None, "tool-error")
    ]
    silent = {host: asked.direct.get(host) for host in needed if host not in asked.reached}
    if missing or silent:
        raise bench.inconclusive(
            f"not asked for: {missing} {asked.answers.failures}; "
            f"no answer to the sidecar itself, so that no refusal counts: {silent}"
        )
    if bench.unmet():
        raise bench.inconclusive(bench.unmet())


def require_listed(bench: Bench, asked: Asked, listed: Conversations) -> None:
    """The control: what is listed beside the addresses is dialled, so the list is the sidecar's.

    One that has a list of its own refuses all of them alike, and nobody knows what it would do if
    its list had them. A name will do: an address as such may be refused.
    """
    if not arrived(asked, listed.talks):
        found = _found(asked, listed)
        seen = {name: str(one.get("answers") or one)[:60] for name, one in found.items()}
        raise bench.inconclusive(
            "the sidecar does not let through what this bottle's routes list, so that its policy "
            "never allowed an address inside (does it read BOTTLE_ROUTES?): "
            f"{seen or asked.answers.failures}"
        )


def arrived(asked: Asked, held: Iterable[Talk]) -> list[Talk]:
    """Pick the conversations that the far side heard of by their nonces."""
    payloads = b"\n".join(record.payload for record in asked.hearing.records)
    return [talk for talk in held if talk.nonce.encode() in payloads]


def _found(asked: Asked, operation: Conversations) -> Mapping[str, Record]:
    found: Mapping[str, Record] = asked.answers.records.get(operation.name, {}).get("talks", {})
    return found
