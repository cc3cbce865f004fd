"""PXY: what is said inside a tunnel that was approved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import conditions, greetings, talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import HEAD, Step, over_http2, request
from pytest_bottle.conformance.greetings import client_hello, server_name
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.errors import NotSupported
from pytest_bottle.firing import Operation, fire
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_bottle.backends.contract import Endpoint
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.dialects import Steps
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.firing import Volley

_LAB = frozenset({Feature.LAB})
#: An unlisted name of this check alone.
FRONTED = "fronted.test"
_TUNNELS = "PXY-07 tunnels"
#: Seconds for one conversation: what is cut is not waited for, and a loaded machine is slow.
_PATIENCE = 3.0
_A, _D = ALLOWED.encode(), FRONTED.encode()
#: So many bytes of a greeting stand before its session, which is its nonce, and as long as that.
_SESSION = slice(44, 76)


def _hello(nonce: bytes, *names: bytes) -> bytes:
    return client_hello(nonce, server_name(*names))


def _pieces(greeting: bytes) -> tuple[bytes, ...]:
    """Single bytes; but the session in one piece, so that the witness can tell whose they are."""
    before, after = greeting[: _SESSION.start], greeting[_SESSION.stop :]
    split = [bytes([byte]) for part in (before, b"", after) for byte in part]
    return (*split[: len(before)], greeting[_SESSION], *split[len(before) :])


def _in_records(nonce: bytes, name: bytes) -> bytes:
    greeting = _hello(nonce, name)
    return greetings.in_two_records(greeting, greeting.index(name) + len(name) // 2)


#: What begins a tunnel to the allowed host, in pieces, by the nonce and the fronted address.
_SAME: Mapping[str, Callable[[bytes, bytes], tuple[bytes, ...]]] = {
    "the approved name": lambda n, _: (_hello(n, _A),),
    "the approved name in single bytes": lambda n, _: _pieces(_hello(n, _A)),
    "the approved name in two records": lambda n, _: (_in_records(n, _A),),
}
_OTHER: Mapping[str, Callable[[bytes, bytes], tuple[bytes, ...]]] = {
    "another name": lambda n, _: (_hello(n, _D),),
    "another name in single bytes": lambda n, _: _pieces(_hello(n, _D)),
    "another name in two records": lambda n, _: (_in_records(n, _D),),
    "a name below the approved one": lambda n, _: (_hello(n, b"other." + _A),),
    "a name that ends in the approved one": lambda n, _: (_hello(n, _D + b"\0." + _A),),
    "an address": lambda n, address: (_hello(n, address),),
    "two names, the approved one first": lambda n, _: (_hello(n, _A, _D),),
    "two names, the other one first": lambda n, _: (_hello(n, _D, _A),),
    "two extensions, the approved first": lambda n, _: (
        client_hello(n, server_name(_A), server_name(_D)),
    ),
    "two extensions, the other first": lambda n, _: (
        client_hello(n, server_name(_D), server_name(_A)),
    ),
}
#: Each backend has a rule of its own for these; that it has one is told, and which.
_RULED: Mapping[str, Callable[[bytes, bytes], tuple[bytes, ...]]] = {
    "no name": lambda n, _: (client_hello(n),),
    "a name that breaks off": lambda n, _: (client_hello(n, server_name(_A)[:-4]),),
    "an encrypted name": lambda n, _: (client_hello(n, server_name(_A), greetings.encrypted()),),
    "words that are not TLS": lambda n, _: (b"BOTTLE %s\n" % n,),
}


def _tunnel(pieces: tuple[bytes, ...]) -> Steps:
    (head,) = request(_A + b":443", b"Host: %s:443" % _A, method=b"CONNECT")
    return (Step(head.send, HEAD), *map(Step, pieces[:-1]), Step(pieces[-1], 1))


def _greet(plan: Plan) -> None:
    address = plan.internet.addresses_of(FRONTED)[0].encode()
    held = []
    for form, make in {**_SAME, **_OTHER, **_RULED}.items():
        nonce = new_nonce()
        steps = _tunnel(make(nonce.encode(), address))
        held.append(Talk(form, plan.topology.proxy, steps, nonce))
    plan.during.append(talks.conversations(_TUNNELS, held, _PATIENCE))
    talks.plan_control(plan, "PXY-07", FRONTED)


@check(
    "PXY-07",
    "TLS inside the tunnel names the host that was approved",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=_LAB,
    evidence=(
        "https://github.com/github/gh-aw-firewall/pull/8878",
        "https://github.com/luckyPipewrench/pipelock/pull/175",
        "https://github.com/superradcompany/microsandbox/pull/694",
        "sandbox-runtime README, domain fronting as a limit",
    ),
    stimuli=_greet,
)
def tls_names_the_approved_host(bench: Bench) -> str:
    """The server name of a TLS greeting inside a tunnel equals the authority of its CONNECT: no
    greeting with another name, a second one or an address reaches the far side, in one piece or in
    many. Absent, malformed and encrypted names, and what is not TLS, follow a rule of the
    backend's, which the note tells. A bottle that declares `tls_opaque` has this as a documented
    residual instead: NOT_SUPPORTED, with what got through.
    """
    evidence = bench.evidence
    operation = talks.held(evidence.plan, _TUNNELS)
    news = list(talks.news(evidence))
    # A greeting that arrives is enough: what the far side makes of it is not the proxy's doing.
    through = [talk.name for talk in operation.talks if talks.about(talk, news)]
    foreign = [name for name in through if name in _OTHER]
    if foreign and not bench.topology.tls_opaque:
        named = [talk for talk in operation.talks if talk.name in _OTHER]
        talks.require_silence(bench, FRONTED, named)
    doubts = talks.doubts(bench, FRONTED, operation) or _unsaid(bench, operation)
    if doubts or "the approved name" not in through:
        raise bench.inconclusive(doubts or "a greeting with the approved name is not heard either")
    if bench.topology.tls_opaque:
        raise NotSupported(
            "PXY-07 is a documented residual here: the bottle declares tls_opaque",
            expected="a sidecar that looks for the name in a tunnel's TLS",
            seen=f"{len(foreign)} of {len(_OTHER)} greetings with another name got through",
        )
    rule = ", ".join(f"{name} {'passes' if name in through else 'is refused'}" for name in _RULED)
    split = [name for name in _SAME if name not in through]
    note = f"{len(_OTHER)} greetings with another name, none was heard; rule: {rule}"
    return f"{note}; refused as well: {', '.join(split)}" if split else note


def _unsaid(bench: Bench, operation: talks.Conversations) -> str:
    """Name the greetings that never were said to their end, though the proxy listened."""
    found = talks.records(bench.evidence, operation.name)
    late = [
        talk.name
        for talk in operation.talks
        if found[talk.name]["outcome"] == "timeout"
        and len(found[talk.name]["answers"]) < len(talk.steps)
    ]
    return f"not said to the end: {', '.join(late)}" if late else ""


# -- where it is opened ----------------------------------------------------------------------------

#: An unlisted name of this check alone, for what is said behind an allowed name.
INNER = "inner.test"
_ALLOWED_INSIDE, _H1, _H2 = "allowed, inside TLS", "another Host by HTTP/1.1", "HTTP/2 inside TLS"
#: What the far side's own answer to a request has, and no denial.
_SERVED = "body_sha256"


def _by_http1(host: str) -> dict[str, object]:
    """Ask the allowed host inside TLS, whoever's its certificate is, with a Host."""
    what = {"kind": "http", "proxy": "environment", "insecure": True, "deadline": 5.0}
    return {**what, "url": f"https://{ALLOWED}/", "headers": {"Host": host}}


