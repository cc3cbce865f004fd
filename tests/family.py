"""Who descends from whom, by /proc: to know every process of a run before it is killed."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Process(NamedTuple):
    """A process that no later one can be mistaken for: its number and its start time."""

    pid: int
    start: str


class Family(NamedTuple):
    """The processes below one process, and the network namespaces that they live in."""

    processes: frozenset[Process]
    namespaces: frozenset[str]


def family_of(root: int) -> Family:
    """Find every descendant of a process, itself excluded."""
    parents = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None}
    below, grown = {root}, True
    while grown:
        more = {pid for pid, stat in parents.items() if int(stat[1]) in below} - below
        below |= more
        grown = bool(more)
    below.discard(root)
    processes = frozenset(Process(pid, parents[pid][19]) for pid in below)
    own = _namespace(os.getpid())
    return Family(processes, frozenset(filter(None, map(_namespace, below))) - {own})


def exists(process: Process) -> bool:
    """Tell whether a process is there, be it as a zombie that nobody has reaped."""
    stat = _stat(process.pid)
    return stat is not None and stat[19] == process.start


def left_of(family: Family) -> list[str]:
    """Name what is left of a family: processes that still run, namespaces somebody is in.

    The kernel gives a namespace's number out again at once, so whoever was started after the family
    was seen may be in another one of that number.
    """
    left = [f"process {p.pid}" for p in family.processes if is_running(p)]
    newest = max((int(p.start) for p in family.processes), default=0)
    old = (pid for pid in _pids() if (stat := _stat(pid)) and int(stat[19]) <= newest)
    there = set(map(_namespace, old)) & family.namespaces
    return left + [f"namespace {name}" for name in sorted(filter(None, there))]


def wait_until_gone(family: Family, seconds: float = 1.0) -> list[str]:
    """Wait until nothing is left; returns what still is when the time is over."""
    end = time.monotonic() + seconds
    while (left := left_of(family)) and time.monotonic() < end:
        time.sleep(0.005)
    return left


def process(pid: int) -> Process:
    """Name a process that there is."""
    stat = _stat(pid)
    assert stat is not None, pid
    return Process(pid, stat[19])


def is_running(process: Process) -> bool:
    """Tell whether a process exists and is more than a zombie that nobody has reaped."""
    stat = _stat(process.pid)
    return stat is not None and stat[19] == process.start and stat[0] not in ("Z", "X")


def name_of(pid: int) -> str:
    """Read the name of a process; empty if it has ended meanwhile."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def named(name: str, processes: Iterable[Process]) -> list[int]:
    """Find those of a name among processes of which any may have ended, the oldest first."""
    found = [process for process in processes if name_of(process.pid) == name]
    return [process.pid for process in sorted(found, key=lambda one: (int(one.start), one.pid))]


def links() -> list[str]:
    """Name the machine's network interfaces."""
    return sorted(os.listdir("/sys/class/net"))


def mounts() -> list[str]:
    """Tell what is mounted here: a bind mount could hold a namespace that nobody is in."""
    with open("/proc/self/mountinfo") as file:
        return sorted(file)


def allowed(seconds: float = 1.0) -> float:
    """How long the kernel may take: longer only where more wants to run than there are cores."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _pids() -> Iterable[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _stat(pid: int) -> list[str] | None:
    """Read the fields of /proc/PID/stat from the state on (proc(5))."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None


def _namespace(pid: int) -> str | None:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return None
