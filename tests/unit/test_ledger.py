"""The ledger, its watchdog, and the identity of owners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.cleanup import identity, ledger
from pytest_bottle.cleanup.identity import Owner
from pytest_bottle.cleanup.ledger import Entry, Ledger
from pytest_bottle.cleanup.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

#: An undertaker that writes down what it was told.
UNDERTAKER = """
import json
def bury(head, entries):
    with open(head["report"], "w") as file:
        json.dump([head["session"], [list(entry) for entry in entries]], file)
"""
#: An owner that begins two things, ends one, and says so; a call of its may outlive it.
OWNER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
from pytest_bottle.cleanup.ledger import Ledger
from pytest_bottle.cleanup.watchdog import Watchdog
session, report, lives = sys.argv[1:]
book = Ledger(session, {"undertaker": "undertaker_for_a_test", "report": report})
dog = Watchdog(book.path)
for name in ("one", "two", "three"):
    book.make("thing", name)
book.gone("thing", "two")
call = f"import time; time.sleep({lives}); open({report + '.call'!r}, 'w').close()"
subprocess.Popen([sys.executable, "-c", call], pass_fds=[dog.calls], start_new_session=True)
print("made", flush=True)
time.sleep(60)
"""


@pytest.fixture
def name() -> Iterator[str]:
    """Give the name of a session that nobody has, and remove what its ledger left."""
    name = uuid.uuid4().hex[:8]
    yield name
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"pytest-bottle-{os.getuid()}"
    for path in folder.glob(f"{name}.*"):
        path.unlink()


def test_what_was_begun_and_is_not_gone_is_left_newest_first(name: str) -> None:
    """A ledger that is read back tells what may exist, in the order of undoing."""
    book = Ledger(name, {"undertaker": "none"})
    for kind, part in (("network", "a"), ("network", "b"), ("container", "c")):
        book.make(kind, part)
    book.gone("network", "a")
    book.close()
    head, left = ledger.read(book.path)
    assert head == {"undertaker": "none", "session": name}
    assert left == (Entry("container", "c"), Entry("network", "b")) == book.left


def test_half_a_line_is_the_word_of_the_dead_and_nothing_was_made(name: str) -> None:
    """A process killed while it wrote a line had not made that yet; all before counts."""
    book = Ledger(name, {})
    book.make("network", "a")
    book.close()
    with Path(book.path).open("a") as file:
        file.write('{"make": "container", "na')
    assert ledger.read(book.path)[1] == (Entry("network", "a"),)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_watchdog_undoes_what_a_killed_owner_left(
    name: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Whatever ends the owner, the undertaker is told what is left, and the ledger goes.

    A call that the owner had begun is waited for first: it might still make something.
    """
    (tmp_path / "undertaker_for_a_test.py").write_text(UNDERTAKER)
    report = tmp_path / "report"
    root = Path(ledger.__file__).parents[2]
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    argv = [sys.executable, "-c", OWNER, name, str(report), "0.3"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=variables) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"made\n"
        owner.send_signal(number)
    _wait(report.exists)
    _wait(lambda: report.read_text().endswith("]"))
    assert json.loads(report.read_text()) == [name, [["thing", "three"], ["thing", "one"]]]
    assert Path(f"{report}.call").exists()
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"pytest-bottle-{os.getuid()}"
    _wait(lambda: not list(folder.glob(f"{name}.*")))


def test_a_session_that_ended_well_leaves_neither_ledger_nor_watchdog(name: str) -> None:
    """After closing, the file is gone and the process has ended."""
    book = Ledger(name, {"undertaker": "there.is.none"})
    dog = Watchdog(book.path)
    book.make("network", "a")
    book.gone("network", "a")
    book.close()
    dog.close()
    assert not Path(book.path).exists()
    assert not Path(f"{book.path}.log").exists()


def _wait(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_an_owner_is_dead_when_its_number_belongs_to_nobody_or_to_somebody_else() -> None:
    """Number and start together tell; a process of another machine is never taken for dead."""
    us = Owner.of_us()
    assert Owner.parse(str(us)) == us
    assert us.is_ours
    assert not us.is_dead
    assert us._replace(start="1").is_dead
    assert not us._replace(machine="0" * 12, start="1").is_dead
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        theirs = Owner(identity.machine(), process.pid, identity.start_of(process.pid) or "1")
    assert theirs.is_dead


@pytest.mark.parametrize("text", ["", "x", "0123456789ab.12", "0123456789ab.12.x", "me.1.2"])
def test_what_identifies_nobody_is_none(text: str) -> None:
    """A label of somebody else's is no owner of ours."""
    assert Owner.parse(text) is None
