"""A session as the machine sees it: told by exact identity, listed, and swept when it is dead.

A process is told by its number and its start time, so no later one can be mistaken for it. What
belongs to a session is its keeper, whoever carries its mark in the environment it was exec'd with
(every fork of the keeper does), and all that descend from these. Works as an ordinary user too, on
sessions of one's own.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pytest_bottle.errors import BottleError, ConfigurationError

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Resource

#: The variable that marks the processes of a session.
MARK = "PYTEST_BOTTLE_SESSION"
#: Seconds for the kernel to take what a sweep has killed; usually 0.02.
_SETTLE = 5.0
_KIND = "netns"


class Process(NamedTuple):
    """A process: its number, and its start in clock ticks after the machine's (proc(5))."""

    pid: int
    start: int


class Session(NamedTuple):
    """The identity of a session: its mark, its keeper, and the process that opened it."""

    mark: str
    keeper: Process
    owner: Process

    def __str__(self) -> str:
        return ":".join(map(str, (_KIND, self.mark, *self.keeper, *self.owner)))

    @classmethod
    def of(cls, mark: str, keeper: int, owner: int) -> Session:
        """Identify a session whose processes are there, the keeper perhaps as a zombie only.

        Raises:
            OSError: the machine does not tell when they started; nobody could tell it from others.
        """
        return cls(mark, *(Process(pid, _read_start(pid)) for pid in (keeper, owner)))

    @classmethod
    def parse(cls, text: str) -> Session:
        """Read what ``str`` gave.

        Raises:
            ConfigurationError: it is the identity of something else.
        """
        found = re.fullmatch(rf"{_KIND}:([0-9a-f]+):(\d+):(\d+):(\d+):(\d+)", text)
        if found is None:
            raise ConfigurationError(
                "this does not identify a session of the netns engine",
                where=repr(text),
                expected="what `session` of a netns backend said",
            )
        keeper, start, owner, its_start = map(int, found.groups()[1:])
        return cls(found[1], Process(keeper, start), Process(owner, its_start))


class _Seen(NamedTuple):
    """What /proc tells of a process at one moment."""

    start: int
    parent: int
    name: str


def residue(session: Session) -> frozenset[Resource]:
    """List a session's processes, and the network namespaces of those that let us look."""
    from pytest_bottle.backends.contract import Resource  # here: a session's start is in a hurry

    found = _members(session)
    own = _namespace("self")
    spaces = {_namespace(str(process.pid)) for process in found} - {own, ""}
    names = [f"{process.pid} {name}" for process, name in found.items()]
    return frozenset(
        [
            *(Resource("process", name) for name in names),
            *(Resource("namespace", space) for space in spaces),
        ]
    )


def sweep(session: Session) -> None:
    """Kill every process of a dead session, each by its identity; namespaces go with them.

    Raises:
        ConfigurationError: the process that opened the session is still there.
        BottleError: something of it is left after all.
    """
    if _is(_look(session.owner.pid), session.owner):
        raise ConfigurationError(
            "a session that is alive is not swept",
            where=str(session),
            expected=f"the end of process {session.owner.pid}, which opened it",
            seen="it runs",
            next_step="end that process, or close its backend",
        )
    end = time.monotonic() + _SETTLE
    while members := _members(session):
        for process in members:
            _kill(process)
        time.sleep(0.005)
        if time.monotonic() > end:
            raise BottleError(
                "a session's processes could not be killed",
                where=str(session),
                expected="none of them",
                seen=", ".join(f"{one.pid} {name}" for one, name in members.items()),
                next_step="kill them as the user who owns them",
            )


def _members(session: Session) -> dict[Process, str]:
    """Find who belongs to a session, by name; zombies do not count."""
    seen = {pid: one for pid in _pids() if (one := _look(pid)) is not None}
    keeper = session.keeper
    belongs = {keeper.pid} if _is(seen.get(keeper.pid), keeper) else set()
    belongs |= {pid for pid in seen if pid not in belongs and _is_marked(pid, session.mark)}
    grown = bool(belongs)
    while grown:
        more = {pid for pid, one in seen.items() if one.parent in belongs} - belongs
        belongs |= more
        grown = bool(more)
    return {Process(pid, seen[pid].start): seen[pid].name for pid in sorted(belongs)}


def _is(one: _Seen | None, process: Process) -> bool:
    return one is not None and one.start == process.start


def _is_marked(pid: int, mark: str) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return f"{MARK}={mark}".encode() in file.read().split(b"\0")
    return False


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        pidfd = os.pidfd_open(process.pid)
        try:
            # Whoever has the number now that we hold it: a start time later is somebody else's.
            if _start(process.pid) == process.start:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _look(pid: int) -> _Seen | None:
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        # The name may hold blanks and brackets: it ends at the last closing one.
        before, _, after = file.read().rpartition(")")
        fields = after.split()
        if fields[0] not in ("Z", "X"):
            return _Seen(int(fields[19]), int(fields[1]), before.partition("(")[2])
    return None


def _start(pid: int) -> int:
    """When a process started; 0 if there is none, a zombie's counts."""
    with suppress(OSError):
        return _read_start(pid)
    return 0


def _read_start(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _namespace(pid: str) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return ""
