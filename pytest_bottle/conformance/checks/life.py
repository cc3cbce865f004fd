"""LIFE: life cycle, what becomes of the agent when a part of its bottle is gone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import LOSSES, Fault, Feature, User, Vantage
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.encounters import attempt, merge
from pytest_bottle.conformance.registry import check
from pytest_bottle.errors import TransportError
from pytest_bottle.firing import Operation, Volley, fire, heard, run_one
from pytest_bottle.stimulus import Icmp, Shot, Stimulus, Tcp, Udp, aimed_at
from pytest_bottle.verdict import BLOCKED_OUTCOMES, Finding, Verdict, combine, judge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.internet.lab import Hearing, Mark
    from pytest_bottle.internet.records import Heard

#: How often the agent tries everything after a fault: in 3 s, or in the catalogue's 15.
_ROUNDS, _ROUNDS_THOROUGH = 4, 16
#: The seconds that each try may take.
_DEADLINE = 0.3
#: Seconds from one round to the next: who opens a way may look only now and then whether to.
_INTERVAL = 1.0
#: Seconds within which the use of a dead proxy must have failed: to connect and to read may take a
#: deadline each, and the machine may be slow.
_BOUND = 2 * _DEADLINE + 1.0
_SYN, _ACK, _UDP, _TCP = 2, 16, 17, 6


class _Tries(NamedTuple):
    """What is tried after a fault.

    Attributes:
        shots: what the agent sends directly, each to an address of its own.
        mirrors: the same from the open guest of the same bottle.
        fetches: what the agent asks its proxy for.
    """

    shots: list[Shot]
    mirrors: list[Shot]
    fetches: list[Operation]


class _Aftermath(NamedTuple):
    """What happened in one bottle.

    Attributes:
        why: why nothing can be concluded from it; empty if something can.
        fallen: the moment when the fault had been done.
        ended: the moment before the bottle went; another may have its addresses after that.
        outer: the sidecar's address on the egress network.
    """

    fault: Fault
    why: str
    fallen: Mark
    ended: Mark
    outer: str
    tries: _Tries
    volley: Volley


# -- the fault, and its confirmation by others than the agent --------------------------------------


def _states(backend: Backend, topology: Topology) -> dict[str, str] | None:
    """Read the state of every process in the sidecar's guest; None when it cannot be entered."""
    try:
        record = run_one(backend, topology, Vantage.SIDECAR, {"kind": "status", "pids": ["*"]})
    except TransportError:
        return None
    return {
        f"{pid} {status['Name']}": str(status["State"])[:1]
        for pid, status in record.get("processes", {}).items()
    }


def _services(backend: Backend, topology: Topology) -> set[str]:
    """Name the sidecar's processes, but for a guest's first one and the probe that looks."""
    first, second = (_states(backend, topology) or {} for _ in range(2))
    return {name for name in second if name in first and name.split()[0] != "1"}


def _gets_out(backend: Backend, topology: Topology) -> bool:
    """Tell whether the sidecar's own guest can go out."""
    host = backend.internet.fresh_address()
    what = {"kind": "tcp", "host": host, "port": 443, "nonce": "0" * 32}
    try:
        record = run_one(backend, topology, Vantage.SIDECAR, what, deadline=_DEADLINE)
    except TransportError:
        return False
    return bool(record.get("echo"))


def _doubt(backend: Backend, topology: Topology, fault: Fault, services: set[str]) -> str:
    """Say what speaks against a fault's having been done; empty if nothing does."""
    states = _states(backend, topology)
    if fault is Fault.CUT_EGRESS:
        alive = states is not None and not _gets_out(backend, topology)
        return "" if alive else "the sidecar is gone, or still gets out"
    if states is None:  # a stopped guest cannot be entered either
        return ""
    if fault is Fault.REMOVE_SIDECAR:
        return "the sidecar's guest is still there"
    wanted = "ZX" if fault is Fault.KILL_SIDECAR else "TtZX"
    left = {name: s for name, s in states.items() if name in services and s not in wanted}
    return f"the sidecar still runs: {left}" if left or not services else ""


def _works(backend: Backend, topology: Topology) -> str:
    """Say why a bottle does not even work before the fault; empty if it does."""
    what = {"kind": "http", "proxy": "environment", "url": f"http://{ALLOWED}/"}
    record = run_one(backend, topology, Vantage.AGENT, what, deadline=5.0)
    if record.get("status") != 200:
        return f"the agent does not even get {ALLOWED} before the fault: {record}"
    return "" if _gets_out(backend, topology) else "the sidecar does not even get out before it"


# -- what is tried after it ------------------------------------------------------------------------


def _try(bench: Bench, fault: Fault, number: int) -> _Tries:
    """Make the shapes of NET-01, NET-02, NET-05, PXY-01 and of a question to a resolver."""
    fresh = bench.backend.internet.fresh_address
    shapes: list[Stimulus] = [Tcp("::", 443), Tcp("::", 80), Udp("::", 443), Udp("::", 53)]
    users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]
    name = f"after the order to {fault.value}, round {number}"
    shots, mirrors = [], []
    for shape in (*shapes, Icmp("::")):
        label = f"{shape.key.protocol}/{shape.key.port} {name}"
        shots += [
            Shot(
                f"{label} as {user.value}",
                Vantage.AGENT,
                aimed_at(shape, fresh(at=shape.key[1:])),
                user,
            )
            for user in users
        ]
        mirror = aimed_at(shape, fresh(at=shape.key[1:]))
        mirrors.append(Shot(f"{label} (open)", Vantage.OPEN, mirror, User.AGENT))
    what = {"kind": "http", "proxy": "environment", "deadline": _DEADLINE}
    fetches = [
        attempt(f"{scheme} by the proxy {name}", Vantage.AGENT, {**what, "url": url})
        for scheme, url in (("http", f"http://{ALLOWED}/%s"), ("https", f"https://{ALLOWED}/%s"))
    ]
    return _Tries(shots, mirrors, fetches)


