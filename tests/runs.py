"""A pytest process of a user's, with a bottle up: to be ended in every way there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from tests import reaper
from tests.family import Family, Process, allowed, links, mounts, wait_until_gone

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT = str(Path(__file__).parents[1])
#: The agent starts a daemon that ignores every polite signal; who then waits knows the family.
SUITE = """
import ctypes, faulthandler, json, os, signal, time
from pathlib import Path
import pytest
from tests.family import family_of

DAEMON = "trap '' TERM HUP INT; (setsid sh -c \\"trap '' TERM HUP INT; sleep 1000\\" &) ; echo up"

def tell(bottle, name="family"):
    assert bottle.agent.run("sh", "-c", DAEMON).out == "up"
    processes, namespaces = family_of(os.getpid())
    Path(f"{name}.part").write_text(json.dumps([sorted(processes), sorted(namespaces)]))
    os.rename(f"{name}.part", f"{name}.json")

def wait_for(name):
    end = time.monotonic() + 100
    while not os.path.exists(name):
        assert time.monotonic() < end, name
        time.sleep(0.01)
"""


class End(NamedTuple):
    """How a run ended: its status, and its output."""

    status: int
    output: str


class Run:
    """A pytest process of our own, below a reaper of its own.

    Args:
        folder: where its test file goes, and where it runs.
        suite: what comes behind :data:`SUITE` in the test file.
        arguments: pytest's.
        environment: on top of ours.
        limit: seconds after the run's end when the reaper stops waiting for the rest.
    """

    def __init__(
        self,
        folder: Path,
        suite: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        limit: float = 10.0,
    ) -> None:
        self.folder = folder
        (folder / "test_user.py").write_text(SUITE + suite)
        (folder / "pytest.ini").write_text("[pytest]\n")
        self.links, self.mounts = links(), mounts()
        self.files = folder / "files"
        self.files.mkdir()
        variables = {**os.environ, "PYTHONPATH": _ROOT, "TMPDIR": str(self.files)}
        variables.update(environment or {})
        for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTHONFAULTHANDLER"):
            variables.pop(name, None)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        read, write = os.pipe()
        self._report: IO[str] = open(read)  # noqa: SIM115 - closed by its end
        program = [sys.executable, "-S", reaper.__file__, str(write), str(limit), *command]
        with open(folder / "output", "wb") as output:
            self._reaper = subprocess.Popen(
                program,
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[write],
            )
        os.close(write)
        self.pid = int(str(self._hear()["pid"]))

    def _hear(self) -> dict[str, object]:
        line = self._report.readline()
        assert line, f"the reaper is gone: {self.output()}"
        return dict(json.loads(line))

    def output(self) -> str:
        """What it has written so far, to both of its streams."""
        return (self.folder / "output").read_text(errors="replace")

    def wait_for(self, name: str) -> Path:
        """Wait until the run has made a file."""
        path = self.folder / name
        end = time.monotonic() + 120
        while not path.exists():
            assert os.path.exists(f"/proc/{self.pid}"), self.output()
            assert time.monotonic() < end, f"no {name} in time: {self.output()}"
            time.sleep(0.005)
        return path

    def family(self, name: str = "family") -> Family:
        """Wait until the bottle is up, and learn what belongs to it."""
        processes, namespaces = json.loads(self.wait_for(f"{name}.json").read_text())
        return Family(frozenset(Process(*p) for p in processes), frozenset(namespaces))

    def end(self) -> End:
        """Wait for the process's end."""
        return End(int(str(self._hear()["status"])), self.output())

    def nothing_left(self, *families: Family) -> None:
        """Require that processes, namespaces, links, mounts and files are as before."""
        rest = self._hear()
        self._reaper.wait(60)
        self._report.close()
        assert rest["left"] == [], rest
        assert float(str(rest["gone"])) <= allowed(), rest
        for family in families:
            assert len(family.processes) >= 7  # keeper, minter, server, witness, origins, guests
            # The server's own, the sidecar's and the agent's; those of parts that let nobody look
            # into them, such as the lab's, only root can see.
            assert len(family.namespaces) >= 3
            left = wait_until_gone(family, allowed())
            assert left == [], left
        assert links() == self.links, (links(), self.links)
        assert mounts() == self.mounts, (mounts(), self.mounts)
        # pytest's own folder is named after the user, whose name may be anything.
        names = [path.name for path in self.files.iterdir()]
        assert not [n for n in names if "bottle" in n and not n.startswith("pytest-of-")]

    def abandon(self) -> None:
        """Let the reaper end what is left, whatever it is."""
        self._reaper.wait(60)
        self._report.close()
