"""Whoever dies, nothing is left: no process, no namespace, no link, no file, within a second."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.family import Family, family_of, is_running, left_of, named, wait_until_gone
from tests.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("netns_works")

#: A user's test file: the bottle is up, then it goes on as ``{then}``.
_SUITE = """
def test_it(bottle):
    tell(bottle)
    {then}

@pytest.fixture
def broken(bottle):
    tell(bottle)
    raise RuntimeError("before its yield")
    yield

def test_broken(broken):
    pass
"""


def start(folder: Path, then: str, *arguments: str, limit: float = 10.0) -> Run:
    """Run pytest on the suite above."""
    return Run(folder, _SUITE.replace("{then}", then), *arguments, limit=limit)


@pytest.mark.parametrize(
    ("then", "only", "status"),
    [
        ("pass", "test_it", 0),
        ("assert False", "test_it", 1),
        ("pass", "test_broken", 1),
        ("pytest.exit('enough', 3)", "test_it", 3),
    ],
    ids=["normal end", "failing test", "fixture fails before its yield", "pytest.exit"],
)
def test_polite_ends(tmp_path: Path, then: str, only: str, status: int) -> None:
    """A run that ends by itself, well or badly, leaves nothing."""
    run = start(tmp_path, then, "-k", only)
    family = run.family()

    code, output = run.end()

    assert code == status, output
    run.nothing_left(family)


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL],
    ids=lambda number: number.name,
)
def test_killed(tmp_path: Path, number: signal.Signals) -> None:
    """A run that a signal ends leaves nothing, whether Python gets a word in or not."""
    run = start(tmp_path, "time.sleep(60)", "-k", "test_it")
    family = run.family()
    assert left_of(family)

    os.killpg(run.pid, number)  # as a terminal or a CI runner does: the whole group

    code, output = run.end()
    assert code in (2, -number), output
    run.nothing_left(family)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("bottle-keeper", signal.SIGKILL),
        ("bottle-keeper", signal.SIGSEGV),
        # The first process of a PID namespace heeds no other signal that comes from outside.
        ("bottle-server", signal.SIGKILL),
    ],
)
def test_a_part_of_ours_dies(tmp_path: Path, name: str, number: signal.Signals) -> None:
    """If the keeper or the server dies, the rest goes with it and the test hears why.

    Nothing of ours writes to the terminal, and no crash of ours leaves a file.
    """
    then = "bottle.agent.run('sleep', '60', timeout=50)"
    run = start(tmp_path, then, "-k", "test_it")
    family = run.family()
    running = [process for process in family.processes if is_running(process)]
    victim = named(name, running)[0]
    limits = {p.pid: _core_limit(p.pid) for p in running}
    assert limits[victim] == "0"
    assert set(limits.values()) - {None} == {"0"}

    os.kill(victim, number)

    code, output = run.end()
    assert code == 1
    assert "TransportError" in output
    assert "Traceback (most recent call last)" not in output
    assert not list(tmp_path.glob("core*"))
    run.nothing_left(family)


def test_killed_while_coming_up(tmp_path: Path) -> None:
    """SIGKILL at eight moments of the way up leaves nothing, whatever was half made."""
    for step in range(8):
        folder = tmp_path / str(step)
        folder.mkdir()
        run = start(folder, "pass", "-k", "test_it")
        _wait_for_family(run.pid, step)

        os.killpg(run.pid, signal.SIGKILL)

        run.end()
        run.nothing_left()


def _wait_for_family(pid: int, size: int) -> None:
    """Wait until a process has more than ``size`` descendants, or has ended."""
    end = time.monotonic() + 60
    while len(family_of(pid).processes) <= size and time.monotonic() < end:
        if not os.path.exists(f"/proc/{pid}"):
            break


def _core_limit(pid: int) -> str | None:
    """Read a process's limit of core files; None if it has ended meanwhile."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next((line.split()[4] for line in lines if line.startswith("Max core file size")), None)


def test_always_keep(tmp_path: Path) -> None:
    """A kept bottle outlives pytest; one printed line enters it, another removes it."""
    run = start(tmp_path, "pass", "-k", "test_it", "--bottle-keep=always", limit=30)
    family = run.family()
    code, output = run.end()
    assert code == 0, output
    lines = [line.removeprefix("bottle: ") for line in output.splitlines() if "bottle: " in line]
    enter = next(line for line in lines if "agent" in line and "nsenter" in line)
    remove = next(line for line in lines if "kill" in line)
    try:
        assert left_of(family)
        command = enter.partition(": ")[2].split()
        inside = subprocess.run(
            [*command, "-c", "hostname"], capture_output=True, text=True, check=False, timeout=60
        )
        assert inside.stdout.strip().endswith("-agent"), inside.stderr
    finally:
        os.kill(int(remove.split()[-1]), signal.SIGTERM)
    assert wait_until_gone(family) == []
    run.abandon()


def test_keep_on_failure(tmp_path: Path) -> None:
    """With --bottle-keep=on-failure a failing test's bottle stays, a passing one's goes."""
    ends: dict[str, Callable[[Family], list[str]]] = {
        "pass": wait_until_gone,
        "assert 0": left_of,
    }
    for number, (then, look) in enumerate(ends.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = start(folder, then, "-k", "test_it", "--bottle-keep=on-failure", limit=30)
        family = run.family()
        _, output = run.end()
        kept = look(family)
        for line in output.splitlines():
            if "kill" in line and line.startswith("bottle: "):
                os.kill(int(line.split()[-1]), signal.SIGTERM)
        assert bool(kept) == (then != "pass"), output
        assert wait_until_gone(family) == []
        run.abandon()
