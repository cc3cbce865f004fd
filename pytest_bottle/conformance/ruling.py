"""What the survey's evidence comes to: pure functions, the algebra's on every claim and sweep.

The same functions judge what the open guest sent: they must call that a leak (CTL-05).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.conformance import telling
from pytest_bottle.conformance.inside import uncounted, visited
from pytest_bottle.conformance.plan import BEATEN
from pytest_bottle.errors import UNKNOWN, Facts
from pytest_bottle.verdict import ANSWERED_OUTCOMES, Finding, Verdict, combine, is_leak, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.conformance.plan import Claim, Sweep
    from pytest_bottle.conformance.survey import Evidence
    from pytest_bottle.firing import Operation
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.stimulus import Shot


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and what became of it."""

    claim: Claim
    finding: Finding
    outcome: str | None
    heard: tuple[Heard, ...]
    why: str
    eaten: bool = False
    """Whether it does not count: its control did not arrive, and need not."""


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep, the ports at which it was heard, and what that comes to."""

    sweep: Sweep
    finding: Finding
    ports: tuple[int, ...]
    heard: tuple[Heard, ...]
    why: str


class Ruling(NamedTuple):
    """A verdict, the mechanisms, the leaks or the reasons behind it, and what these rest on."""

    verdict: Verdict
    seen: str
    facts: Facts = UNKNOWN


def rule(judged: Sequence[Judged], swept: Sequence[Swept], *, two_way: bool = False) -> Ruling:
    """Say what all claims and sweeps of a check come to; ``two_way`` is as for ``combine``."""
    eaten = [one.claim.shot.name for one in judged if one.eaten]
    judged = [one for one in judged if not one.eaten]
    everything: list[Judged | Swept] = [*swept, *judged]
    verdict = combine((one.finding for one in everything), two_way=two_way)
    if verdict is Verdict.VIOLATED:
        return Ruling(verdict, *_leaks(judged, swept))
    if verdict is not Verdict.PASSED:
        reasons = Counter(one.why or one.finding.value for one in everything)
        reasons.pop(Finding.BLOCKED.value, None)
        seen = "; ".join(f"{why} ({n}x)" for why, n in reasons.items())
        return Ruling(verdict, seen or "nothing was claimed", telling.claims(judged))
    told = [f"{one.sweep.protocol} sweep: 65535 ports, none heard" for one in swept]
    told += [f"not credited, for the outer network does not carry it: {name}" for name in eaten]
    return Ruling(verdict, ", ".join([telling.mechanisms(judged), *told]))


def _leaks(judged: Sequence[Judged], swept: Sequence[Swept]) -> tuple[str, Facts]:
    """Name all leaks; what is known of the first is told."""
    # A port that is on no list is what a sweep is there for.
    told = [telling.swept(o.sweep, o.ports, o.heard) for o in swept if is_leak(o.finding)]
    if any(is_leak(one.finding) for one in judged):
        told.append(telling.leaks(judged))
    return "; ".join(seen for seen, _ in told), told[0][1]


def mirrored(evidence: Evidence) -> Evidence:
    """Give the evidence of a bottle that leaks all: claims and sweeps are what their controls sent.

    Whoever judges it and sees no leak would see none elsewhere.
    """
    plan = evidence.plan
    claims = [replace(one, shot=one.mirror, unmet="") for one in plan.claims]
    sweeps = [replace(one, operation=one.control, unmet="") for one in plan.sweeps]
    return evidence.claiming(replace(plan, claims=claims, sweeps=sweeps))


def judge_claims(evidence: Evidence, check: str, unmet: str) -> list[Judged]:
    """Judge every claim of a check; ``unmet`` names a red control of the whole survey."""
    claims = [claim for claim in evidence.plan.claims if claim.check == check]
    return [judge_claim(evidence, claim, unmet) for claim in claims]


def judge_claim(evidence: Evidence, claim: Claim, unmet: str) -> Judged:
    """Judge one claim; ``unmet`` names a control of the whole survey that is red."""
    volley = evidence.volley
    shot, mirror = claim.shot, claim.mirror
    found: tuple[Heard, ...] = ()
    if not claim.witnessed:
        # The address is everybody's: only the nonce tells, and a bare SYN has none.
        found = tuple(r for r in evidence.since_opened if shot.nonce.encode() in r.payload.lower())
        is_heard, deaf = bool(found), ""
        control = volley.echo(mirror.name) or volley.outcome(mirror.name) in ANSWERED_OUTCOMES
    elif claim.ear is None:
        found = tuple(evidence.recording.of(shot))
        is_heard, deaf = bool(found), _deaf(evidence, claim)
        control = reached(evidence, mirror)
    else:
        is_heard = visited(evidence.claimed, claim.ear, shot)
        deaf = uncounted(evidence.claimed, claim.ear)
        control = visited(evidence.controlled, claim.ear, mirror, strict=True)
        control = control and (volley.echo(mirror.name) or volley.outcome(mirror.name) == "sent")
    why = unmet or claim.unmet or deaf
    if not why and not control:
        why = f"its control did not arrive: {mirror.name}: {volley.records.get(mirror.name)}"
    outcome = volley.outcome(shot.name)
    if not why and outcome in (None, "tool-error"):
        why = f"no usable record: {volley.records.get(shot.name) or volley.failures}"
    echo = volley.echo(shot.name)
    finding = judge(outcome, echo=echo, heard=is_heard, controls=not why, witnessed=claim.witnessed)
    eaten = claim.optional and not control and not is_leak(finding)
    return Judged(claim, finding, outcome, found, why, eaten)


def reached(evidence: Evidence, shot: Shot) -> bool:
    """Tell whether a control got through: answered or sent, and heard at the far end."""
    outcome = evidence.volley.outcome(shot.name)
    said = evidence.volley.echo(shot.name) or outcome in ("sent", "answered")
    return said and bool(evidence.recording.of(shot))


def _deaf(evidence: Evidence, claim: Claim) -> str:
    """Name what made the witness deaf to a claim's key; empty if nothing did."""
    if evidence.lost:
        return f"the witness lost {evidence.lost} packets"
    key = claim.shot.stimulus.key
    for beats, hearing, when in (
        (evidence.before, evidence.window, "before"),
        (evidence.after, evidence.tail, "after"),
    ):
        # What the sidecar cannot speak goes by all that it can: the witness hears everything.
        mine = [beat for beat in beats if beat.stimulus.key == key or key.protocol not in BEATEN]
        if not mine or evidence.unheard(mine, hearing):
            return f"the witness did not hear the sidecar on {key.protocol}/{key.port} {when}"
    return ""


