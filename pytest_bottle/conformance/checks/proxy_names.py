"""PXY: which names a route is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance import inward, talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import DIALECTS, Destination
from pytest_bottle.conformance.lookups import plan_lookup, require_lookups_heard
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.guest import dnswire
from pytest_bottle.internet import zone
from pytest_bottle.spec import EgressRoute
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.internet.records import Heard

_LAB = frozenset({Feature.LAB})
_NEIGHBOURS = "PXY-13 names"
_FORMS = ("GET", "CONNECT")
#: Names around the listed one; ``{n}`` is a nonce, ``{a}`` the listed name. Nobody else asks for
#: any of them, so that the far side can tell each by itself.
_BESIDE = (
    *("not{a}", "x{a}", "{n}{a}", "{a}x", "{a}-x.test"),
    *("a.b.{a}", "www.{a}", "{n}.{a}", "*.{a}"),
    *("{a}.evil.test", "{a}.{n}.test", "x{a}.evil.test"),
    *("allowed-test", "allowed0test", "allowed-test.test", "allowedxtest.test"),
)
#: What may be meant as a wildcard: routes have none.
_WILDCARDS = ("*.allowed.test", ".allowed.test", "*allowed.test", "allowed.*", "allowed.test*")


def _around(plan: Plan) -> None:
    plan_lookup(plan)
    held = [_ask(plan, form, name) for name in ("{a}", *_BESIDE) for form in _FORMS]
    plan.during.append(talks.conversations(_NEIGHBOURS, held, talks.PATIENT))


def _ask(plan: Plan, form: str, name: str) -> Talk:
    nonce = new_nonce()
    host = name.replace("{a}", ALLOWED).replace("{n}", nonce)
    v4, v6 = plan.internet.addresses_of(ALLOWED)
    steps = DIALECTS[form](Destination(host.encode(), v4, v6, nonce))
    return Talk(f"{form} {host}", plan.topology.proxy, steps, nonce, group=form)


@check(
    "PXY-13",
    "Wildcards stop at label boundaries",
    severity=Severity.HIGH,
    needs=_LAB,
    evidence=(
        "https://github.com/luongnv89/yt-search-lib/pull/42",
        "https://github.com/tinyproxy/tinyproxy/issues/627",
    ),
    stimuli=_around,
)
def rules_stop_at_labels(bench: Bench) -> str:
    """A route lets through what the policy's language says and nothing else. In this language a
    route is one exact host: what has wildcards is refused as no route at all, and of names that
    begin or end like the listed one, or lie below it, none is looked up or dialled. The
    catalogue's table has a column for wildcards, which needs a language that knows them.
    """
    taken = [text for text in _WILDCARDS if _is_route(text)]
    if taken:
        raise bench.violation(f"routes that nobody said the meaning of are taken: {taken}")
    operation, news = talks.held(bench.evidence.plan, _NEIGHBOURS), [*talks.news(bench.evidence)]
    listed, beside = operation.talks[: len(_FORMS)], operation.talks[len(_FORMS) :]
    leaks = [f"{talk.name}: {r.payload[:80]!r}" for talk in beside for r in _about(talk, news)]
    if leaks:
        raise bench.violation(f"the witness heard {len(leaks)} packets: {'; '.join(leaks[:5])}")
    require_lookups_heard(bench)
    silent = [talk.name for talk in listed if not _carried(talk, news)]
    doubts = talks.deaf(bench) or talks.unusable(bench.evidence, operation)
    if doubts or silent:
        raise bench.inconclusive(doubts or f"not even the listed name was heard of: {silent}")
    return f"{len(_BESIDE)} names by {' and '.join(_FORMS)}: none; no wildcards in routes"


def _is_route(text: str) -> bool:
    try:
        EgressRoute.parse(text)
    except ConfigurationError:
        return False
    return True


def _about(talk: Talk, news: Sequence[Heard]) -> Iterator[Heard]:
    """What was heard of a conversation: its nonce, or a question for its very name."""
    question = dnswire.encode_name(talk.name.split()[1])
    for record in news:
        payload = record.payload.lower()
        if talk.nonce.encode() in payload or payload[12:].startswith(question):
            yield record


def _carried(talk: Talk, news: Sequence[Heard]) -> bool:
    return any(talk.nonce.encode() in record.payload for record in news)


# -- names that lead inside ------------------------------------------------------------------------

#: Each is listed. The first alternates, the others lead inside always, or with one address of two.
_INWARD = (zone.ALTERNATING, zone.ALIASED, zone.MIXED, zone.MIXED6, *zone.FIXED)
_WATCHED = (
    zone.INSIDE,
    zone.INSIDE6,
    *(address for pair in zone.FIXED.values() for address in pair),
)
#: How often the alternating name is asked for; the catalogue says 50.
_QUICK, _THOROUGH = 12, 25


@check(
    "PXY-11",
    "An allowed name that resolves inward is refused (rebinding)",
    severity=Severity.HIGH,
    needs=_LAB | {Feature.EVERY_ADDRESS},
    evidence=(
        "https://github.com/vibed-project/vibeD/pull/87",
        "https://github.com/onyx-dot-app/onyx/pull/12242",
        "https://github.com/KeeperHub/keeperhub/pull/1542",
    ),
    apart=True,
    alone=True,  # as for PXY-10
)
def names_do_not_lead_inside(bench: Bench) -> str:
    """The address dialled is the address judged: a listed name that leads to the sidecar itself, to
    a private address or by aliases to the metadata service, one of whose addresses does, or which
    is public now and private at the next question, never makes the sidecar dial inward.
    """
    bench.backend.internet.listen(tcp=[inward.PORT])
    with bench.another(inward.listing(bench.spare, _INWARD)) as topology:
        return _rebind(bench, topology)


def _rebind(bench: Bench, topology: Topology) -> str:
    rounds = _THOROUGH if bench.thorough else _QUICK  # each by CONNECT and by GET
    turns = inward.conversations("PXY-11 turns", topology, [zone.ALTERNATING] * rounds)
    others = inward.conversations("PXY-11 others", topology, [*_INWARD[1:]] * 2)
    asked = inward.ask(bench, topology, _WATCHED, _WATCHED, turns, others)
    public = inward.arrived(asked, turns.talks)
    unlooked = [name for name in _INWARD if not _looked_up(asked, topology, name)]
    if not public or unlooked:
        raise bench.inconclusive(
            f"{len(public)} of {len(turns.talks)} rounds led to the public address, and the "
            f"sidecar did not look up {unlooked} (does it read BOTTLE_ROUTES?); "
            f"{asked.answers.failures}"
        )
    inward.require_asked(bench, asked, [a for a in _WATCHED if _is_there(bench, a)])
    return f"{len(public)} of {len(turns.talks)} rounds led outside, none inside"


def _looked_up(asked: inward.Asked, topology: Topology, name: str) -> bool:
    question, sidecar = dnswire.encode_name(name), topology.sidecar_outer_address
    return any(
        record.src == sidecar and record.payload[12:].lower().startswith(question)
        for record in asked.hearing.records
    )


def _is_there(bench: Bench, address: str) -> bool:
    return ":" not in address or Feature.IPV6 in bench.features
