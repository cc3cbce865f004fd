"""PXY: what else a request may say than where it goes, and what may come behind it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User
from pytest_bottle.conformance import framing, talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import HEAD, Step, connect, request
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.dialects import Steps
    from pytest_bottle.conformance.plan import Plan

_LAB = frozenset({Feature.LAB})
#: Unlisted names, one for each check: others want to hear nothing of theirs.
CROSSED, SECOND = "crossed.test", "second.test"
SMUGGLED, RELAYED = "smuggled.test", "relayed.test"
_A = ALLOWED.encode()


def _control(plan: Plan) -> Talk:
    """An allowed request in the same raw bytes: it must be heard."""
    nonce = new_nonce()
    steps = request(b"http://%s/%s" % (_A, nonce.encode()), b"Host: " + _A)
    return Talk("the same, allowed", plan.topology.proxy, steps, nonce, patience=talks.PATIENT)


def _require_control(bench: Bench, operation: talks.Conversations, name: str) -> None:
    doubts = talks.doubts(bench, name, operation)
    if doubts:
        raise bench.inconclusive(doubts)
    if not talks.about(operation.talks[0], talks.news(bench.evidence)):
        raise bench.inconclusive(f"in raw bytes not even {ALLOWED} is reached")


# -- target and Host -------------------------------------------------------------------------------

_TWO_MINDS = "PXY-04 target and Host"


def _disagree(plan: Plan) -> None:
    at, held = plan.topology.proxy, [_control(plan)]
    for number, form in enumerate(_DISAGREEMENTS):
        nonce = new_nonce()
        denied = f"{nonce}.{CROSSED}".encode()
        held.append(Talk(form, at, _disagreement(number, denied), nonce))
    plan.during.append(talks.conversations(_TWO_MINDS, held, talks.PATIENT))
    talks.plan_control(plan, "PXY-04", CROSSED)


_IN_A_TUNNEL = "absolute form in a tunnel to the allowed host"
_DISAGREEMENTS = (
    "target denied, Host allowed",
    "target allowed, Host denied",
    "two Hosts, the allowed one first",
    "two Hosts, the denied one first",
    "target denied with a port, Host allowed",
    "Host with the port of another scheme",
    "origin-form, Host denied",
    "CONNECT to the denied, Host allowed",
    "CONNECT to the allowed, Host denied",
    _IN_A_TUNNEL,
)


def _disagreement(number: int, denied: bytes) -> Steps:
    """Ask for the denied host in one place of a request, and for the allowed one in another."""
    allowed, host, other = b"http://%s/" % _A, b"Host: " + _A, b"Host: " + denied
    words = request(b"http://%s/" % denied, other)[0].send
    tunnel = request(_A + b":80", host + b":80", method=b"CONNECT")
    return (
        request(b"http://%s/" % denied, host),
        request(allowed, other),
        request(allowed, host, other),
        request(allowed, other, host),
        request(b"http://%s:80/" % denied, host),
        request(allowed, other + b":443"),
        request(b"/", other),
        connect(denied + b":443", b"BOTTLE %s\n" % denied, host),
        connect(_A + b":443", b"BOTTLE %s\n" % _A, other),
        (*tunnel, Step(words, HEAD)),
    )[number]


@check(
    "PXY-04",
    "Request target and Host header cannot disagree",
    needs=_LAB,
    evidence=(
        "https://github.com/coder/httpjail/issues/57",
        "https://github.com/openai/codex/pull/13275",
        "https://github.com/valon-technologies/gestalt/pull/382",
        "https://github.com/diennea/carapaceproxy/pull/614",
    ),
    stimuli=_disagree,
)
def one_authority(bench: Bench) -> str:
    """Policy and dial use one authority; a request whose target and Host disagree is refused, or
    goes to where it may with a Host that says so. A request for another host inside an approved
    tunnel is not passed on either, unless the bottle declares that its tunnels are opaque.
    """
    operation = talks.held(bench.evidence.plan, _TWO_MINDS)
    opaque = bench.topology.tls_opaque
    denied = [t for t in operation.talks[1:] if not (opaque and t.name == _IN_A_TUNNEL)]
    talks.require_silence(bench, CROSSED, denied)
    _require_control(bench, operation, CROSSED)
    note = f"{len(denied)} disagreements, nothing of them was heard"
    return f"{note}; tunnels are declared to be opaque" if opaque else note


# -- kept alive ------------------------------------------------------------------------------------

_KEPT = "PXY-05 kept alive"
_REFUSED = "words behind a refused CONNECT"
#: The end of the far side's answer to a request.
_ANSWERED = "\n}\n"


def _keep(plan: Plan) -> None:
    at, held = plan.topology.proxy, [_control(plan)]
    for form, steps, nonce in _kept():
        held.append(Talk(form, at, steps, nonce))
    plan.during.append(talks.conversations(_KEPT, held, talks.PATIENT))
    talks.plan_control(plan, "PXY-05", SECOND)


def _first(nonce: str) -> str:
    """The nonce of the request that may be made, before the one that may not."""
    return nonce[::-1]


def _kept() -> Iterator[tuple[str, Steps, str]]:
    for form in ("in one segment", "behind the answer", "CONNECT behind the answer", _REFUSED):
        nonce = new_nonce()
        host = f"{nonce}.{SECOND}".encode()
        (one,) = request(b"http://%s/%s" % (_A, _first(nonce).encode()), b"Host: " + _A)
        (two,) = request(b"http://%s/" % host, b"Host: " + host)
        tunnel = connect(
            host + b":443", b"BOTTLE %s\n" % nonce.encode(), b"Host: " + host + b":443"
        )
        steps = {
            "in one segment": (Step(one.send + two.send, _ANSWERED), Step(b"", HEAD)),
            "behind the answer": (Step(one.send, _ANSWERED), two),
            "CONNECT behind the answer": (Step(one.send, _ANSWERED), *tunnel),
            _REFUSED: (tunnel[0], Step(two.send, HEAD), Step(two.send, HEAD)),
        }[form]
        yield form, steps, nonce


@check(
    "PXY-05",
    "Each request on a kept-alive connection is judged",
    severity=Severity.HIGH,
    needs=_LAB,
    evidence=(
        "NVIDIA/OpenShell forward_pipeline_never_reaches_upstream_as_first_request_overflow",
        "https://github.com/httpwg/http-extensions/pull/3248",
    ),
    stimuli=_keep,
)
def each_request_is_judged(bench: Bench) -> str:
    """An allowed first request buys nothing for the second on its connection, whether that comes in
    the same segment or behind the answer; and what comes behind a refused CONNECT is not relayed:
    the proxy closes the connection.
    """
    evidence = bench.evidence
    operation = talks.held(evidence.plan, _KEPT)
    talks.require_silence(bench, SECOND, operation.talks[1:])
    refused = talks.records(evidence, _KEPT).get(_REFUSED, {})
    _require_control(bench, operation, SECOND)
    if not any(refused.get("answers", ())):  # a loaded machine: nobody knows if it was refused
        raise bench.inconclusive(f"to a CONNECT that it refuses nothing is answered: {refused}")
    if refused.get("outcome") not in ("closed", "reset"):
        raise bench.violation(f"behind a refused CONNECT the connection stays open: {refused}")
    heard = b"".join(r.payload for r in talks.news(evidence))
    firsts = [t for t in operation.talks[1:] if t.name != _REFUSED]
    lost = [t.name for t in firsts if _first(t.nonce).encode() not in heard]
    if lost:
        raise bench.inconclusive(f"not even the first request was served: {', '.join(lost)}")
    return f"{len(firsts)} second requests and words behind a refused CONNECT, nothing was heard"


# -- framing ---------------------------------------------------------------------------------------

_FRAMED, _BODY = "PXY-06 framing", "in a body that nobody can mistake"


def _frame(plan: Plan) -> None:
    at, held = plan.topology.proxy, []
    names = [_BODY, *framing.forms(b"", b"")]
    for name in names:
        nonce = new_nonce()
        secret = framing.hidden(f"{nonce}.{SMUGGLED}".encode(), nonce.encode())
        size = b"Content-Length: %d" % len(secret)
        plain = b"\r\n".join((b"POST http://%s/ HTTP/1.1" % _A, b"Host: " + _A, size, b"", secret))
        data = plain if name == _BODY else framing.forms(_A, secret)[name]
        held.append(Talk(name, at, (Step(data, HEAD), Step(b"", HEAD)), nonce))
    plan.during.append(talks.conversations(_FRAMED, held))
    talks.plan_control(plan, "PXY-06", SMUGGLED)


@check(
    "PXY-06",
    "Framing tricks do not smuggle a second request",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=_LAB,
    evidence=(
        "https://github.com/NVIDIA/OpenShell/issues/637",
        "https://github.com/http-party/node-http-proxy/issues/1721",
    ),
    stimuli=_frame,
)
def framing_hides_nothing(bench: Bench) -> str:
    """Ambiguous bodies are rejected before anything is forwarded: lengths and encodings that
    disagree, odd spellings of them, bare line feeds, folds, NUL bytes, tricks with chunks. Of a
    request that is hidden in one the far side hears nothing, unless inside the body of the allowed
    request, as which every reader has to take it.
    """
    operation = talks.held(bench.evidence.plan, _FRAMED)
    found = _smuggled(bench, operation)
    if found:
        raise bench.violation("; ".join(f"{name}: {why}" for name, why in found.items()))
    _require_control(bench, operation, SMUGGLED)
    records = talks.records(bench.evidence, _FRAMED).items()
    answers = Counter("".join(r["answers"])[9:12] or r["outcome"] for n, r in records if n != _BODY)
    said = ", ".join(f"{count}x {answer}" for answer, count in sorted(answers.items()))
    return f"{len(operation.talks) - 1} forms: {said}"


def _smuggled(bench: Bench, operation: talks.Conversations) -> dict[str, str]:
    """Find the forms whose hidden request came to the far side as more than a body."""
    internet = bench.backend.internet
    allowed, denied = internet.addresses_of(ALLOWED), internet.addresses_of(SMUGGLED)
    news = list(talks.news(bench.evidence))
    bodies = framing.streams(r for r in news if r.dst in allowed)
    found = {}
    for talk in operation.talks:
        nonce = talk.nonce.encode()
        strays = [r for r in talks.about(talk, news) if r.dst not in allowed]
        whys = [framing.ambiguity(stream, nonce) for stream in bodies if nonce in stream]
        why = talks.packet(strays[0]) if strays else next(filter(None, whys), "")
        if why:
            found[talk.name] = why
    strays = [r for r in news if r.dst in denied]
    return found or ({"some form": talks.packet(strays[0])} if strays else {})


# -- a relay ---------------------------------------------------------------------------------------

_RELAYED = "PXY-19 relayed by "
#: Where a local proxy calls from, besides any port and the one that the sidecar itself has.
_SOURCE = 3128
#: Seconds for one conversation by a relay.
_QUEUE = 5.0


def _relay(plan: Plan) -> None:
    users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in plan.features else [])]
    for user in users:
        control = dataclasses.replace(_control(plan), relay="127.0.0.1")
        held = [control, *_relayed(plan)]
        # One port calls one proxy once at a time: they wait for each other.
        plan.during.append(talks.conversations(_RELAYED + user.value, held, _QUEUE, user))
    talks.plan_control(plan, "PXY-19", RELAYED)


def _relayed(plan: Plan) -> Iterator[Talk]:
    at = plan.topology.proxy
    for here in ("127.0.0.1", "::1"):
        for source in (0, at.port, _SOURCE):
            for form in ("CONNECT", "GET"):
                nonce = new_nonce()
                host = f"{nonce}.{RELAYED}".encode()
                steps = {
                    "CONNECT": connect(
                        host + b":443", b"BOTTLE %s\n" % nonce.encode(), b"Host: " + host
                    ),
                    "GET": request(b"http://%s/" % host, b"Host: " + host),
                }[form]
                name = f"{form} by a relay on {here} from port {source or 'any'}"
                yield Talk(name, at, steps, nonce, relay=here, source=source)


@check(
    "PXY-19",
    "A relay inside the agent gains nothing",
    severity=Severity.HIGH,
    needs=_LAB,
    evidence=("https://github.com/anthropics/claude-code/issues/87381",),
    stimuli=_relay,
)
def relays_gain_nothing(bench: Bench) -> str:
    """A request that goes through a process of the agent's own, on 127.0.0.1 or ::1, gets the same
    verdict as a direct one: from any port, from the port that a local proxy has and from the one
    that the sidecar itself has, by the agent's user and by its root, where there is one.
    """
    evidence = bench.evidence
    rounds = [
        one
        for one in evidence.plan.during
        if isinstance(one, talks.Conversations) and one.name.startswith(_RELAYED)
    ]
    talks.require_silence(bench, RELAYED, [t for one in rounds for t in one.talks[1:]])
    for one in rounds:
        _require_control(bench, one, RELAYED)
        _require_relays(bench, one)
    count = sum(len(one.talks) - 1 for one in rounds)
    return f"{count} requests by a relay, of {len(rounds)} users, nothing was heard"


def _require_relays(bench: Bench, operation: talks.Conversations) -> None:
    """Require that each relay reached the proxy; a guest may have no ::1 to listen on."""
    found = talks.records(bench.evidence, operation.name)
    idle = [t.name for t in operation.talks if not found[t.name].get("relayed")]
    broken = [t for t in idle if "::1" not in t or found[t]["outcome"] != "unreachable"]
    if broken:
        raise bench.inconclusive(f"no relay: {', '.join(broken)}: {found[broken[0]]}")
