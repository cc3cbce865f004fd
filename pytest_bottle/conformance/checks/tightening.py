"""PXY: what becomes of tunnels and requests when the policy of a running bottle changes."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.firing import Operation, fire, run_one
from pytest_bottle.spec import EgressRoute
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench

#: A host that stays listed, one that never is, and one that an unrelated edit lists.
KEPT, NEVER, OTHER = "kept.test", "never-listed.test", "elsewhere.test"
#: Seconds from the change on within which tunnels to a removed host must have ended.
BOUND = 1.0
#: Seconds for which the agent goes on saying nonces after the bound.
_QUICK, _THOROUGH = 1.0, 10.0
#: So many nonces of each tunnel must have been heard before the change, within so many seconds.
_BEFORE, _PATIENCE = 3, 10.0


@check(
    "PXY-22",
    "Tightening the policy takes effect",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=frozenset({Feature.LAB, Feature.RELOAD}),
    evidence=(
        "https://github.com/anthropics/claude-code/issues/81572",
        "NVIDIA/OpenShell policy_reload_updates_both_adapters_and_closes_existing_http_tunnel",
    ),
    apart=True,
)
def tightening_takes_effect(bench: Bench) -> str:
    """After a host is taken off the list of a running bottle, new requests to it are refused, and
    within a second of that nothing that the agent says into a tunnel to it reaches the far side. A
    host that stays on the list keeps its tunnel. An edit that concerns neither of them opens
    nothing, and cuts neither.
    """
    routes = (EgressRoute(ALLOWED), EgressRoute(KEPT))
    with bench.another(dataclasses.replace(bench.spare, egress=routes)) as topology:
        seconds = _PATIENCE + BOUND + (_THOROUGH if bench.thorough else _QUICK) + 5
        nonces = {ALLOWED: new_nonce(), KEPT: new_nonce()}
        with ThreadPoolExecutor(len(nonces)) as pool:
            drips = [
                pool.submit(_drip, bench, topology, host, nonces[host], seconds) for host in nonces
            ]
            try:
                note = _judge(bench, topology, routes, nonces)
            finally:
                bench.backend.reload(topology, ())  # whoever still speaks is cut, and done
            said = [drip.result() for drip in drips]
    return f"{note}; the agent said {said} nonces"


def _drip(bench: Bench, topology: Topology, host: str, nonce: str, seconds: float) -> int:
    what = {"kind": "drip", "host": host, "port": 80, "nonce": nonce, "seconds": seconds}
    record = run_one(bench.backend, topology, Vantage.AGENT, what, deadline=seconds + 5)
    return int(record.get("sent", 0))


def _judge(
    bench: Bench, topology: Topology, routes: Sequence[EgressRoute], nonces: dict[str, str]
) -> str:
    backend, internet = bench.backend, bench.backend.internet
    if not all(_flows(bench, nonce) for nonce in nonces.values()):
        raise bench.inconclusive("before any change the far side heard no tunnel's nonces")
    _require(bench, topology, {ALLOWED: True, KEPT: True, NEVER: False}, "before any change")
    backend.reload(topology, [*routes, EgressRoute(OTHER)])
    _require(bench, topology, {ALLOWED: True, NEVER: False, OTHER: True}, "after another edit")
    if not all(_flows(bench, nonce) for nonce in nonces.values()):
        raise bench.violation("an edit that concerns neither tunnel has cut one")
    backend.reload(topology, routes[1:])
    changed = time.monotonic()
    _require(bench, topology, {ALLOWED: False, KEPT: True, NEVER: False}, "after the change")
    time.sleep(max(0.0, changed + BOUND - time.monotonic()))
    mark = internet.mark()
    time.sleep(_THOROUGH if bench.thorough else _QUICK)
    hearing = internet.heard(mark)
    late = [one for one in hearing.records if nonces[ALLOWED].encode() in one.payload]
    if late:
        raise bench.violation(
            f"more than {BOUND:g} s after {ALLOWED} was taken off the list the witness heard "
            f"{len(late)} nonces of the tunnel to it, the first {late[0].payload[:80]!r}"
        )
    if hearing.lost:
        raise bench.inconclusive(f"the witness lost {hearing.lost} packets")
    if not any(nonces[KEPT].encode() in one.payload for one in hearing.records):
        raise bench.inconclusive(f"the tunnel to {KEPT}, which stays listed, was not heard either")
    return f"no nonce of the tunnel to {ALLOWED} from {BOUND:g} s after the change on"


def _flows(bench: Bench, nonce: str) -> bool:
    """Tell whether the far side hears a tunnel's nonces, from now on."""
    internet, end = bench.backend.internet, time.monotonic() + _PATIENCE
    mark = internet.mark()
    while time.monotonic() < end:
        time.sleep(0.1)
        if sum(nonce.encode() in one.payload for one in internet.heard(mark).records) >= _BEFORE:
            return True
    return False


def _require(bench: Bench, topology: Topology, wanted: dict[str, bool], when: str) -> None:
    """Require of new requests that they are served, or refused, as the list says."""
    asked = {host: f"{new_nonce()}" for host in wanted}
    fetches = [
        Operation(
            host,
            Vantage.AGENT,
            {
                "kind": "http",
                "proxy": "environment",
                "deadline": 5.0,
                "url": f"http://{host}/{nonce}",
            },
        )
        for host, nonce in asked.items()
    ]
    mark = bench.backend.internet.mark()
    volley = fire(bench.backend, topology, fetches)
    heard = bench.backend.internet.heard(mark).records
    for host, is_listed in wanted.items():
        record = volley.records.get(host, {})
        arrived = any(asked[host].encode() in one.payload for one in heard)
        if arrived and not is_listed:
            raise bench.violation(f"{when} a request to {host}, which is not listed, got out")
        denied = record.get("status") == topology.denial.status
        if is_listed != (record.get("status") == 200) or not (is_listed or denied):
            raise bench.inconclusive(f"{when} a request to {host} came to {record}")
