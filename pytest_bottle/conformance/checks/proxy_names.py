"""PXY: which names a route is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance import talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import DIALECTS, Destination
from pytest_bottle.conformance.lookups import require_lookups_heard
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.guest import dnswire
from pytest_bottle.spec import EgressRoute
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    held = [_ask(plan, form, name) for name in ("{a}", *_BESIDE) for form in _FORMS]
    plan.during.append(talks.conversations(_NEIGHBOURS, held))


def _ask(plan: Plan, form: str, name: str) -> Talk:
    nonce = new_nonce()
    host = name.replace("{a}", ALLOWED).replace("{n}", nonce)
    v4, v6 = plan.internet.addresses_of(ALLOWED)
    steps = DIALECTS[form](Destination(host.encode(), v4, v6, nonce))
    return Talk(f"{form} {host}", plan.topology.proxy, steps, nonce)


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
