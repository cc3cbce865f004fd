"""What the end of a run says: inconclusive tests, the verdict of every check, and the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bottle import settings, spike_answers
from pytest_bottle.conformance.registry import Level
from pytest_bottle.gate import ASSESSMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_bottle.assessment import Assessment, Row

_COLOURS = {"passed": "green", "violated": "red", "conformant": "green", "failed": "red"}
_INDENT = " " * 22


def summarise(
    terminal: pytest.TerminalReporter, config: pytest.Config, reports: Sequence[Any]
) -> None:
    """Print our sections, those that have something to say about reports with facts of ours."""
    quiet = config.getoption("no_summary", default=False)
    if not quiet:
        _print_inconclusive(terminal, config, reports)
    assessment = config.stash.get(ASSESSMENT, None)
    if assessment is None:
        return
    if not quiet:
        _print_verdicts(terminal, config, assessment)
        _print_answers(terminal, config, assessment)
    if not quiet or settings.of(config).gate:
        _print_result(terminal, config, assessment)


def _print_inconclusive(
    terminal: pytest.TerminalReporter, config: pytest.Config, reports: Sequence[Any]
) -> None:
    inconclusive = [
        one
        for one in reports
        if one.bottle["verdict"] == "inconclusive" and one.outcome != "skipped"
    ]
    if not inconclusive or config.getoption("tbstyle", "auto") == "no":
        return
    terminal.section("INCONCLUSIVE", yellow=True)
    captured = config.getoption("showcapture", "all")
    for report in inconclusive:
        terminal.section(report.nodeid, sep="_", yellow=True)
        report.toterminal(config.get_terminal_writer())
        for title, content in report.sections:
            if captured == "all" or captured in title:
                terminal.section(title, sep="-")
                terminal.line(content.rstrip("\n"))


def _print_verdicts(
    terminal: pytest.TerminalReporter, config: pytest.Config, assessment: Assessment
) -> None:
    held = settings.of(config)
    terminal.section(f"bottle verdicts ({'thorough' if held.thorough else 'quick'})")
    for row in assessment.rows:
        if row.facts or held.gate:  # who chose a few checks need not read of all the others
            _print_row(terminal, row)
    for line in assessment.foreign:
        terminal.line(f"around the checks, and not the suite's: {line}", yellow=True)
    counts = assessment.counts
    terminal.line(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _print_row(terminal: pytest.TerminalReporter, row: Row) -> None:
    terminal.write(f"{row.verdict.upper():<14}", **{_COLOURS.get(row.verdict, "yellow"): True})
    kind = "" if row.gating else f" ({_kind(row)}: recorded, does not count)"
    terminal.line(f"{row.check.id:<7} {row.check.title}{kind}")
    recorded = row.facts.get("message", "") if row.verdict in _RECORDED and not row.gating else ""
    for text in (row.facts.get("note", ""), row.reason, recorded):
        for line in text.splitlines():
            terminal.line(_INDENT + line, light=True)


def _print_answers(
    terminal: pytest.TerminalReporter, config: pytest.Config, assessment: Assessment
) -> None:
    lines = spike_answers.lines(assessment, config.getoption("markexpr", ""))
    if lines:
        terminal.section("bottle spike")
    for line in lines:
        terminal.line(line)  # as it is, in one piece: it is to be pasted


_RECORDED = ("violated", "inconclusive")


def _kind(row: Row) -> str:
    return "quirk" if row.check.level is Level.QUIRK else "preview"


def _print_result(
    terminal: pytest.TerminalReporter, config: pytest.Config, assessment: Assessment
) -> None:
    for flaw in assessment.flaws:
        terminal.line(f"bottle: {flaw.text}", red=True)
    result, gated = assessment.result, settings.of(config).gate
    missing = assessment.counts["not run"]
    if missing and not gated:
        text = f"no result, for {missing} of {len(assessment.rows)} checks were not run"
        terminal.line(f"profile {assessment.profile}: {text}")
        return
    terminal.write(f"profile {assessment.profile}: ")
    terminal.line(f"{result}{_why(assessment)}", **{_COLOURS.get(result, "yellow"): True})


def _why(assessment: Assessment) -> str:
    """Say what keeps a result from being the best one."""
    counts = dict.fromkeys(assessment.counts, 0)
    for row in assessment.rows:
        counts[row.verdict] += row.gating
    told = [f"{n} {verdict}" for verdict, n in counts.items() if n and verdict != "passed"]
    told += [f"{len(assessment.flaws)} more, as told above"] if assessment.flaws else []
    return f" ({', '.join(told)})" if told else ""
