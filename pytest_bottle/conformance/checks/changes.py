"""LIFE: changes while a bottle runs, by its host's tools, by its agent and by third parties."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Fault, Feature, User, Vantage
from pytest_bottle.conformance import again, drift
from pytest_bottle.conformance.boot import barrage
from pytest_bottle.conformance.direct import lost
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.errors import NotSupported, TransportError
from pytest_bottle.firing import Operation, fire, run_one
from pytest_bottle.verdict import Verdict, combine

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.ruling import Judged
    from pytest_bottle.internet.lab import Mark

_NEEDS = frozenset({Feature.LAB, Feature.OPEN_GUEST})
#: How often the firewall is reloaded, the seconds between, and those that the agent fires for.
_RELOADS, _PAUSE, _FIRING = 4, 0.15, 1.5
#: Seconds after the last reload at which NET-01 is asked again, quick and thorough.
_QUICK, _THOROUGH = (0.0,), (0.0, 1.0, 30.0)


@check(
    "LIFE-05",
    "Host firewall churn opens nothing",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=_NEEDS | {Feature.FIREWALL_RELOAD, Feature.HOST_EXEC},
    evidence=("CVE-2025-54410 (GHSA-4vq8-7jfc-9cvp)", "CVE-2025-54388"),
    apart=True,
    alone=True,
)
def churn_opens_nothing(bench: Bench) -> str:
    """Reloading the host's firewall, or what stands for it, again and again leaves isolation in
    place: what the agent fires meanwhile reaches nobody, and NET-01 holds at once and later. The
    host's own kernel tells that rules were deleted and added. A host that is not made for the
    session is changed only if the user allows it.
    """
    _require_permission(bench)
    boot = barrage(bench, _FIRING)
    mark = bench.backend.internet.mark()
    with bench.another(boot.spec(bench)) as topology:
        counts = _reload(bench, topology)
        shots = boot.await_word(bench, topology, "rounds", patience=_FIRING)
        heard = boot.heard(bench.backend.internet.heard(mark))
        later = _net_01_later(bench, topology)
    if heard:
        raise bench.violation(f"a reload let {len(heard)} packets out, the first to {heard[0].dst}")
    if not counts["filters"] and not (counts["added"] and counts["deleted"]):
        raise bench.inconclusive(f"the host's kernel told of no reload: {counts}")
    _require_held(bench, later, "after the reloads")
    if not shots:
        raise bench.inconclusive("the agent's own command did not fire to the end")
    changes = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    rounds = shots[0]["rounds"]
    return (
        f"rules: {changes}; {rounds} rounds of shots meanwhile, NET-01 held {len(_waits(bench))}x"
    )


def _require_permission(bench: Bench) -> None:
    if not (bench.backend.describe().disposable_host or bench.allow_host_faults):
        raise NotSupported(
            "LIFE-05 would change the host of the bottles",
            expected="a host that is made for the session, or --bottle-allow-host-faults",
            seen="neither",
        )


def _waits(bench: Bench) -> tuple[float, ...]:
    return _THOROUGH if bench.thorough else _QUICK


def _reload(bench: Bench, topology: Topology) -> dict[str, int]:
    """Reload while the host listens to its kernel; tell the changes that it heard of."""
    seconds = (_RELOADS + 3) * _PAUSE
    what = {"kind": "rules", "deadline": seconds}
    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(run_one, bench.backend, topology, Vantage.HOST, what)
        for _ in range(_RELOADS):
            time.sleep(_PAUSE)
            bench.backend.fault(topology, Fault.RELOAD_FIREWALL)
        record = listening.result()
    if "counts" not in record:
        raise bench.inconclusive(f"the host cannot listen to its kernel: {record}")
    counts: dict[str, int] = record["counts"]
    return counts


def _net_01_later(bench: Bench, topology: Topology) -> list[Judged]:
    begun, judged = time.monotonic(), []
    for wait in _waits(bench):
        time.sleep(max(0.0, begun + wait - time.monotonic()))
        judged += again.net_01(bench.backend, topology)
    return judged


def _require_held(bench: Bench, judged: list[Judged], when: str) -> None:
    verdict = combine(one.finding for one in judged)
    if verdict is Verdict.VIOLATED:
        raise bench.violation(f"{when} NET-01 does not hold: {again.told(judged)}")
    if verdict is not Verdict.PASSED:
        raise bench.inconclusive(f"{when}: {again.told(judged)}")


# -- drift -----------------------------------------------------------------------------------------

#: What an agent might try; what becomes of each attempt is other checks' matter.
_WORST: tuple[dict[str, object], ...] = (
    {"kind": "netlink", "device": "eth0"},
    {"kind": "filters"},
    {"kind": "setns"},
    {"kind": "settings", "values": {"net/ipv4/ip_forward": ["0", "1"]}, "write": True},
    {"kind": "raw", "devices": ["/dev/net/tun"]},
    {"kind": "nest", "operations": [], "outer": {"nonce": "0", "host": "127.0.0.1", "port": 9}},
)
#: Seconds within which a change must have been named.
_NOTICE = 4 * drift.INTERVAL


@check(
    "LIFE-06",
    "Drift is noticed, and the end equals the start",
    level=Level.STRICT,
    severity=Severity.MEDIUM,
    needs=_NEEDS | {Feature.CONNECT},
    evidence=(
        "https://github.com/anthropics/claude-code/issues/81572",
        "https://github.com/agentcage/agentcage/pull/252",
    ),
    apart=True,
)
def drift_is_noticed(bench: Bench) -> str:
    """After the agent did its worst, NET-01 holds as at the start, and agent and sidecar have the
    links, addresses, routes, ports and resolvers that they had. When a third party connects the
    running agent to another network, the next look names it within a second; that NET-01 does not
    hold any more shows that the change was real.
    """
    with bench.another() as topology:
        _require_held(bench, again.net_01(bench.backend, topology), "at the start")
        before = _look(bench, topology)
        tried = _do_the_worst(bench, topology)
        _require_held(bench, again.net_01(bench.backend, topology), "after the agent did its worst")
        moved = drift.differences(before, _look(bench, topology))
        if moved:
            raise bench.violation(f"after the agent did its worst: {'; '.join(moved)}")
        mark = bench.backend.internet.mark()
        bench.backend.fault(topology, Fault.CONNECT_AGENT)
        found = drift.watch(bench.backend, topology, before, _NOTICE)
        leak = _gets_out(bench, topology, mark)
    if not leak:
        raise bench.inconclusive("the agent was connected to another network and cannot get out")
    if not any(" link " in one for one in found):
        raise bench.violation(f"a new network of the agent's is not noticed: {found or 'nothing'}")
    return f"{tried} attempts moved nothing; noticed: {'; '.join(found[:3])}"


def _look(bench: Bench, topology: Topology) -> drift.State:
    try:
        return drift.state(bench.backend, topology)
    except (KeyError, TransportError) as error:
        raise bench.inconclusive(f"agent or sidecar cannot be looked at: {error}") from error


def _do_the_worst(bench: Bench, topology: Topology) -> int:
    users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]
    tries = [
        Operation(
            f"{what['kind']} as {user.value}",
            Vantage.AGENT,
            {"gateway": topology.sidecar_address, **what},
            user,
        )
        for what in _WORST
        for user in users
    ]
    volley = fire(bench.backend, topology, tries)
    missing = [one.name for one in tries if one.name not in volley.records]
    if missing:
        raise bench.inconclusive(f"no record: {missing}, {volley.failures}")
    return len(tries)


def _gets_out(bench: Bench, topology: Topology, mark: Mark) -> bool:
    """The control: an agent with another network reaches the far side, and is heard there."""
    host = bench.backend.internet.fresh_address()
    what = {"kind": "tcp", "host": host, "port": 443, "nonce": "0" * 32}
    run_one(bench.backend, topology, Vantage.AGENT, what)
    hearing = bench.backend.internet.heard(mark)
    return not lost(hearing) and any(record.dst == host for record in hearing.records)
