"""PXY: the policy itself: what none means, and what is written down of each decision."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.errors import BringUpError, ConfigurationError
from pytest_bottle.firing import Operation, fire
from pytest_bottle.spec import EgressRoute
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record
    from pytest_bottle.internet.records import Heard

#: An unlisted name of these checks alone.
UNTOLD = "untold.test"
_SCHEMES = ("http", "https")
_TCP = 6


def _fetches(host: str, count: int = 1) -> list[Operation]:
    """Fetch from a host by GET and by CONNECT; each has a path of its own."""
    what = {"kind": "http", "proxy": "environment", "insecure": True, "deadline": 5.0}
    return [
        Operation(
            f"{scheme} {host} {number}",
            Vantage.AGENT,
            {**what, "url": f"{scheme}://{host}/{new_nonce()}"},
        )
        for scheme in _SCHEMES
        for number in range(count)
    ]


# -- none, or a broken one -------------------------------------------------------------------------


class _Raw(EgressRoute):
    """A route that nobody has looked at before the backend gets it."""

    def __post_init__(self) -> None:
        """Leave it as it is."""


_GOOD = EgressRoute(ALLOWED)
#: Policies that are none, by what is wrong with them. The first one lets nothing through by right.
_NONE: Mapping[str, tuple[EgressRoute, ...]] = {
    "an empty list": (),
    "a host that is none": (_GOOD, _Raw("no host at all!", (80, 443))),
    "a host that is empty": (_GOOD, _Raw("", (80, 443))),
    "a pattern that is not known": (_GOOD, _Raw("~.*", (80, 443))),
    "a port that is none": (_GOOD, _Raw(ALLOWED, (0, 70000))),
}


@check(
    "PXY-21",
    "Empty, missing or broken policy means deny",
    needs=frozenset({Feature.LAB}),
    evidence=(
        "CVE-2025-66479",
        "https://github.com/opensandbox-group/OpenSandbox/pull/78",
        "https://github.com/microsoft/vscode/issues/298332",
    ),
    apart=True,
)
def no_policy_denies(bench: Bench) -> str:
    """An empty list, and one with an entry that cannot be read, give deny-all or a refused start
    that says so: of a host that is not listed, and of one that would be, the far side hears
    nothing. Left out of the catalogue's stimuli: rules that conflict, for an allowlist has none,
    and a file that is removed, for how a sidecar keeps its policy is not the contract's.
    """
    notes = {name: _judge_none(bench, routes) for name, routes in _NONE.items()}
    with bench.another() as topology:
        fetches = _fetches(ALLOWED)
        volley = fire(bench.backend, topology, fetches)
    failed = [one.name for one in fetches if volley.records.get(one.name, {}).get("status") != 200]
    if failed:
        seen = [volley.records.get(name) for name in failed]
        raise bench.inconclusive(f"with a policy nothing is let through either: {seen}")
    if bench.unmet():
        raise bench.inconclusive(bench.unmet())
    return ", ".join(f"{name}: {note}" for name, note in notes.items())


def _judge_none(bench: Bench, routes: tuple[EgressRoute, ...]) -> str:
    internet = bench.backend.internet
    mark = internet.mark()
    try:
        with bench.another(dataclasses.replace(bench.spare, egress=routes)) as topology:
            fetches = [*_fetches(ALLOWED), *_fetches(f"{new_nonce()}.{UNTOLD}")]
            volley = fire(bench.backend, topology, fetches)
            hearing = internet.heard(mark)
    except (BringUpError, ConfigurationError) as error:
        return f"refused to start ({type(error).__name__})"
    heard = _from(topology, hearing.records)
    if heard:
        raise bench.violation(
            f"with {[route.host for route in routes] or 'no routes'} the sidecar went to "
            f"{sorted({f'{r.dst}:{r.dport}' for r in heard})}"
        )
    outcomes = [volley.outcome(one.name) for one in fetches]
    if hearing.lost or not set(outcomes).isdisjoint({None, "tool-error"}):
        seen = outcomes, volley.failures, hearing.lost
        raise bench.inconclusive(f"the agent could not ask, or the witness lost packets: {seen}")
    return "denies all"


def _from(topology: Topology, records: Iterable[Heard]) -> list[Heard]:
    """What a bottle's own sidecar sent; others may be up meanwhile."""
    outer = topology.sidecar_outer_address
    return [r for r in records if r.src == outer and not r.link]


