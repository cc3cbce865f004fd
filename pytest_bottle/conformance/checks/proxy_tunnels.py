"""PXY: what is said inside a tunnel that was approved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance import greetings, talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import HEAD, Step, request
from pytest_bottle.conformance.greetings import client_hello, server_name
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.errors import NotSupported
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.dialects import Steps
    from pytest_bottle.conformance.plan import Plan

_LAB = frozenset({Feature.LAB})
#: An unlisted name of this check alone.
FRONTED = "fronted.test"
_TUNNELS = "PXY-07 tunnels"
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
    plan.during.append(talks.conversations(_TUNNELS, held))
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
    doubts = talks.doubts(bench, FRONTED, operation)
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
