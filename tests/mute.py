"""A backend on which one kind of the probe's operations is never run, and said to be."""

from __future__ import annotations

import json

from pytest_bottle.backends.contract import ExecResult, Vantage
from pytest_bottle.conformance.mutants.base import Errand, Meddler
from tests.judging import taken_apart


class Mute(Meddler):
    """One operation of the probe is answered without being done."""

    def __init__(self, vantage: Vantage, kind: str, outcome: str) -> None:
        super().__init__()
        self.silent = vantage, f'"kind": "{kind}"'.encode(), outcome

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Let a command run, or only say so."""
        where, kind, outcome = self.silent
        if errand.vantage is not where or kind not in errand.stdin:
            return errand
        operations = taken_apart(errand.stdin)[1]["operations"]
        records = [{"id": one["id"], "outcome": outcome} for one in operations]
        lines = [json.dumps(record) for record in (*records, {"done": len(records)})]
        return ExecResult(0, "\n".join(lines).encode(), b"")
