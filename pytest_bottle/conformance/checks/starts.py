"""LIFE: what the agent can do in its first moments, at its first start and at later ones."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.backends.contract import Fault, Feature
from pytest_bottle.conformance import again
from pytest_bottle.conformance.boot import barrage
from pytest_bottle.conformance.direct import lost, open_control
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.verdict import Verdict, combine

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.boot import Boot
    from pytest_bottle.internet.lab import Hearing

_NEEDS = frozenset({Feature.LAB, Feature.OPEN_GUEST})
#: How many starts and, from its own first instruction on, for how many seconds each agent fires.
_QUICK, _THOROUGH = (4, 1.0), (20, 6.0)
#: So many times as many starts may be tried until that many have raced.
_MOST = 3
#: How many bottles come up at once: the starts are each other's load.
_AT_ONCE = 2


class _Start(NamedTuple):
    """One start: its command, when ``up`` returned, and what the command had said in the end."""

    boot: Boot
    ready: float
    first: float | None
    rounds: int


def _start(bench: Bench, seconds: float) -> _Start:
    boot = barrage(bench, seconds)
    with bench.another(boot.spec(bench)) as topology:
        ready = time.time()
        ended = boot.await_word(bench, topology, "rounds", patience=seconds)
        first = [one["first"] for one in boot.said(bench, topology) if "first" in one]
    rounds = int(ended[0]["rounds"]) if ended else 0
    return _Start(boot, ready, first[0] if first else None, rounds)


def _raced(start: _Start) -> bool:
    """Tell whether the agent fired before the backend said that its bottle was up."""
    return start.first is not None and start.first < start.ready


@check(
    "LIFE-01",
    "No packet escapes before the rules are in",
    needs=_NEEDS,
    evidence=(
        "https://github.com/majorcontext/moat/issues/318",
        "https://github.com/microsoft/mxc/issues/764",
        "https://github.com/aws/aws-network-policy-agent/issues/83",
        "https://github.com/cloudnativelabs/kube-router/issues/873",
    ),
    apart=True,
    alone=True,
)
def nothing_escapes_at_the_start(bench: Bench) -> str:
    """From the agent's first instruction on nothing reaches the far end: its own command, which
    runs as soon as the backend lets anything run, fires the shapes of NET-01, NET-02, NET-05 and
    DNS-01 every 2 ms, before the backend says that the bottle is up and after it. Several bottles
    start at once.
    """
    number, seconds = _THOROUGH if bench.thorough else _QUICK
    mark = bench.backend.internet.mark()
    starts: list[_Start] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # A busy machine starts some agents late: those prove nothing, and others take their places.
        while (missing := number - sum(map(_raced, starts))) and len(starts) < _MOST * number:
            starts += pool.map(lambda _: _start(bench, seconds), range(missing))
    hearing = bench.backend.internet.heard(mark)
    _require_unheard(bench, [one.boot for one in starts], hearing)
    if missing:
        late = next(one for one in starts if not _raced(one))
        raise bench.inconclusive(
            f"only {number - missing} of {len(starts)} agents fired before the bottle was up, and "
            f"{number} races were to be run; ready at {late.ready:.3f}, first shot at {late.first}"
        )
    tried, starts = len(starts), [one for one in starts if _raced(one)]
    rounds = [one.rounds for one in starts]
    if not all(rounds):
        raise bench.inconclusive(f"an agent did not go on to the end: rounds {rounds}")
    ahead = [one.ready - (one.first or one.ready) for one in starts]
    return (
        f"{number} races in {tried} starts, {sum(rounds)} rounds, the first "
        f"{min(ahead):.2f} to {max(ahead):.2f} s before the bottle was up"
    )


def _require_unheard(bench: Bench, boots: list[Boot], hearing: Hearing) -> None:
    heard = [record for boot in boots for record in boot.heard(hearing)]
    if heard:
        raise bench.violation(
            f"the witness heard {len(heard)} packets of an agent's own command, the first from "
            f"{heard[0].src} to {heard[0].dst} at {heard[0].time_ns / 1e9:.3f} s"
        )
    why = lost(hearing) or open_control(bench, boots[0].attempts())
    if why:
        raise bench.inconclusive(why)


@check(
    "LIFE-04",
    "A restarted agent is still confined",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=_NEEDS | {Feature.RESTART},
    evidence=("https://github.com/mensfeld/code-on-incus/pull/471",),
    apart=True,
)
def a_restarted_agent_is_confined(bench: Bench) -> str:
    """After the agent is stopped and started again, what runs in it from its first moment on
    reaches nobody, as before, and NET-01 still holds. That the command was started anew is told by
    its own record.
    """
    seconds, times = 1.0, 3 if bench.thorough else 1
    boot = barrage(bench, seconds)
    mark = bench.backend.internet.mark()
    with bench.another(boot.spec(bench)) as topology:
        before = boot.await_word(bench, topology, "started")
        for _ in range(times):
            bench.backend.fault(topology, Fault.RESTART_AGENT)
            time.sleep(seconds)
        after = boot.await_word(bench, topology, "rounds")
        started = [one["started"] for one in boot.said(bench, topology) if "started" in one]
        hearing = bench.backend.internet.heard(mark)
        judged = again.net_01(bench.backend, topology)
    if not before or not after or max(started, default=0) <= before[0]["started"]:
        raise bench.inconclusive(f"the agent's command did not run again: {before}, {after}")
    if combine(one.finding for one in judged) is Verdict.VIOLATED:
        raise bench.violation(f"after the restart NET-01 does not hold: {again.told(judged)}")
    _require_unheard(bench, [boot], hearing)
    if combine(one.finding for one in judged) is not Verdict.PASSED:
        raise bench.inconclusive(again.told(judged))
    return f"restarted {times} times, {after[-1]['rounds']} rounds by the last command"
