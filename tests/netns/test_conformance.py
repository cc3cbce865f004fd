"""The suite is itself tested: on a sound backend, on each mutant, and on the black hole."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_bottle.backends.black_hole import BlackHole
from pytest_bottle.backends.engines.netns.engine import FEATURES
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend, all_mutants, open_mutant
from pytest_bottle.conformance.plan import Plan
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import ConfigurationError, Violation
from pytest_bottle.spec import BottleSpec
from pytest_bottle.verdict import Verdict
from tests.judging import CONTROLS, judge, judge_and_name_claimants, judge_row, named, run_check

pytestmark = pytest.mark.usefixtures("netns_works")

INSPECTIONS = {
    *(
        "CTL-02",
        "HST-04",
        "HST-07",
        "HST-08",
        "PRV-01",
        "PRV-02",
        "PRV-04",
        "PRV-05",
        "PRV-06",
        "PRV-07",
    ),
    "RES-01",
}
#: Its proxy is one that programs are told of, and takes no direct traffic.
UNSUPPORTED = {check.id for check in all_checks() if not check.needs <= FEATURES}
APART = [check.id for check in all_checks() if check.apart and check.id not in UNSUPPORTED]
#: They let whole sweeps through, and the witness may lose some of 131,070 packets: CTL-03 says so.
FLOODS = {"LAT-05", "NET-09"}


def supported(verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    """Leave out the checks that netns does not support, which must be just the known ones."""
    lacking = {check for check, verdict in verdicts.items() if verdict is Verdict.NOT_SUPPORTED}
    assert lacking == UNSUPPORTED & verdicts.keys()
    return {check: verdict for check, verdict in verdicts.items() if check not in lacking}


def test_the_netns_backend_passes() -> None:
    """On the netns backend every check passes that it supports, none is inconclusive for good.

    A violation is one, whatever a second try says; what was inconclusive may have been the machine.
    """
    verdicts = supported(judge(NetnsBackend()))
    unsure = {check for check, verdict in verdicts.items() if verdict is Verdict.INCONCLUSIVE}
    if unsure:
        verdicts |= supported(judge(NetnsBackend(), only=unsure))

    assert set(verdicts.values()) == {Verdict.PASSED}, verdicts
    assert len(verdicts) >= 18


@pytest.mark.parametrize("identity", APART)
def test_every_check_that_stands_apart_passes(identity: str) -> None:
    """On the netns backend the checks that break their own bottles pass too."""
    assert run_check(NetnsBackend(), identity)


#: Mutants whose harm shows only where the kernel has vsock.
WITH_VSOCK = {"HST-07", "PRV-08"}


def has_vsock() -> bool:
    """Whether such a socket can be opened here; it is closed at once, and nobody is called."""
    try:
        socket.socket(40, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", [name for name, one in all_mutants().items() if not one.harness])
def test_each_mutant_is_killed(name: str) -> None:
    """A weakened backend turns its own check red, with evidence, and just the listed others."""
    if name in WITH_VSOCK and not has_vsock():
        pytest.skip("NOT RUN: this kernel has no vsock")
    mutant = all_mutants()[name]
    row = judge_row(lambda: open_mutant(name), {mutant.check, *mutant.also}, mutant.check)
    verdicts = supported(row)

    violated = {check for check, verdict in verdicts.items() if verdict is Verdict.VIOLATED}
    flooded = name in FLOODS and "CTL-03" in violated
    assert violated - ({"CTL-03"} if flooded else set()) == {mutant.check, *mutant.also}, verdicts
    assert flooded or set(verdicts.values()) == {Verdict.PASSED, Verdict.VIOLATED}, verdicts


@pytest.mark.parametrize("name", [name for name, one in all_mutants().items() if one.harness])
def test_no_negative_passes_when_the_suite_itself_is_broken(name: str) -> None:
    """A broken suite turns its own control red, and what nobody could have seen INCONCLUSIVE."""
    mutant = all_mutants()[name]
    verdicts, claimants = judge_and_name_claimants(open_mutant(name))
    verdicts = supported(verdicts)

    violated = {check for check, verdict in verdicts.items() if verdict is Verdict.VIOLATED}
    unsure = {check for check, verdict in verdicts.items() if verdict is Verdict.INCONCLUSIVE}
    assert violated == {mutant.check, *mutant.also}, verdicts
    if mutant.blind is None:
        assert claimants & verdicts.keys() <= unsure, verdicts
        assert claimants
    else:
        # What a busy machine made inconclusive besides is looked at once more.
        others = unsure - mutant.blind
        again = judge(open_mutant(name), only=others) if others else {}
        assert mutant.blind <= unsure, verdicts
        assert set(again.values()) <= {Verdict.PASSED}, again


def test_nothing_passes_for_the_wrong_reason_on_the_black_hole() -> None:
    """Where nothing gets through, controls and PXY-01 are red and no claimed block passes."""
    verdicts = supported(judge(BlackHole()))

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
        check = named("NET-01")
        with pytest.raises(Violation) as caught:
            bench.run(check)
    finally:
        backend.close()

    text = str(caught.value)
    assert "NET-01 VIOLATED: No TCP to a literal public IPv4" in text
    assert "tcp/443 to 192.175.48." in text
    assert "the witness heard" in text
    assert "nonce" in text
    assert "test_conformance[NET-01]" in text
    assert "github.com/apple/container/issues/2062" in text


def test_a_survey_is_never_given_an_address_twice() -> None:
    """Two stimuli for one address would be taken for each other, so it is an error."""
    backend = NetnsBackend()
    try:
        topology = backend.up(BottleSpec())
        plan = Plan(topology, backend.internet, frozenset(), {}, {})
        targets = {plan.target() for _ in range(254)}
        with pytest.raises(ConfigurationError, match="more addresses than the far side has"):
            plan.target()
    finally:
        backend.close()

    assert len(targets) == 254


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
            f"{len(all_checks()) - len(UNSUPPORTED)} passed, 0 violated, 0 inconclusive, "
            f"{len(UNSUPPORTED)} not supported, 0 not run, 0 waived",
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
    result.stdout.fnmatch_lines([f"*2 passed, {len(all_checks()) - 2} deselected*"])


@pytest.mark.parametrize("arguments", [(), ("--bottle-thorough",)], ids=["quick", "thorough"])
def test_the_bench_knows_whether_to_be_thorough(
    pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """What was chosen for the run reaches the checks."""
    pytester.makepyfile(
        f"def test_it(_bottle_bench): assert _bottle_bench.thorough is {bool(arguments)}"
    )

    pytester.runpytest(*arguments).assert_outcomes(passed=1)


def test_a_mutant_from_the_command_line_is_red(pytester: pytest.Pytester) -> None:
    """`--bottle-mutant=ID` fails with exit status 1 and shows the check as violated."""
    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--pyargs", "pytest_bottle.conformance"),
        *("--bottle-mutant=PXY-02", "-p", "no:cacheprovider"),
    )

    assert result.ret == 1
    # Checks that stand apart see it too, besides those of its row.
    result.stdout.fnmatch_lines(
        ["VIOLATED *PXY-02 *", "* violated, * inconclusive*", "profile all: failed (*"]
    )
