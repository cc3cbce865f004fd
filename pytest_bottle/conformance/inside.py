"""What must not reach a guest: rounds of listening there, and its kernel's own count of packets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Vantage
from pytest_bottle.conformance.encounters import merge
from pytest_bottle.conformance.plan import HEAD_START, INSIDE_PORT
from pytest_bottle.firing import Operation, fire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.firing import Volley
    from pytest_bottle.stimulus import Shot

#: Seconds that a stimulus to a guest on a network beside its sender may take.
_NEARBY = 0.3
#: Guests that are listened at, in this order: what the neighbour sends may be answered late.
_EARS = (Vantage.NEIGHBOUR, Vantage.AGENT)


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
        self._ears = [ear for ear in _EARS if any(claim.ear is ear for claim in self._claims)]
        self._volley = volley

    def claimed(self) -> dict[Vantage, Visits]:
        """Fire the claims about one guest after the other."""
        visits: dict[Vantage, Visits] = {}
        for ear in self._ears:
            visits |= self._listen([ear], [c.shot for c in self._claims if c.ear is ear])
        return visits

    def controlled(self) -> dict[Vantage, Visits]:
        """Fire the sidecar's controls at all of them."""
        return self._listen(self._ears, [claim.mirror for claim in self._claims])

    def _listen(self, at: Sequence[Vantage], shots: Iterable[Shot]) -> dict[Vantage, Visits]:
        # Counted before and after by others than the listener: it may start late, or end early.
        before = self._count(at)
        ports = [INSIDE_PORT]
        what = {"kind": "listen", "tcp": ports, "udp": ports, "deadline": HEAD_START + _NEARBY}
        listeners = [Operation(f"listener at {ear.value}", ear, what) for ear in at]
        more = self._fire([*listeners, *map(Operation.of, shots)], _NEARBY)
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
