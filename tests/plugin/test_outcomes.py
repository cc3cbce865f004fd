"""Verdicts in reports: categories, sections, counts, JUnit, and the way through xdist."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from pytest_bottle.conformance.registry import all_checks

if TYPE_CHECKING:
    from pathlib import Path

INCONCLUSIVE = """
import pytest
from pytest_bottle.errors import Inconclusive

def test_it():
    print("what it printed")
    raise Inconclusive("nothing can be concluded", seen="a deaf witness")
"""
#: A suite of the same shape as ours, with every kind of end.
CHECKS = """
import pytest
from pytest_bottle.errors import Inconclusive, NotSupported, Violation

ENDS = {
    "CTL-01": lambda: pytest.skip("somebody skipped it"),
    "CTL-02": lambda: 1 / 0,
    "NET-01": lambda: (_ for _ in ()).throw(Violation("NET-01 VIOLATED: it leaks")),
    "NET-02": lambda: (_ for _ in ()).throw(Inconclusive("NET-02 INCONCLUSIVE: who knows")),
    "NET-03": lambda: (_ for _ in ()).throw(NotSupported("not supported", seen="without x")),
}

def test_mine(bottle_check, request):
    ENDS.get(bottle_check.id, lambda: None)()
    request.node.user_properties.append(("bottle_note", "well done"))
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "-n 2"])
def test_inconclusive_test(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """It is a category of its own with letter and section, and the run fails."""
    pytester.makepyfile(INCONCLUSIVE)
    run = pytester.runpytest_subprocess if workers else pytester.runpytest

    result = run(*workers)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.re_match_lines([r"(test_\w+\.py )?\? +\[100%\]"])
    result.stdout.fnmatch_lines(
        [
            "=* INCONCLUSIVE =*",
            "_* test_*::test_it _*",
            "E *Inconclusive: nothing can be concluded",
            "E *seen:     a deaf witness",
            "-* Captured stdout call -*",
            "what it printed",
            "=* 1 inconclusive in *",
        ]
    )
    result.stdout.no_fnmatch_line("*FAILURES*")


def test_inconclusive_in_words(pytester: pytest.Pytester) -> None:
    """With -v the word is INCONCLUSIVE."""
    pytester.makepyfile(INCONCLUSIVE)

    pytester.runpytest("-v").stdout.fnmatch_lines(["*::test_it INCONCLUSIVE*"])


def test_inconclusive_counts_as_failed(pytester: pytest.Pytester) -> None:
    """``-x`` stops at it, and a test after it does not run."""
    pytester.makepyfile(INCONCLUSIVE + "\ndef test_after(): pass\n")

    result = pytester.runpytest("-x")

    result.stdout.fnmatch_lines(["*stopping after 1 failures*", "=* 1 inconclusive in *"])


@pytest.mark.parametrize(
    ("arguments", "shown", "hidden"),
    [
        (("--tb=no",), "*1 inconclusive*", "=* INCONCLUSIVE =*"),
        (("--no-summary",), "*1 inconclusive*", "=* INCONCLUSIVE =*"),
        (("--show-capture=no",), "=* INCONCLUSIVE =*", "what it printed"),
        (("--tb=line",), "=* INCONCLUSIVE =*", "*Traceback*"),
    ],
)
def test_less_output(
    pytester: pytest.Pytester, arguments: tuple[str, ...], shown: str, hidden: str
) -> None:
    """The section obeys the options that pytest's own sections obey."""
    pytester.makepyfile(INCONCLUSIVE)

    result = pytester.runpytest(*arguments)

    result.stdout.fnmatch_lines([shown])
    result.stdout.no_fnmatch_line(hidden)


@pytest.mark.parametrize(
    ("mark", "status"),
    [
        ("xfail", pytest.ExitCode.TESTS_FAILED),
        ("xfail(strict=True)", pytest.ExitCode.TESTS_FAILED),
        ("xfail(raises=AssertionError)", pytest.ExitCode.TESTS_FAILED),
        ("xfail(raises=Exception)", pytest.ExitCode.TESTS_FAILED),
        ("xfail(raises=pytest.RaisesExc(Inconclusive))", pytest.ExitCode.TESTS_FAILED),
        ("xfail(raises=Inconclusive)", pytest.ExitCode.OK),
        ("xfail(raises=(OSError, Inconclusive))", pytest.ExitCode.OK),
    ],
)
def test_xfail(pytester: pytest.Pytester, mark: str, status: int) -> None:
    """An xfail that does not name Inconclusive does not excuse it: it may hide a pass."""
    pytester.makepyfile(INCONCLUSIVE.replace("def test", f"@pytest.mark.{mark}\ndef test"))

    result = pytester.runpytest()

    assert result.ret == status
    outcome = "1 xfailed" if status == 0 else "1 inconclusive"
    result.stdout.fnmatch_lines([f"=* {outcome} in *"])


def test_inconclusive_fixture(pytester: pytest.Pytester) -> None:
    """Raised while a fixture is set up it is the same category."""
    pytester.makepyfile(
        """
        import pytest
        from pytest_bottle.errors import Inconclusive

        @pytest.fixture
        def control():
            raise Inconclusive("the control failed")

        def test_it(control): pass
        """
    )

    result = pytester.runpytest()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["=* 1 inconclusive in *"])


