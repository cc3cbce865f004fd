"""A denial by policy: what the agent was told, and what the sidecar wrote down of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench

NO_AUDIT = "there is no audit record to read"


def host_of(bench: Bench, name: str) -> str:
    """Tell which host an HTTP operation of the window asked for."""
    operation = next(o for o in bench.evidence.plan.during if o.name == name)
    return str(operation.what["url"]).split("/")[2]


def require_denial(bench: Bench, name: str) -> str:
    """Require that a request was denied by policy, attributably; returns how."""
    form = bench.topology.denial
    record = bench.evidence.volley.records.get(name)
    if record is None:
        raise bench.inconclusive(f"{name} has no record: {bench.evidence.volley.failures}")
    headers = dict(record.get("headers", []))
    if record.get("status") != form.status or form.header not in headers:
        seen = {key: record.get(key) for key in ("outcome", "status", "detail", "headers")}
        raise bench.violation(f"{name}: expected {form.status} with {form.header}, seen {seen}")
    if Feature.AUDIT in bench.features:
        require_written(bench, name, host_of(bench, name))
    return f"{name.split()[1]} {form.status} {headers[form.header]}"


def require_written(bench: Bench, name: str, host: str) -> None:
    """Require that the sidecar's record has one line for a host, a denial."""
    lines = [r for r in bench.backend.audit(bench.topology) if r.get("host") == host]
    if [line.get("decision") for line in lines] != ["deny"]:
        raise bench.violation(f"{name}: the audit record has {lines}, not one denial of {host}")
