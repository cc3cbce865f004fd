"""Attempts on listeners of the suite's own, in guests or at the host, and who came to them.

The listener's own record decides: a nonce that arrived, a visitor who said nothing, a handshake
that the listener's answers could not end.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import User
from pytest_bottle.conformance.plan import HEAD_START
from pytest_bottle.firing import Operation, Volley, fire
from pytest_bottle.guest.probe import HANDMADE
from pytest_bottle.stimulus import new_nonce
from pytest_bottle.verdict import Finding, Verdict, combine, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_bottle.backends.contract import Backend, Topology, Vantage
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record

#: Seconds that an attempt on something nearby may take.
NEARBY = 0.3


def some_port() -> int:
    """Draw a port that nobody expects: below those that kernels hand out, above the well-known."""
    return 20000 + int(new_nonce(), 16) % 12000


def listener(vantage: Vantage, port: int, *addresses: str) -> Operation:
    """Listen by TCP and UDP until every attempt has had its time."""
    what = {
        "kind": "listen",
        "tcp": [port],
        "udp": [port],
        "addresses": addresses or ["0.0.0.0"],
        "deadline": HEAD_START + NEARBY + 0.1,
    }
    return Operation(f"listener at {vantage.value}", vantage, what)


def attempt(
    name: str, vantage: Vantage, what: Mapping[str, object], user: User = User.AGENT
) -> Operation:
    """Make an attempt with a nonce of its own; ``%s`` in a URL stands for it."""
    nonce = new_nonce()
    filled = {k: v.replace("%s", nonce) if isinstance(v, str) else v for k, v in what.items()}
    label = f"{vantage.value}{' as root' if user is User.ROOT else ''}: {name}"
    return Operation(label, vantage, {"delay": HEAD_START, **filled, "nonce": nonce}, user)


def knocks(
    vantage: Vantage, host: str, port: int, *, user: User = User.AGENT, via: str = ""
) -> list[Operation]:
    """Try one address by TCP and UDP, by a next hop perhaps."""
    more = {"via": via} if via else {}
    way = f" via {via}" if via else ""
    return [
        attempt(
            f"{kind}/{port} to {host}{way}",
            vantage,
            {"kind": kind, "host": host, "port": port, **more},
            user,
        )
        for kind in ("tcp", "udp")
    ]


@dataclass(frozen=True, slots=True)
class Guestbook:
    """Who came to a listener.

    Attributes:
        record: the probe's own; empty when there is none.
        counted: how many packets the listener's kernel received meanwhile, by protocol; only where
            nobody else is meant to talk to it.
    """

    record: Record
    counted: Mapping[str, int] = field(default_factory=dict)

    @property
    def listened(self) -> bool:
        """Whether there was a listener at all."""
        return self.record.get("outcome") == "listened"

    def names(self, operation: Operation, source: str | None = None) -> bool:
        """Tell whether an attempt arrived.

        Args:
            operation: the attempt.
            source: its sender's address: one who came from there and said nothing may be it.
        """
        nonce, kind = str(operation.what["nonce"]), operation.what["kind"]
        visitors = self.record.get("visitors", ())
        half_open = self.record.get("half_open", ())
        if any(nonce in said for *_, said in visitors):
            return True
        if operation.what.get("protocol") == "tcp":  # a SYN of our own making
            return any(peer == source and port == HANDMADE for _, peer, port in half_open)
        silent = {peer for _, _, peer, said in visitors if not said}
        silent |= {peer for _, peer, port in half_open if port != HANDMADE}
        return kind in ("tcp", "http") and source in silent


class Party(NamedTuple):
    """Operations in one bottle."""

    topology: Topology
    operations: Sequence[Operation]


def fire_all(backend: Backend, *parties: Party, deadline: float = NEARBY) -> list[Volley]:
    """Run operations in several bottles at once."""

    def run(party: Party) -> Volley:
        return fire(backend, party.topology, party.operations, deadline)

    with ThreadPoolExecutor(len(parties)) as pool:
        return list(pool.map(run, parties))


def settle(
    bench: Bench,
    volley: Volley,
    attempts: Iterable[Operation],
    heard: Callable[[Operation], bool],
    why: str,
) -> str:
    """Judge attempts that must not arrive.

    Args:
        bench: whose check it is.
        volley: what the probers saw.
        attempts: what was tried.
        heard: tells whether the far end says that one of them arrived.
        why: the control that is red; empty if all are green.

    Returns:
        the mechanisms, for the report.

    Raises:
        Violation: one arrived.
        Inconclusive: none did, and that proves nothing.
    """
    tried = [*attempts]
    findings = {
        one.name: judge(
            volley.outcome(one.name),
            echo=volley.echo(one.name),
            heard=heard(one),
            controls=not why,
        )
        for one in tried
    }
    verdict = combine(findings.values())
    if verdict is Verdict.VIOLATED:
        leaks = [name for name, f in findings.items() if f.value.startswith("leaked")]
        raise bench.violation("; ".join(_arrived(volley, name) for name in leaks[:10]))
    if verdict is not Verdict.PASSED:
        broken = [name for name, f in findings.items() if f is Finding.INCONCLUSIVE]
        seen = [f"{name}: {volley.records.get(name) or volley.failures}" for name in broken[:3]]
        raise bench.inconclusive(why or "; ".join(seen) or "nothing could be sent")
    counts = Counter((one.vantage.value, str(volley.outcome(one.name))) for one in tried)
    return ", ".join(f"{vantage}: {n}x {outcome}" for (vantage, outcome), n in counts.items())


def _arrived(volley: Volley, name: str) -> str:
    record = volley.records.get(name, {})
    return f"{name}: it arrived, the prober saw {record.get('outcome')!r}"


def missing(volley: Volley, controls: Iterable[Operation], book: Guestbook) -> str:
    """Name the control that did not arrive at a listener; empty if all did."""
    if not book.listened:
        return f"the listener did not report: {book.record or volley.failures}"
    for control in controls:
        if not book.names(control):
            record = volley.records.get(control.name) or volley.failure(control)
            return f"the listener did not even hear {control.name}: {record}"
    return ""
