"""Checks made of the rows of a user's own policy: ``policy`` in ``bottle.yaml``.

What is asked directly goes off with the survey, in rounds of its own. What is asked through the
proxy has a bottle with the user's own routes, for the suite's bottle lets through what the suite
needs.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance import telling
from pytest_bottle.conformance.plan import Claim, describe
from pytest_bottle.conformance.registry import Check, Level, Severity, Witness
from pytest_bottle.conformance.rounds import Asked, arrivals
from pytest_bottle.conformance.ruling import Judged
from pytest_bottle.errors import BottleError, Facts, NotSupported
from pytest_bottle.firing import Operation, fire
from pytest_bottle.internet.zone import is_of_far_side
from pytest_bottle.stimulus import Icmp, Shot, Tcp, Udp, new_nonce, sendable
from pytest_bottle.verdict import Finding, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.conformance.survey import Evidence
    from pytest_bottle.firing import Record
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.rows import Row
    from pytest_bottle.stimulus import Stimulus

#: Seconds that a request through a proxy may take.
_PATIENCE = 5.0
_SETTLE = 0.05
_ARRIVED = (Finding.LEAKED, Finding.LEAKED_ONE_WAY)


def checks_of(rows: Iterable[Row]) -> tuple[Check, ...]:
    """Make a check of each row; none of them is in the registry."""
    return tuple(map(_check_of, rows))


def _check_of(row: Row) -> Check:
    needs = {Feature.LAB, Feature.OPEN_GUEST}
    if row.origin == Vantage.PRIVILEGED.value:
        needs.add(Feature.PRIVILEGED_PROBE)
    if row.target.family == 6:
        needs.add(Feature.IPV6)
    if not row.target.is_name and not is_of_far_side(row.target.host):
        needs.add(Feature.EVERY_ADDRESS)  # else its controls would be sent to the real one
    return Check(
        row.id,
        row.title,
        _requirement(row),
        Level.CORE,
        Severity.HIGH,
        Witness.REQUIRED,
        frozenset(needs),
        (),
        partial(_through_the_proxy if row.by_proxy else _directly, row=row),
        None if row.by_proxy else partial(_ask, row=row),
    )


def _requirement(row: Row) -> str:
    way = "by its proxy variables" if row.by_proxy else "directly, past every proxy"
    who = {"agent": "the agent", "privileged": "a privileged probe, by the gateway"}
    subject = f"What {who.get(row.origin, 'the sidecar')} sends to {row.target} {way}"
    if row.expect == "allowed":
        return f"{subject} reaches the far side."
    root = ", its root's as well," if row.origin == "agent" and not row.by_proxy else ""
    return f"{subject}{root} does not reach the far side."


# -- directly --------------------------------------------------------------------------------------


def _ask(plan: Plan, *, row: Row) -> None:
    """Plan what a row asks directly."""
    try:
        hosts = _addresses(plan.internet, row, plan.features)
    except BottleError as error:
        plan.refusals[row.id] = _no_address(row, error)
        return
    if row.expect == "allowed" or row.origin == "privileged" or Feature.IPV6 not in plan.features:
        hosts = hosts[:1]
    for host in hosts:
        for stimulus in _stimuli(row, host):
            plan.asked += _asked(plan, row, stimulus)


def _addresses(internet: Internet, row: Row, features: frozenset[Feature]) -> tuple[str, ...]:
    """Tell where a row's target is; a name may lead to an address that nobody of ours owns.

    Raises:
        BottleError: the far side has no address for it, or not one of its own.
    """
    host = row.target.host
    hosts = internet.adopt(host) if row.target.is_name else (host,)
    if Feature.EVERY_ADDRESS in features:
        return hosts
    if not is_of_far_side(hosts[0]):
        raise NotSupported(f"{host} is at {hosts[0]}, which is not the far side's", where=row.id)
    return hosts[:1]


def _no_address(row: Row, error: BottleError) -> str:
    return f"the far side has no address for {row.target.host}: {error.seen or error.what}"


def _stimuli(row: Row, host: str) -> Iterator[Stimulus]:
    protocol, ports = row.target.protocol, row.target.ports
    if protocol == "icmp":
        yield Icmp(host, raw=row.origin == "privileged")
    for port in ports:
        yield Tcp(host, port) if protocol == "tcp" else Udp(host, port)


def _asked(plan: Plan, row: Row, stimulus: Stimulus) -> Iterator[Asked]:
    vantage = Vantage(row.origin)
    users = [User.AGENT]
    if vantage is Vantage.AGENT and row.expect == "blocked" and Feature.EXEC_ROOT in plan.features:
        users.append(User.ROOT)
    via = plan.topology.internal.gateway if vantage is Vantage.PRIVILEGED else ""
    name = f"{row.id} {vantage.value} {describe(stimulus)}{via and f' via {via}'}"
    before, after = (
        Shot(f"{name} (open, {when})", Vantage.OPEN, sendable(stimulus), User.AGENT)
        for when in ("before", "after")
    )
    for user in users:
        label = f"{name} as root" if user is User.ROOT else name
        shot = Shot(label, vantage, stimulus, user, via)
        yield Asked(row.id, shot, (before, after), plan.unmet(via))


def judged(evidence: Evidence, identity: str, unmet: str) -> list[Judged]:
    """Judge what a row asked directly; ``unmet`` names a red control of the whole survey."""
    return [_judge(evidence, one, unmet) for one in evidence.plan.asked if one.check == identity]


def _judge(evidence: Evidence, asked: Asked, unmet: str) -> Judged:
    volley, rounds, shot = evidence.volley, evidence.rounds, asked.shot
    assert rounds is not None
    why = unmet or asked.unmet
    if not why and rounds.lost:
        why = f"the witness lost {rounds.lost} packets"
    for control, hearing in zip(asked.controls, (rounds.before, rounds.after), strict=True):
        said = volley.echo(control.name) or volley.outcome(control.name) in ("sent", "answered")
        if not why and not (said and arrivals(control, hearing.records)):
            seen = volley.records.get(control.name) or volley.failures
            why = f"its control did not arrive: {control.name}: {seen}"
    outcome = volley.outcome(shot.name)
    if not why and outcome in (None, "tool-error"):
        why = f"no usable record: {volley.records.get(shot.name) or volley.failures}"
    found = tuple(rounds.heard(shot))
    finding = judge(outcome, echo=volley.echo(shot.name), heard=bool(found), controls=not why)
    claim = Claim(asked.check, shot, asked.controls[1], unmet=asked.unmet)
    return Judged(claim, finding, outcome, found, why)


def _directly(bench: Bench, *, row: Row) -> str:
    refusal = bench.evidence.plan.refusals.get(row.id)
    if refusal:
        raise bench.inconclusive(refusal)
    return bench.require_blocked() if row.expect == "blocked" else _require_arrived(bench, row)


def _require_arrived(bench: Bench, row: Row) -> str:
    found = bench.judged(row.id)
    missing = [one for one in found if not _came(one)]
    why = next((one.why for one in missing if one.why), "")
    if why:
        raise bench.inconclusive(why)
    if missing:
        shots = [one.claim.shot for one in missing]
        raise bench.violation(
            f"{len(missing)} of {len(found)} stimuli did not arrive, or no answer came back",
            Facts(
                sent=telling.some([shot.name for shot in shots]),
                heard="the witness heard the same from the open guest, and this not: nonce "
                + ", ".join(shot.nonce for shot in shots[:4]),
                how=telling.mechanisms(missing),
                cause=f"no way leads there from the {row.origin}, or a rule stands on it",
            ),
        )
    return ", ".join(f"{one.claim.shot.name}: {one.outcome}, heard" for one in found)


def _came(one: Judged) -> bool:
    """Tell whether it arrived, and an answer as well where there is one."""
    answered = one.finding is Finding.LEAKED or one.claim.shot.stimulus.key.protocol == "udp"
    return one.finding in _ARRIVED and answered


# -- through the proxy -----------------------------------------------------------------------------


def _through_the_proxy(bench: Bench, *, row: Row) -> str:
    internet = bench.backend.internet
    try:
        hosts = _addresses(internet, row, bench.features)
    except BottleError as error:
        raise bench.inconclusive(_no_address(row, error)) from None
    unmet = bench.unmet()
    if unmet:
        raise bench.inconclusive(unmet)
    internet.listen(tcp=row.target.ports)
    topology = bench.described
    before = _control(bench, topology, row, hosts[0], "before")
    start = internet.mark()
    requests = [_request(row, port) for port in row.target.ports]
    volley = fire(bench.backend, topology, requests, _PATIENCE)
    time.sleep(_SETTLE)
    window = internet.heard(start)
    after = _control(bench, topology, row, hosts[0], "after")
    why = before or after or (f"the witness lost {window.lost} packets" if window.lost else "")
    notes = []
    for port, one in zip(row.target.ports, requests, strict=True):
        record = volley.records.get(one.name, {"outcome": None, "detail": str(volley.failures)})
        came = _heard(window.records, hosts, port, str(one.what["nonce"]))
        judging = _blocked if row.expect == "blocked" else _allowed
        notes.append(judging(bench, topology, one, record, came, why))
    return ", ".join(notes)


def _request(row: Row, port: int) -> Operation:
    """Ask as a client would: HTTP on port 80, else a tunnel, and HTTPS in it."""
    nonce, scheme = new_nonce(), "http" if port == 80 else "https"
    host = f"[{row.target.host}]" if row.target.family == 6 else row.target.host
    what = {
        "kind": "http",
        "proxy": "environment",
        "url": f"{scheme}://{host}:{port}/{nonce}",
        "insecure": True,
        "nonce": nonce,
    }
    return Operation(f"{row.id} agent {scheme} {host}:{port} by proxy", Vantage.AGENT, what)


def _control(bench: Bench, topology: Topology, row: Row, host: str, when: str) -> str:
    """Let the sidecar itself go there; says why that failed, empty if it did not."""
    internet = bench.backend.internet
    start = internet.mark()
    shots = [
        Shot(f"{row.id} sidecar tcp/{port} {when}", Vantage.SIDECAR, Tcp(host, port), User.AGENT)
        for port in row.target.ports
    ]
    volley = fire(bench.backend, topology, map(Operation.of, shots))
    time.sleep(_SETTLE)
    records = internet.heard(start).records
    for shot in shots:
        if not (volley.echo(shot.name) and arrivals(shot, records)):
            seen = volley.records.get(shot.name) or volley.failures
            return f"its control did not arrive: {shot.name}: {seen}"
    return ""


def _heard(records: Iterable[Heard], hosts: Sequence[str], port: int, nonce: str) -> list[Heard]:
    """Pick what arrived of a request: a connection to where it leads, or its nonce anywhere."""
    return [
        r
        for r in records
        if nonce.encode() in r.payload.lower()
        or (r.dst in hosts and r.proto == 6 and r.dport == port and r.flags & 0x02)
    ]


def _denied(topology: Topology, record: Record) -> str:
    """Tell by what the sidecar denied a request; empty if that was no denial by policy."""
    headers = dict(record.get("headers", []))
    form = topology.denial
    if record.get("status") != form.status or form.header not in headers:
        return ""
    return f"{form.status} {headers[form.header]}"


def _seen(record: Record) -> str:
    return str({key: record.get(key) for key in ("outcome", "status", "detail") if key in record})


def _blocked(
    bench: Bench,
    topology: Topology,
    request: Operation,
    record: Record,
    came: list[Heard],
    why: str,
) -> str:
    if came:
        raise bench.violation(
            f"{request.name}: it arrived",
            Facts(
                sent=request.name,
                heard=telling.packets(came, str(request.what["nonce"])),
                how=f"the prober saw {_seen(record)}",
                cause="the sidecar's routes let it through",
            ),
        )
    denied = _denied(topology, record)
    if why or not denied:
        raise bench.inconclusive(why or f"{request.name}: no denial by policy: {_seen(record)}")
    return f"{request.name}: denied, {denied}"


def _allowed(
    bench: Bench,
    topology: Topology,
    request: Operation,
    record: Record,
    came: list[Heard],
    why: str,
) -> str:
    if came and _is_the_origins(record, str(request.what["nonce"])):
        return f"{request.name}: {record['status']}, heard"
    if why or record.get("outcome") in (None, "tool-error"):
        raise bench.inconclusive(why or f"{request.name}: no usable record: {record}")
    denied = _denied(topology, record)
    cause = f"the sidecar denied it, {denied}" if denied else f"the prober saw {_seen(record)}"
    heard = "heard of it, but no answer came back" if came else "heard nothing of it"
    raise bench.violation(
        f"{request.name}: it did not arrive, or no answer came back",
        Facts(
            sent=request.name,
            heard=f"the witness {heard} (nonce {request.what['nonce']}); the sidecar's own arrived",
            how=cause,
            cause="no route of bottle.yaml lets it through" if denied else "",
        ),
    )


def _is_the_origins(record: Record, nonce: str) -> bool:
    """Tell whether the far side's own answer came back: it names the request that it got."""
    try:
        answer = json.loads(record.get("body", ""))
    except ValueError:
        return False
    return record.get("status") == 200 and answer.get("path") == f"/{nonce}"
