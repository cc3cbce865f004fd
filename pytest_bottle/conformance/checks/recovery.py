"""LIFE: the sidecar is restarted under the agent's fire."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Fault, Feature, Vantage
from pytest_bottle.conformance.conditions import ALLOWED, DENIED
from pytest_bottle.conformance.direct import lost
from pytest_bottle.conformance.encounters import Post
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.firing import Operation, fire, run_one
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record, Volley
    from pytest_bottle.internet.records import Heard

#: How often the sidecar is restarted, the seconds from one time to the next, and the seconds within
#: which what is allowed must be served again.
_QUICK, _THOROUGH = 3, 10
_INTERVAL, _BOUND = 0.3, 2.0
#: Seconds that the agent goes on after the last restart, and that a request of its may take.
_REST, _EACH = 0.5, 0.5


def _hammer(host: str, nonce: str, seconds: float) -> Operation:
    """Let the agent ask its proxy for a host all the time."""
    url = f"http://{host}/{nonce}"
    inner = {"kind": "http", "proxy": "environment", "url": url, "deadline": _EACH}
    what = {"kind": "repeat", "operation": inner, "deadline": seconds, "pause": 0.002}
    return Operation(f"{host} again and again", Vantage.AGENT, what)


def _restart(bench: Bench, topology: Topology, times: int) -> list[float]:
    """Restart the sidecar; tell how long each time what is allowed was not served afterwards."""
    waits = []
    for _ in range(times):
        bench.backend.fault(topology, Fault.RESTART_SIDECAR)
        waits.append(_recovered(bench, topology))
        time.sleep(_INTERVAL)
    return waits


def _fetch(bench: Bench, topology: Topology) -> Record:
    what = {"kind": "http", "proxy": "environment", "url": f"http://{ALLOWED}/"}
    return run_one(bench.backend, topology, Vantage.AGENT, what, deadline=_EACH)


def _recovered(bench: Bench, topology: Topology) -> float:
    begun = time.monotonic()
    while True:
        record = _fetch(bench, topology)
        passed = time.monotonic() - begun
        if record.get("status") == 200:
            return passed
        if passed > _BOUND:
            raise bench.violation(
                f"{passed:.1f} s after a restart {ALLOWED} is not served: {record}"
            )


@check(
    "LIFE-03",
    "The sidecar comes back as itself",
    severity=Severity.HIGH,
    needs=frozenset({Feature.LAB, Feature.RESTART, Feature.PRIVILEGED_PROBE}),
    evidence=(
        "agentcage lib.sh: proxy restarts wipe state, and its tests patch it again",
        "https://github.com/agentcage/agentcage/pull/252",
    ),
    apart=True,
)
def the_sidecar_comes_back(bench: Bench) -> str:
    """While the sidecar is restarted again and again, nothing that it is to deny reaches the far
    end, from the first connection that it accepts; what it is to let through is served within a
    bound after each restart; and a guest that is put on the network meanwhile gets neither the
    sidecar's address nor a connection of the agent's.
    """
    times = _THOROUGH if bench.thorough else _QUICK
    with bench.another() as topology:
        before = _fetch(bench, topology)
        if before.get("status") != 200:
            raise bench.inconclusive(f"{ALLOWED} is not even served before: {before}")
        return _under_fire(bench, topology, times)


def _under_fire(bench: Bench, topology: Topology, times: int) -> str:
    backend, nonce = bench.backend, new_nonce()
    seconds = times * (_INTERVAL + _EACH) + _REST
    longest = times * (_INTERVAL + _BOUND) + _REST
    hammers = [_hammer(host, nonce, seconds) for host in (ALLOWED, DENIED)]
    mark = backend.internet.mark()
    with ThreadPoolExecutor(2) as pool:
        firing = pool.submit(fire, backend, topology, hammers)
        newcomer = pool.submit(backend.address, topology, Vantage.BYSTANDER)
        first = _restart(bench, topology, 1)
        post = _listen(bench, topology, newcomer.result(), longest)
        with post.open():
            waits = first + _restart(bench, topology, times - 1)
            volley = firing.result()
    hearing = backend.internet.heard(mark)
    known, outer = backend.internet.addresses_of(DENIED), topology.sidecar_outer_address
    denied = [r for r in hearing.records if r.dst in known and _is_ours(r, outer, nonce)]
    if denied:
        raise bench.violation(
            f"after a restart the sidecar dialled {DENIED} {len(denied)} times, first at "
            f"{denied[0].time_ns / 1e9:.3f} s"
        )
    if newcomer.result() == topology.sidecar_address or _robbed(post, topology):
        raise bench.violation(f"a newcomer stands in for the sidecar: {post.book.record}")
    counts = [_counts(bench, volley, one) for one in hammers]
    if lost(hearing) or post.deaf:
        raise bench.inconclusive(lost(hearing) or post.deaf)
    return f"{times} restarts, served again after {max(waits):.2f} s at most; {'; '.join(counts)}"


def _is_ours(record: Heard, outer: str, nonce: str) -> bool:
    """Tell what this sidecar dialled from what other bottles' controls do at the same time."""
    return record.src == outer or nonce.encode() in record.payload.lower()


def _listen(bench: Bench, topology: Topology, newcomer: str, longest: float) -> Post:
    """Listen at the newcomer on the proxy's port, where a privileged neighbour must be heard."""
    return Post(
        *(bench.backend, topology, Vantage.BYSTANDER, topology.proxy.port),
        callers=[(Vantage.PRIVILEGED, newcomer)],
        more={"deadline": longest},
    )


def _robbed(post: Post, topology: Topology) -> bool:
    visitors = post.book.record.get("visitors", ())
    return any(peer == topology.agent_address for _, _, peer, _ in visitors)


def _counts(bench: Bench, volley: Volley, hammer: Operation) -> str:
    """Tell what the agent got; the race was not run if it never was served or refused."""
    record: Record = volley.records.get(hammer.name, {})
    counts: dict[str, int] = record.get("counts", {})
    if not {"answered 200", f"answered {bench.topology.denial.status}"} & counts.keys():
        seen = record or volley.failures
        raise bench.inconclusive(f"{hammer.name}: the proxy never answered: {seen}")
    told = ", ".join(f"{n}x {name}" for name, n in sorted(counts.items()))
    return f"{hammer.name}: {told}"
