"""Stimuli to destinations that a user chose: others may be sent there too, so only time tells.

They come last in the survey, in rounds. In one round nothing else goes where one of its stimuli
goes; before the first and after the last the open guest sends the same bytes to the same place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.conformance.encounters import merge
from pytest_bottle.firing import Operation, fire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.firing import Volley
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.internet.lab import Hearing, Mark
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.stimulus import Shot

#: Seconds from the last answer to the end of a round.
_SETTLE = 0.05
_TCP, _SYN = 6, 0x02


@dataclass(frozen=True, slots=True)
class Asked:
    """A stimulus of a row.

    Attributes:
        check: the ID of the row.
        shot: the stimulus, at its vantage point.
        controls: the same from the open guest, before the rounds and after them.
        unmet: a condition that was not met already when the plan was made; empty if all were.
    """

    check: str
    shot: Shot
    controls: tuple[Shot, Shot]
    unmet: str = ""


class Rounds(NamedTuple):
    """What was heard.

    Attributes:
        before: from before the first controls on.
        own: by the shot's name, what was heard in its round.
        every: what was heard in all the rounds.
        after: what was heard of the last controls.
    """

    before: Hearing
    own: dict[str, Hearing]
    every: tuple[Hearing, ...]
    after: Hearing

    @property
    def lost(self) -> int:
        """How many packets the witness lost."""
        return sum(one.lost or 0 for one in (self.before, *self.every, self.after))

    def heard(self, shot: Shot) -> list[Heard]:
        """Pick the records of a shot: its nonce whenever it came, or a SYN to where it alone went.

        What is no SYN may belong to a connection that somebody else opened before.
        """
        mine = arrivals(shot, self.own[shot.name].records)
        nonce = shot.nonce.encode()
        late = (r for one in self.every for r in one.records if nonce in r.payload.lower())
        return sorted({*mine, *late})


def arrivals(shot: Shot, records: Iterable[Heard]) -> list[Heard]:
    """Pick the records of a shot to whose destination nothing else goes meanwhile."""
    nonce, key = shot.nonce.encode(), shot.stimulus.key
    wanted = (shot.stimulus.host, _TCP, key.port) if key.protocol == "tcp" else None
    return [
        r
        for r in records
        if nonce in r.payload.lower() or ((r.dst, r.proto, r.dport) == wanted and r.flags & _SYN)
    ]


def conduct(
    backend: Backend, topology: Topology, asked: Sequence[Asked], volley: Volley
) -> Rounds | None:
    """Fire the stimuli of all rows between their controls; None if there are none."""
    if not asked:
        return None
    internet = backend.internet
    keys = {one.shot.stimulus.key for one in asked}
    internet.listen(
        tcp=[key.port for key in keys if key.protocol == "tcp"],
        udp=[key.port for key in keys if key.protocol == "udp"],
    )

    def listen(shots: Iterable[Shot], since: Mark) -> Hearing:
        merge(volley, fire(backend, topology, map(Operation.of, shots)))
        return _settled(internet, since)

    before = listen(dict.fromkeys(one.controls[0] for one in asked), internet.mark())
    own: dict[str, Hearing] = {}
    every: list[Hearing] = []
    for shots in _rounds([one.shot for one in asked]):
        every.append(listen(shots, internet.mark()))
        own |= dict.fromkeys((shot.name for shot in shots), every[-1])
    after = listen(dict.fromkeys(one.controls[1] for one in asked), internet.mark())
    return Rounds(before, own, tuple(every), after)


def _settled(internet: Internet, since: Mark) -> Hearing:
    time.sleep(_SETTLE)
    return internet.heard(since)


def _rounds(shots: Iterable[Shot]) -> Iterator[list[Shot]]:
    """Put shots into rounds, in each of which no two have one destination."""
    left = list(shots)
    while left:
        places: dict[tuple[str, object], Shot] = {}
        for shot in left:
            places.setdefault((shot.stimulus.host, shot.stimulus.key), shot)
        yield list(places.values())
        taken = {shot.name for shot in places.values()}
        left = [shot for shot in left if shot.name not in taken]
