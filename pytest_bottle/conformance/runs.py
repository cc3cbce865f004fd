"""Runs of pytest itself, on the backend under test: what one leaves can be seen only from outside.

A run is a process in a process group of its own, on a generated test file in a folder of its own.
Its tests tell what happens on a named pipe, one JSON line an event; before its first bottle comes
up, the run waits until it is told to go on, so that its session has been seen alive by then.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from xml.etree import ElementTree as ET

from pytest_bottle.backends import kinds
from pytest_bottle.errors import Inconclusive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_bottle.backends.contract import Backend, Resource

    Event = dict[str, Any]

#: Seconds within which nothing of a session may be left, from the end of its last process on.
BOUND = 1.0
#: Seconds that a run may take until it has opened its backend, and for each event after that.
_PATIENCE = 60.0
#: Seconds that a run may live after a signal; a cancelled CI job is given as many.
_TO_LIVE = 10.0
#: Variables by which the suite's own run would reach into another.
_NOT_THEIRS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
_PREFIXES = ("BOTTLE_", "PYTEST_XDIST_", "COV_CORE_")
#: But not those that say how calls get to the engine, and who writes them down.
_ALL_THE_SAME = ("BOTTLE_SSH", "BOTTLE_RECORD_ARGV")
#: What every generated test file begins with.
_PRELUDE = '''
import json, os, signal, time
import pytest
from pytest_bottle.errors import BottleError

HERE = os.path.dirname(__file__)
# Whoever started the suite may have had these ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

class Original(Exception):
    """What must be reported in the end."""

def tell(event, **more):
    """Tell the suite; it is an error if nobody listens any more."""
    pipe = os.open(HERE + "/events", os.O_WRONLY | os.O_NONBLOCK)
    os.write(pipe, json.dumps({"event": event, **more}).encode() + b"\\n")
    os.close(pipe)

def opened(backend):
    """Tell the session, and wait until it has been looked at."""
    tell("opened", session=backend.session)
    end = time.monotonic() + 30
    while not os.path.exists(HERE + "/go"):
        assert time.monotonic() < end, "nobody said to go on"
        time.sleep(0.001)
'''
#: A test with a bottle that waits in its body, or does not.
_WAITING = """
@pytest.fixture(autouse=True)
def watch(bottle_backend):
    opened(bottle_backend)

def test_it(bottle):
    tell("body")
    if {wait}:
        time.sleep(60)
    tell("teardown")
"""
#: Lets pytest have the plugins that offered the backend, wherever they lie.
_CONFTEST = """
import importlib.util, os, sys