def _rounds(bench: Bench) -> int:
    # A far side with few addresses has none for so many.
    many = bench.thorough and Feature.EVERY_ADDRESS in bench.features
    return _ROUNDS_THOROUGH if many else _ROUNDS


def _suffer(bench: Bench, fault: Fault) -> _Aftermath:
    """Break a bottle of its own, and let its agent try everything."""
    backend, volley, tries = bench.backend, Volley(), _Tries([], [], [])
    with bench.another() as topology:
        backend.address(topology, Vantage.OPEN)
        why = _works(backend, topology)
        services = _services(backend, topology)
        backend.fault(topology, fault)
        fallen, begun = backend.internet.mark(), time.monotonic()
        why = why or _doubt(backend, topology, fault, services)
        for number in range(1, _rounds(bench) + 1):
            time.sleep(max(0.0, begun + (number - 1) * _INTERVAL - time.monotonic()))
            more = _try(bench, fault, number)
            operations = [*map(Operation.of, (*more.shots, *more.mirrors)), *more.fetches]
            merge(volley, fire(backend, topology, operations, _DEADLINE))
            tries.shots.extend(more.shots)
            tries.mirrors.extend(more.mirrors)
            tries.fetches.extend(more.fetches)
        ended, outer = backend.internet.mark(), topology.sidecar_outer_address
        return _Aftermath(fault, why, fallen, ended, outer, tries, volley)


# -- judging ---------------------------------------------------------------------------------------


def _served(one: _Aftermath, hearing: Hearing) -> Iterator[str]:
    """Say how the proxy was of use, or kept the agent waiting, or still went out itself."""
    for fetch in one.tries.fetches:
        record = one.volley.records.get(fetch.name, {})
        if record.get("status") == 200:
            yield f"{fetch.name} got an answer"
        if record.get("elapsed", 0.0) > _BOUND:
            yield f"{fetch.name} failed after {record['elapsed']} s only"
    for packet in hearing.records:
        during = one.fallen.seq < packet.seq <= one.ended.seq
        if packet.src == one.outer and during and _asks(packet):
            yield f"after the order to {one.fault.value} it went out to {packet.dst}/{packet.dport}"


def _asks(packet: Heard) -> bool:
    """Tell the beginning of something new from the end of what was there."""
    return packet.proto == _UDP or (packet.proto == _TCP and packet.flags & (_SYN | _ACK) == _SYN)


def _broken(one: _Aftermath, hearing: Hearing) -> str:
    """Say why silence after a fault is worth nothing; empty if it is worth something."""
    if one.why:
        return one.why
    if hearing.lost:
        return f"the witness lost {hearing.lost} packets"
    for mirror in one.tries.mirrors:
        if not heard(mirror, hearing.records):
            record = one.volley.records.get(mirror.name) or one.volley.failures
            return f"its control did not arrive: {mirror.name}: {record}"
    for fetch in one.tries.fetches:
        if one.volley.outcome(fetch.name) not in (*BLOCKED_OUTCOMES, "answered"):
            record = one.volley.records.get(fetch.name) or one.volley.failures
            return f"no usable record: {fetch.name}: {record}"
    return ""


def _findings(one: _Aftermath, hearing: Hearing) -> dict[str, Finding]:
    controls = not _broken(one, hearing)
    return {
        shot.name: judge(
            one.volley.outcome(shot.name),
            echo=one.volley.echo(shot.name),
            heard=bool(heard(shot, hearing.records)),
            controls=controls,
        )
        for shot in one.tries.shots
    }


@check(
    "LIFE-02",
    "Losing the sidecar fails closed",
    needs=frozenset({Feature.LAB, Feature.OPEN_GUEST, Feature.FAULT}),
    evidence=(
        "https://github.com/rossoctl/cortex/pull/484",
        "https://github.com/huangruiteng/loopx/pull/1252",
    ),
    apart=True,
)
def losing_the_sidecar_fails_closed(bench: Bench) -> str:
    """When the sidecar is killed, frozen, cut off the egress network or removed, no direct path
    appears for the agent, nothing more is fetched for it, and its use of the proxy fails within a
    bound.
    """
    backend = bench.backend
    start = backend.internet.mark()
    with ThreadPoolExecutor(len(LOSSES)) as pool:
        everything = list(pool.map(lambda fault: _suffer(bench, fault), LOSSES))
    hearing = backend.internet.heard(start)
    findings: dict[str, Finding] = {}
    for one in everything:
        findings |= _findings(one, hearing)
    leaks = [name for name, finding in findings.items() if finding.value.startswith("leaked")]
    leaks += [text for one in everything for text in _served(one, hearing)]
    if leaks:
        raise bench.violation(f"{len(leaks)} things got out: {'; '.join(leaks[:10])}")
    broken = [f"{one.fault.value}: {_broken(one, hearing)}" for one in everything]
    broken = [text for text in broken if not text.endswith(": ")]
    if broken or combine(findings.values()) is not Verdict.PASSED:
        raise bench.inconclusive("; ".join(broken) or f"no usable record: {findings}")
    told = "; ".join(f"{one.fault.value}: {_causes(one)}" for one in everything)
    rounds = _rounds(bench)
    return f"{told}; each tried {rounds} times in {(rounds - 1) * _INTERVAL:g} s"


def _causes(one: _Aftermath) -> str:
    outcomes = {str(one.volley.outcome(fetch.name)) for fetch in one.tries.fetches}
    return f"proxy {', '.join(sorted(outcomes))}"