def _by_http2(at: Endpoint) -> Iterator[Talk]:
    """Ask for another authority, at once, and behind one that is allowed."""
    (head,) = request(_A + b":443", b"Host: %s:443" % _A, method=b"CONNECT")
    for name, before in (("another :authority", ()), ("a second :authority", (_A,))):
        nonce = new_nonce()
        frames = over_http2(b"/" + nonce.encode(), *before, f"{nonce}.{INNER}".encode())
        inside = Step(frames, f"{nonce}.{INNER}", tls=ALLOWED)
        yield Talk(name, at, (Step(head.send, HEAD), inside), nonce)


@check(
    "PXY-08",
    "Where TLS is opened, the inner Host is checked",
    level=Level.TRANSPARENT,
    severity=Severity.HIGH,
    needs=_LAB | {Feature.TLS_INTERCEPT},
    evidence=(
        "https://github.com/superradcompany/microsandbox/issues/709",
        "https://github.com/Wide-Moat/open-computer-use/issues/198",
    ),
)
def inner_host_is_checked(bench: Bench) -> str:
    """Where the sidecar opens TLS, Host and :authority inside match the name that was approved:
    what asks for another host inside the TLS of an allowed one is not served by the far side and
    not told to it, by HTTP/1.1, by HTTP/2, or by HTTP/2 on a connection that has asked for the
    allowed host before.
    """
    nonce, mark = new_nonce(), bench.backend.internet.mark()
    held = talks.conversations(_H2, _by_http2(bench.topology.proxy), 5.0)
    operations = [
        Operation(_ALLOWED_INSIDE, Vantage.AGENT, _by_http1(ALLOWED)),
        Operation(_H1, Vantage.AGENT, _by_http1(f"{nonce}.{INNER}")),
        held,
    ]
    volley = fire(bench.backend, bench.topology, operations)
    hearing = bench.backend.internet.heard(mark)
    answers = {_H1: str(volley.records.get(_H1, {}).get("body"))}
    spoken = volley.records.get(_H2, {}).get("talks", {})
    answers |= {name: "".join(record["answers"][1:]) for name, record in spoken.items()}
    # Between sidecar and far side all is secret: whom the far side took it for, it says itself.
    served = [name for name, said in answers.items() if _SERVED in said and INNER in said]
    known = bench.backend.internet.addresses_of(INNER)
    nonces = [nonce.encode(), *(talk.nonce.encode() for talk in held.talks)]
    heard = [r for r in hearing.records if r.dst in known or any(n in r.payload for n in nonces)]
    if served or heard:
        told = f"; the witness heard {talks.packet(heard[0])}" if heard else ""
        raise bench.violation(f"the far side served {', '.join(served) or 'nothing'}{told}")
    return _require_served(bench, volley, held)


def _require_served(bench: Bench, volley: Volley, held: talks.Conversations) -> str:
    """The controls: the allowed host is served inside TLS, and HTTP/2 was spoken or refused."""
    record = volley.records.get(_ALLOWED_INSIDE, {})
    spoken = volley.records.get(_H2, {}).get("talks", {})
    missing = [
        talk.name
        for talk in held.talks
        if spoken.get(talk.name, {}).get("outcome") in (None, "tool-error")
    ]
    failed = volley.outcome(_H1) in (None, "tool-error")
    # Not the whole path: whether the agent trusts what opens its TLS is TRN-02's.
    broken = conditions.broken_probe(bench.evidence)
    if broken or _SERVED not in str(record.get("body")) or missing or failed:
        seen = record.get("outcome"), record.get("status"), missing, volley.failures
        raise bench.inconclusive(broken or f"the allowed host inside TLS: {seen}")
    one = volley.records[_H1].get("status") or volley.outcome(_H1)
    two = ", ".join(f"{name}: {record['outcome']}" for name, record in sorted(spoken.items()))
    return f"another Host by HTTP/1.1: {one}; HTTP/2: {two}"
