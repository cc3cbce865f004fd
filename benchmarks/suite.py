"""How fast the direct checks are together, and how fast they would be one after the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import NotSupported
from pytest_bottle.firing import Operation, fire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.conformance.survey import Evidence

_AREAS = ("NET", "IP6", "DNS", "PRV")
#: With the checks that every block depends on.
_CONDITIONS = ("CTL-02", "PXY-01")
#: Seconds that a sweep of every port may take; the survey gives it as many.
_SWEEP = 10.0


class Direct(NamedTuple):
    """What one round took: seconds together, seconds one by one, and how many stimuli it had."""

    together: float
    one_by_one: float
    stimuli: int


def direct() -> Direct:
    """Fire and judge the direct checks, and then fire all their stimuli again, one by one."""
    backend = NetnsBackend()
    try:
        checks = [one for one in all_checks() if one.stimuli is not None and _belongs(one)]
        bench = Bench(backend, checks=checks)
        evidence = bench.evidence
        for check in checks:
            _run(bench, check)
        together = (time.monotonic_ns() - evidence.window.records[0].time_ns) / 1e9
        operations = list(_operations(evidence))
        started = time.perf_counter()
        for operation, deadline in operations:
            fire(backend, bench.topology, [operation], deadline)
        return Direct(together, time.perf_counter() - started, len(operations))
    finally:
        backend.close()


def _belongs(check: Check) -> bool:
    return check.id in _CONDITIONS or (check.id.startswith(_AREAS) and not check.apart)


def _run(bench: Bench, check: Check) -> None:
    """Run a check; one that does not pass ends the benchmark, for its time would mean nothing."""
    try:
        bench.run(check)
    except NotSupported as error:
        print(f"{check.id} is left out: {error.seen}")


def _operations(evidence: Evidence) -> Iterator[tuple[Operation, float]]:
    """Name all that the survey fired, each with its own deadline."""
    plan = evidence.plan
    shots = [*evidence.before, *evidence.after]
    shots += [shot for claim in plan.claims for shot in (claim.shot, claim.mirror)]
    for operation in (*map(Operation.of, dict.fromkeys(shots)), *plan.first, *plan.during):
        yield operation, 1.0
    for sweep in plan.sweeps:
        yield sweep.operation, _SWEEP
        yield sweep.control, _SWEEP
