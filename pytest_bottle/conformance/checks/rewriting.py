"""DNS: an agent that rewrites whom it asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.encounters import Post, attempt
from pytest_bottle.conformance.lookups import PATIENCE, ZONE
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.firing import Operation, Volley, fire
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.internet.lab import Hearing

_NEEDS = frozenset({Feature.LAB, Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE})
_WAYS = ("file", "hosts", "mount", "copy", "variables")
_DNS = 53
#: Seconds that the listener on the link waits for its last word, at the most.
_LISTENING = 90.0


def _rewriting(server: str, vantage: Vantage, user: User, zone: str = ZONE) -> Operation:
    """Name a server in every way; each way has a name of its own to look up."""
    names = {way: f"{new_nonce()}.{zone}" for way in _WAYS}
    name = f"{vantage.value} as {user.value}: nameserver {server}"
    what = {"kind": "rewritten", "server": server, "names": names, "nonce": new_nonce()}
    return Operation(name, vantage, {**what, "deadline": PATIENCE}, user)


def _names(operation: Operation) -> dict[str, str]:
    names: Any = operation.what["names"]
    return dict(names)


class _Trial(NamedTuple):
    """What was done in one bottle, and what came of it.

    Attributes:
        far: rewritings to name servers at the far side, none of which may be heard of.
        near: the same to a listener on the agent's own link.
        proxied: requests by the proxy, after all of that, for an unlisted host.
    """

    far: list[Operation]
    near: list[Operation]
    proxied: list[Operation]
    controls: list[Operation]
    post: Post
    volley: Volley
    hearing: Hearing


@check(
    "DNS-08",
    "Rewriting resolver config opens nothing",
    severity=Severity.MEDIUM,
    needs=_NEEDS,
    evidence=(
        "https://github.com/agentcage/agentcage/pull/2",
        "https://github.com/agentcage/agentcage/pull/217",
    ),
    apart=True,
)
def rewriting_opens_nothing(bench: Bench) -> str:
    """Writing over resolv.conf or hosts, mounting a file of one's own over the first, reading a
    copy of it with a resolver of one's own, or telling the library by variables gives the agent and
    its root no new path: no name server that they choose hears of a name, and the proxy's verdicts
    stay. That a rewritten file is really used shows at a listener on the agent's own link, which
    stands in for the catalogue's capture there.
    """
    with bench.another() as topology:
        trial = _try(bench, topology)
    leaks = [leak for operation in trial.far for leak in _leaks(operation, trial.hearing)]
    leaks += [o.name for o in trial.proxied if _is_heard(trial.hearing, [str(o.what["nonce"])])]
    if leaks:
        raise bench.violation(f"the witness heard of {len(leaks)}: {'; '.join(leaks[:10])}")
    doubts = bench.unmet() or trial.post.deaf or _doubts(trial)
    if doubts:
        raise bench.inconclusive(doubts)
    return "; ".join(_note(trial, *pair) for pair in zip(trial.far, trial.near, strict=True))


def _try(bench: Bench, topology: Topology) -> _Trial:
    backend = bench.backend
    beside = backend.address(topology, Vantage.PRIVILEGED)
    users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]
    near = [_rewriting(beside, Vantage.AGENT, user) for user in users]
    fresh = backend.internet.fresh_address
    far = [_rewriting(fresh(), Vantage.AGENT, user) for user in users]
    proxied = [_request(scheme, f"%s.{ZONE}") for scheme in ("http", "https")]
    controls = [
        _rewriting(fresh(), Vantage.OPEN, User.AGENT),
        _rewriting(fresh(), Vantage.SIDECAR, User.AGENT, ALLOWED),
        _request("http", ALLOWED),
    ]
    callers = [(Vantage.AGENT, beside)]
    long = {"deadline": _LISTENING}
    post = Post(backend, topology, Vantage.PRIVILEGED, _DNS, callers=callers, more=long)
    volley, mark = Volley(), backend.internet.mark()
    with post.open():
        # One after the other: what is written over is the same file each time.
        for operations in (*([one] for one in (*near, *far)), [*proxied, *controls]):
            more = fire(backend, topology, operations)
            volley.records |= more.records
            volley.failures |= more.failures
    return _Trial(far, near, proxied, controls, post, volley, backend.internet.heard(mark))


def _request(scheme: str, host: str) -> Operation:
    what = {"kind": "http", "url": f"{scheme}://{host}/%s", "proxy": "environment"}
    return attempt(f"{scheme} to {host} by the proxy", Vantage.AGENT, {**what, "deadline": 5.0})


def _leaks(operation: Operation, hearing: Hearing) -> list[str]:
    """Ways of an operation that the witness heard of, by the name or by the server's address."""
    found = [
        f"{operation.name}, {way}"
        for way, name in _names(operation).items()
        if _is_heard(hearing, [name.partition(".")[0]])
    ]
    server = operation.what["server"]
    met = any(r.dst == server for r in hearing.records)
    return found or ([f"{operation.name}, some way"] if met else [])


def _is_heard(hearing: Hearing, nonces: Iterable[str]) -> bool:
    wanted = [nonce.encode() for nonce in nonces]
    return any(nonce in r.payload.lower() for nonce in wanted for r in hearing.records)


def _doubts(trial: _Trial) -> str:
    """Say why silence is worth nothing; empty if it is worth something."""
    if trial.hearing.lost:
        return f"the witness lost {trial.hearing.lost} packets"
    for operation in (*trial.far, *trial.near):
        if "ways" not in trial.volley.records.get(operation.name, {}):
            seen = trial.volley.records.get(operation.name) or trial.volley.failures
            return f"{operation.name} did not report: {seen}"
    unused = [o.name for o in trial.near if "copy" not in _used(trial, o)]
    outside, _, allowed = trial.controls
    if unused:
        return f"the listener on the link was not asked: {', '.join(unused)}"
    if not _is_heard(trial.hearing, [_names(outside)["copy"].partition(".")[0]]):
        return f"not even the open guest's question was heard: {trial.volley.records}"
    if trial.volley.records.get(allowed.name, {}).get("status") != 200:
        return f"the proxy does not let {ALLOWED} through: {trial.volley.records.get(allowed.name)}"
    return ""


def _used(trial: _Trial, operation: Operation) -> list[str]:
    """The ways by which a server on the link was really asked."""
    said = [str(visit[3]).lower() for visit in trial.post.book.record.get("visitors", ())]
    return [
        way
        for way, name in _names(operation).items()
        if any(name.partition(".")[0] in words for words in said)
    ]


def _note(trial: _Trial, far: Operation, near: Operation) -> str:
    ways = trial.volley.records[far.name]["ways"]
    inside = trial.controls[1]
    heard = _is_heard(trial.hearing, [_names(inside)["variables"].partition(".")[0]])
    used = [*_used(trial, near), *(["variables"] if heard else [])]
    rest = ", ".join(f"{way} ({str(ways[way])[:40]})" for way in _WAYS if way not in used)
    return f"as {far.user.value}: {', '.join(used)} used, and to no avail; not possible: {rest}"
