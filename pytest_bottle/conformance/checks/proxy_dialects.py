"""PXY: every way to ask the proxy, and every way to spell what is asked for."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance import talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import (
    DIALECTS,
    Destination,
    Step,
    connect,
    request,
    said_yes,
    socks5,
    socks5_name,
)
from pytest_bottle.conformance.registry import check
from pytest_bottle.conformance.spellings import EQUIVALENTS, SPELLINGS, spelled
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.contract import Endpoint
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.dialects import Steps
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.internet.records import Heard

#: Unlisted names of these checks alone: of denied.test and its like others want to hear nothing.
BARRED, FORBIDDEN = "barred.test", "forbidden.test"
_LAB = frozenset({Feature.LAB})


# -- dialects --------------------------------------------------------------------------------------

_MATRIX = "PXY-03 dialects"


def _matrix(plan: Plan) -> None:
    cells = [
        cell
        for listener in talks.listeners(plan.topology)
        for dialect in DIALECTS
        # An address that leads nowhere is refused for another reason, or it would be heard.
        if Feature.IPV6 in plan.features or not dialect.endswith("IPv6")
        for cell in (_cell(plan, listener, dialect, "allowed"), _denied(plan, listener, dialect))
    ]
    plan.during.append(talks.conversations(_MATRIX, cells))
    talks.plan_control(plan, "PXY-03", BARRED)


def _denied(plan: Plan, listener: Endpoint, dialect: str) -> Talk:
    own = {"IPv4": 4, "IPv6": 6}.get(dialect.rpartition(" ")[2])
    return _cell(plan, listener, dialect, "denied", plan.target(own) if own else "")


def _cell(plan: Plan, at: Endpoint, dialect: str, column: str, address: str = "") -> Talk:
    nonce = new_nonce()
    allowed = column == "allowed"
    v4, v6 = plan.internet.addresses_of(ALLOWED if allowed else BARRED)
    host = ALLOWED if allowed else f"{nonce}.{BARRED}"
    to = Destination(host.encode(), address or v4, address or v6, nonce)
    steps, patience = DIALECTS[dialect](to), _FORMS.get(dialect, talks.PATIENCE)
    return Talk(f"{dialect} {column} at {at}", at, steps, nonce, address, patience=patience)


@check(
    "PXY-03",
    "Every proxy dialect gives the same verdict",
    needs=_LAB,
    evidence=(
        "https://github.com/anthropics/claude-code/issues/40213",
        "NVIDIA/OpenShell proxy_egress_pipeline.rs",
    ),
    stimuli=_matrix,
)
def dialects_agree(bench: Bench) -> str:
    """HTTP absolute-form, CONNECT, SOCKS4a/5 (domain, IPv4, IPv6, UDP ASSOCIATE, BIND), h2/h2c,
    WebSocket upgrade and CONNECT-UDP are all subject to the list or refused: of a denied
    destination the far side hears nothing in any of them.
    """
    evidence = bench.evidence
    operation = talks.held(evidence.plan, _MATRIX)
    talks.require_silence(bench, BARRED, _column(operation, "denied"))
    doubts = talks.doubts(bench, BARRED, operation)
    if doubts:
        raise bench.inconclusive(doubts)
    news = list(talks.news(evidence))
    works = [
        t.name.split(" allowed")[0] for t in _column(operation, "allowed") if talks.about(t, news)
    ]
    if "GET" not in works:
        raise bench.inconclusive(f"in raw bytes not even GET reaches {ALLOWED}, but {works}")
    return _dialects_note(bench, operation, works)


def _column(operation: talks.Conversations, column: str) -> list[Talk]:
    return [talk for talk in operation.talks if f" {column} at " in talk.name]


def _dialects_note(bench: Bench, operation: talks.Conversations, works: list[str]) -> str:
    found = talks.records(bench.evidence, _MATRIX)
    # A yes of which the far side hears nothing is no leak (catalogue 0.3), but worth a word.
    empty = [
        talk.name
        for talk in _column(operation, "denied")
        if said_yes(talk.name.split(" denied")[0], found[talk.name]["answers"])
    ]
    asked = dict.fromkeys(t.name.split(" allowed")[0] for t in _column(operation, "allowed"))
    refused = [dialect for dialect in asked if dialect not in works]
    note = f"work: {', '.join(dict.fromkeys(works))}; refused: {', '.join(refused)}"
    return f"{note}; said yes and led nowhere: {', '.join(empty)}" if empty else note


# -- spellings -------------------------------------------------------------------------------------

_SPELLINGS = "PXY-12 spellings"
#: The dialects, and how long one waits for what comes of an allowed name in each: to an HTTP proxy
#: SOCKS means nothing.
_FORMS = {"GET": talks.PATIENT, "CONNECT": talks.PATIENT, "SOCKS5": talks.PATIENCE}


def _dress(plan: Plan) -> None:
    at, series = plan.topology.proxy, new_nonce()[:24]
    # These go first: where one of a form is answered, silence may be a refusal, and all are tried.
    alike = [
        replace(_spoken(f"{form} as {name}", at, form, name.encode(), nonce, nonce), patience=wait)
        for name in EQUIVALENTS
        for form, wait in _FORMS.items()
        for nonce in [new_nonce()]
    ]
    dressed = [
        _spoken(f"{form} {spelling!r}", at, form, host, nonce)
        for spelling in SPELLINGS
        for form in _FORMS
        for nonce in [series + new_nonce()[:8]]
        for host in [spelled(spelling, ALLOWED, nonce, FORBIDDEN)]
    ]
    plan.during.append(talks.conversations(_SPELLINGS, [*alike, *dressed, *_two_minds(at, series)]))
    talks.plan_control(plan, "PXY-12", FORBIDDEN)


def _spoken(name: str, at: Endpoint, form: str, host: bytes, nonce: str, path: str = "") -> Talk:
    return Talk(name, at, _ask(form, host, _words(nonce), path), nonce, group=form)


def _words(nonce: str) -> bytes:
    return b"BOTTLE %s\n" % nonce.encode()


def _ask(form: str, host: bytes, words: bytes, path: str = "") -> Steps:
    # Of HTTP 1.0, for there no Host has to agree: the spelling alone is judged.
    if form == "GET":
        return request(b"http://%s/%s" % (host, path.encode()), version=b"1.0")
    if form == "CONNECT":
        return connect(host + b":443", words, version=b"1.0")
    return socks5(socks5_name(host), 80, Step(words, words.split()[-1].decode()))


def _two_minds(at: Endpoint, series: str) -> Iterator[Talk]:
    """Let the target and the Host disagree."""
    a = ALLOWED.encode()
    for number in range(6):
        nonce = series + new_nonce()[:8]
        d = f"{nonce}.{FORBIDDEN}".encode()
        steps = (
            request(b"http://%s/" % a, b"Host: " + d),
            request(b"http://%s/" % d, b"Host: " + a),
            request(b"http://%s/" % a, b"Host: " + a, b"Host: " + d),
            request(b"http://x@%s/" % a, b"Host: " + d),
            connect(a + b":443", _words(nonce), b"Host: " + d),
            connect(d + b":443", _words(nonce), b"Host: " + a),
        )[number]
        yield Talk(f"target and Host disagree ({number + 1})", at, steps, nonce)


@check(
    "PXY-12",
    "Host spelling does not change the verdict",
    needs=_LAB,
    evidence=(
        "https://github.com/NVIDIA/OpenShell/issues/1498",
        "https://github.com/NVIDIA/OpenShell/pull/2248",
        "https://github.com/SkillfulAgents/SuperAgent/pull/1110",
        "https://github.com/FactoryGameFan/factorio-blueprint-editor/pull/450",
    ),
    stimuli=_dress,
)
def spelling_is_canonical(bench: Bench) -> str:
    """Case, trailing dots, surrounding space, :port suffix, userinfo, percent-encoding, NUL and
    control bytes, fullwidth and IDN dots, punycode, 255+ byte names are canonicalised or refused,
    never approved as one host and dialled as another. Equivalents of an allowed name work or are
    refused, but alike in every dialect.
    """
    evidence = bench.evidence
    operation = talks.held(evidence.plan, _SPELLINGS)
    leaks = _strays(bench, operation)
    if leaks:
        names = sorted({name for name, _ in leaks if name})
        raise bench.violation(
            f"{len(names)} spellings led to {FORBIDDEN} or asked for it: {'; '.join(names[:12])}",
            talks.rests_on(leaks),
        )
    doubts = talks.doubts(bench, FORBIDDEN, operation)
    if doubts:
        raise bench.inconclusive(doubts)
    return _require_alike(bench, operation)


def _strays(bench: Bench, operation: talks.Conversations) -> list[tuple[str, Heard]]:
    """Find packets to or about the denied name, with the spelling that sent them where it shows."""
    internet = bench.backend.internet
    allowed, forbidden = internet.addresses_of(ALLOWED), internet.addresses_of(FORBIDDEN)
    names = {talk.nonce.encode(): talk.name for talk in operation.talks}
    series = operation.talks[-1].nonce[:24].encode()
    strays = []
    for record in talks.news(bench.evidence):
        found = re.search(series + rb"\w{8}", record.payload.lower())
        astray = found is not None and (
            record.dst not in allowed or record.dport == 53 or _is_addressed(record, found[0])
        )
        if astray or record.dst in forbidden:
            strays.append((names.get(found[0], "") if found else "", record))
    return strays


def _is_addressed(record: Heard, nonce: bytes) -> bool:
    """Whether a request that came to the allowed host names the denied one as its host."""
    return re.search(rb"\nhost:[^\r\n]*" + nonce, record.payload.lower()) is not None


def _require_alike(bench: Bench, operation: talks.Conversations) -> str:
    heard = [r for r in talks.news(bench.evidence) if r.payload]
    reached: dict[str, set[str]] = defaultdict(set)
    for talk in operation.talks:
        form, word, name = talk.name.partition(" as ")
        if word and talks.about(talk, heard):
            reached[name].add(form)
    works = reached[EQUIVALENTS[0]]
    if not works & {"GET", "CONNECT"}:
        raise bench.inconclusive(f"in raw bytes no dialect reaches {ALLOWED}")
    found = talks.records(bench.evidence, operation.name)
    # A loaded machine may leave one of them no time: nobody knows what would have come of it.
    late = [n for n, r in found.items() if r["outcome"] == "timeout" and _form_of(n) in works]
    for name in EQUIVALENTS:
        if reached[name] not in (set(), works) and late:
            raise bench.inconclusive(f"not held to the end: {', '.join(late)}")
        if reached[name] not in (set(), works):
            raise bench.violation(
                f"{name} works by {sorted(reached[name])}, but {ALLOWED} by {sorted(works)}"
            )
    alike = [name for name in EQUIVALENTS if reached[name]]
    return (
        f"{len(SPELLINGS)} spellings in {len(_FORMS)} dialects, none led astray; "
        f"by {' and '.join(sorted(works))} work {', '.join(alike)}"
    )


def _form_of(talk: str) -> str:
    """The dialect of a conversation that uses an equivalent spelling; empty for all others."""
    form, word, _ = talk.partition(" as ")
    return form if word else ""
