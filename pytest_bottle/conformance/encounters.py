"""Attempts on listeners of the suite's own, in guests or at the host, and who came to them.

The listener's own record decides: a nonce that arrived, a visitor who said nothing, a handshake
that the listener's answers could not end.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import User
from pytest_bottle.conformance import telling
from pytest_bottle.firing import Operation, Volley, fire
from pytest_bottle.guest.probe.direct import HANDMADE
from pytest_bottle.stimulus import new_nonce
from pytest_bottle.verdict import Finding, Verdict, combine, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_bottle.backends.contract import Backend, Topology, Vantage
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record

#: What engines call their host.
HOST_ALIASES = (
    "host.docker.internal",
    "gateway.docker.internal",
    "host.containers.internal",
    "host.lima.internal",
)
#: Seconds that an attempt on something nearby may take.
NEARBY = 0.3
#: Seconds after which a listener ends that nobody has told to.
_LONGEST = 8.0


def some_port() -> int:
    """Draw a port that nobody expects: below those that kernels hand out, above the well-known."""
    return 20000 + int(new_nonce(), 16) % 12000


def attempt(
    name: str, vantage: Vantage, what: Mapping[str, object], user: User = User.AGENT
) -> Operation:
    """Make an attempt with a nonce of its own; ``%s`` in a URL stands for it."""
    nonce = new_nonce()
    filled = {k: v.replace("%s", nonce) if isinstance(v, str) else v for k, v in what.items()}
    label = f"{vantage.value}{' as root' if user is User.ROOT else ''}: {name}"
    return Operation(label, vantage, {**filled, "nonce": nonce}, user)


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
    """Who came to a listener: the probe's own record, empty when there is none."""

    record: Record

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


class Post:
    """A listener at a vantage point, in the background, between its controls.

    Controls open it, again and again until one is answered, and controls close it: they bracket
    what must not arrive, and nobody has to guess how long anything takes.

    Args:
        backend: runs the probes.
        topology: the bottle.
        vantage: where it listens, by TCP and UDP.
        port: on which port.
        callers: who is meant to be heard, and the addresses they call.
        addresses: what it binds.
        more: what else the listener is told, in place of its own: ports, groups, a deadline.
    """

    def __init__(
        self,
        backend: Backend,
        topology: Topology,
        vantage: Vantage,
        port: int,
        *,
        callers: Sequence[tuple[Vantage, str]],
        addresses: Sequence[str] = ("0.0.0.0",),
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self._fire = partial(fire, backend, topology)
        self._port, self._callers = port, callers
        self._last = new_nonce()
        what: dict[str, object] = {
            "kind": "listen",
            "tcp": [port],
            "udp": [port],
            "addresses": [*addresses],
        }
        what |= {"until": [self._last], "deadline": _LONGEST, **more}
        self._listener = Operation(f"listener at {vantage.value}", vantage, what)
        self._controls: list[Operation] = []
        self._volley = Volley()

    @contextmanager
    def open(self, *, patient: bool = True) -> Iterator[None]:
        """Listen meanwhile.

        Args:
            patient: wait long for the listener; not where its silence is worth nothing anyway.
        """
        end = time.monotonic() + (_LONGEST if patient else NEARBY)
        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(self._fire, [self._listener])
            try:
                while not (self._is_there() or listening.done() or time.monotonic() > end):
                    time.sleep(0.01)
                self._call()
                yield
                self._call()
            finally:
                self._hang_up()
                merge(self._volley, listening.result())

    def _is_there(self) -> bool:
        """Tell whether the listener answers; by then it has opened every door."""
        who, host = self._callers[0]
        call = knocks(who, host, self._port)[0]
        return self._fire([call], NEARBY).echo(call.name)

    def _call(self) -> None:
        """Let every control come."""
        controls = [one for who, host in self._callers for one in knocks(who, host, self._port)]
        self._controls += controls
        merge(self._volley, self._fire(controls, NEARBY))

    def _hang_up(self) -> None:
        who, host = self._callers[0]
        what = {"kind": "tcp", "host": host, "port": self._port, "nonce": self._last}
        self._fire([Operation("last word", who, what)], NEARBY)

    @property
    def book(self) -> Guestbook:
        """Who came; there once it is closed."""
        return Guestbook(self._volley.records.get(self._listener.name, {}))

    @property
    def deaf(self) -> str:
        """Why its silence is worth nothing; empty if it is worth something."""
        if not self.book.listened:
            return f"the listener did not report: {self.book.record or self._volley.failures}"
        for control in self._controls:
            if not self.book.names(control):
                seen = self._volley.records.get(control.name) or self._volley.failure(control)
                return f"the listener did not even hear {control.name}: {seen}"
        return ""


def merge(into: Volley, more: Volley) -> None:
    """Add what further probes recorded."""
    into.records |= more.records
    into.failures |= more.failures


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
        leaks = [one for one in tried if findings[one.name].value.startswith("leaked")]
        raise bench.violation(*telling.attempts(volley, leaks, len(tried)))
    if verdict is not Verdict.PASSED:
        broken = [name for name, f in findings.items() if f is Finding.INCONCLUSIVE]
        seen = [f"{name}: {volley.records.get(name) or volley.failures}" for name in broken[:3]]
        raise bench.inconclusive(why or "; ".join(seen) or "nothing could be sent")
    return telling.counted((one.vantage, str(volley.outcome(one.name))) for one in tried)
