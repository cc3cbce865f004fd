"""NET-01 once more, by itself: for checks that want to know whether it still holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.conformance import conditions, ruling, survey
from pytest_bottle.conformance.registry import all_checks

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.conformance.ruling import Judged

#: With the checks that fire what every block depends on: the probe works, the path is there.
_CHECKS = ("CTL-02", "NET-01", "PXY-01")


def net_01(backend: Backend, topology: Topology) -> list[Judged]:
    """Fire NET-01's stimuli in a survey of their own, with all its controls, and judge them."""
    checks = [check for check in all_checks() if check.id in _CHECKS]
    evidence = survey.conduct(backend, topology, checks)
    unmet = conditions.broken_probe(evidence) or conditions.broken_path(evidence)
    judged = ruling.judge_claims(evidence, "NET-01", unmet)
    return [one for one in judged if one.claim.witnessed]  # whether it leaves, not what comes back


def told(judged: list[Judged]) -> str:
    """Say what became of each stimulus."""
    return "; ".join(f"{one.claim.shot.name}: {one.why or one.finding.value}" for one in judged)
