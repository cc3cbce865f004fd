"""Each system call, message and kernel request of a bring-up fails in turn, or its process dies.

Each time there is a clear error within its deadline, and nothing is left: the session works on, or
it is lost, says so, and takes everything with it. :mod:`tests.faults` does it; these are the words
by which it is judged. What may fail without consequence is listed, with the reason: a fault that
nobody notices could else be a guest that lacks a part of its confinement.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle.backends.engines.netns.client import Client
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.errors import BackendUnavailableError
from tests.family import Family, exists, family_of, wait_until_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.bottle import Bottle
    from tests.family import Process

pytestmark = pytest.mark.usefixtures("netns_works")

_ROOT = Path(__file__).parents[2]
#: What may fail although a bottle comes up: a pattern, and why that is right.
_HARMLESS = {
    ("start", "server"): {
        r"open\('/etc/": "a file that the user may not read is one that guests do not get",
        # The latter where the interpreter lies below one of them.
        r"mkdir\('/tmp/(etc|root|home|var|run|tmp)'?": "it exists already",
    },
    ("start", "helper"): {r"DefaultSelector|epoll": "it is the minter by then, for TLS alone"},
    ("start", "nursery"): {
        "recvmsg": "it awaits the next order, which then fails",
        r"setns\(": "it goes home at the second attempt, and the part may be there by then",
    },
    ("start", "witness"): {
        r"setsockopt\(1\)": "root of another namespace may not ask for such a buffer",
        r"setsockopt\(263\)": "before Linux 4.20; the recorder leaves outgoing packets out as well",
    },
    ("up", "nursery"): {
        "recvmsg": "it awaits the next order, which then fails",
        r"setns\(": "it goes home at the second attempt, and the part may be there by then",
    },
}
_FORKED = "it has forked the part by then; the next order fails"
_HARMLESS_DEATHS = {
    ("start", "nursery"): {r"recvmsg|setns\(": _FORKED},
    ("up", "nursery"): {r"recvmsg|setns\(": _FORKED},
}
#: Phase, role, how many calls there are at least, and how many programs share them.
_PARTS = [
    ("start", "owner", 10, 1),
    ("start", "keeper", 15, 1),
    ("start", "helper", 5, 1),
    ("start", "server", 200, 2),
    ("start", "settler", 6, 1),
    ("start", "nursery", 15, 1),
    ("start", "nurseling", 30, 1),
    ("start", "witness", 15, 1),
    ("up", "owner", 20, 1),
    ("up", "server", 120, 2),
    ("up", "nursery", 4, 1),
    ("up", "nurseling", 20, 1),
    ("up", "guest", 120, 2),
    ("down", "undertaker", 10, 1),
]


def _inject(
    phase: str, role: str, firsts: range, step: int, *, kill: bool
) -> Iterator[dict[str, Any]]:
    """Let calls of a role's fail: one program for each of ``firsts``, all at once."""
    words = [phase, role, str(int(kill))]
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults", *words, str(first), str(step)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for first in firsts
    ]
    for program in programs:
        out, err = program.communicate(timeout=280)
        assert program.returncode == 0, err.decode()
        assert not err, err.decode()
        yield from map(json.loads, out.splitlines())


def _problems(faults: list[dict[str, Any]], harmless: dict[str, str]) -> list[str]:
    """What is wrong, in one line for each fault."""
    found = []
    for fault in faults:
        problems = list(fault["problems"])
        unnoticed = re.search("(the|; a) bottle is up", fault["outcome"])
        if unnoticed and not any(re.search(pattern, fault["call"]) for pattern in harmless):
            problems.append("nobody noticed")
        if problems:
            found.append(f"{fault['call']} {fault['errno']}: {problems} {fault['said']}")
    return found


@pytest.mark.parametrize(("phase", "role", "least", "programs"), _PARTS)
def test_each_call_fails(phase: str, role: str, least: int, programs: int) -> None:
    """Whichever call fails, the error is clear and in time, and nothing is left or forgotten."""
    firsts = range(1, programs + 1)
    faults = list(_inject(phase, role, firsts, programs, kill=False))

    assert len(faults) >= least  # or the faults are injected beside the engine
    assert _problems(faults, _HARMLESS.get((phase, role), {})) == []


@pytest.mark.parametrize(
    ("phase", "role", "least"),
    [part[:3] for part in _PARTS if part[1] not in ("owner", "keeper", "helper")],
)
def test_its_process_dies_at_each_call(phase: str, role: str, least: int) -> None:
    """Whenever a process dies, without a word, the others tell and nothing is left.

    The server and a guest's first process, which make some hundred calls, die at every fifth: the
    death of everything at any instant is the matter of ``test_kill_matrix.py``.
    """
    step = 5 if least > 100 else 1
    faults = list(_inject(phase, role, range(1, 2), step, kill=True))

    assert len(faults) >= least // step
    assert _problems(faults, _HARMLESS_DEATHS.get((phase, role), {})) == []


# -- pytest's own side -----------------------------------------------------------------------------


def _only(processes: frozenset[Process], pids: list[int]) -> frozenset[Process]:
    return frozenset(process for process in processes if process.pid in pids)


def _open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_the_keeper_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started the error says so, and no file of ours stays open."""

    def refuse(*_arguments: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "_fork_exec", refuse)
    before = _open_files()

    with pytest.raises(BackendUnavailableError, match="could not be started") as caught:
        Client()

    assert caught.value.seen == "Resource temporarily unavailable"
    assert _open_files() == before


def test_ended_keepers_are_reaped(netns_works: None) -> None:
    """Sessions that follow one another leave no zombie of a keeper behind."""
    engines = [NetnsEngine() for _ in range(3)]
    keepers = family_of(os.getpid())
    pids = [engine.client.keeper_pid for engine in engines]
    for engine in engines:
        engine.close()
    ended = _only(keepers.processes, pids)
    assert len(ended) == 3
    assert wait_until_gone(Family(ended, frozenset()), 30.0) == []

    NetnsEngine().close()

    assert [process for process in ended if exists(process)] == []


def test_a_closed_pipe_ends_no_part(shared_bottle: Bottle) -> None:
    """Nursery, sidecar and origins ignore SIGPIPE: a peer that is gone is an error, not the end."""
    ignored = {}
    for pid, _ in family_of(os.getpid()).processes:
        with suppress(OSError):  # it has ended
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            status = dict(line.split(":", 1) for line in lines)
            ignored[status["Name"].strip()] = int(status["SigIgn"], 16)

    for name in ("bottle-nursery", "bottle-sidecar", "bottle-origin"):
        assert ignored[name] & 1 << signal.SIGPIPE - 1, name
