"""The survey: every stimulus of every check in one window, closed by the witness's heartbeats.

The order is what makes silence worth something: the sidecar speaks on every key (CTL-01), then the
claims and their mirrors are fired at once, then the sidecar speaks on every key again (CTL-03).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance.plan import CONTROL_PORT, INBOUND_PORT, Plan
from pytest_bottle.errors import TransportError
from pytest_bottle.firing import DEADLINE, Operation, Volley, fire, heard, run_one
from pytest_bottle.verdict import Finding, judge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.conformance.plan import Claim
    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.internet.lab import Hearing, Mark
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.stimulus import Shot

#: Seconds from the last answer to the end of the window, at least; three round trips are less.
_SETTLE = 0.05
LISTENER = "the agent's listener"


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and what became of it."""

    claim: Claim
    finding: Finding
    outcome: str | None
    heard: tuple[Heard, ...]
    why: str


@dataclass(slots=True)
class Evidence:
    """Everything that the survey saw and heard.

    Attributes:
        opened: the moment between the first beats and the claims.
        closed: the moment between the claims and the last beats.
        before: the sidecar's beats before the window; ``after``: those behind it.
        window: what the witness heard from before the first beats to the close.
        swept: what it heard during the sweeps.
        tail: what it heard of the last beats.
    """

    plan: Plan
    volley: Volley
    opened: Mark
    closed: Mark
    before: list[Shot]
    after: list[Shot]
    window: Hearing
    swept: Hearing
    tail: Hearing

    def unheard(self, beats: Iterable[Shot], hearing: Hearing) -> list[str]:
        """Name the beats that the witness did not hear."""
        return [beat.name for beat in beats if not heard(beat, hearing.records)]

    def during(self) -> list[Heard]:
        """What the witness heard while the claims were fired, without the first beats."""
        return [r for r in self.window.records if r.seq > self.opened.seq]


def conduct(backend: Backend, topology: Topology, checks: Iterable[Check]) -> Evidence:
    """Plan and fire the survey of all checks, and collect what was seen and heard."""
    backend.trust()
    plan = Plan(topology, backend.internet, _neighbours(backend, topology))
    for check in checks:
        if check.stimuli is not None and check.needs <= backend.describe().features:
            check.stimuli(plan)
    return _fire(backend, topology, plan)


def _neighbours(backend: Backend, topology: Topology) -> dict[str, str]:
    """Ask who is on the internal network, from the privileged probe."""
    if Feature.PRIVILEGED_PROBE not in backend.describe().features:
        return {}
    what = {
        "kind": "arp",
        "subnet": topology.internal.subnet,
        "source": backend.address(topology, Vantage.PRIVILEGED),
    }
    try:
        record = run_one(backend, topology, Vantage.PRIVILEGED, what, deadline=0.3)
    except TransportError:
        return {}  # every claim that needs a next hop says so itself
    return dict(record.get("neighbours", {}))


def _fire(backend: Backend, topology: Topology, plan: Plan) -> Evidence:
    internet = backend.internet
    before, after = plan.beats("before"), plan.beats("after")
    keys = plan.keys()
    internet.listen(
        tcp=[key.port for key in keys if key.protocol == "tcp"],
        udp=[key.port for key in keys if key.protocol == "udp"],
    )
    start = internet.mark()
    volley = fire(backend, topology, [*map(Operation.of, before), *plan.first])
    opened = internet.mark()
    _merge(volley, fire(backend, topology, _operations(plan)))
    time.sleep(_SETTLE)
    window = internet.heard(start)
    _merge(volley, fire(backend, topology, plan.sweeps, 10.0))
    swept = internet.heard(window.end)
    _merge(volley, fire(backend, topology, map(Operation.of, after)))
    tail = internet.heard(swept.end)
    return Evidence(plan, volley, opened, window.end, before, after, window, swept, tail)


def _operations(plan: Plan) -> list[Operation]:
    shots = [shot for claim in plan.claims for shot in (claim.shot, claim.mirror)]
    operations = [*map(Operation.of, shots), *plan.during]
    if any(claim.inbound for claim in plan.claims):
        ports = [CONTROL_PORT, INBOUND_PORT]
        what = {"kind": "listen", "tcp": ports, "udp": ports, "deadline": DEADLINE + 0.5}
        operations.append(Operation(LISTENER, Vantage.AGENT, what))
    return operations


def _merge(into: Volley, more: Volley) -> None:
    into.records |= more.records
    into.failures |= more.failures


def judge_claim(evidence: Evidence, claim: Claim, unmet: str) -> Judged:
    """Judge one claim; ``unmet`` names a control of the whole survey that is red."""
    volley = evidence.volley
    shot, mirror = claim.shot, claim.mirror
    if claim.inbound:
        visits = volley.records.get(LISTENER, {}).get("visitors", [])
        arrived = [v for v in visits if shot.nonce in v[3] or v[1] == shot.stimulus.key.port]
        control = any(mirror.nonce in visit[3] for visit in visits)
        found: tuple[Heard, ...] = ()
        is_heard = bool(arrived)
    else:
        found = tuple(heard(shot, evidence.during()))
        is_heard = bool(found)
        control = reached(evidence, mirror)
    why = unmet or claim.unmet or _red(evidence, claim)
    if not why and not control:
        why = f"its control did not arrive: {mirror.name}: {volley.records.get(mirror.name)}"
    outcome = volley.outcome(shot.name)
    if not why and outcome in (None, "tool-error"):
        why = f"no usable record: {volley.records.get(shot.name) or volley.failures}"
    echo = volley.echo(shot.name)
    finding = judge(outcome, echo=echo, heard=is_heard, controls=not why)
    return Judged(claim, finding, outcome, found, why)


def reached(evidence: Evidence, shot: Shot) -> bool:
    """Tell whether a control got through: answered or sent, and heard at the far end."""
    outcome = evidence.volley.outcome(shot.name)
    said = evidence.volley.echo(shot.name) or outcome in ("sent", "answered")
    return said and bool(heard(shot, evidence.during()))


def _red(evidence: Evidence, claim: Claim) -> str:
    """Name what made the witness deaf to a claim's key; empty if nothing did."""
    if claim.inbound:
        return ""
    if evidence.window.lost:
        return f"the witness lost {evidence.window.lost} packets in the window"
    key = claim.shot.stimulus.key
    for beats, hearing, when in (
        (evidence.before, evidence.window, "before"),
        (evidence.after, evidence.tail, "after"),
    ):
        mine = [beat for beat in beats if beat.stimulus.key == key]
        if not mine or evidence.unheard(mine, hearing):
            return f"the witness did not hear the sidecar on {key.protocol}/{key.port} {when}"
    return ""
