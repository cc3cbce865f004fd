"""Every way in which a pytest run ends without its fixtures' teardown: nothing is left.

The other half of ``test_cleanup.py``: what pytest itself, its plugins and the interpreter do to a
run. Who watches is a reaper that adopts every orphan (:mod:`tests.reaper`), so that no process is
missed, also one that was started after we looked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.family import Family, allowed, is_running, left_of, process, wait_until_gone
from tests.runs import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.usefixtures("netns_works")

_IN_A_TEST = """
def test_it(bottle):
    tell(bottle)
    {then}
"""
_IN_A_FIXTURE = """
@pytest.fixture
def slow(make_bottle):
    tell(make_bottle())
    time.sleep(60)
    yield

def test_it(slow):
    pass
"""
_TIMEOUT = ("--timeout=3", "-o", "timeout_func_only=true")
_SEGFAULT = -signal.SIGSEGV


@pytest.mark.parametrize(
    ("then", "arguments", "status"),
    [
        ("os._exit(7)", (), 7),
        ("ctypes.string_at(0)", (), _SEGFAULT),
        ("ctypes.string_at(0)", ("-p", "no:faulthandler"), _SEGFAULT),
        ("faulthandler._sigsegv()", (), _SEGFAULT),
        ("os.abort()", (), -signal.SIGABRT),
        ("raise SystemExit(5)", (), 1),
        ("time.sleep(60)", (*_TIMEOUT, "--timeout-method=thread"), 1),
        ("time.sleep(60)", (*_TIMEOUT, "--timeout-method=signal"), 1),
    ],
    ids=[
        "os._exit",
        "segfault",
        "segfault without faulthandler",
        "fatal signal",
        "abort",
        "SystemExit",
        "pytest-timeout by thread",
        "pytest-timeout by signal",
    ],
)
def test_ends_from_within(tmp_path: Path, then: str, arguments: Sequence[str], status: int) -> None:
    """A run that its own test, the interpreter or a plugin ends leaves nothing."""
    if _TIMEOUT[0] in arguments:
        pytest.importorskip("pytest_timeout", reason="NOT RUN: pytest-timeout is not installed")
    run = Run(tmp_path, _IN_A_TEST.replace("{then}", then), *arguments)
    family = run.family()

    code, output = run.end()

    assert code == status, output
    run.nothing_left(family)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_killed_while_a_fixture_sets_up(tmp_path: Path, number: signal.Signals) -> None:
    """A bottle of a fixture that has not got to its ``yield`` goes with the run."""
    run = Run(tmp_path, _IN_A_FIXTURE)
    family = run.family()

    os.killpg(run.pid, number)

    code, output = run.end()
    assert code in (2, -number), output
    run.nothing_left(family)


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.02])
def test_interrupted_twice(tmp_path: Path, pause: float) -> None:
    """A second Ctrl-C that hits the teardown of the first leaves nothing either."""
    run = Run(tmp_path, _IN_A_TEST.replace("{then}", "time.sleep(60)"))
    family = run.family()

    os.killpg(run.pid, signal.SIGINT)
    time.sleep(pause)
    os.killpg(run.pid, signal.SIGINT)

    code, output = run.end()
    assert code not in (0, 1), output
    run.nothing_left(family)


def test_a_stopped_owner_is_not_a_dead_one(tmp_path: Path) -> None:
    """While the run is stopped (Ctrl-Z) its bottle stays, and works when it goes on."""
    then = "wait_for('go'); assert bottle.agent.run('echo', 'here').out == 'here'"
    run = Run(tmp_path, _IN_A_TEST.replace("{then}", then))
    family = run.family()
    there = {process for process in family.processes if is_running(process)}

    os.killpg(run.pid, signal.SIGSTOP)
    time.sleep(0.3)
    still = {process for process in there if is_running(process)}
    (tmp_path / "go").touch()
    os.killpg(run.pid, signal.SIGCONT)

    code, output = run.end()
    assert still == there
    assert code == 0, output
    run.nothing_left(family)


# -- pytest-xdist ----------------------------------------------------------------------------------

_TWO_WORKERS = """
@pytest.mark.parametrize("number", [1, 2])
def test_it(bottle, number):
    tell(bottle, f"family{number}")
    Path(f"worker{number}").write_text(str(os.getpid()))
    if number == 1:
        wait_for("go")
        {then}
    wait_for("end")
"""


def _both_up(run: Run) -> tuple[Family, Family]:
    return run.family("family1"), run.family("family2")


@pytest.mark.parametrize("then", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_worker_dies(tmp_path: Path, then: str) -> None:
    """A dead worker's bottles are gone while the controller goes on; the other's work on."""
    suite = _TWO_WORKERS.replace("{then}", then)
    run = Run(tmp_path, suite, "-n", "2", "--max-worker-restart=1")
    dead, other = _both_up(run)
    worker = Family(frozenset({process(int((tmp_path / "worker1").read_text()))}), frozenset())

    (tmp_path / "go").touch()
    assert wait_until_gone(worker, 60) == []

    assert wait_until_gone(dead, allowed()) == []
    assert os.path.exists(f"/proc/{run.pid}")
    assert len(left_of(other)) >= 7
    (tmp_path / "end").touch()
    code, output = run.end()
    assert code == 1
    assert "crashed" in output
    assert "1 passed" in output
    run.nothing_left(dead, other)


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_the_controller_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    """Without their controller no worker's bottle is left, whatever becomes of the workers.

    execnet lets them run on for 5 seconds, then 10 more; their bottles do not wait for that.
    """
    run = Run(tmp_path, _TWO_WORKERS.replace("{then}", "pass"), "-n", "2")
    families = _both_up(run)

    os.kill(run.pid, number)

    code, output = run.end()
    assert code == -number, output
    assert [left for family in families for left in wait_until_gone(family, allowed())] == []
    for name in ("worker1", "worker2"):
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(int((tmp_path / name).read_text()), signal.SIGKILL)
    run.nothing_left()


def test_the_controller_is_interrupted(tmp_path: Path) -> None:
    """After Ctrl-C for the controller workers end in order, and nothing of them is left."""
    run = Run(tmp_path, _TWO_WORKERS.replace("{then}", "pass"), "-n", "2")
    families = _both_up(run)

    os.kill(run.pid, signal.SIGINT)
    for name in ("go", "end"):
        (tmp_path / name).touch()

    code, output = run.end()
    assert code == 2, output
    run.nothing_left(*families)


# -- any instant -----------------------------------------------------------------------------------


def test_killed_at_any_instant() -> None:
    """SIGKILL at 100 random instants of start, bring-up and teardown: nothing is left in 1 s.

    Three at once, for the sake of time. A seed that failed is in the message; the instants follow
    from it, what runs at them does not.
    """
    seed, limit = os.urandom(4).hex(), allowed()
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.churn", f"{seed}{number}", "34", str(limit)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    said = [program.communicate(timeout=280) for program in programs]

    ends = [json.loads(line) for out, _ in said for line in out.splitlines()]
    assert len(ends) == 102, (seed, said)
    assert all(end["killed"] for end in ends), (seed, ends)
    assert [end for end in ends if end["gone"] is None or end["left"]] == [], seed
    phases = Counter(end["phase"] for end in ends)
    assert min(phases[name] for name in ("start", "up", "down")) >= 10, (seed, phases)
    assert [err for _, err in said if err] == [], seed
