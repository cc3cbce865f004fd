"""``pytest --bottle-explain``: what a check is about, without running or touching anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.conformance.explain import explain
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.conformance.sent import sent
from tests.judging import named

if TYPE_CHECKING:
    from pytest_bottle.conformance.registry import Check

#: What every explanation has.
FIELDS = (
    *("requirement", "severity", "level", "evidence", "sent", "judged", "needs", "mutants"),
    *("source", "rerun"),
)


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: str(check.id))
def test_every_check_can_be_explained(check: Check) -> None:
    """Its plan can be made on paper: no field is missing, and no address is there but in words."""
    text = explain(check, "RERUN")

    found = re.findall(r"^  ([a-z]+): ", text, re.MULTILINE)
    assert found == list(FIELDS), text
    assert not re.search(r"192\.0\.2\.|198\.51\.100\.|[0-9a-f]{32}", "\n".join(sent(check)))


def test_a_plan_on_paper_says_what_is_sent() -> None:
    """From where, by which next hop, and what has to arrive as the control."""
    check = named("LAT-05")

    lines = sent(check)

    assert lines[0].startswith("privileged: tcp/443, ")
    assert "to an address of its own via the sidecar; none may arrive" in lines[0]
    assert "to the agent via the sidecar's outer address" in lines[1]
    assert "open and sidecar: the same, as the control that has to arrive" in lines
    assert "privileged: a packet to each of the 65535 udp ports, via the sidecar" in lines


def test_it_prints_and_runs_nothing(pytester: pytest.Pytester) -> None:
    """Whatever the backend and the tests are: neither is opened, and the exit status is 0."""
    pytester.makeconftest(
        """
        def explode():
            raise SystemExit("a backend was opened")

        def pytest_bottle_backends(config):
            return {"mine": explode}
        """
    )
    pytester.makepyfile("raise SystemExit('a test was collected')")

    result = pytester.runpytest_subprocess(
        "--bottle-backend=mine", "--bottle-explain", "net-05,NET-04", "--bottle-explain=PXY-01"
    )

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "NET-05  No UDP datagram leaves, answered or not",
            "  requirement: A datagram sent by the agent never *",
            "  severity:    critical: *",
            "  evidence:    https://github.com/rappdw/sandy/issues/154",
            "               https://*",
            "  sent:        agent: udp/53, udp/123, *",
            "  judged:      The far side alone decides: *",
            "  needs:       lab, neighbour, open-guest, privileged-probe",
            "  mutants:     --bottle-mutant=NET-05: UDP to port 443 gets out. *",
            "  source:      pytest_bottle/conformance/checks/network.py:*",
            "  rerun:       pytest --pyargs *test_conformance[[]NET-05]' --bottle-backend=mine",
            "NET-04  *",
            "PXY-01  *",
        ]
    )
    assert "passed" not in result.stdout.str()


def test_all_of_them(pytester: pytest.Pytester) -> None:
    """``all`` stands for every check."""
    result = pytester.runpytest_subprocess("--bottle-explain=all", "-n", "2")

    assert result.ret == 0
    ids = [line.split()[0] for line in result.outlines if re.match(r"[A-Z0-9]+-\d\d  ", line)]
    assert ids == [check.id for check in all_checks()]


def test_a_row_of_ones_own_can_be_explained(pytester: pytest.Pytester) -> None:
    """It says what the row says, and its rerun line names the file."""
    pytester.makefile(
        ".yaml", mine="policy: [{id: USER-DB, to: 'db.internal:5432/tcp', expect: blocked}]"
    )

    result = pytester.runpytest_subprocess("--bottle-config=mine.yaml", "--bottle-explain=USER-DB")

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "USER-DB  db.internal:5432/tcp is blocked from the agent, directly",
            "  sent:        agent: tcp/5432 to the address of db.internal",
            "               open: the same before and after, *",
            "  rerun: *USER-DB]' --bottle-backend=* --bottle-config=mine.yaml",
        ]
    )


def test_what_is_not_known_is_a_usage_error(pytester: pytest.Pytester) -> None:
    """Each is told with the nearest one that is; nothing is printed of the others."""
    result = pytester.runpytest_subprocess("--bottle-explain", "NET-055 NET-04 XYZ")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --bottle-explain: 'NET-055' is not known; did you mean 'NET-05'? *",
            "ERROR: --bottle-explain: 'XYZ' is not known* (known: all, and the IDs CTL-…, DNS-…, *",
        ]
    )
    assert "NET-04" not in result.stdout.str()


def test_no_id_is_a_usage_error(pytester: pytest.Pytester) -> None:
    """An empty text asks for nothing."""
    result = pytester.runpytest_subprocess("--bottle-explain=")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --bottle-explain: expected an ID, seen none"])