def _broken_sweep(evidence: Evidence, sweep: Sweep) -> str:
    """Say why the silence after a sweep is worth nothing; empty if it is worth something."""
    volley, control = evidence.volley, sweep.control
    record = volley.records.get(sweep.operation.name, {})
    if record.get("count") != 65535:
        return f"{sweep.operation.name} is not complete: {record or volley.failures}"
    wanted = control.what["ports"]
    if _ports(evidence, control, sweep.protocol) != set(wanted if isinstance(wanted, list) else ()):
        return f"{control.name} was not heard: {volley.records.get(control.name)}"
    if evidence.lost:
        return f"the witness lost {evidence.lost} packets"
    return sweep.unmet


def _ports(evidence: Evidence, operation: Operation, protocol: str) -> set[int]:
    """Tell the ports of a sweep at which the far side heard it; 0 stands for an unknown one."""
    return {record.dport or 0 for record in _records(evidence, operation, protocol)}


def _records(evidence: Evidence, operation: Operation, protocol: str) -> tuple[Heard, ...]:
    number, host = {"tcp": 6, "udp": 17}[protocol], operation.what["host"]
    nonce = str(operation.what["nonce"]).encode()
    return tuple(
        record
        for hearing in (evidence.swept, evidence.tail)
        for record in hearing.records
        if (record.dst == host and record.proto == number) or nonce in record.payload
    )


def judge_sweeps(evidence: Evidence, check: str, unmet: str) -> list[Swept]:
    """Judge every sweep of a check."""
    sweeps = [sweep for sweep in evidence.plan.sweeps if sweep.check == check]
    return [judge_sweep(evidence, sweep, unmet) for sweep in sweeps]


def judge_sweep(evidence: Evidence, sweep: Sweep, unmet: str) -> Swept:
    """Judge one sweep like a single stimulus: heard at any port, it was heard."""
    records = _records(evidence, sweep.operation, sweep.protocol)
    ports = tuple(sorted({record.dport or 0 for record in records}))
    why = unmet or _broken_sweep(evidence, sweep)
    outcome = evidence.volley.outcome(sweep.operation.name)
    finding = judge(outcome, echo=False, heard=bool(ports), controls=not why)
    return Swept(sweep, finding, ports, records, why)
