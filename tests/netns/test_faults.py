"""Each system call, message and kernel request of a bring-up fails in turn, or its process dies.

Each time there is a clear error within its deadline, and nothing is left: the session works on, or
it is lost, says so, and takes everything with it. :mod:`tests.faults` does it; these are the words
by which it is judged. What may fail without consequence is listed, with the reason: a fault that
nobody notices could else be a guest that lacks a part of its confinement.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("netns_works")

_ROOT = Path(__file__).parents[2]
#: What may fail although a bottle comes up: a pattern, and why that is right.
_HARMLESS = {
    ("start", "server"): {
        r"open\('/etc/": "a file that the user may not read is one that guests do not get",
        r"mkdir\('/tmp/etc": "it exists already",
    },
    ("start", "helper"): {r"DefaultSelector|epoll": "it is the minter by then, for TLS alone"},
    ("start", "nursery"): {"recvmsg": "it awaits the next order, which then fails"},
    ("start", "witness"): {
        r"setsockopt\(1\)": "root of another namespace may not ask for such a buffer",
        r"setsockopt\(263\)": "before Linux 4.20; the recorder leaves outgoing packets out as well",
    },
    ("up", "nursery"): {"recvmsg": "it awaits the next order, which then fails"},
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


def _inject(phase: str, role: str, step: int, *, kill: bool = False) -> Iterator[dict[str, Any]]:
    """Let every call of a role's fail, so many programs at once."""
    words = [phase, role, str(int(kill))]
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults", *words, str(first), str(step)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for first in range(1, step + 1)
    ]
    for program in programs:
        out, err = program.communicate(timeout=110)
        assert program.returncode == 0, err.decode()
        yield from map(json.loads, out.splitlines())


def _problems(phase: str, role: str, faults: list[dict[str, Any]]) -> list[str]:
    """What is wrong, in one line for each fault."""
    harmless = _HARMLESS.get((phase, role), {})
    found = []
    for fault in faults:
        problems = list(fault["problems"])
        unnoticed = fault["outcome"] == "the bottle is up" or "a bottle is up" in fault["outcome"]
        if unnoticed and not any(re.search(pattern, fault["call"]) for pattern in harmless):
            problems.append("nobody noticed")
        if problems:
            found.append(f"{fault['call']} {fault['errno']}: {problems} {fault['said']}")
    return found


@pytest.mark.parametrize(
    ("phase", "role", "least", "step"), _PARTS, ids=lambda part: str(part) if part else ""
)
def test_each_call_fails(phase: str, role: str, least: int, step: int) -> None:
    """Whichever call fails, the error is clear and in time, and nothing is left or forgotten."""
    faults = list(_inject(phase, role, step))

    assert len(faults) >= least  # or the faults are injected beside the engine
    assert _problems(phase, role, faults) == []


@pytest.mark.parametrize(
    ("phase", "role", "least", "step"),
    [part for part in _PARTS if part[1] not in ("owner", "keeper", "helper")],
    ids=lambda part: str(part) if part else "",
)
def test_its_process_dies_at_each_call(phase: str, role: str, least: int, step: int) -> None:
    """Whenever a process dies, without a word, the others tell and nothing is left."""
    faults = list(_inject(phase, role, step, kill=True))

    assert len(faults) >= least
    assert _problems(phase, role, faults) == []
