"""``-m bottle_spike``: the spike's questions, asked of the backend at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle.conformance.spike import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

FRONT_DOOR = ("--pyargs", "pytest_bottle.conformance", "-m", "bottle_spike")
#: A suite of the same shape as ours, in which one check is violated and one inconclusive.
ENDS = """
from pytest_bottle.errors import Inconclusive, Violation

ENDS = {"HST-04": Violation("it answers elsewhere"), "RES-05": Inconclusive("who knows")}

def test_mine(bottle_check):
    if bottle_check.id in ENDS:
        raise ENDS[bottle_check.id]
"""


@pytest.mark.usefixtures("netns_works")
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "-n 2"])
def test_the_backend_answers(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """Just the marked checks run, and each question's answer is what they came to; also by xdist.

    Two of the checks are enough to see it: the other questions stay open.
    """
    chosen = ("--bottle-backend=netns", "-k", "HST-04 or HST-03 or PRV-01", *workers)
    result = pytester.runpytest_subprocess(*FRONT_DOOR, *chosen)

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=2, deselected=0 if workers else 100)
    result.stdout.fnmatch_lines(
        [
            "=* bottle spike =*",
            "The spike's questions, answered by netns *",
            "",
            "| | question | recorded on a Mac* |",
            "| --- | --- | --- | --- | --- |",
            "| Q1 | * | [*][*]no answer[*][*]: PXY-01 NOT RUN, * |",
            "| Q5 | * | [*][*]it is, and none can[*][*] | `HST-04` PASSED (127.0.0.31:*",
            "| Q7 | * | [*][*]no answer[*][*]: RES-05 NOT RUN | `RES-05` NOT RUN |",
        ]
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "-n 2"])
def test_what_is_not_known_is_not_answered(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    """Passes that are not the suite's own answer nothing; a violation answers, a doubt does not.

    The status is what it would be without the marker: HST-04 is a quirk, RES-05 is not.
    """
    pytester.makepyfile(ENDS)
    result = pytester.runpytest_subprocess("-m", "bottle_spike", *workers)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "| Q4 | * | [*][*]no answer[*][*]: DNS-10 INCONCLUSIVE | *",
            "| Q5 | * | [*][*]not as recorded[*][*]: HST-04 VIOLATED; open: HST-03 INC*",
            "| Q7 | * | [*][*]no answer[*][*]: RES-05 INCONCLUSIVE | `RES-05` INCONCLUSIVE |",
        ]
    )


@pytest.mark.parametrize("chosen", [(), ("-m", "not bottle_spike")])
def test_nobody_is_told_who_did_not_ask(pytester: pytest.Pytester, chosen: tuple[str, ...]) -> None:
    """Without the marker there is no table."""
    pytester.makepyfile("def test_mine(bottle_check): pass")

    result = pytester.runpytest(*chosen)

    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*bottle spike*")


def test_the_marker_is_on_its_checks(pytester: pytest.Pytester) -> None:
    """It chooses them, it is registered, and ``--strict-markers`` lets it pass."""
    listed = pytester.runpytest(*FRONT_DOOR, "--collect-only", "-q", "--strict-markers")
    known = pytester.runpytest("--markers")

    found = {
        line[line.index("[") + 1 : -1] for line in listed.outlines if "test_conformance[" in line
    }
    assert found == CHECKS
    known.stdout.fnmatch_lines(["@pytest.mark.bottle_spike: *"])
