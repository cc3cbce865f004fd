"""Sockets that lead elsewhere: UNIX ones that lie in the guest's files, and vsock."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time

from pytest_bottle.guest.probe.core import answer, operation, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record

_VSOCK = 40
_DEPTH = 4
#: Their files are no files: nothing can be bound in them.
_UNREAL = ("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs")


@operation("unix-sockets")
def unix_sockets(operation: Operation, deadline: float) -> Record:
    """Find the sockets below some folders, at mount points and in them; try those and known ones.

    Looked at are four levels of the folders, and one of each mount point. ``folder`` is where one
    of our own is put first: who does not find it finds nothing.
    """
    end = time.monotonic() + deadline
    path = f"{operation['folder']}/bottle-{os.getpid()}.sock"
    mounts = [(words[4], words[words.index("-") + 1]) for words in table("/proc/self/mountinfo")]
    places = [point for point, kind in mounts if kind not in _UNREAL and point != "/"]
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(path)
        own.listen(1)
        try:
            tops = [*((top, _DEPTH) for top in operation["folders"]), *((p, 1) for p in places)]
            found, complete = _walk(tops, end)
            tries = {*found, *filter(None, map(_resolved, operation["known"]))}
            answers = {one: answer(lambda one=one: _connect(one)) for one in sorted(tries)}  # type: ignore[misc]
        finally:
            os.unlink(path)
    mine = answers.pop(path, None) if path in found else None
    found.discard(path)
    return {
        "outcome": "answered",
        "own": mine,
        "found": sorted(found),
        "answers": answers,
        "mounts": [point for point, _ in mounts],
        "complete": complete,
    }


def _resolved(name: str) -> str | None:
    """Give a path; one that begins with ``$`` is in a variable, perhaps."""
    return os.environ.get(name[1:]) if name.startswith("$") else name


def _walk(waiting: list[tuple[str, int]], end: float) -> tuple[set[str], bool]:
    """Find sockets at some paths and so many levels below; tell whether there was time for all."""
    found: set[str] = set()
    while waiting and time.monotonic() < end:
        path, depth = waiting.pop()
        with contextlib.suppress(OSError):
            mode = os.lstat(path).st_mode
            if stat.S_ISSOCK(mode):
                found.add(path)
            elif stat.S_ISDIR(mode) and depth:
                entries = filter(_is_of_use, os.scandir(path))
                waiting += [(entry.path, depth - 1) for entry in entries]
    return found, not waiting


def _is_of_use(entry: os.DirEntry[str]) -> bool:
    """Leave out plain files, of which there are many, without a look at each."""
    return not entry.is_file(follow_symlinks=False) and not entry.is_symlink()


def _connect(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        sock.connect(path)
    return "done"


@operation("vsock")
def vsock(_operation: Operation, _deadline: float) -> Record:
    """Open sockets of the family and close them again; nothing is ever bound, sent or called."""
    kinds = {"SOCK_STREAM": 1, "SOCK_DGRAM": 2, "SOCK_SEQPACKET": 5}
    answers = {name: answer(lambda kind=kind: _open(kind)) for name, kind in kinds.items()}  # type: ignore[misc]
    return {"outcome": "answered", "answers": answers}


def _open(kind: int) -> str:
    socket.socket(_VSOCK, kind, 0).close()
    return "done"