pytest_plugins = []
for number, path in enumerate({paths!r}):
    name = f"bottle_offering_{{number}}"
    sys.path.insert(0, os.path.dirname(path))
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    pytest_plugins.append(name)
"""


class Reopening(NamedTuple):
    """How another run of pytest comes to the same backend.

    Attributes:
        arguments: its options.
        plugins: the files that offer the backend: conftest files, or modules given by ``-p``. What
            is installed needs none.
        far_side: whether it has one of its own; if not, the only one there is belongs to this run.
    """

    arguments: tuple[str, ...]
    plugins: tuple[str, ...] = ()
    far_side: bool = True

    @classmethod
    def of(
        cls, backend: str, *arguments: str, internet: str = "", plugins: Iterable[str] = ()
    ) -> Reopening:
        """Choose the far side of such a run: that of an engine without a lab is there once.

        Args:
            backend: its name.
            arguments: those that do not depend on the far side.
            internet: the kind of far side that this run was told to have.
            plugins: as above.
        """
        lone = backend in kinds.WITHOUT_LAB
        kind = kinds.NONE if lone else internet
        told = [f"--bottle-internet={kind}"] if kind else []
        return cls((*arguments, *told), tuple(plugins), far_side=not lone)


def waiting(*, wait: bool) -> str:
    """A test file whose one test tells ``body``, waits for a minute or does not, and ends."""
    return _WAITING.replace("{wait}", str(wait))


class Run:
    """A run of pytest, which is over, and leaves no process and no file, when it is closed.

    Args:
        reopening: how it comes to the backend.
        source: its test file; it has ``tell``, ``opened`` and ``Original``.
        arguments: further ones.
    """

    def __init__(self, reopening: Reopening, source: str, *arguments: str) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bottle-run-"))
        self.events: list[Event] = []
        self._pending = b""
        try:
            self._write("pytest.ini", "[pytest]\n")
            self._write("conftest.py", _CONFTEST.format(paths=list(reopening.plugins)))
            self._write("test_run.py", _PRELUDE + source)
            self._pipe = self._open_pipe()
            self._process = self._start([*reopening.arguments, *arguments])
        except BaseException:
            self._stack.close()
            raise

    def _write(self, name: str, text: str) -> None:
        with open(f"{self.folder}/{name}", "w") as file:
            file.write(text)

    def _open_pipe(self) -> int:
        path = f"{self.folder}/events"
        os.mkfifo(path)
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._stack.callback(os.close, pipe)
        # While nobody writes there would be an end of file for ever.
        self._stack.callback(os.close, os.open(path, os.O_WRONLY))
        return pipe

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in _ALL_THE_SAME or (name not in _NOT_THEIRS and not name.startswith(_PREFIXES))
        }
        with open(f"{self.folder}/output", "wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q"),
                    *("--junitxml=report.xml", *arguments, "test_run.py"),
                ],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._stack.callback(self._kill, process)
        return process

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.returncode is None:  # not reaped: the group is still ours
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- what it tells ---------------------------------------------------------------------------

    def wait_for(self, name: str, seconds: float = _PATIENCE) -> Event:
        """Wait for an event.

        Raises:
            Inconclusive: the run ended without it, or the time is over.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            over = self._process.poll() is not None
            self._listen(0.0 if over else 0.05)
            found = [event for event in self.events if event["event"] == name]
            if found:
                return found[0]
            if over:
                break
        raise Inconclusive(
            "a run of pytest did not get as far as it was meant to",
            where=f"exit status {self._process.poll()}",
            expected=f"the event {name!r}",
            seen=f"{self.events}; its output: {self.output()[-1500:]}",
        )

    def _listen(self, seconds: float) -> None:
        while select.select([self._pipe], [], [], seconds)[0]:
            self._pending += os.read(self._pipe, 1 << 16)
            *lines, self._pending = self._pending.split(b"\n")
            self.events += map(json.loads, lines)
            seconds = 0.0

    def heard_from_orphan(self, name: str, seconds: float) -> Event | None:
        """Wait for an event of a child of the run that outlives it; None if none comes in time."""
        end = time.monotonic() + seconds
        while not (found := self.told(name)) and time.monotonic() < end:
            self._listen(0.05)
        return found[0] if found else None

    def told(self, name: str) -> list[Event]:
        """Every event of a name so far."""
        self._listen(0.0)
        return [event for event in self.events if event["event"] == name]

    def output(self) -> str:
        """What it printed so far."""
        with open(f"{self.folder}/output", errors="replace") as file:
            return file.read()

    def reported(self) -> dict[str, str]:
        """What its JUnit report says of each test: failures, and errors of set-up and end."""
        said: dict[str, str] = defaultdict(str)
        with contextlib.suppress(FileNotFoundError):
            # Our own pytest wrote it; an error behind a failure is a case of its own there.
            for case in ET.parse(f"{self.folder}/report.xml").iter("testcase"):  # noqa: S314
                said[str(case.get("name"))] += "\n".join(case.itertext())
        return said

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    # -- what is done to it ------------------------------------------------------------------------

    def go(self) -> None:
        """Let it bring its first bottle up."""
        self._write("go", "")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, as a terminal or a CI runner does."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def kill_alone(self) -> None:
        """Kill the run's first process, and nobody else in its group."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def end(self, seconds: float = _PATIENCE) -> bool:
        """Wait for its end, and kill it if that does not come; whether it ended by itself."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._kill(self._process)
            return False
        return True

    def end_after_signal(self) -> bool:
        """Wait for its end for as long as a run may live after a signal."""
        return self.end(_TO_LIVE)


@contextlib.contextmanager
def watched(backend: Backend, run: Run) -> Iterator[str]:
    """Lend out the session of a run that waits to go on; in the end nothing of it is there.

    Raises:
        Inconclusive: it cannot be seen from outside, so its absence would be worth nothing.
    """
    session = str(run.wait_for("opened")["session"])
    try:
        if not backend.residue(session):
            raise Inconclusive(
                "a session that is alive cannot be seen from outside",
                where=session,
                expected="what there is of it",
                seen="nothing",
            )
        yield session
    finally:
        run.end(0)
        backend.sweep(session)


def names_of(resources: Iterable[Resource]) -> str:
    """List resources in words."""
    return ", ".join(f"{one.kind} {one.name}" for one in sorted(resources))


def left_of(backend: Backend, session: str) -> tuple[frozenset[Resource], float]:
    """Wait, for no longer than the bound, until nothing is left of a session.

    Returns:
        what is left all the same, and the seconds that it took.
    """
    started = looked = time.monotonic()
    while left := backend.residue(session):
        now = time.monotonic()
        if now > started + BOUND:
            break
        # A look that takes its time is work for the machine, which it is not to keep from cleaning.
        time.sleep(max(0.005, now - looked))
        looked = time.monotonic()
    return left, time.monotonic() - started
