"""The suite is itself tested: on a sound backend, on each mutant, and on the black hole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from pytest_bottle.backends.black_hole import BlackHole
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants import MUTANTS, NetnsBackend, open_mutant
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import Inconclusive, Violation
from pytest_bottle.verdict import Verdict

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend

pytestmark = pytest.mark.usefixtures("netns_works")

INSPECTIONS = {"CTL-02", "HST-04", "PRV-01", "PRV-02", "RES-01"}
CONTROLS = {"CTL-01", "CTL-03", "CTL-04", "PXY-01"}
#: For each mutant, every check that turns red: its own, and those that see the same harm.
KILLED_BY = {
    "NET-01": {"NET-01", "NET-03", "NET-04", "NET-09"},
    "NET-04": {"NET-04"},
    "NET-05": {"NET-05", "NET-09"},
    "NET-09": {"NET-04", "NET-05", "NET-09"},
    "PXY-02": {"PXY-02"},
    "LAT-05": {"LAT-05"},
    "RES-01": {"RES-01"},
}


def judge(backend: Backend) -> dict[str, Verdict]:
    """Run every check on a backend and end it."""
    verdicts = {}
    try:
        bench = Bench(backend)
        for check in all_checks():
            try:
                bench.run(check)
                verdicts[check.id] = Verdict.PASSED
            except Violation:
                verdicts[check.id] = Verdict.VIOLATED
            except Inconclusive:
                verdicts[check.id] = Verdict.INCONCLUSIVE
        bench.close()
    finally:
        backend.close()
    return verdicts


def test_the_netns_backend_passes() -> None:
    """On the netns backend every check passes, none is inconclusive."""
    verdicts = judge(NetnsBackend())

    assert set(verdicts.values()) == {Verdict.PASSED}, verdicts
    assert len(verdicts) == len(all_checks()) >= 18


@pytest.mark.parametrize("identity", sorted(MUTANTS))
def test_each_mutant_is_killed(identity: str) -> None:
    """A weakened backend turns its own check red, with evidence, and just the listed others."""
    verdicts = judge(open_mutant(identity))

    assert verdicts[identity] is Verdict.VIOLATED
    red = {check for check, verdict in verdicts.items() if verdict is not Verdict.PASSED}
    assert red == KILLED_BY[identity], verdicts


def test_nothing_passes_for_the_wrong_reason_on_the_black_hole() -> None:
    """Where nothing gets through, controls and PXY-01 are red and no claimed block passes."""
    verdicts = judge(BlackHole())

    passed = {check for check, verdict in verdicts.items() if verdict is Verdict.PASSED}
    violated = {check for check, verdict in verdicts.items() if verdict is Verdict.VIOLATED}
    assert passed == INSPECTIONS
    assert violated == CONTROLS
    negatives = set(verdicts) - INSPECTIONS - CONTROLS
    assert {verdicts[check] for check in negatives} == {Verdict.INCONCLUSIVE}


def test_a_violation_says_what_where_who_and_how_to_rerun() -> None:
    """A leak's message names property, stimulus, who heard what, evidence and rerun line."""
    backend = open_mutant("NET-01")
    try:
        bench = Bench(backend)
        check = next(c for c in all_checks() if c.id == "NET-01")
        with pytest.raises(Violation) as caught:
            bench.run(check)
    finally:
        backend.close()

    text = str(caught.value)
    assert "NET-01 VIOLATED: No TCP to a literal public IPv4" in text
    assert "tcp/443 to 192.175.48." in text
    assert "the witness heard" in text
    assert "nonce" in text
    assert "-k NET-01" in text
    assert "github.com/apple/container/issues/2062" in text


# -- the two front doors ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "-n 2"])
def test_front_door_by_package(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """`--pyargs pytest_bottle.conformance` passes, prints each verdict, and fills JUnit."""
    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--pyargs", "pytest_bottle.conformance"),
        *("--bottle-backend=netns", "--junitxml=out.xml", "-p", "no:cacheprovider", *workers),
    )

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*bottle verdicts*",
            "PASSED *NET-01 *No TCP to a literal public IPv4",
            "18 passed, 0 violated, 0 inconclusive, 0 not supported, 0 not run, 0 waived",
        ]
    )
    cases = ET.parse(Path(pytester.path, "out.xml")).iter("testcase")
    properties = [p.attrib for case in cases for p in case.iter("property")]
    assert {"name": "bottle_check", "value": "PXY-01"} in properties


def test_front_door_in_ones_own_file(pytester: pytest.Pytester) -> None:
    """Importing test_conformance into a file of one's own gives the same items there."""
    pytester.makepyfile(test_mine="from pytest_bottle.conformance import test_conformance\n")

    result = pytester.run(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "NET-01 or PXY-01"),
        "test_mine.py",
    )

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*2 passed, 16 deselected*"])


def test_a_mutant_from_the_command_line_is_red(pytester: pytest.Pytester) -> None:
    """`--bottle-mutant=ID` fails with exit status 1 and shows the check as violated."""
    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--pyargs", "pytest_bottle.conformance"),
        *("--bottle-mutant=PXY-02", "-p", "no:cacheprovider"),
    )

    assert result.ret == 1
    result.stdout.fnmatch_lines(["VIOLATED *PXY-02 *", "17 passed, 1 violated, 0 inconclusive*"])
