"""DNS: other ways to carry a name out, by other protocols, other records, and by the proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import denials, talks
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.dialects import DIALECTS, Destination
from pytest_bottle.conformance.lookups import (
    ZONE,
    about,
    fired,
    mark_of,
    plan_lookup,
    record_of,
    require_lookups_heard,
    require_unheard,
    users,
)
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.firing import Operation
from pytest_bottle.guest import dnswire
from pytest_bottle.stimulus import Tcp, Udp, new_nonce

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.firing import Record

_LAB = frozenset({Feature.LAB})

# -- other protocols -------------------------------------------------------------------------------

_FOREIGN, _LISTED = "DNS-02 DoH", "DNS-02 DoH (allowed)"


def _encrypted(plan: Plan) -> None:
    plan_lookup(plan)
    for family in (4, 6) if Feature.IPV6 in plan.features else (4,):
        for kind, port in ((Tcp, 53), (Tcp, 853), (Udp, 853)):
            plan.block(
                "DNS-02", Vantage.AGENT, kind(plan.at(kind.__name__.lower(), port, family), port)
            )
    for name, host in ((_FOREIGN, f"{new_nonce()}.{ZONE}"), (_LISTED, ALLOWED)):
        plan.during.append(Operation(name, Vantage.AGENT, _over_https(host)))


def _over_https(host: str) -> dict[str, object]:
    """A whole question over HTTPS, by the proxy: a bare GET would be refused by any resolver."""
    question = dnswire.build_query(f"{new_nonce()}.{ZONE}", dnswire.A, 0)
    return {
        "kind": "http",
        "url": f"https://{host}/dns-query",
        "proxy": "environment",
        "method": "POST",
        "headers": dict.fromkeys(("Content-Type", "Accept"), "application/dns-message"),
        "body": question.decode("latin-1"),
        "deadline": 5.0,
    }


@check(
    "DNS-02",
    "No DNS over TCP, DoT or foreign DoH",
    severity=Severity.HIGH,
    needs=_LAB | {Feature.OPEN_GUEST},
    evidence=(
        "https://github.com/rappdw/sandy/issues/154",
        "gh-aw-firewall network-security.test.ts",
    ),
    stimuli=_encrypted,
)
def no_other_dns(bench: Bench) -> str:
    """DNS over TCP, over TLS and over QUIC (TCP 53, TCP and UDP 853) are closed to the agent, and a
    resolver over HTTPS that is not on the list is denied by the proxy like any other host, and not
    even looked up. The control posts the same question to an allowed host (the catalogue's has a
    name of its own for that; the suite's bottle lists one exact name, so it is that one).
    """
    foreign = denials.host_of(bench, _FOREIGN)
    require_unheard(bench, [foreign])
    note = bench.require_blocked()
    require_lookups_heard(bench)
    answer = _message(bench.evidence.volley.records.get(_LISTED, {}))
    if answer != dnswire.NOERROR:
        seen = bench.evidence.volley.records.get(_LISTED) or bench.evidence.volley.failures
        raise bench.inconclusive(f"not even {ALLOWED} resolves names over HTTPS: {seen}")
    return f"{note}; {denials.require_denial(bench, _FOREIGN)}"


def _message(record: Record) -> int | None:
    """The response code of a DNS message that came over HTTPS; None if none came."""
    try:
        return dnswire.parse_answer(str(record.get("body", "")).encode("latin-1")).rcode
    except ValueError:
        return None


# -- other records, other names --------------------------------------------------------------------

_KINDS, _KINDS_CONTROL = "DNS-05 agent", "DNS-05 sidecar"
#: RFC 1035, 2782, 8482 (ANY) and 9460.
_KNOWN = {"A": 1, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
_RARE = {"NULL": 10, "SRV": 33, "SVCB": 64, "HTTPS": 65, "ANY": 255}
_TYPES = {**_KNOWN, **_RARE}
_LONG_NAME = 240


def _questions(zone: str, address: str) -> list[list[object]]:
    """Questions as name and type, each with a nonce, or an address, of its own."""
    kinds: list[list[object]] = [[f"{new_nonce()}.{zone}", n] for n in _TYPES.values()]
    long_label = f"{new_nonce()}{'x' * 31}.{zone}"
    short = f"{new_nonce()}.{zone}"
    filler = ".".join(["x" * 50] * 4)[: _LONG_NAME - len(short) - 1]
    long_name = short.replace(".", f".{filler}.", 1)
    alone, expanded = new_nonce(), f"{new_nonce()}.hidden.test.{zone}"
    reverse = ".".join([*reversed(address.split(".")), "in-addr", "arpa"])
    odd: list[list[object]] = [
        [f"{new_nonce()}{name[32:]}", _TYPES[kind]]
        for name in (long_label, long_name, alone, expanded)
        for kind in ("A", "TXT")
    ]
    return [*kinds, *odd, [reverse, _TYPES["PTR"]]]


def _ask(zone: str, address: str) -> dict[str, object]:
    search = {"name": new_nonce(), "domain": zone}
    return {"kind": "ask", "questions": _questions(zone, address), "search": search}


def _all_kinds(plan: Plan) -> None:
    plan_lookup(plan)
    for user in users(plan):
        name = f"{_KINDS} as {user.value}"
        plan.during.append(Operation(name, Vantage.AGENT, _ask(ZONE, plan.target()), user))
    plan.during.append(Operation(_KINDS_CONTROL, Vantage.SIDECAR, _ask(ALLOWED, plan.target())))


@check(
    "DNS-05",
    "Record types, long labels and search suffixes are covered",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=_LAB,
    evidence=(
        "https://github.com/AlexanderMattTurner/agent-glovebox/issues/3618",
        "https://github.com/agentcage/agentcage/issues/213",
    ),
    stimuli=_all_kinds,
)
def no_kind_of_question_leaks(bench: Bench) -> str:
    """TXT, NULL, MX, SRV, HTTPS and SVCB, ANY and PTR records, labels of 63 bytes, names of 240, a
    bare label and names with a search suffix leak no more than A does: the far side hears none of
    them, whichever the agent asks its resolver for, by hand or by the library.
    """
    asked = fired(bench, _KINDS)
    require_unheard(bench, [name for o in asked for name in (*_names(o), _searched(o))])
    require_lookups_heard(bench)
    (control,) = fired(bench, _KINDS_CONTROL)
    record_of(bench, control)
    silent = [name for name in _names(control) if not about(bench, [mark_of(name)])]
    if silent:
        raise bench.inconclusive(f"of the sidecar's own questions these were not heard: {silent}")
    answers = {code for o in asked for code in _codes(record_of(bench, o))}
    suffix = about(bench, [_searched(control).encode()])
    note = f"{len(_names(control))} questions, {', '.join(sorted(answers))}"
    return note if suffix else f"{note}; not credited: this library knows no LOCALDOMAIN"


def _names(operation: Operation) -> list[str]:
    questions: Any = operation.what["questions"]
    return [name for name, _ in questions]


def _searched(operation: Operation) -> str:
    search: Any = operation.what["search"]
    return str(search["name"])


def _codes(record: Record) -> set[str]:
    return {code for codes in record["answers"].values() for code in codes}


# -- by the proxy ----------------------------------------------------------------------------------

_REFUSED = "DNS-06 refused"
#: An unlisted name of this check alone.
_UNSEEN = "unseen.test"
_ASKED_BY = ("CONNECT", "GET", "POST", "SOCKS5", "SOCKS4a")


def _refused(plan: Plan) -> None:
    plan_lookup(plan)
    plan.during.append(
        talks.conversations(_REFUSED, [_refusal(plan, d) for d in _ASKED_BY], talks.PATIENT)
    )


def _refusal(plan: Plan, dialect: str) -> Talk:
    nonce = new_nonce()
    v4, v6 = plan.internet.addresses_of(_UNSEEN)
    to = Destination(f"{nonce}.{_UNSEEN}".encode(), v4, v6, nonce)
    return Talk(dialect, plan.topology.proxy, DIALECTS[dialect](to), nonce)


@check(
    "DNS-06",
    "A refused request is never looked up",
    needs=_LAB,
    evidence=("https://github.com/NVIDIA/OpenShell/issues/1169",),
    stimuli=_refused,
)
def refused_is_not_looked_up(bench: Bench) -> str:
    """The proxy decides before it resolves: a denied CONNECT, GET, POST or SOCKS request makes no
    query anywhere, while an allowed one is looked up by the sidecar.
    """
    operation = talks.held(bench.evidence.plan, _REFUSED)
    names = [f"{talk.nonce}.{_UNSEEN}" for talk in operation.talks]
    require_unheard(bench, names)
    require_lookups_heard(bench)
    doubts = talks.unusable(bench.evidence, operation) or _unlooked(bench, ALLOWED)
    if doubts:
        raise bench.inconclusive(doubts)
    if Feature.AUDIT not in bench.features:
        return f"{', '.join(_ASKED_BY)}: no lookup; {denials.NO_AUDIT}"
    for talk, name in zip(operation.talks, names, strict=True):
        if not talk.name.startswith("SOCKS"):  # who does not speak it has no name to write down
            denials.require_written(bench, talk.name, name)
    return f"{', '.join(_ASKED_BY)}: no lookup, denials written down"


def _unlooked(bench: Bench, name: str) -> str:
    """Say that the sidecar's own proxy did not look a name up; empty if it did."""
    start, sidecar = dnswire.encode_name(name), bench.topology.sidecar_outer_address
    asked = any(
        record.src == sidecar and record.payload[12:].lower().startswith(start)
        for record in bench.evidence.since_opened
    )
    return "" if asked else f"the sidecar did not look up {name}, which it lets through"


# -- below a name that is allowed ------------------------------------------------------------------

_CHILDREN, _CHILDREN_BY_PROXY = "DNS-07 resolver", "DNS-07 proxy"
#: How many children are asked for, in each way.
_MANY = 50


def _children(plan: Plan) -> None:
    plan_lookup(plan)
    questions = [[f"{new_nonce()}.{ALLOWED}", dnswire.A] for _ in range(_MANY)]
    what = {"kind": "ask", "questions": questions}
    plan.during.append(Operation(_CHILDREN, Vantage.AGENT, what))
    forms = [("CONNECT", "GET")[number % 2] for number in range(_MANY)]
    asked = [_child(plan, form, number) for number, form in enumerate(forms)]
    plan.during.append(talks.conversations(_CHILDREN_BY_PROXY, asked, talks.PATIENT))


def _child(plan: Plan, form: str, number: int) -> Talk:
    nonce = new_nonce()
    v4, v6 = plan.internet.addresses_of(ALLOWED)
    to = Destination(f"{nonce}.{ALLOWED}".encode(), v4, v6, nonce)
    return Talk(f"{form} {number}", plan.topology.proxy, DIALECTS[form](to), nonce, group=form)


@check(
    "DNS-07",
    "Allowed zones are not a tunnel",
    level=Level.STRICT,
    severity=Severity.MEDIUM,
    needs=_LAB,
    evidence=(
        "agentcage docs: apex-scoped dnsmasq",
        "https://github.com/github/gh-aw-firewall/pull/68",
    ),
    stimuli=_children,
)
def allowed_zones_are_no_tunnel(bench: Bench) -> str:
    """Where the rule is for one exact host, random children of that host are not resolved: neither
    by the agent's resolver nor by the proxy. The catalogue also bounds what a wildcard lets out;
    routes have no wildcards (PXY-13), so there is nothing to bound.
    """
    (asked,) = fired(bench, _CHILDREN)
    operation = talks.held(bench.evidence.plan, _CHILDREN_BY_PROXY)
    require_unheard(bench, [*_names(asked), *(f"{talk.nonce}." for talk in operation.talks)])
    require_lookups_heard(bench)
    doubts = talks.unusable(bench.evidence, operation) or _unlooked(bench, ALLOWED)
    if doubts:
        raise bench.inconclusive(doubts)
    answers = sorted(_codes(record_of(bench, asked)))
    return f"{_MANY} children by hand ({', '.join(answers)}) and {_MANY} by the proxy, none heard"
