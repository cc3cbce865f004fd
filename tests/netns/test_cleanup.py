"""Whoever dies, nothing is left: no process, no namespace, no link, no file, within a second."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.family import Family, Process, family_of, left_of, links, wait_until_gone

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("netns_works")

#: A user's test file: the agent starts a daemon that ignores every polite signal, then we wait.
_SUITE = """
import json, os, time
from pathlib import Path
import pytest
from tests.family import family_of

DAEMON = "trap '' TERM HUP INT; (setsid sh -c \\"trap '' TERM HUP INT; sleep 1000\\" &) ; echo up"

def tell(bottle):
    assert bottle.agent.run("sh", "-c", DAEMON).out == "up"
    processes, namespaces = family_of(os.getpid())
    Path("family.part").write_text(json.dumps([sorted(processes), sorted(namespaces)]))
    os.rename("family.part", "family.json")

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


class Run:
    """A pytest process of our own, on the suite above."""

    def __init__(self, folder: Path, then: str, *arguments: str) -> None:
        self.folder = folder
        (folder / "test_user.py").write_text(_SUITE.replace("{then}", then))
        (folder / "pytest.ini").write_text("[pytest]\n")
        self.links = links()
        self.files = set(os.listdir("/tmp"))
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root}
        for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def family(self) -> Family:
        """Wait until the bottle is up, and learn what belongs to it."""
        path = self.folder / "family.json"
        end = time.monotonic() + 30
        while not path.exists():
            assert self.process.poll() is None, self.process.communicate()[0].decode()
            assert time.monotonic() < end, "the bottle did not come up"
            time.sleep(0.01)
        processes, namespaces = json.loads(path.read_text())
        return Family(frozenset(Process(*p) for p in processes), frozenset(namespaces))

    def end(self) -> tuple[int, str]:
        """Wait for the process's end; returns its status and its output."""
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output.decode()


def check_nothing_left(run: Run, family: Family) -> None:
    """Require that processes, namespaces, links and files are as before."""
    assert len(family.processes) >= 7  # keeper, minter, server, witness, origins, two guests, …
    # The server's own, the sidecar's and the agent's; those of parts that let nobody look into
    # them, such as the lab's, only root can see.
    assert len(family.namespaces) >= 3
    assert wait_until_gone(family) == []
    assert links() == run.links
    made = set(os.listdir("/tmp")) - run.files
    assert not [name for name in made if "bottle" in name]


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
    run = Run(tmp_path, then, "-k", only)
    family = run.family()

    code, output = run.end()

    assert code == status, output
    check_nothing_left(run, family)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_killed(tmp_path: Path, number: signal.Signals) -> None:
    """A run that a signal ends leaves nothing, whether Python gets a word in or not."""
    run = Run(tmp_path, "time.sleep(60)", "-k", "test_it")
    family = run.family()
    assert left_of(family)

    os.killpg(run.process.pid, number)  # as a terminal or a CI runner does: the whole group

    code, output = run.end()
    assert code in (2, -number), output
    check_nothing_left(run, family)


@pytest.mark.parametrize("name", ["bottle-keeper", "bottle-server"])
def test_a_part_of_ours_is_killed(tmp_path: Path, name: str) -> None:
    """If the keeper or the server is killed, the rest goes with it and the test hears why."""
    then = "bottle.agent.run('sleep', '60', timeout=10)"
    run = Run(tmp_path, then, "-k", "test_it")
    family = run.family()
    victims = [p.pid for p in family.processes if _name(p.pid) == name]

    os.kill(min(victims), signal.SIGKILL)

    code, output = run.end()
    assert code == 1
    assert "TransportError" in output
    check_nothing_left(run, family)


def test_killed_while_coming_up(tmp_path: Path) -> None:
    """SIGKILL at eight moments of the way up leaves nothing, whatever was half made."""
    for step in range(8):
        folder = tmp_path / str(step)
        folder.mkdir()
        run = Run(folder, "pass", "-k", "test_it")
        family = _first_family(run.process.pid, step)

        os.killpg(run.process.pid, signal.SIGKILL)

        run.end()
        assert wait_until_gone(family) == []
        assert links() == run.links


def _first_family(pid: int, size: int) -> Family:
    """Wait until a process has more than ``size`` descendants, or has ended."""
    end = time.monotonic() + 20
    family = family_of(pid)
    while len(family.processes) <= size and time.monotonic() < end:
        if not os.path.exists(f"/proc/{pid}"):
            break
        family = family_of(pid)
    return family


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_always_keep(tmp_path: Path) -> None:
    """A kept bottle outlives pytest; one printed line enters it, another removes it."""
    run = Run(tmp_path, "pass", "-k", "test_it", "--bottle-keep=always")
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
            [*command, "-c", "hostname"], capture_output=True, text=True, check=False, timeout=10
        )
        assert inside.stdout.strip().endswith("-agent"), inside.stderr
    finally:
        os.kill(int(remove.split()[-1]), signal.SIGTERM)
    assert wait_until_gone(family) == []


def test_keep_on_failure(tmp_path: Path) -> None:
    """With --bottle-keep=on-failure a failing test's bottle stays, a passing one's goes."""
    ends: dict[str, Callable[[Family], list[str]]] = {
        "pass": wait_until_gone,
        "assert 0": left_of,
    }
    for number, (then, look) in enumerate(ends.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = Run(folder, then, "-k", "test_it", "--bottle-keep=on-failure")
        family = run.family()
        _, output = run.end()
        kept = look(family)
        for line in output.splitlines():
            if "kill" in line and line.startswith("bottle: "):
                os.kill(int(line.split()[-1]), signal.SIGTERM)
        assert bool(kept) == (then != "pass"), output
        assert wait_until_gone(family) == []
