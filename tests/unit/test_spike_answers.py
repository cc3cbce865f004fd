"""The answers to the spike's questions: earned by verdicts, or not given."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_bottle.assessment import Assessment, Row
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.conformance.spike import CHECKS, QUESTIONS
from pytest_bottle.spike_answers import is_asked, table
from tests.judging import named

BENCH = {
    "name": "toy",
    "version": "1",
    "detail": "a | b",
    "emulated": False,
    "mutant": "",
}


def answered(q: str = "Q1", bench: dict[str, Any] | None = None, **verdicts: str) -> str:
    """The line of a question when all checks passed but those named (with _ for -)."""
    changed = {name.replace("_", "-"): verdict for name, verdict in verdicts.items()}
    rows = []
    for identity in sorted(CHECKS):
        facts = {"genuine": True, "note": f"note of {identity}", "bench": bench or BENCH}
        rows.append(Row(named(identity), changed.get(identity, "passed"), facts))
    lines = table(Assessment("all", tuple(rows)))
    (found,) = (line for line in lines if line.startswith((f"| {q} ", f"{q}")))
    return found


def test_every_check_of_a_question_exists() -> None:
    """The data names no check that is not there, and there are seven questions."""
    assert {check.id for check in all_checks()} >= CHECKS
    assert [question.id for question in QUESTIONS] == [f"Q{n}" for n in range(1, 8)]
    assert all(question.checks for question in QUESTIONS)


def test_an_answer_as_recorded() -> None:
    """All checks of the question passed: its answer, and each check's own note."""
    line = answered()

    assert "| **yes** |" in line
    assert "`NET-01` PASSED (note of NET-01)" in line
    assert "S6, S7" in line


def test_one_violation_decides() -> None:
    """The answer is the other one, whatever else passed; what is open besides is told."""
    line = answered(NET_01="violated", NET_05="inconclusive")

    assert "**not all of it**: NET-01 VIOLATED; open: NET-05 INCONCLUSIVE" in line


def test_a_violated_control_answers_nothing() -> None:
    """Where the intended path is broken nobody knows, unless a leak was heard all the same."""
    alone = answered(PXY_01="violated", NET_02="inconclusive")
    leak = answered(PXY_01="violated", NET_01="violated")

    assert "| **no answer**: PXY-01 VIOLATED, NET-02 INCONCLUSIVE |" in alone
    assert "| **not all of it**: NET-01 VIOLATED; open: PXY-01 VIOLATED |" in leak


@pytest.mark.parametrize("verdict", ["inconclusive", "not run", "not supported", "waived"])
def test_an_answer_that_is_not_earned(verdict: str) -> None:
    """A check without a good verdict leaves its question open, though the others passed."""
    line = answered(NET_09=verdict)

    assert f"| **no answer**: NET-09 {verdict.upper()} |" in line
    assert f"`NET-09` {verdict.upper()}" in line


def test_a_pass_that_is_not_the_suites_own() -> None:
    """A verdict that somebody else's test made is no answer."""
    facts = {"genuine": False, "note": "trust me", "bench": BENCH}
    rows = tuple(Row(named(one), "passed", facts) for one in sorted(CHECKS))

    (line,) = (x for x in table(Assessment("all", rows)) if x.startswith("| Q7"))

    assert "**no answer**: RES-05 INCONCLUSIVE" in line
    assert "trust me" not in line


def test_a_check_that_the_profile_leaves_out() -> None:
    """It is not planned, and that is no answer."""
    (line,) = (x for x in table(Assessment("core@1", ())) if x.startswith("| Q4"))

    assert "**no answer**: DNS-10 NOT PLANNED" in line


def test_every_row_has_five_cells() -> None:
    """What is said in a note cannot break the table."""
    facts = {"genuine": True, "note": "a | b\nc", "bench": BENCH}
    rows = tuple(Row(named(one), "passed", facts) for one in sorted(CHECKS))
    lines = table(Assessment("all", rows))

    assert {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")} == {6}
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"emulated": True}, "emulated: this says nothing about a Mac"),
        ({"mutant": "NET-01"}, "weakened on purpose (mutant NET-01)"),
        ({}, "answered by toy 1"),
    ],
)
def test_the_table_says_whose_answers_they_are(facts: dict[str, Any], said: str) -> None:
    """Backend and version stand above it, and whatever makes it no platform's own."""
    row = Row(named("NET-01"), "passed", {"genuine": True, "bench": {**BENCH, **facts}})

    assert said in table(Assessment("all", (row,)))[0]


@pytest.mark.parametrize(
    ("markers", "asked"),
    [
        ("bottle_spike", True),
        ("slow or bottle_spike", True),
        ("not bottle_spike", False),
        ("bottle_spikes", False),
        ("", False),
    ],
)
def test_who_asks(markers: str, asked: bool) -> None:
    """``-m`` asks when it names the marker, and not when it leaves its checks out."""
    assert is_asked(markers) is asked
