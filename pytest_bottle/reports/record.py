"""The canonical record of a run of the conformance suite, as values that JSON knows."""

from __future__ import annotations

import datetime as dt
import hashlib
import platform
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pytest_bottle.conformance import profiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_bottle.assessment import Assessment, Row
    from pytest_bottle.settings import Settings
    from pytest_bottle.waivers import Waiver

#: A reader needs to know of nothing newer; it changes when a field goes or changes its meaning.
SCHEMA = {"name": "pytest-bottle-report", "version": 1}


def record(assessment: Assessment, held: Settings, run: Mapping[str, Any]) -> dict[str, Any]:
    """Make the record.

    Args:
        assessment: what the run came to.
        held: what was chosen.
        run: what is known of the run itself: when it began, its workers, what was left out by
            options, and its exit status.
    """
    return {
        "schema": SCHEMA,
        "tool": {"name": "pytest-bottle", "version": _version()},
        "result": assessment.result,
        "complete": assessment.complete,
        "flaws": [flaw.text for flaw in assessment.flaws],
        "profile": _profile(assessment),
        "counts": {name.replace(" ", "_"): n for name, n in assessment.counts.items()},
        "extent": "thorough" if held.thorough else "quick",
        "backend": _backend(assessment, held),
        "features": [one._asdict() for one in assessment.features],
        "host": _host(),
        "run": _run(assessment, run),
        "checks": [_check(row) for row in assessment.rows],
        "waivers": [_waiver(one, assessment, held) for one in held.waivers],
    }


def _version() -> str:
    try:
        return metadata.version("pytest-bottle")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"


def _profile(assessment: Assessment) -> dict[str, Any]:
    planned = [row.check for row in assessment.rows]
    gating = [row.check.id for row in assessment.rows if row.gating]
    return {
        "name": assessment.profile,
        "planned": len(planned),
        "gating": len(gating),
        "digest": _digest(gating),
        "suite_digest": _digest(f"{check.id} {check.requirement}" for check in planned),
    }


def _digest(texts: Iterable[str]) -> str:
    return "sha256:" + hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _backend(assessment: Assessment, held: Settings) -> dict[str, Any]:
    """Say what was judged; where nothing came up, what was to be judged."""
    unknown: dict[str, Any] = dict.fromkeys(("features", "lacks", "contradictions"), ())
    unknown |= {"version": None, "detail": "", "emulated": None, "mutant": held.mutant}
    known = {**unknown, **assessment.bench}
    return {**known, "name": held.backend_name, "mode": held.internet_kind}


def _host() -> dict[str, str]:
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def _run(assessment: Assessment, run: Mapping[str, Any]) -> dict[str, Any]:
    ended = time.time()
    return {
        "began": _moment(run["began"]),
        "ended": _moment(ended),
        "seconds": round(ended - run["began"], 3),
        "workers": run["workers"],
        "interventions": run["interventions"],
        "foreign_fixtures": assessment.foreign,
        "exit_status": run["exit_status"],
    }


def _moment(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds")


def _check(row: Row) -> dict[str, Any]:
    check, facts = row.check, row.facts
    return {
        "id": check.id,
        "title": check.title,
        "requirement": check.requirement,
        "level": check.level.value,
        "severity": check.severity.value,
        "gating": row.gating,
        "preview": profiles.is_preview(check),
        "verdict": row.verdict.replace(" ", "_"),
        "reason": row.reason,
        "note": facts.get("note", ""),
        "message": facts.get("message", ""),
        "seconds": round(facts.get("duration", 0.0), 3),
        "waiver": facts.get("waiver") if row.verdict == "waived" else None,
        "evidence": facts.get("evidence", []),
        "references": list(check.evidence),
    }


def _waiver(one: Waiver, assessment: Assessment, held: Settings) -> dict[str, str]:
    verdicts = {row.check.id: row.verdict for row in assessment.rows}
    told = {
        name: str(getattr(one, name))
        for name in ("check", "backend", "versions", "reason", "issue", "expires", "owner")
    }
    if one.backend != held.backend_name or one.check not in verdicts:
        status = "elsewhere"
    elif one.expired:
        status = "expired"
    else:
        status = "used" if verdicts[one.check] == "waived" else "unused"
    return {**told, "status": status}
