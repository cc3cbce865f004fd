"""The survey: every stimulus of every check in one window, closed by the witness's heartbeats.

The order is what makes silence worth something: the sidecar speaks on every key (CTL-01), then the
claims and their mirrors are fired at once, then the sweeps, and then the sidecar speaks on every
key again (CTL-03). What must not reach a guest is fired while that guest is quiet. What is heard
late is heard all the same.
The rows of a user's own policy come behind all this, see :mod:`pytest_bottle.conformance.rounds`.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import rounds
from pytest_bottle.conformance.encounters import merge
from pytest_bottle.conformance.inside import Inside, Visits
from pytest_bottle.conformance.plan import Plan
from pytest_bottle.errors import TransportError
from pytest_bottle.firing import Operation, Recording, Volley, fire, run_one

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.internet.lab import Hearing, Mark
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.stimulus import Shot

#: Seconds from the last answer to the end of the window, at least; three round trips are less.
_SETTLE = 0.05
#: Seconds after which a control counts as lost.
_PATIENCE = 4.0
#: The guests of the suite's own, and what a backend must be able to do for each.
_GUESTS = {
    Vantage.PRIVILEGED: Feature.PRIVILEGED_PROBE,
    Vantage.OPEN: Feature.OPEN_GUEST,
    Vantage.NEIGHBOUR: Feature.NEIGHBOUR,
}


@dataclass
class Evidence:
    """Everything that the survey saw and heard.

    Attributes:
        opened: the moment between the first beats and the claims.
        closed: the moment between the claims and the last beats.
        before: the sidecar's beats before the window; ``after``: those behind it.
        window: what the witness heard from before the first beats to the close.
        swept: what it heard during the sweeps.
        tail: what it heard from there on, the last beats among it.
        claimed: what came to a guest when it should not; ``controlled``: when it should.
        rounds: what became of the rows of the user's own policy; None without any.
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
    claimed: Mapping[Vantage, Visits]
    controlled: Mapping[Vantage, Visits]
    rounds: rounds.Rounds | None

    def unheard(self, beats: Iterable[Shot], hearing: Hearing) -> list[str]:
        """Name the beats that the witness did not hear."""
        recording = self._recordings[id(hearing)]
        return [beat.name for beat in beats if not recording.of(beat)]

    @property
    def lost(self) -> int:
        """How many packets the witness lost."""
        return sum(hearing.lost or 0 for hearing in self._hearings)

    @cached_property
    def since_opened(self) -> list[Heard]:
        """What the witness heard since the claims were fired, however late, but for the sweeps."""
        sweeps = {
            o.what["host"]: (b"", str(o.what["nonce"]).encode())
            for sweep in self.plan.sweeps
            for o in (sweep.operation, sweep.control)
        }
        return [
            record
            for hearing in self._hearings
            for record in hearing.records
            if record.seq > self.opened.seq and record.payload not in sweeps.get(record.dst, ())
        ]

    @cached_property
    def recording(self) -> Recording:
        """The same, to be searched for shots."""
        return Recording(self.since_opened)

    @cached_property
    def _recordings(self) -> dict[int, Recording]:
        return {id(hearing): Recording(hearing.records) for hearing in self._hearings}

    def claiming(self, plan: Plan) -> Evidence:
        """Give what was seen and heard as if the sidecar's and the open guest's were the claims."""
        same = replace(self, plan=plan, claimed=self.controlled)
        # What was heard is the same, and its sweeps are still not among it.
        same.__dict__.update(
            since_opened=self.since_opened,
            recording=self.recording,
            _recordings=self._recordings,
        )
        return same

    @property
    def _hearings(self) -> tuple[Hearing, ...]:
        return self.window, self.swept, self.tail


def conduct(backend: Backend, topology: Topology, checks: Iterable[Check]) -> Evidence:
    """Plan and fire the survey of all checks, and collect what was seen and heard."""
    backend.trust()
    features = backend.describe().features
    # All are attached before anybody speaks: a bridge's own link address may change with each.
    guests = {
        vantage: backend.address(topology, vantage)
        for vantage, feature in _GUESTS.items()
        if feature in features
    }
    guests[Vantage.AGENT] = topology.agent_address
    planning = [one for one in checks if one.stimuli is not None and one.needs <= features]
    # Who only lets the agent speak has no next hop to look for.
    hops = any(Feature.PRIVILEGED_PROBE in check.needs for check in planning)
    neighbours = _neighbours(backend, topology) if hops else {}
    plan = Plan(topology, backend.internet, features, neighbours, guests)
    for check in planning:
        assert check.stimuli is not None
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
    volley = fire(backend, topology, [*map(_patient, before), *plan.first])
    opened = internet.mark()
    inside = Inside(backend, topology, plan, volley)
    operations = _operations(plan)
    # The neighbour speaks after it has listened, since what it sends may be answered late.
    speaking = [one for one in operations if one.vantage is Vantage.NEIGHBOUR]
    speaking += [sweep.control for sweep in plan.sweeps]
    with ThreadPoolExecutor(max(1, len(plan.sweeps))) as pool:
        others = [one for one in operations if one.vantage is not Vantage.NEIGHBOUR]
        firing = pool.submit(fire, backend, topology, others)
        claimed = inside.claimed(Vantage.NEIGHBOUR)
        merge(volley, firing.result())
        window = _settled(internet, start)
        # Nobody but their sender hears of the sweeps inside, so others can listen there meanwhile.
        # Each has a probe of its own: threads that all send take twice the processor's time.
        sweeping = [
            pool.submit(fire, backend, topology, [sweep.operation], 10.0) for sweep in plan.sweeps
        ]
        claimed |= inside.claimed(Vantage.AGENT)
        merge(volley, fire(backend, topology, speaking))
        for each in sweeping:
            merge(volley, each.result())
        swept = _settled(internet, window.end)
        beating = pool.submit(fire, backend, topology, map(_patient, after))
        controlled = inside.controlled()
        merge(volley, beating.result())
        tail = _settled(internet, swept.end)
    # Last, and not in the tail: where these go, other checks want to hear nothing at all.
    own = rounds.conduct(backend, topology, plan.asked, volley)
    return Evidence(
        *(plan, volley, opened, window.end, before, after),
        *(window, swept, tail, claimed, controlled, own),
    )


def _settled(internet: Internet, since: Mark) -> Hearing:
    time.sleep(_SETTLE)
    return internet.heard(since)


def _operations(plan: Plan) -> list[Operation]:
    claims = [claim for claim in plan.claims if claim.ear is None]
    shots = dict.fromkeys(claim.shot for claim in claims)
    mirrors = dict.fromkeys(claim.mirror for claim in claims)
    return [*map(Operation.of, shots), *map(_patient, mirrors), *plan.during]


def _patient(shot: Shot) -> Operation:
    """Give a control the time that it needs on a slow machine; where it arrives, it takes none."""
    operation = Operation.of(shot)
    return replace(operation, what={**operation.what, "deadline": _PATIENCE})
