"""What can go wrong with ``container``: no service, odd answers, dead owners; nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.macos_container import gate, opening, removal
from pytest_bottle.backends.engines.macos_container.labels import Session
from pytest_bottle.cleanup.identity import Owner
from pytest_bottle.errors import BackendUnavailableError, ConfigurationError, TransportError
from pytest_bottle.spec import BottleSpec
from tests.containers import ask, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.engines.macos_container.engine import ContainerEngine
    from pytest_bottle.backends.running import Said
    from pytest_bottle.emulator import Emulator

#: Brings bottles up and takes them down until somebody ends it.
CHURN = """
import sys
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.macos_container import opening
from pytest_bottle.spec import BottleSpec
backend = EngineBackend(opening.emulated())
print(backend.session, flush=True)
while True:
    backend.down(backend.up(BottleSpec(publish=None)))
"""
FAULTS = "BOTTLE_EMULATOR_FAULTS"


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("old-version", "too old"),
        ("apiserver-down", "is not running"),
    ],
)
def test_an_installation_that_cannot_be_used_is_one_clear_error(
    on_it: Emulator, monkeypatch: pytest.MonkeyPatch, fault: str, what: str
) -> None:
    """An old version and a service that is down are errors that say what to do, never skips."""
    monkeypatch.setenv(FAULTS, fault)
    with pytest.raises(BackendUnavailableError, match=what) as caught:
        opening.emulated()
    assert caught.value.next_step
    monkeypatch.delenv(FAULTS)
    assert names(on_it) == set()


def test_a_service_that_hangs_costs_a_deadline(
    on_it: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that never ends is cut, and the error says so (#2275)."""
    monkeypatch.setenv(FAULTS, "apiserver-hang")
    monkeypatch.setattr(gate, "_DEADLINE", 0.5)
    with pytest.raises((BackendUnavailableError, TransportError), match=r"deadline of 0\.5 s"):
        opening.emulated()


def test_an_answer_that_breaks_off_is_quoted_and_what_was_made_is_removed(
    on_it: Emulator, engine: ContainerEngine
) -> None:
    """JSON that ends in the middle ends the bring-up; the bottle's parts go all the same."""
    backend = EngineBackend(engine)
    engine.program.variables[FAULTS] = "truncated-json"
    with pytest.raises(TransportError, match="cannot be understood") as caught:
        backend.up(BottleSpec(publish=None))
    assert "inspect" in caught.value.where
    assert "exit status 0" in caught.value.seen
    Path(caught.value.seen.rpartition("all of it: ")[2]).unlink()
    del engine.program.variables[FAULTS]
    assert names(on_it) == set()


@pytest.mark.parametrize(
    ("command", "stdout", "status", "stderr"),
    [
        ("inspect", b"[]", 0, b""),
        ("inspect", b'[{"id": "\xff"}]', 0, b""),
        ("inspect", b"", 1, b""),
        ("network inspect", b"null", 0, b""),
        ("network inspect", b"[]", 0, b""),
        ("run", b"", 1, b""),
        ("network create", b"", 1, b"\xff\xfe"),
    ],
)
def test_an_odd_answer_at_any_step_leaves_nothing(
    on_it: Emulator,
    engine: ContainerEngine,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    stdout: bytes,
    status: int,
    stderr: bytes,
) -> None:
    """An empty list, bytes that are no text, an exit status without a word: error, and all goes.

    The call is really made, so what it does has been done; only its answer is another.
    """
    real = engine.program.run

    def run(*argv: str, stdin: bytes = b"", deadline: float = 60.0) -> Said:
        said = real(*argv, stdin=stdin, deadline=deadline)
        if " ".join(argv).startswith(command):
            return said._replace(stdout=stdout, status=status, stderr=stderr)
        return said

    monkeypatch.setattr(engine.program, "run", run)
    with pytest.raises(TransportError) as caught:
        EngineBackend(engine).up(BottleSpec(publish=None))
    assert f"exit status {status}" in caught.value.seen
    assert f" {command} " in caught.value.where
    monkeypatch.undo()
    Path(caught.value.seen.rpartition("all of it: ")[2]).unlink()
    assert names(on_it) == set()


@pytest.fixture
def owned(on_it: Emulator) -> Iterator[list[str]]:
    """Make a network for each kind of owner; their names, by who that is."""
    us = Owner.of_us()
    owners = {
        "dead": us._replace(start="1"),
        "alive": us,
        "elsewhere": us._replace(machine="0" * 12, start="1"),
    }
    for name, owner in owners.items():
        labels = ["--label", "bottle.session=01234567", "--label", f"bottle.owner={owner}"]
        ask(on_it, "network", "create", *labels, name)
    ask(on_it, "network", "create", "bottle-01234567-unlabelled")
    ask(on_it, "network", "create", "--label", "bottle.session=01234567", "half-labelled")
    yield [*owners, "bottle-01234567-unlabelled", "half-labelled"]
    for name in names(on_it):
        ask(on_it, "network", "delete", name)


def test_only_what_the_dead_of_this_machine_left_is_swept(
    on_it: Emulator, owned: list[str]
) -> None:
    """A live owner's, another machine's and what has no whole label stay, whatever its name."""
    opening.emulated().close()
    assert names(on_it) == set(owned) - {"dead"}


def test_a_session_that_may_be_alive_is_not_swept_by_its_identity(
    on_it: Emulator, engine: ContainerEngine, owned: list[str]
) -> None:
    """Asked for by identity, a live session and another machine's are refused; a dead one goes."""
    us = Owner.of_us()
    for owner in (us, us._replace(machine="0" * 12, start="1")):
        with pytest.raises(ConfigurationError, match="alive"):
            engine.sweep(str(Session("01234567", owner)))
    engine.sweep(str(Session("01234567", us._replace(start="1"))))
    assert names(on_it) == set(owned) - {"dead"}
    with pytest.raises(ConfigurationError, match="does not identify"):
        engine.sweep("netns:1:2:3:4:5")


@pytest.mark.parametrize("number", range(5))
def test_killed_at_any_instant_a_run_leaves_nothing(on_it: Emulator, number: int) -> None:
    """SIGKILL of the owner while it makes or removes a bottle: the watchdog undoes its ledger."""
    pause = random.Random(number).uniform(0.0, 1.2)
    argv = [sys.executable, "-c", CHURN]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        session = owner.stdout.readline().strip()
        time.sleep(pause)
        os.kill(owner.pid, signal.SIGKILL)
    mark = Session.parse(session).mark
    ledger = Path(removal.kept_file(Session.parse(session))).with_name(f"{mark}.ledger")
    end = time.monotonic() + 120
    while (ledger.exists() or names(on_it)) and time.monotonic() < end:
        time.sleep(0.05)
    assert names(on_it) == set()
    assert not ledger.exists()


def test_a_killed_owner_of_an_emulator_leaves_no_ledger(
    netns_works: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator goes with its owner, and what was on it; the watchdog has nothing to undo."""
    monkeypatch.delenv(opening.RUNNING, raising=False)
    monkeypatch.delenv("CONTAINER_APP_ROOT", raising=False)
    with subprocess.Popen(
        [sys.executable, "-c", CHURN], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        session = Session.parse(owner.stdout.readline().strip())
        time.sleep(0.5)
        os.kill(owner.pid, signal.SIGKILL)
    ledger = Path(removal.kept_file(session)).with_name(f"{session.mark}.ledger")
    end = time.monotonic() + 120
    while ledger.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not ledger.exists()
