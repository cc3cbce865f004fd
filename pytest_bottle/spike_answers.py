"""What a run answers to the seven questions of the spike, as Markdown for a proposal.

An answer is earned or it is not given: whatever was not run, not supported or inconclusive leaves
its question open.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_bottle.assessment import FOUNDATIONS
from pytest_bottle.conformance.spike import MARKER, QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.assessment import Assessment, Facts, Row
    from pytest_bottle.conformance.spike import Question

_CHOSEN = re.compile(rf"(?<!not )\b{MARKER}\b")


def is_asked(markers: str) -> bool:
    """Tell whether ``-m`` asks for the spike's questions."""
    return bool(_CHOSEN.search(markers))


def table(assessment: Assessment) -> list[str]:
    """Answer each question by the verdicts of a run.

    Returns:
        the lines of a Markdown table, with one before it that says what was asked.
    """
    rows = {row.check.id: row for row in assessment.rows}
    return [
        _heading(assessment.bench),
        "",
        "| | question | recorded on a Mac, `container` 1.0.0 | answer here | checks |",
        "| --- | --- | --- | --- | --- |",
        *(_line(question, rows) for question in QUESTIONS),
    ]


def _heading(bench: Facts) -> str:
    if not bench:
        return "The spike's questions; no bottle came up, so nothing is answered."
    subject = f"{bench['name']} {bench['version']}"
    emulated = ", emulated: this says nothing about a Mac" if bench["emulated"] else ""
    mutant = f", weakened on purpose (mutant {bench['mutant']})" if bench["mutant"] else ""
    return f"The spike's questions, answered by {subject} ({bench['detail']}){emulated}{mutant}."


def _line(question: Question, rows: Mapping[str, Row]) -> str:
    asked = [(identity, rows.get(identity)) for identity in question.checks]
    checks = "; ".join(_said(identity, row) for identity, row in asked)
    cells = (question.id, question.text, question.recorded, _answer(question, rows), checks)
    return f"| {' | '.join(_cell(text) for text in cells)} |"


def _answer(question: Question, rows: Mapping[str, Row]) -> str:
    """Say what the checks come to: one violation decides, an answer as recorded needs them all.

    A control that is violated decides nothing: where the intended path is broken, nobody knows.
    """
    found = {identity: _verdict(rows.get(identity)) for identity in question.checks}
    violated = [one for one, verdict in found.items() if verdict == "violated"]
    broken = [one for one in violated if one not in FOUNDATIONS]
    open_ = [one for one, verdict in found.items() if verdict != "passed" and one not in broken]
    missing = [f"{one} {found[one].upper()}" for one in open_]
    if broken:
        rest = f"; open: {', '.join(missing)}" if missing else ""
        return f"**{question.broken}**: {', '.join(broken)} VIOLATED{rest}"
    if missing:
        return f"**no answer**: {', '.join(missing)}"
    return f"**{question.held}**"


def _verdict(row: Row | None) -> str:
    """The verdict that counts as an answer: a pass only if the suite itself found it."""
    if row is None:
        return "NOT PLANNED"
    if row.verdict == "passed" and not row.facts.get("genuine"):
        return "INCONCLUSIVE"
    return row.verdict if row.verdict in ("passed", "violated") else row.verdict.upper()


def _said(identity: str, row: Row | None) -> str:
    verdict = _verdict(row).upper()
    note = " ".join(str(row.facts.get("note", "")).split()) if row and verdict == "PASSED" else ""
    return f"`{identity}` {verdict}{f' ({note})' if note else ''}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def lines(assessment: Assessment, markers: str) -> Sequence[str]:
    """The table, if ``-m`` asks for it; else nothing."""
    return table(assessment) if is_asked(markers) else ()