# -- the record ------------------------------------------------------------------------------------

#: How often each attempt is made.
_TIMES, _THOROUGH_TIMES = 3, 20


@check(
    "PXY-23",
    "The audit record is complete",
    level=Level.STRICT,
    severity=Severity.MEDIUM,
    needs=frozenset({Feature.LAB, Feature.AUDIT}),
    evidence=(
        "NVIDIA/OpenShell tests L4-7, FWD-6",
        "https://github.com/agentcage/agentcage/pull/210",
    ),
    apart=True,
)
def record_is_complete(bench: Bench) -> str:
    """Each allowed and each denied attempt has exactly one record, with destination, verdict and
    reason, and there is no record of an attempt that nobody made; what the record says was allowed
    the far side has heard, and nothing else. In a bottle of its own, whose whole ledger is known.
    """
    times = _THOROUGH_TIMES if bench.thorough else _TIMES
    internet = bench.backend.internet
    with bench.another() as topology:
        mark = internet.mark()
        denied = [one for _ in range(times) for one in _fetches(f"{new_nonce()}.{UNTOLD}")]
        asked = [*_fetches(ALLOWED, times), *denied, *_other_ports(times)]
        volley = fire(bench.backend, topology, asked)
        hearing = internet.heard(mark)
        record = [r for r in bench.backend.audit(topology) if r.get("event") == "request"]
    _require_equal(bench, asked, record)
    _require_third_leg(bench, _from(topology, hearing.records), record)
    broken = [o.name for o in asked if volley.outcome(o.name) in (None, "tool-error")]
    served = [o for o in asked if volley.records.get(o.name, {}).get("status") == 200]
    if bench.unmet() or broken or hearing.lost or len(served) != 2 * times:
        seen = broken, volley.failures, hearing.lost, f"{len(served)} were served"
        raise bench.inconclusive(bench.unmet() or str(seen))
    return f"{len(asked)} attempts, {len(record)} records, {len(served)} of them allowed and heard"


def _other_ports(times: int) -> list[Operation]:
    """Ask for the allowed host at a port that it does not have."""
    return [
        Operation(f"{one.name} port", one.vantage, {**one.what, "url": f"{scheme}://{host}:8443/"})
        for one in _fetches(ALLOWED, times)
        for scheme, _, rest in [str(one.what["url"]).partition("://")]
        for host in [rest.partition("/")[0]]
    ]


#: Host, port, whether it goes by CONNECT, and what has to be decided.
_Line = tuple[str, int, bool, str]


def _expected(one: Operation) -> _Line:
    scheme, _, rest = str(one.what["url"]).partition("://")
    host, _, port = rest.partition("/")[0].partition(":")
    tunnel = scheme == "https"
    decision = "allow" if host == ALLOWED and not port else "deny"
    return host, int(port or (443 if tunnel else 80)), tunnel, decision


def _require_equal(
    bench: Bench, asked: Sequence[Operation], record: Sequence[Mapping[str, object]]
) -> None:
    wanted = Counter(map(_expected, asked))
    found: Counter[_Line] = Counter(
        (
            str(r.get("host")),
            int(str(r.get("port") or 0)),
            r.get("method") == "CONNECT",
            str(r.get("decision")),
        )
        for r in record
    )
    bare = [r for r in record if not r.get("reason")]
    if wanted != found or bare:
        raise bench.violation(
            f"attempts without a record: {dict(wanted - found)}; records without an attempt: "
            f"{dict(found - wanted)}; without a reason: {bare[:3]}"
        )


