"""What must not reach a guest: rounds of listening there, and its kernel's own count of packets."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_bottle.conformance.encounters import merge
from pytest_bottle.conformance.plan import HEAD_START, INSIDE_PORT
from pytest_bottle.firing import Operation, fire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_bottle.backends.contract import Backend, Topology, Vantage
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.firing import Volley
    from pytest_bottle.stimulus import Shot

#: Seconds that a stimulus to a guest on a network beside its sender may take.
_NEARBY = 0.3
#: Rounds at the most in which a guest is to hear nothing at all.
_ROUNDS = 3
#: Seconds after which a control counts as lost; it mostly takes a moment.
_PATIENCE = 4.0


@dataclass(frozen=True, slots=True)
class Visits:
    """What came to a guest in one round, in which nobody else talks to it.

    Attributes:
        said: the first words of those who came to its listener.
        counted: how many packets its kernel received, by protocol; empty if it could not tell.
    """

    said: tuple[str, ...]
    counted: Mapping[str, int]


class Inside:
    """Rounds of listening at guests: first of what must not come, then of what must."""

    def __init__(self, backend: Backend, topology: Topology, plan: Plan, volley: Volley) -> None:
        self._fire = partial(fire, backend, topology)
        self._claims = [claim for claim in plan.claims if claim.ear is not None]
        self._volley = volley

    def claimed(self, ear: Vantage) -> dict[Vantage, Visits]:
        """Fire the claims about one guest; again if something else came that its kernel counts.

        Bridges and their hosts speak to groups now and then (RFC 3376). What came of a claim is a
        leak at once, and a filter that drops it would do so each time.
        """
        shots = [claim.shot for claim in self._claims if claim.ear is ear]
        listeners = [_listener(ear, {"deadline": HEAD_START + _NEARBY})] if shots else []
        for _ in range(_ROUNDS):
            visits = self._listen(listeners, shots, _NEARBY)
            if not any(map(_is_disturbed, visits.values())):
                break
        return visits

    def controlled(self) -> dict[Vantage, Visits]:
        """Fire the sidecar's controls at all of them, and listen until all have come."""
        mirrors: dict[Vantage, list[Shot]] = defaultdict(list)
        for claim in self._claims:
            if claim.ear is not None:
                mirrors[claim.ear].append(claim.mirror)
        listeners = [
            _listener(ear, {"deadline": HEAD_START + _PATIENCE, "until": _words(shots)})
            for ear, shots in mirrors.items()
        ]
        return self._listen(listeners, itertools.chain(*mirrors.values()), _PATIENCE)

    def _listen(
        self, listeners: Sequence[Operation], shots: Iterable[Shot], deadline: float
    ) -> dict[Vantage, Visits]:
        at = [listener.vantage for listener in listeners]
        # Counted before and after by others than the listener: it may start late, or end early.
        before = self._count(at)
        more = self._fire([*listeners, *map(Operation.of, shots)], deadline)
        merge(self._volley, more)
        after = self._count(at)
        return {
            ear: Visits(
                tuple(visit[3] for visit in more.records.get(o.name, {}).get("visitors", ())),
                {name: n - before[ear][name] for name, n in after[ear].items() if before[ear]},
            )
            for ear, o in zip(at, listeners, strict=True)
        }

    def _count(self, at: Iterable[Vantage]) -> dict[Vantage, dict[str, int]]:
        """Read how many packets each of the guests has received."""
        what = {"kind": "listen", "deadline": 0}
        reads = {ear: Operation(f"counters of {ear.value}", ear, what) for ear in at}
        records = self._fire(reads.values()).records
        return {
            ear: records.get(o.name, {}).get("counters", {}).get("after", {})
            for ear, o in reads.items()
        }


def _is_disturbed(visits: Visits) -> bool:
    """Tell whether a guest received something, and nothing that was meant for it."""
    known = [n for name, n in visits.counted.items() if name != "ip"]
    return not visits.said and not any(known) and visits.counted.get("ip", 0) > 0


def _listener(ear: Vantage, what: Mapping[str, object]) -> Operation:
    ports = [INSIDE_PORT]
    orders = {"kind": "listen", "tcp": ports, "udp": ports, **what}
    return Operation(f"listener at {ear.value}", ear, orders)


def _words(shots: Iterable[Shot]) -> list[str]:
    """Name what a listener is going to be told; nobody listens for an echo request."""
    return [shot.nonce for shot in shots if shot.stimulus.key.protocol != "icmp"]


def visited(
    visits: Mapping[Vantage, Visits], ear: Vantage, shot: Shot, *, strict: bool = False
) -> bool:
    """Tell whether a shot came to a guest: its listener or its kernel says so, or both must."""
    protocol = shot.stimulus.key.protocol
    counted = visits[ear].counted.get(protocol, 0) > 0
    told = any(shot.nonce in said for said in visits[ear].said)
    if strict:  # nobody listens for an echo request: the reply to it tells
        return counted and (told or protocol == "icmp")
    return counted or told


def uncounted(visits: Mapping[Vantage, Visits], ear: Vantage) -> str:
    """Name what keeps a guest's counters from telling that nothing came; empty if nothing does."""
    counted = visits[ear].counted
    if not counted:
        return f"the kernel of {ear.value} does not count what it receives"
    rest = counted["ip"] - sum(n for name, n in counted.items() if name != "ip")
    # A guest's own filter of sources may drop a packet before its protocol is looked at.
    return f"{ear.value} received {rest} packets of no known protocol" if rest > 0 else ""
