"""Conversations with a proxy in raw bytes: how they are planned, and what is left to judge them by.

Each has a nonce of its own. Who judges asks what the far side heard of it, never what was answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_bottle.backends.contract import Endpoint, User, Vantage
from pytest_bottle.conformance import telling
from pytest_bottle.errors import Facts
from pytest_bottle.firing import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.dialects import Step
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.conformance.survey import Evidence
    from pytest_bottle.firing import Record
    from pytest_bottle.internet.records import Heard

#: Seconds for one conversation, and for all of an operation: a proxy may wait for what never comes.
PATIENCE, DEADLINE = 1.0, 15.0
#: Seconds for one where every proxy has a word to say: a loaded machine is slow.
PATIENT = 5.0
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_SYN = 0x02
_CONTROL = "{} {} (sidecar, direct)"
_TCP = 6


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation with a listener.

    Attributes:
        name: unique in its operation.
        at: the listener.
        steps: what is said.
        nonce: tells it from all others at the far side.
        address: where it alone leads, if it names an address; else empty.
        group: of those that are not tried further where nobody answers any of them.
        relay: an address of the speaker's own at which a relay passes it on; none if empty.
        source: the port from which that relay calls; any, if 0.
        patience: seconds for it alone; those of its operation, if 0.
    """

    name: str
    at: Endpoint
    steps: tuple[Step, ...]
    nonce: str
    address: str = ""
    group: str = ""
    relay: str = ""
    source: int = 0
    patience: float = 0.0

    def order(self) -> dict[str, object]:
        """What the probe is told."""
        steps = [step.order() for step in self.steps]
        where = {"host": self.at.host, "port": self.at.port}
        relay = {"relay": {"host": self.relay, "source": self.source}} if self.relay else {}
        patience = {"patience": self.patience} if self.patience else {}
        rest = {"steps": steps, "group": self.group}
        return {"name": self.name, **where, **relay, **patience, **rest}


@dataclass(frozen=True, slots=True)
class Conversations(Operation):
    """An operation that holds conversations."""

    talks: tuple[Talk, ...] = ()


def conversations(
    name: str, talks: Iterable[Talk], patience: float = PATIENCE, user: User = User.AGENT
) -> Conversations:
    """Make the agent's operation of conversations."""
    talks = tuple(talks)
    what = {"kind": "talks", "patience": patience, "deadline": DEADLINE}
    what["talks"] = [talk.order() for talk in talks]
    return Conversations(name, Vantage.AGENT, what, user, talks)


def listeners(topology: Topology) -> list[Endpoint]:
    """List where the sidecar listens for the agent: the proxy, and what the variables say."""
    found = {topology.proxy: None}
    for name in _PROXIES:
        for each in (name, name.upper()):
            url = urlsplit(topology.environment.get(each, ""))
            if url.hostname and url.port:
                found[Endpoint(url.hostname, url.port)] = None
    return list(found)


def held(plan: Plan, name: str) -> Conversations:
    """Find an operation of conversations by its name."""
    return next(o for o in plan.during if isinstance(o, Conversations) and o.name == name)


def records(evidence: Evidence, name: str) -> dict[str, Record]:
    """Give what the probe recorded of an operation's conversations, by their names."""
    found: dict[str, Record] = evidence.volley.records.get(name, {}).get("talks", {})
    return found


def unusable(evidence: Evidence, operation: Conversations) -> str:
    """Say which conversations were not held; empty if all of them were, to whatever end."""
    found = records(evidence, operation.name)
    wrong = [
        talk.name
        for talk in operation.talks
        if found.get(talk.name, {}).get("outcome") in (None, "tool-error")
    ]
    if not wrong:
        return ""
    first = found.get(wrong[0]) or evidence.volley.failure(operation) or "no record"
    return f"{len(wrong)} conversations were not held, {wrong[0]!r} first: {first}"


def deaf(bench: Bench) -> str:
    """Say why the far side's silence is worth nothing; empty if it is worth something."""
    evidence = bench.evidence
    if bench.unmet() or evidence.lost:
        return bench.unmet() or f"the witness lost {evidence.lost} packets"
    for beats, hearing in ((evidence.before, evidence.window), (evidence.after, evidence.tail)):
        mine = [beat for beat in beats if beat.stimulus.key[1:] in (("tcp", 80), ("tcp", 443))]
        if evidence.unheard(mine, hearing):
            return f"the witness did not hear {evidence.unheard(mine, hearing)}"
    return ""


def news(evidence: Evidence) -> Iterator[Heard]:
    """Yield what was heard since the claims were fired, but for the ends of older connections."""
    for record in evidence.since_opened:
        if record.proto != _TCP or record.payload or record.flags & _SYN:
            yield record


def about(talk: Talk, heard: Iterable[Heard]) -> list[Heard]:
    """Pick what was heard of a conversation: by its nonce, or where it alone leads."""
    nonce = talk.nonce.encode()
    return [r for r in heard if nonce in r.payload.lower() or (r.dst == talk.address != "")]


def packet(record: Heard) -> str:
    """Show a packet in a message."""
    return f"{record.src} to {record.dst}:{record.dport} {record.payload[:80]!r}"


# -- a name that is denied -------------------------------------------------------------------------


def plan_control(plan: Plan, check_id: str, name: str) -> None:
    """Let the sidecar itself fetch from a denied name's address, before the window."""
    address = plan.internet.addresses_of(name)[0]
    what = {"kind": "http", "url": f"http://{address}/", "proxy": None}
    plan.first.append(Operation(_CONTROL.format(check_id, name), Vantage.SIDECAR, what))


def doubts(bench: Bench, name: str, *operations: Conversations) -> str:
    """Say why silence about a name is worth nothing; empty if it is worth something."""
    evidence = bench.evidence
    control = evidence.volley.records.get(_CONTROL.format(bench.current.id, name), {})
    answers = "" if control.get("status") == 200 else f"{name} does not answer the sidecar itself"
    unheld = next(filter(None, (unusable(evidence, each) for each in operations)), "")
    return deaf(bench) or answers or unheld


def leaks(bench: Bench, name: str, denied: Sequence[Talk]) -> list[tuple[str, Heard]]:
    """Find packets of conversations that lead to a denied name, or any other packet to it."""
    fresh = list(news(bench.evidence))
    found = [(talk.name, record) for talk in denied for record in about(talk, fresh)]
    addresses = bench.backend.internet.addresses_of(name)
    return found or [("some conversation", record) for record in fresh if record.dst in addresses]


def rests_on(found: Sequence[tuple[str, Heard]]) -> Facts:
    """Say what a leak of conversations rests on: what was said, and the packets that came of it."""
    names = sorted({talk for talk, _ in found})
    return Facts(
        sent=telling.some([f"agent to its proxy: {talk}" for talk in names]),
        heard=f"{telling.packets([r for _, r in found])}: {found[0][1].payload[:80]!r}",
        how="the sidecar went there, or looked the name up",
    )


def require_silence(bench: Bench, name: str, denied: Sequence[Talk]) -> None:
    """Require that the far side heard nothing of conversations about a denied name."""
    found = leaks(bench, name, denied)
    if found:
        names = sorted({talk for talk, _ in found})
        seen = f"{len(names)} conversations led to {name}, or asked for it: {telling.some(names)}"
        raise bench.violation(seen, rests_on(found))