def junit(path: Path) -> dict[str, ET.Element]:
    """Read the test cases of a report."""
    return {case.attrib["name"]: case for case in ET.parse(path).iter("testcase")}


def test_junit(pytester: pytest.Pytester) -> None:
    """JUnit gets a failure with the whole message, and the verdict as a property."""
    pytester.makepyfile(INCONCLUSIVE)

    pytester.runpytest("--junitxml=out.xml")

    case = junit(pytester.path / "out.xml")["test_it"]
    (failure,) = case.iter("failure")
    assert failure.attrib["message"] == "nothing can be concluded\n  seen:     a deaf witness"
    assert [p.attrib for p in case.iter("property")] == [
        {"name": "bottle_verdict", "value": "inconclusive"}
    ]


# -- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "-n 2"])
def test_six_counts(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """Every check has one of six verdicts, listed with title and note; all counts are printed."""
    pytester.makepyfile(CHECKS)
    run = pytester.runpytest_subprocess if workers else pytester.runpytest

    result = run(*workers, "--junitxml=out.xml")

    passed = len(all_checks()) - 5
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "=* FAILURES =*",
            "*NET-01 VIOLATED: it leaks",
            "=* INCONCLUSIVE =*",
            "=* bottle verdicts (quick) =*",
            "NOT RUN       CTL-01  *",
            "INCONCLUSIVE  CTL-02  *",
            "PASSED        CTL-03  Witness stays alive across each negative",
            "                      well done",
            "VIOLATED      NET-01  *",
            "INCONCLUSIVE  NET-02  *",
            "NOT SUPPORTED NET-03  *",
            "              *without x",
            f"{passed} passed, 1 violated, 2 inconclusive, 1 not supported, 1 not run, 0 waived",
        ]
    )
    cases = junit(pytester.path / "out.xml")
    properties = {
        p.attrib["name"]: p.attrib["value"] for p in cases["test_mine[NET-01]"].iter("property")
    }
    assert properties == {"bottle_verdict": "violated", "bottle_check": "NET-01"}


def test_counts_are_printed_when_all_passed(pytester: pytest.Pytester) -> None:
    """The zeros are there too: what did not happen is part of the result."""
    pytester.makepyfile("def test_mine(bottle_check): pass")

    result = pytester.runpytest()

    total = len(all_checks())
    result.stdout.fnmatch_lines(
        [f"{total} passed, 0 violated, 0 inconclusive, 0 not supported, 0 not run, 0 waived"]
    )


@pytest.mark.parametrize("arguments", [("-k", "NET-01 or NET-04"), ("-x",)])
def test_checks_left_out_are_not_run(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    """A check that was deselected, or not reached, is counted as not run."""
    pytester.makepyfile(
        """
        def test_mine(bottle_check):
            assert bottle_check.id != "CTL-02"
        """
    )

    result = pytester.runpytest(*arguments)

    count = {
        "-k": "2 passed, 0 violated, 0 inconclusive",
        "-x": "1 passed, 0 violated, 1 inconclusive",
    }
    left = len(all_checks()) - 2
    result.stdout.fnmatch_lines(
        [f"{count[arguments[0]]}, 0 not supported, {left} not run, 0 waived"]
    )


def test_failing_teardown_does_not_change_a_verdict(pytester: pytest.Pytester) -> None:
    """An error after a check is an error of the run, and the check keeps what it found."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def around():
            yield
            raise RuntimeError("afterwards")

        def test_mine(bottle_check): pass
        """
    )

    result = pytester.runpytest()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"{len(all_checks())} passed, 0 violated, 0 inconclusive, *"])


@pytest.mark.usefixtures("netns_works")
def test_real_checks(pytester: pytest.Pytester) -> None:
    """The bundled suite runs from its front door."""
    result = pytester.runpytest(
        "--pyargs", "pytest_bottle.conformance", "--bottle-backend=netns", "-k", "PRV-01 or PRV-02"
    )

    result.assert_outcomes(passed=2, deselected=len(all_checks()) - 2)
    result.stdout.fnmatch_lines(["PASSED        PRV-01  *", "PASSED        PRV-02  *"])


def test_suites_bottle_goes_before_its_backend(pytester: pytest.Pytester, toy: object) -> None:
    """The suite's bench takes its bottle down before the backend's session ends."""
    pytester.makepyfile("def test_mine(bottle_check, _bottle_bench): pass")

    pytester.runpytest("-k", "NET-01").assert_outcomes(passed=1, deselected=len(all_checks()) - 1)

    log = (pytester.path / "toy.log").read_text().splitlines()
    assert log == ["open", "up b1", "down b1", "close"]