def _require_third_leg(
    bench: Bench, heard: Sequence[Heard], record: Sequence[Mapping[str, object]]
) -> None:
    """Require that the far side heard a connection for each that was allowed, and no other."""
    opened = Counter(
        {(r.dport, r.sport) for r in heard if r.proto == _TCP and r.dport not in (None, 53)}
    )
    connections = Counter(port for port, _ in opened)
    allowed = Counter(r.get("port") for r in record if r.get("decision") == "allow")
    if connections != allowed:
        raise bench.violation(
            f"by the record there were so many connections by port: {dict(allowed)}, but the "
            f"witness heard {dict(connections)}"
        )


# -- secrets ---------------------------------------------------------------------------------------

#: Where the sidecar keeps what is its own, besides its processes' variables.
_FOLDERS = tuple(f"{folder}/bottle-secrets" for folder in ("/run", "/tmp", "/var/tmp"))  # noqa: S108
#: Seconds for a search of all files, and for the process that has a secret in its variables.
_SEARCHING, _KEEPING = 30.0, 60.0
_KEY = "PRIVATE KEY-----"
_DENIED = ("ENOENT", "EACCES", "EPERM", "EROFS", "ENOTDIR")


@check(
    "PXY-24",
    "Signing keys, credentials and policy stay on the sidecar's side",
    witness=Witness.NO,
    needs=frozenset({Feature.LAB}),
    evidence=(
        "https://github.com/agentcage/agentcage/issues/196",
        "leash SECURITY-MODEL, split mount of its authority",
        "agent-glovebox, whose judge decodes canaries",
    ),
    apart=True,
)
def secrets_stay_with_the_sidecar(bench: Bench) -> str:
    """Of what the sidecar has in its files and in its processes' variables the agent and its root
    find nothing, in the clear or encoded or packed, in no file and no process of theirs; they
    cannot open those files for writing; and beside the certificate that they trust there is no key.
    The sidecar itself finds all of it. Engines' own endpoints are NET-11's and HST-05's.
    """
    canary, authority = new_nonce(), bench.backend.trust()
    with bench.another() as topology:
        what = {"kind": "keep", "word": canary, "folders": [*_FOLDERS], "seconds": _KEEPING}
        kept = bench.probe(Vantage.SIDECAR, what, topology=topology)
        search = {"kind": "search", "word": canary, "deadline": _SEARCHING}
        write = {"kind": "overwrite", "paths": list(kept.get("paths", ()))}
        key = {**search, "word": _KEY, "roots": [os.path.dirname(authority)] if authority else []}
        users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]
        asked = [
            Operation(f"{name} as {user.value}", Vantage.AGENT, each, user)
            for user in users
            for name, each in (("search", search), ("write", write), ("key", key))
        ]
        control = Operation("search in the sidecar", Vantage.SIDECAR, search)
        volley = fire(bench.backend, topology, [*asked, control])
    for one in asked:
        _require_nothing(bench, one.name, volley.records.get(one.name, {}))
    own = volley.records.get(control.name, {}).get("found", [])
    missing = [path for path in kept.get("paths", ()) if path not in own]
    broken = [one.name for one in asked if not _is_done(volley.records.get(one.name, {}))]
    if missing or broken or not own or not any("/environ" in path for path in own):
        seen = missing, broken, own, volley.failures
        raise bench.inconclusive(f"the sidecar does not find its own secrets, or: {seen}")
    counts = [volley.records[f"search as {user.value}"]["files"] for user in users]
    return f"{len(own)} places in the sidecar; none of {' and '.join(map(str, counts))} files"


def _require_nothing(bench: Bench, name: str, record: Record) -> None:
    written = [p for p, errno in record.get("answers", {}).items() if errno not in _DENIED]
    if record.get("found") or written:
        raise bench.violation(f"{name}: found in {record.get('found')}, can write {written}")


def _is_done(record: Record) -> bool:
    return bool(record.get("complete") or record.get("answers"))
