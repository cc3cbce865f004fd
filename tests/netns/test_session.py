"""A session is told from outside by exact identity; a dead one can be swept, a live one never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.engines.netns.session import MARK, Process, Session
from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.conformance.mutants.base import NetnsBackend

pytestmark = pytest.mark.usefixtures("netns_works")

#: Another process's session, which outlives its owner: one line of identity, then nothing more.
_KEPT = """
from pytest_bottle.conformance.mutants.base import NetnsBackend
backend = NetnsBackend()
backend.inventory()  # waits until every part is there
backend.netns.client.keep()
print(backend.session, flush=True)
input()
"""


@contextmanager
def kept_session(netns: NetnsBackend) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A session of another process, and in the end nothing of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _KEPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdin
    try:
        session = process.stdout.readline().strip()
        yield process, session
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        netns.sweep(session)


def test_a_live_session_is_seen_and_never_swept(netns: NetnsBackend) -> None:
    """Its processes and namespaces are listed from outside; sweeping it is an error."""
    assert netns.inventory()  # waits until every part is there
    before = netns.residue(netns.session)

    with pytest.raises(ConfigurationError, match="alive is not swept"):
        netns.sweep(netns.session)

    names = {r.name.partition(" ")[2] for r in before if r.kind == "process"}
    assert {"bottle-keeper", "bottle-server", "bottle-witness"} <= names
    assert any(r.kind == "namespace" for r in before)
    assert netns.residue(netns.session) == before


def test_a_dead_session_is_swept_and_no_other(netns: NetnsBackend) -> None:
    """What outlived its owner goes, and goes once; the session beside it stays whole."""
    with kept_session(netns) as (process, session):
        process.kill()
        process.wait()
        time.sleep(0.05)
        left = netns.residue(session)
        mine = netns.residue(netns.session)

        netns.sweep(session)
        netns.sweep(session)

        assert len([r for r in left if r.kind == "process"]) >= 4
        assert netns.residue(session) == frozenset()
        assert netns.residue(netns.session) == mine


def test_a_stranger_with_the_keepers_number_is_not_touched(netns: NetnsBackend) -> None:
    """A later process that got a number of the session's is told apart by its start."""
    stranger = subprocess.Popen(["sleep", "300"])
    try:
        old = Process(stranger.pid, 1)
        session = str(Session("0123456789ab", old, old))

        assert netns.residue(session) == frozenset()
        netns.sweep(session)

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_who_carries_the_mark_belongs_without_its_keeper(netns: NetnsBackend) -> None:
    """A process whose keeper is gone is found by its environment, with what descends from it."""
    mark = os.urandom(6).hex()
    orphan = subprocess.Popen(["sh", "-c", "sleep 300; true"], env={**os.environ, MARK: mark})
    gone = Process(orphan.pid, 1)
    session = str(Session(mark, gone, gone))
    try:
        end = time.monotonic() + 30
        while len(netns.residue(session)) < 2 and time.monotonic() < end:
            time.sleep(0.005)
        names = sorted(r.name.partition(" ")[2] for r in netns.residue(session))
        netns.sweep(session)
        left = netns.residue(session)
    finally:
        orphan.kill()

    assert names == ["sh", "sleep"]
    assert left == frozenset()
    assert orphan.wait() == -signal.SIGKILL


@pytest.mark.parametrize("text", ["", "netns", "netns:xyz:1:2:3:4", "netns:ab:1:2:3", "docker:1"])
def test_what_is_no_session_is_refused(netns: NetnsBackend, text: str) -> None:
    """A string that no netns session gave is an error, and nothing is looked for or killed."""
    for ask in (netns.residue, netns.sweep):
        with pytest.raises(ConfigurationError, match="does not identify a session"):
            ask(text)
