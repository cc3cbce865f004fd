"""PXY: addresses that a sidecar must not dial, whatever its policy says."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import talks, telling
from pytest_bottle.conformance.dialects import connect, request
from pytest_bottle.conformance.registry import check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.errors import Facts, TransportError
from pytest_bottle.firing import Operation, fire
from pytest_bottle.guest.policy import ANY_HOST
from pytest_bottle.spec import EgressRoute
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record, Volley
    from pytest_bottle.internet.lab import Mark
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.spec import BottleSpec

_PORT = 46010
#: Who listens where: the far side owns all other addresses, the sidecar its own.
_FAR = (
    "10.99.0.7",
    "172.16.0.7",
    "192.168.0.7",
    "100.64.0.7",
    "169.254.169.254",
    "224.0.0.7",
    "fd00::7",
    "fe80::7",
)
_OWN = ("127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1")
#: Nothing can be sent to these without more than an address (RFC 4291 section 2.5.6), or by TCP.
_ROUTELESS = frozenset({"224.0.0.7", "fe80::7"})
#: A name that no other bottle lists. Like an outward address beside it, it is listed with them.
_LISTED = "listed.test"
#: Seconds for a guest's listener at the most; a word ends it.
_LISTENING = 20.0
#: What a listener hears from beside it, first and last.
_HELLO, _ENOUGH = "HELLO", "ENOUGH"
_TCP = 6


class _Door(NamedTuple):
    """A guest that listens, and an address to tell it by that that is enough."""

    vantage: Vantage
    address: str


@check(
    "PXY-10",
    "Private, loopback, link-local and metadata literals are refused",
    needs=frozenset({Feature.LAB}),
    evidence=(
        "https://github.com/NVIDIA/OpenShell/issues/59",
        "https://github.com/onyx-dot-app/onyx/pull/12242",
        "https://github.com/cocoonstack/sandbox/issues/27",
    ),
    apart=True,
    alone=True,  # the witness is asked for visits to addresses that anybody may name
)
def inward_literals_are_refused(bench: Bench) -> str:
    """Even when the policy text would allow them, the sidecar does not dial its own or internal
    addresses unless the bottle says so explicitly.
    """
    internet = bench.backend.internet
    internet.listen(tcp=[_PORT])
    outward = (internet.fresh_address(), _LISTED)
    with bench.another(_permissive(bench.spare, outward)) as topology:
        return _judge(bench, topology, _literals(bench, topology), outward)


def _permissive(spec: BottleSpec, outward: Iterable[str]) -> BottleSpec:
    """List every literal; the reference sidecar is told that all hosts will do, besides."""
    hosts = (*outward, *_FAR, *_OWN, *((ANY_HOST,) if spec.sidecar.is_reference else ()))
    routes = (EgressRoute(host, (_PORT,)) for host in hosts)
    return dataclasses.replace(spec, egress=(*spec.egress, *routes))


def _literals(bench: Bench, topology: Topology) -> list[str]:
    own = (topology.sidecar_address, topology.sidecar_outer_address)
    gateway = (topology.egress.gateway,) if Feature.HOST_EXEC in bench.features else ()
    return [*_FAR, *_OWN, *own, *gateway]


def _doors(bench: Bench) -> list[_Door]:
    doors = [_Door(Vantage.SIDECAR, "127.0.0.1")]
    if Feature.HOST_EXEC in bench.features:
        doors.append(_Door(Vantage.HOST, "127.0.0.1"))
    return doors


def _judge(bench: Bench, topology: Topology, literals: list[str], outward: tuple[str, ...]) -> str:
    backend = bench.backend
    controls = {literal: new_nonce() for literal in literals}
    with _listening(bench, topology) as visits:
        direct = fire(backend, topology, [_direct(h, nonce) for h, nonce in controls.items()])
        opened = backend.internet.mark()
        asked, listed = _asked("PXY-10", topology, literals), _asked("listed", topology, outward)
        answers = fire(backend, topology, [asked, listed])
    _require_silence(bench, visits, set(controls.values()), opened, literals)
    reached = [host for host in literals if direct.echo(_direct(host, "").name)]
    _require_listed(bench, listed, answers, opened)
    _require_controls(bench, asked, answers, direct, reached)
    rest = [host for host in literals if host not in reached]
    note = f"{len(reached)} addresses that answer the sidecar itself, by CONNECT and GET: none"
    return f"{note}; not credited, for they do not: {', '.join(rest)}" if rest else note


def _direct(host: str, nonce: str) -> Operation:
    # A first SYN may be lost while a next hop is looked for: the second comes after a second.
    what = {"kind": "tcp", "host": host, "port": _PORT, "nonce": nonce, "deadline": 2.5}
    return Operation(f"PXY-10 {host} (sidecar, direct)", Vantage.SIDECAR, what)


def _asked(name: str, topology: Topology, literals: Iterable[str]) -> talks.Conversations:
    """Ask for each literal by CONNECT and by GET, and for nothing else."""
    held = []
    for literal in literals:
        nonce = new_nonce()
        host = f"[{literal}]" if ":" in literal else literal
        authority = f"{host}:{_PORT}".encode()
        field, words = b"Host: " + authority, b"BOTTLE %s\n" % nonce.encode()
        url = b"http://%s/%s" % (authority, nonce.encode())
        for form, steps in (
            (f"CONNECT {host}", connect(authority, words, field)),
            (f"GET {host}", request(url, field)),
        ):
            held.append(Talk(form, topology.proxy, steps, nonce))
    return talks.conversations(name, held)


# -- listeners inside ------------------------------------------------------------------------------


@contextmanager
def _listening(bench: Bench, topology: Topology) -> Iterator[dict[Vantage, list[str]]]:
    """Listen at the sidecar and at the host; who came, by first words, is known at the end.

    The sidecar says to both when it is enough, so that the silence before it is worth something.
    """
    visits: dict[Vantage, list[str]] = {}
    doors = _doors(bench)
    what: dict[str, object] = {"kind": "listen", "tcp": [_PORT], "addresses": ["0.0.0.0", "::"]}
    what |= {"until": _ENOUGH, "deadline": _LISTENING}
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
    what = {"kind": "tcp", "host": door.address, "port": _PORT, "nonce": word}
    end = time.monotonic() + _LISTENING / 2
    while not bench.probe(door.vantage, what, topology=topology).get("echo"):
        if time.monotonic() > end:
            raise TransportError(
                "a guest's listener does not answer",
                where=f"{door.vantage.value} {door.address}:{_PORT}",
            )


# -- judging ---------------------------------------------------------------------------------------


def _require_silence(
    bench: Bench,
    visits: Mapping[Vantage, list[str]],
    controls: set[str],
    opened: Mark,
    literals: list[str],
) -> None:
    strangers = {
        vantage.value: [word for word in said if not _is_ours(word, controls)]
        for vantage, said in visits.items()
    }
    if any(strangers.values()):
        seen = "; ".join(f"{who} {len(said)}x, {said[:1]}" for who, said in strangers.items())
        raise bench.violation(f"listeners were visited through the proxy: {seen}")
    hearing = bench.backend.internet.heard(opened)
    heard = [r for r in hearing.records if r.dst in literals and _is_new(r)]
    if heard:
        where = sorted({f"{r.dst}:{r.dport}" for r in heard})
        facts = Facts(heard=telling.packets(heard), how="the sidecar dialled")
        raise bench.violation(f"the sidecar dialled {', '.join(where)}", facts)
    if hearing.lost:
        raise bench.inconclusive(f"the witness lost {hearing.lost} packets")


def _is_ours(word: str, controls: set[str]) -> bool:
    return any(known in word for known in (_HELLO, _ENOUGH, *controls))


def _is_new(record: Heard) -> bool:
    return not record.link and (record.proto != _TCP or bool(record.payload or record.flags & 2))


def _require_controls(
    bench: Bench,
    asked: talks.Conversations,
    answers: Volley,
    direct: Volley,
    reached: list[str],
) -> None:
    found = answers.records.get(asked.name, {}).get("talks", {})
    missing = [
        talk.name
        for talk in asked.talks
        if found.get(talk.name, {}).get("outcome") in (None, "tool-error")
    ]
    needed = set(_OWN + _FAR) - _ROUTELESS - set(reached)
    if missing or needed:
        seen = {host: direct.records.get(_direct(host, "").name) for host in sorted(needed)}
        raise bench.inconclusive(
            f"not asked for: {missing} {answers.failures}; "
            f"no answer to the sidecar itself, so that no refusal counts: {seen}"
        )
    if bench.unmet():
        raise bench.inconclusive(bench.unmet())


def _require_listed(
    bench: Bench, listed: talks.Conversations, answers: Volley, opened: Mark
) -> None:
    """The control: what is listed beside the literals is dialled, so the list is the sidecar's.

    One that has a list of its own refuses all of them alike, and nobody knows what it would do if
    its list had them. A name will do: an address as such may be refused.
    """
    records = bench.backend.internet.heard(opened).records
    if not any(talk.nonce.encode() in r.payload for talk in listed.talks for r in records):
        found = answers.records.get(listed.name, {}).get("talks", {})
        seen = {name: str(one.get("answers") or one)[:60] for name, one in found.items()}
        raise bench.inconclusive(
            "the sidecar does not let through what this bottle's routes list, so that its policy "
            f"never allowed a literal (does it read BOTTLE_ROUTES?): {seen or answers.failures}"
        )
