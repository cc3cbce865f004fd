"""PXY: the proxy path and its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import conditions
from pytest_bottle.conformance.conditions import ALLOWED, DENIED
from pytest_bottle.conformance.registry import check
from pytest_bottle.firing import Operation
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan

_NEEDS = frozenset({Feature.LAB, Feature.AUDIT})


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
    requests = [r for r in bench.backend.audit(bench.topology) if r.get("host") == ALLOWED]
    if not any(r.get("decision") == "allow" for r in requests):
        raise bench.violation(f"the sidecar's record has no allowed request for {ALLOWED}")
    return "GET, POST of 64 KiB and CONNECT with TLS answered by the origin"


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
        what = {"kind": "http", "proxy": "environment"}
        what["url"] = f"{scheme}://{new_nonce()}.{DENIED}/"
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
    up no name and leaves one line in the audit record. A 502 or 504, a reset or an empty reply is
    no denial.
    """
    evidence = bench.evidence
    addresses = bench.backend.internet.addresses_of(DENIED)
    nonces = [_host(o).partition(".")[0].encode() for o in evidence.plan.during if o.name in _BOTH]
    # A lookup of the name tells the far side as much as a connection to it would.
    heard = [
        r
        for r in evidence.since_opened
        if r.dst in addresses or any(nonce in r.payload.lower() for nonce in nonces)
    ]
    if heard:
        raise bench.violation(
            f"the witness heard {len(heard)} packets to or about {DENIED}, the first to "
            f"{heard[0].dst}:{heard[0].dport}"
        )
    unmet = bench.unmet()
    if unmet or evidence.volley.records.get(_OPEN_GET, {}).get("status") != 200:
        raise bench.inconclusive(unmet or f"{DENIED} does not even answer the sidecar itself")
    return ", ".join(_require_denial(bench, name) for name in _BOTH)


def _require_denial(bench: Bench, name: str) -> str:
    form = bench.topology.denial
    record = bench.evidence.volley.records.get(name)
    if record is None:
        raise bench.inconclusive(f"{name} has no record: {bench.evidence.volley.failures}")
    headers = dict(record.get("headers", []))
    if record.get("status") != form.status or form.header not in headers:
        seen = {key: record.get(key) for key in ("outcome", "status", "detail", "headers")}
        raise bench.violation(f"{name}: expected {form.status} with {form.header}, seen {seen}")
    operation = next(o for o in bench.evidence.plan.during if o.name == name)
    host = _host(operation)
    lines = [r for r in bench.backend.audit(bench.topology) if r.get("host") == host]
    if [line.get("decision") for line in lines] != ["deny"]:
        raise bench.violation(f"{name}: the audit record has {lines}, not one denial of {host}")
    return f"{name.split()[1]} {form.status} {headers[form.header]}"


def _host(operation: Operation) -> str:
    return str(operation.what["url"]).split("/")[2]
