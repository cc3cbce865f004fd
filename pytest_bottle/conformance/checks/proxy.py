"""PXY: the proxy path and its policy."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import conditions, talks, telling
from pytest_bottle.conformance.conditions import ALLOWED, DENIED
from pytest_bottle.conformance.denials import NO_AUDIT, host_of, require_denial
from pytest_bottle.conformance.dialects import connect, request
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.conformance.talks import Talk
from pytest_bottle.errors import Facts
from pytest_bottle.firing import Operation
from pytest_bottle.stimulus import Web, new_nonce
from pytest_bottle.verdict import Verdict, combine

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan

_NEEDS = frozenset({Feature.LAB})


@check(
    "PXY-01",
    "An allowed destination works through the proxy (HTTP and HTTPS)",
    needs=_NEEDS,
    evidence=(
        "bot-bottle spike S5, S13",
        "https://github.com/google-gemini/gemini-cli/pull/20788",
        "https://github.com/runvendo/vendo/pull/123",
    ),
    stimuli=conditions.plan_path,
)
def allowed_works(bench: Bench) -> str:
    """The one intended path exists: allowed name and port, plain HTTP and CONNECT with TLS, body
    intact both ways, by the proxy variables that the agent was given.
    """
    broken = conditions.broken_path(bench.evidence)
    if broken:
        raise bench.violation(broken)
    note = "GET, POST of 64 KiB and CONNECT with TLS answered by the origin"
    if Feature.AUDIT not in bench.features:
        return f"{note}; {NO_AUDIT}"
    requests = [r for r in bench.backend.audit(bench.topology) if r.get("host") == ALLOWED]
    if not any(r.get("decision") == "allow" for r in requests):
        raise bench.violation(f"the sidecar's record has no allowed request for {ALLOWED}")
    return note


_DENIED_GET, _DENIED_CONNECT = "PXY-02 GET", "PXY-02 CONNECT"
_BOTH = (_DENIED_GET, _DENIED_CONNECT)
_OPEN_GET = "PXY-02 GET (sidecar, direct)"


def _denied(plan: Plan) -> None:
    # The control goes first and by address: in the window, silence there means that nobody went.
    control = {
        "kind": "http",
        "url": f"http://{plan.internet.addresses_of(DENIED)[0]}/",
        "proxy": None,
    }
    plan.first.append(Operation(_OPEN_GET, Vantage.SIDECAR, control))
    for name, scheme in ((_DENIED_GET, "http"), (_DENIED_CONNECT, "https")):
        what = {
            "kind": "http",
            "proxy": "environment",
            "url": f"{scheme}://{new_nonce()}.{DENIED}/",
            "deadline": talks.PATIENT,  # an answer is due
        }
        plan.during.append(Operation(name, Vantage.AGENT, what))


@check(
    "PXY-02",
    "A denied destination is refused by policy, attributably",
    needs=_NEEDS,
    evidence=(
        "https://github.com/anthropics/claude-code/issues/77045",
        "https://github.com/anthropics/claude-code/issues/78608",
        "https://github.com/AlexanderMattTurner/agent-glovebox/pull/2188",
    ),
    stimuli=_denied,
)
def denied_is_refused(bench: Bench) -> str:
    """CONNECT or GET to an unlisted name gets the policy's answer, opens no upstream socket, looks
    up no name and leaves one line in the audit record, where there is one. A 502 or 504, a reset
    or an empty reply is no denial.
    """
    evidence = bench.evidence
    addresses = bench.backend.internet.addresses_of(DENIED)
    nonces = [host_of(bench, name).partition(".")[0].encode() for name in _BOTH]
    # A lookup of the name tells the far side as much as a connection to it would.
    heard = [
        r
        for r in evidence.since_opened
        if r.dst in addresses or any(nonce in r.payload.lower() for nonce in nonces)
    ]
    if heard:
        outcomes = [(Vantage.AGENT, str(evidence.volley.outcome(name))) for name in _BOTH]
        raise bench.violation(
            f"somebody went to {DENIED}, or looked it up",
            Facts(heard=telling.packets(heard), how=telling.counted(outcomes)),
        )
    unmet = bench.unmet()
    if unmet or evidence.volley.records.get(_OPEN_GET, {}).get("status") != 200:
        raise bench.inconclusive(unmet or f"{DENIED} does not even answer the sidecar itself")
    notes = [require_denial(bench, name) for name in _BOTH]
    return ", ".join(notes if Feature.AUDIT in bench.features else [*notes, NO_AUDIT])


# -- ports -----------------------------------------------------------------------------------------

_PORTS = "PXY-09 ports"
#: The control: the same words to a port that is declared; a proxy that wants more than words, such
#: as credentials, refuses all of them alike.
_DECLARED = "GET declared"
#: None of them is declared; the suite's bottle declares 80 and 443.
_UNDECLARED = (22, 25, 53, 853, 5432, 8080, 8443)


def _undeclared(plan: Plan) -> None:
    plan.internet.listen(tcp=_UNDECLARED)
    at, target = plan.topology.proxy, plan.internet.addresses_of(ALLOWED)[0]
    asked = []
    for port in _UNDECLARED:
        nonce, authority = new_nonce(), f"{ALLOWED}:{port}".encode()
        host, words = b"Host: " + authority, b"BOTTLE %s\n" % nonce.encode()
        url = b"http://%s/%s" % (authority, nonce.encode())
        asked.append(Talk(f"CONNECT {port}", at, connect(authority, words, host), nonce))
        asked.append(Talk(f"GET {port}", at, request(url, host), nonce))
        what = {"kind": "tcp", "host": target, "port": port, "nonce": new_nonce()}
        plan.first.append(Operation(_direct(port), Vantage.SIDECAR, what))
    nonce = new_nonce()
    url = b"http://%s/%s" % (ALLOWED.encode(), nonce.encode())
    asked.append(Talk(_DECLARED, at, request(url, b"Host: " + ALLOWED.encode()), nonce))
    plan.during.append(talks.conversations(_PORTS, asked, talks.PATIENT))


def _direct(port: int) -> str:
    return f"PXY-09 tcp/{port} (sidecar, direct)"


@check(
    "PXY-09",
    "Only declared ports",
    severity=Severity.HIGH,
    needs=_NEEDS,
    evidence=(
        "NVIDIA/OpenShell test L4-4",
        "https://github.com/RakuenSoftware/aimee/pull/2531",
    ),
    stimuli=_undeclared,
)
def only_declared_ports(bench: Bench) -> str:
    """CONNECT and absolute-form honour the port list per host: no connection is opened to another
    port of a host that is allowed.
    """
    evidence = bench.evidence
    operation = talks.held(evidence.plan, _PORTS)
    addresses = bench.backend.internet.addresses_of(ALLOWED)
    opened = [
        r
        for r in talks.news(evidence)
        if r.proto == 6 and r.dst in addresses and r.dport in _UNDECLARED
    ]
    if opened:
        ports = ", ".join(map(str, sorted({r.dport or 0 for r in opened})))
        raise bench.violation(
            f"the sidecar opened TCP to {ALLOWED} at ports that nobody declared: {ports}",
            Facts(heard=telling.packets(opened)),
        )
    silent = [port for port in _UNDECLARED if not evidence.volley.echo(_direct(port))]
    doubts = talks.deaf(bench) or talks.unusable(evidence, operation)
    if silent or doubts:
        raise bench.inconclusive(doubts or f"ports {silent} do not even answer the sidecar itself")
    control = next(talk for talk in operation.talks if talk.name == _DECLARED)
    if not talks.about(control, talks.news(evidence)):
        raise bench.inconclusive(f"in raw bytes not even GET at a declared port reaches {ALLOWED}")
    return f"{len(_UNDECLARED)} ports by CONNECT and GET, none opened"


# -- variables -------------------------------------------------------------------------------------

_VARIABLES = "PXY-18 variables"
_NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_UNLISTED = "unlisted.test"
_CLEARED = {name: "" for each in _NAMES for name in (each, each.upper())}
#: What a client may be told, so that it goes past the proxy; it wins over what the guest has.
_ABUSES = {
    "cleared": _CLEARED,
    "NO_PROXY=*": {"no_proxy": "*", "NO_PROXY": "*"},
    f"NO_PROXY={_UNLISTED}": {"no_proxy": _UNLISTED, "NO_PROXY": _UNLISTED},
    "ALL_PROXY=direct://": {
        **_CLEARED,
        "all_proxy": "direct://",
        "ALL_PROXY": "direct://",
    },
    "lower case says direct": {name.lower(): "" for name in _CLEARED},
}


def _abuse(plan: Plan) -> None:
    for variables in _ABUSES.values():
        told = tuple(variables.items())
        plan.block("PXY-18", Vantage.AGENT, Web("", _UNLISTED, told))
        if _UNLISTED not in variables.values():  # an address is not of that name
            plan.block("PXY-18", Vantage.AGENT, Web(plan.at("tcp", 443), _UNLISTED, told))
    names = [*_CLEARED]
    what = {"kind": "variables", "names": names}
    plan.during.append(Operation(_VARIABLES, Vantage.AGENT, what))


@check(
    "PXY-18",
    "Clearing or abusing proxy variables opens nothing",
    needs=_NEEDS | {Feature.OPEN_GUEST},
    evidence=(
        "https://github.com/rossoctl/cortex/pull/484",
        "https://github.com/rossoctl/operator/pull/406",
        "srt README, Linux proxy bypass",
    ),
    stimuli=_abuse,
)
def variables_open_nothing(bench: Bench) -> str:
    """HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY in either case are conveniences, not the
    control. The NO_PROXY that the agent is given lists only loopback and the sidecar. Credited
    only if NET-01 passed in the same run, like NET-03.
    """
    note = bench.require_blocked()
    record = bench.evidence.volley.records.get(_VARIABLES, {})
    if "variables" not in record:
        raise bench.inconclusive(f"the agent's variables could not be read: {record}")
    found = {name: record["variables"].get(name) or "" for name in ("no_proxy", "NO_PROXY")}
    sidecar = bench.topology.sidecar
    near = {sidecar.name, *sidecar.addresses.values()}
    far = [e for text in found.values() for e in text.split(",") if not _is_near(e.strip(), near)]
    if far:
        raise bench.violation(f"the agent's NO_PROXY lists {far}: {found}")
    literal = combine((one.finding for one in bench.judged("NET-01")), two_way=True)
    if literal is not Verdict.PASSED:
        raise bench.inconclusive(f"NET-01 is {literal.value}: a name that fails proves nothing")
    return f"{note}; NO_PROXY is {found['NO_PROXY']!r}"


def _is_near(entry: str, sidecar: set[str]) -> bool:
    if entry in ("", "localhost") or entry in sidecar:
        return True
    try:
        return ipaddress.ip_network(entry.strip("[]")).is_loopback
    except ValueError:
        return False
