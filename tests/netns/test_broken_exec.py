"""Command backends whose exec hangs, returns garbage or dies midway, under the suite's checks.

They stand inside the lab, so that every control but the agent's own is green: whatever passes
here passes for the wrong reason.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bottle import firing
from pytest_bottle.backends.command import backend as module
from pytest_bottle.backends.command.backend import CommandBackend
from pytest_bottle.backends.command.orders import Orders
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import BottleError, NotSupported, Violation
from pytest_bottle.verdict import Verdict
from tests.judging import named

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("netns_works")

BROKEN = {
    "garbage": "echo garbage",
    "silence": "exit 0",
    "refusal": "exit 125",
    "death": "kill -9 $$",
    "death midway": '"$@" | head -c 40',
    "hanging": "sleep 4545",
}
#: They are about the witness and the open guest, and none of them asks the agent anything.
WITHOUT_THE_AGENT = {"CTL-01", "CTL-03", "CTL-04", "CTL-05"}


def broken(folder: Path, script: str) -> CommandBackend:
    """Open a backend inside the lab whose exec is a script, as agent and as root."""
    line = ("sh", "-c", script, "sh")
    return CommandBackend(
        Orders(
            source="bottle-command.yaml",
            path=str(folder / "bottle-command.yaml"),
            inside_lab=True,
            python=sys.executable,
            deadline=5.0,
            places={"agent": line, "root": line, "privileged": line},
            verbs={"address": ("echo", '"192.0.2.9"'), "inventory": line},
        )
    )


def verdict(bench: Bench, identity: str) -> Verdict:
    """Run a check as the suite does: what is no verdict of its own is INCONCLUSIVE."""
    check = named(identity)
    try:
        bench.run(check)
    except NotSupported:
        return Verdict.NOT_SUPPORTED
    except Violation:
        return Verdict.VIOLATED
    except BottleError:
        return Verdict.INCONCLUSIVE
    return Verdict.PASSED


@pytest.mark.parametrize("way", sorted(set(BROKEN) - {"hanging"}))
def test_nothing_passes_on_a_broken_exec(way: str, tmp_path: Path) -> None:
    """No check that asks the agent anything passes, whatever its packets did."""
    backend = broken(tmp_path, BROKEN[way])
    try:
        bench = Bench(backend)
        verdicts = {check.id: verdict(bench, check.id) for check in all_checks() if not check.apart}
        bench.close()
    finally:
        backend.close()

    passed = {identity for identity, one in verdicts.items() if one is Verdict.PASSED}
    assert passed <= WITHOUT_THE_AGENT
    for identity in ("NET-01", "NET-02", "NET-03", "PRV-01", "RES-01"):
        assert verdicts[identity] is Verdict.INCONCLUSIVE, identity


def test_a_hanging_exec_hangs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exec is cut at its deadline, and the check says INCONCLUSIVE."""
    monkeypatch.setattr(firing, "_GRACE", 0.5)
    monkeypatch.setattr(module, "_WAY", 0.5)
    backend = broken(tmp_path, BROKEN["hanging"])
    started = time.monotonic()
    try:
        bench = Bench(backend)
        found = {identity: verdict(bench, identity) for identity in ("NET-01", "PRV-01", "RES-01")}
        bench.close()
    finally:
        backend.close()

    assert set(found.values()) == {Verdict.INCONCLUSIVE}
    assert time.monotonic() - started < 200
