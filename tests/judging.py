"""The conformance suite on a backend, without a run of pytest around it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import Inconclusive, NotSupported, Violation
from pytest_bottle.verdict import Verdict

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend


def judge(backend: Backend, also: str = "") -> dict[str, Verdict]:
    """Run the checks of the common bench, and one that stands apart, on a backend and end it."""
    verdicts = {}
    try:
        bench = Bench(backend)
        for check in [check for check in all_checks() if not check.apart or check.id == also]:
            try:
                bench.run(check)
                verdicts[check.id] = Verdict.PASSED
            except Violation:
                verdicts[check.id] = Verdict.VIOLATED
            except Inconclusive:
                verdicts[check.id] = Verdict.INCONCLUSIVE
            except NotSupported:
                verdicts[check.id] = Verdict.NOT_SUPPORTED
        bench.close()
    finally:
        backend.close()
    return verdicts


def run_check(backend: Backend, identity: str) -> str:
    """Run one check on a backend and end it; returns the check's note."""
    check = next(check for check in all_checks() if check.id == identity)
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
