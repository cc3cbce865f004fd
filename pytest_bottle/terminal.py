"""What the end of a run says: inconclusive tests, and the verdict of every check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pytest

    from pytest_bottle.conformance.registry import Check

#: The six verdicts, the best first: of two reports of a check the worse one counts.
_VERDICTS = ("passed", "waived", "not supported", "not run", "inconclusive", "violated")
_PRINTED = ("passed", "violated", "inconclusive", "not supported", "not run", "waived")
_COLOURS = {"passed": "green", "violated": "red"}


def summarise(
    terminal: pytest.TerminalReporter,
    config: pytest.Config,
    reports: Sequence[Any],
    extent: str,
) -> None:
    """Print our sections, those that have something to say about reports with facts of ours.

    ``extent`` says how long and how often checks tried: quick, or thorough.
    """
    _print_inconclusive(terminal, config, reports)
    verdicts = _worst(one.bottle for one in reports if "id" in one.bottle)
    _print_verdicts(terminal, config, verdicts, extent)


def _print_inconclusive(
    terminal: pytest.TerminalReporter, config: pytest.Config, reports: Sequence[Any]
) -> None:
    inconclusive = [one for one in reports if one.bottle["verdict"] == "inconclusive"]
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


def _worst(facts: Iterable[dict[str, str]]) -> dict[str, dict[str, str]]:
    worst: dict[str, dict[str, str]] = {}
    for one in facts:
        before = worst.setdefault(one["id"], one)
        if _VERDICTS.index(one["verdict"]) > _VERDICTS.index(before["verdict"]):
            worst[one["id"]] = one
    return worst


def _print_verdicts(
    terminal: pytest.TerminalReporter,
    config: pytest.Config,
    verdicts: dict[str, dict[str, str]],
    extent: str,
) -> None:
    if not verdicts:
        return
    terminal.section(f"bottle verdicts ({extent})")
    for _, facts in sorted(verdicts.items()):
        verdict = facts["verdict"]
        terminal.write(f"{verdict.upper():<14}", **{_COLOURS.get(verdict, "yellow"): True})
        terminal.line(f"{facts['id']:<7} {facts['title']}")
        if facts["note"]:
            terminal.line(f"{'':<14}        {facts['note']}", light=True)
    counts = dict.fromkeys(_PRINTED, 0)
    for facts in verdicts.values():
        counts[facts["verdict"]] += 1
    counts["not run"] += len(_without_verdict(config, verdicts))
    terminal.line(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _without_verdict(config: pytest.Config, verdicts: dict[str, dict[str, str]]) -> list[Check]:
    """Find the checks that were left out: a run without them is no conformance."""
    from pytest_bottle.planning import planned_checks

    return [check for check in planned_checks(config) if check.id not in verdicts]
