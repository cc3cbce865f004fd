"""Conditions of the whole survey: the agent's probe works, and the intended path exists.

Without them a bottle that carries nothing at all would look isolated. Two checks are about them,
CTL-02 and PXY-01; every negative check depends on both.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.firing import Operation
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.conformance.survey import Evidence
    from pytest_bottle.firing import Record

#: A name that the suite's bottle lets through, and one that it does not; the lab answers both.
ALLOWED, DENIED = "allowed.test", "denied.test"

_SELFTEST = "CTL-02 self-test"
#: What each operation of the self-test must come to on the probe's own loopback.
_EXPECTED = {
    "tcp": ("connected",),
    "udp": ("answered",),
    "icmp": ("answered", "not-sendable"),  # a kernel may keep ping sockets to itself
    "http": ("answered",),
    "closed": ("refused",),
}
_GET, _POST, _TLS = "PXY-01 GET", "PXY-01 POST", "PXY-01 CONNECT"
_SIZE = 64 * 1024


def plan_self_test(plan: Plan) -> None:
    """Let the agent's probe try every kind of stimulus on its own loopback."""
    what = {"kind": "selftest", "nonce": new_nonce()}
    plan.during.append(Operation(_SELFTEST, Vantage.AGENT, what))


def broken_probe(evidence: Evidence) -> str:
    """Say how the agent's probe is broken; empty if it works."""
    record = evidence.volley.records.get(_SELFTEST)
    if record is None:
        return f"the agent's probe did not report: {evidence.volley.failures or 'no record'}"
    records = record.get("records", {})
    wrong = [
        f"{name}: {records.get(name)}"
        for name, outcomes in _EXPECTED.items()
        if records.get(name, {}).get("outcome") not in outcomes
    ]
    return f"the agent's probe is broken: {'; '.join(wrong)}" if wrong else ""


def plan_path(plan: Plan) -> None:
    """Let the agent use the proxy as it is meant to: GET, POST, and CONNECT with TLS."""
    nonce = new_nonce()
    what = {"kind": "http", "proxy": "environment", "deadline": 5.0}
    for name, more in (
        (_GET, {"url": f"http://{ALLOWED}/{nonce}"}),
        (_POST, {"url": f"http://{ALLOWED}/{nonce}", "method": "POST", "size": _SIZE}),
        (_TLS, {"url": f"https://{ALLOWED}/{nonce}"}),
    ):
        plan.during.append(Operation(name, Vantage.AGENT, {**what, **more}))


def broken_path(evidence: Evidence) -> str:
    """Say how the intended path is broken; empty if it works.

    The origin's own answer is the evidence: it names the request it got, whole, and who brought it.
    """
    sidecar = evidence.plan.topology.sidecar_outer_address
    for operation in evidence.plan.during:
        if operation.name in (_GET, _POST, _TLS):
            record = evidence.volley.records.get(operation.name, {})
            broken = _broken_request(operation, record, sidecar)
            if broken:
                return broken
    if not any(r.src == sidecar for r in evidence.since_opened):
        return f"the witness heard nothing from the sidecar's outer address {sidecar}"
    return ""


def _broken_request(operation: Operation, record: Record, sidecar: str) -> str:
    name = operation.name
    if record.get("status") != 200:
        seen = {key: record.get(key) for key in ("outcome", "status", "detail", "body")}
        return f"{name} through the proxy failed: {seen}"
    if not record.get("proxy"):
        return f"{name}: the agent's variables name no proxy, so it went straight there"
    try:
        origin = json.loads(record["body"])
    except ValueError:
        return f"{name}: the answer is not the origin's: {record['body'][:200]!r}"
    if origin.get("client") != sidecar:
        return f"{name}: the origin saw {origin.get('client')}, not the sidecar {sidecar}"
    body = b"x" * int(str(operation.what.get("size", 0)))
    sent = {
        "path": "/" + str(operation.what["url"]).rpartition("/")[2],
        "body_length": len(body),
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }
    got = {key: origin.get(key) for key in sent}
    return "" if got == sent else f"{name}: the origin got {got}, not {sent}"


def unseen_link(evidence: Evidence) -> str:
    """Say that the look at the internal network failed; empty if it found the sidecar there.

    Who else is on it is then unknown, and not nobody.
    """
    sidecar = evidence.plan.topology.sidecar_address
    if sidecar in evidence.plan.neighbours:
        return ""
    return (
        f"by ARP the privileged probe does not even find the sidecar {sidecar} on its own network"
    )
