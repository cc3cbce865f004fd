"""The conformance suite on a backend, without a run of pytest around it."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import BottleError, NotSupported, Violation
from pytest_bottle.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from pytest_bottle.backends.contract import Backend
    from pytest_bottle.conformance.registry import Check


def named(identity: str) -> Check:
    """The check of an ID."""
    return next(check for check in all_checks() if check.id == identity)


def judge(
    backend: Backend, also: str = "", only: Container[str] | None = None
) -> dict[str, Verdict]:
    """Run the checks of the common bench, and one that stands apart, on a backend and end it.

    ``only`` leaves the others out; the survey is fired for all of them all the same.
    """
    return judge_and_name_claimants(backend, also, only)[0]


def judge_and_name_claimants(
    backend: Backend, also: str = "", only: Container[str] | None = None
) -> tuple[dict[str, Verdict], set[str]]:
    """Do what :func:`judge` does, and name the checks that claimed something in the survey."""
    checks = [check for check in all_checks() if not check.apart or check.id == also]
    checks = [check for check in checks if only is None or check.id in only]
    try:
        bench = Bench(backend)
        verdicts = {check.id: _verdict(bench, check) for check in checks}
        claimants = {check.id for check in bench.claimants}
        bench.close()
    finally:
        backend.close()
    return verdicts, claimants


_LOG = logging.getLogger(__name__)
#: What every block rests on.
CONTROLS = frozenset({"CTL-01", "CTL-03", "CTL-04", "CTL-05", "PXY-01"})


def judge_row(make: Callable[[], Backend], red: set[str], also: str = "") -> dict[str, Verdict]:
    """Judge a backend of which just some checks are to be red, by all checks of the bench.

    As an ordinary user by those, and the controls. What is INCONCLUSIVE is judged once more, on a
    backend that is opened anew, for a busy machine may have made it so; nothing else is.
    """
    verdicts = judge(make(), also, None if os.geteuid() == 0 else red | CONTROLS)
    unsure = {check for check, verdict in verdicts.items() if verdict is Verdict.INCONCLUSIVE}
    return verdicts | (judge(make(), also, unsure) if unsure else {})


def _verdict(bench: Bench, check: Check) -> Verdict:
    try:
        bench.run(check)
    except Violation as error:
        _LOG.warning("%s: %s", error, error.seen)  # shown when the test fails
        return Verdict.VIOLATED
    except NotSupported:
        return Verdict.NOT_SUPPORTED
    except BottleError as error:  # whatever else happened, nothing was found out
        _LOG.warning("%s: %s", error, error.seen)
        return Verdict.INCONCLUSIVE
    return Verdict.PASSED


def run_check(backend: Backend, identity: str) -> str:
    """Run one check on a backend and end it; returns the check's note."""
    check = named(identity)
    try:
        return Bench(backend).run(check)
    finally:
        backend.close()


def taken_apart(stdin: bytes) -> tuple[bytes, dict[str, Any]]:
    """The probe itself, and what it is asked to do."""
    line, _, rest = stdin.partition(b"\n")
    sizes = (part.split(b":")[1:] for part in line.split()[1:])
    size = sum(int(each) for pair in sizes for each in pair)
    return line + b"\n" + rest[:size], json.loads(rest[size:])
