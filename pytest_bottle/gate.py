"""The gate: what was planned against what was received, on the controller, at the very end.

Nothing that selects, skips, excuses or breaks tests reaches in here: a planned check without a
verdict is NOT RUN, whatever the reason, and that is red.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle import settings
from pytest_bottle.assessment import Assessment, Flaw, assess, flaws_of
from pytest_bottle.planning import planned_checks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_bottle.assessment import Facts, Row
    from pytest_bottle.settings import Settings
    from pytest_bottle.waivers import Waiver

#: What looks on, in a gated run.
_CIRCUMSTANCES: pytest.StashKey[Circumstances] = pytest.StashKey()
#: What the run came to; there from the end of the session on, if it had to do with checks.
ASSESSMENT: pytest.StashKey[Assessment] = pytest.StashKey()
_ID_IN_NODE = re.compile(r"\[([A-Z0-9]+-[^\]]+)\](?:@\S*)?\Z")
#: What xdist calls the phase of a test in which its worker crashed.
CRASHED = "???"
#: The statuses of a run in which nothing failed.
_GREEN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
#: Options of pytest's that leave tests out, and how each is spelled.
_SELECTING = {
    "keyword": "-k",
    "markexpr": "-m",
    "deselect": "--deselect",
    "lf": "--lf",
    "stepwise": "--stepwise",
    "maxfail": "--maxfail",
    "ignore": "--ignore",
    "ignore_glob": "--ignore-glob",
    "collectonly": "--collect-only",
    "setuponly": "--setup-only",
    "setupplan": "--setup-plan",
}


class Circumstances:
    """A plugin that looks on what becomes of the items, to say why a check did not run.

    Args:
        config: the session's.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.began = time.time()
        self.collected: set[str] = set()
        self.deselected: set[str] = set()

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Remove the records of an earlier run: none may be taken for this one's."""
        if not hasattr(session.config, "workerinput"):
            for path in settings.of(self._config).reports:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell the controller who was left out on this worker."""
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["bottle_deselected"] = sorted(self.deselected)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember who was left out."""
        self.deselected |= _ids(item.nodeid for item in items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember who is to run, in a run without workers and on each of them."""
        self.collected |= _ids(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Remember who is to run on a worker."""
        self.collected |= _ids(ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over from a worker who was left out there."""
        self.deselected |= set(getattr(node, "workeroutput", {}).get("bottle_deselected", ()))

    def why_not(self, identity: str) -> str:
        """Tell why a check has no verdict, as far as one can see from here."""
        selecting = ", ".join(interventions(self._config)) or "no option of pytest's own did it"
        if identity in self.deselected:
            return f"it was deselected ({selecting})"
        if identity in self.collected:
            return f"the run ended before its turn ({selecting})"
        return f"no item of it was collected ({selecting})"


def watch(config: pytest.Config) -> None:
    """Look on from the beginning of the run."""
    looking_on = config.stash[_CIRCUMSTANCES] = Circumstances(config)
    config.pluginmanager.register(looking_on, "bottle-gate")


def _ids(nodes: Iterable[str]) -> set[str]:
    return {found[1] for node in nodes if (found := _ID_IN_NODE.search(node))}


def interventions(config: pytest.Config) -> list[str]:
    """Name the options in effect that leave tests out, as one would write them."""
    given = {name: config.getoption(name, None) for name in _SELECTING}
    return [
        _SELECTING[name] if value is True else f"{_SELECTING[name]}={_shown(value)}"
        for name, value in given.items()
        if value
    ]


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def settle(session: pytest.Session, reports: list[Any]) -> None:
    """Say what the run came to, write its record, and see to it that red is red.

    Args:
        session: that ends.
        reports: those with facts of ours, and those of crashed workers.
    """
    config = session.config
    held = settings.of(config)
    looked_on = config.stash.setdefault(_CIRCUMSTANCES, Circumstances(config))
    why_not = looked_on.why_not
    rows = assess(planned_checks(config), _received(reports), why_not=why_not, genuine=held.gate)
    flaws = (*flaws_of(rows), *_flaws_of_waivers(rows, held))
    assessment = Assessment(held.profile, rows, flaws)
    _enforce(session, assessment, held)
    if held.reports:
        unwritten = _write(session, assessment, held.reports)
        assessment = replace(assessment, flaws=(*flaws, *unwritten))
        _enforce(session, assessment, held)
    config.stash[ASSESSMENT] = assessment


def _received(reports: Iterable[Any]) -> Iterator[Facts]:
    for report in reports:
        facts = getattr(report, "bottle", {})
        if "id" in facts:
            yield {**facts, "rerun": True} if report.outcome == "rerun" else facts
        elif report.when == CRASHED and (found := _ID_IN_NODE.search(report.nodeid)):
            yield {"id": found[1], "verdict": "not run", "message": "its worker crashed meanwhile"}


def _flaws_of_waivers(rows: Sequence[Row], held: Settings) -> Iterator[Flaw]:
    found = {row.check.id: row for row in rows}
    for waiver in held.waivers:
        row = found.get(waiver.check)
        if row is None or waiver.backend != held.backend_name:
            continue
        if waiver.expired:
            text = f"{waiver} expired on {waiver.expires}, and is not applied"
            yield Flaw(text, always=row.verdict != "not run")
        elif why := _unused(waiver, row):
            yield Flaw(f"{waiver} is not used: {why}")


def _unused(waiver: Waiver, row: Row) -> str:
    """Say why a waiver was not needed; empty if it was, or if nobody knows."""
    if row.verdict == "violated":
        return f"it is for versions {waiver.versions}, this is {row.facts['bench']['version']}"
    return f"the check is {row.verdict}" if row.verdict in ("passed", "not supported") else ""


def _enforce(session: pytest.Session, assessment: Assessment, held: Settings) -> None:
    good = ("conformant",) if held.require == "conformant" else ("conformant", "partial")
    red = any(flaw.always for flaw in assessment.flaws)
    red |= held.gate and assessment.result not in good
    if red and session.exitstatus in _GREEN:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _write(session: pytest.Session, assessment: Assessment, paths: Iterable[str]) -> Iterator[Flaw]:
    from pytest_bottle import reports

    config = session.config
    run = {
        "began": config.stash[_CIRCUMSTANCES].began,
        "workers": config.getoption("numprocesses", None) or 0,
        "interventions": interventions(config),
        "exit_status": int(session.exitstatus),
    }
    record = reports.record(assessment, settings.of(config), run)
    for path in paths:
        try:
            reports.write(path, record)
        except OSError as error:
            yield Flaw(f"the report {path} could not be written: {error.strerror}", always=True)
