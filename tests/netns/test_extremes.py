"""The suite on a backend that lies about everything, and on one that isolates nothing."""

from __future__ import annotations

import pytest

from pytest_bottle.backends.liar import Liar
from pytest_bottle.backends.wide_open import WideOpen
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.registry import Check, all_checks
from pytest_bottle.errors import Violation
from pytest_bottle.verdict import Verdict
from tests.judging import judge_and_name_claimants

pytestmark = pytest.mark.usefixtures("netns_works")

#: What is true of the liar as well: its network is sound, and the agent's own state is.
TRUE = {
    *("CTL-01", "CTL-02", "CTL-03", "CTL-04", "CTL-05", "HST-04", "HST-05", "HST-07", "HST-08"),
    *("PRV-01", "PRV-02", "PRV-04", "PRV-05", "PRV-06", "PRV-07"),
}
#: The ways out that a network closes, and only a network; the sidecar's own are sound here.
DIRECT = (
    *("NET-01", "NET-02", "NET-03", "NET-04", "NET-05", "NET-06", "NET-07", "NET-08", "NET-09"),
    *("NET-10", "NET-11", "IP6-01", "DNS-01", "DNS-02", "DNS-04"),
)


def test_nothing_that_is_claimed_passes_on_the_liar() -> None:
    """Answers of 200, swallowed errors and an empty inventory are no evidence of anything."""
    verdicts, claimants = judge_and_name_claimants(Liar())

    passed = {check for check, verdict in verdicts.items() if verdict is Verdict.PASSED}
    assert verdicts["PXY-01"] is Verdict.VIOLATED
    assert verdicts["RES-01"] is Verdict.INCONCLUSIVE
    assert passed <= TRUE
    assert claimants
    assert {verdicts[check] for check in claimants} == {Verdict.INCONCLUSIVE}


def test_every_direct_way_is_found_open_on_the_wide_open_backend() -> None:
    """Where nothing is isolated, each check that claims a direct way to be closed is violated."""
    checks = [one for one in all_checks() if one.id in (*DIRECT, "CTL-02", "PXY-01")]
    backend = WideOpen()
    try:
        bench = Bench(backend, checks=checks)
        violated = {one.id for one in checks if _is_violated(bench, one)}
    finally:
        backend.close()

    assert violated == set(DIRECT)


def _is_violated(bench: Bench, check: Check) -> bool:
    try:
        bench.run(check)
    except Violation:
        return True
    return False
