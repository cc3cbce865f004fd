"""Runs a command, and tells when the last of all its descendants is gone.

It is a subreaper (prctl(2)): whoever loses its parent below it becomes its child. So when it has no
child any more, no process is left, whatever was started when and by whom; nothing that a snapshot
of /proc might miss. Needs no privilege. Run as a program; see :class:`tests.runs.Run`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Adopt every orphan below this process, from now on."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("PR_SET_CHILD_SUBREAPER")


def reap_all(seconds: float) -> float | None:
    """Reap until this process has no child; returns how long that took, None if too long."""
    start = time.monotonic()
    with suppress(ChildProcessError):
        while time.monotonic() < start + seconds:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
        return None
    return time.monotonic() - start


def kill_all(children: list[int]) -> list[str]:
    """Kill what is left, for no test may leave anything; returns the processes' names."""
    names = []
    for pid in children:
        with suppress(OSError):
            with open(f"/proc/{pid}/comm") as file:
                names.append(f"{pid} {file.read().strip()}")
            os.kill(pid, signal.SIGKILL)
    return names


def children() -> list[int]:
    """The processes whose parent we are."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


def main(report: int, seconds: float, command: list[str]) -> None:
    """Run the command in a session of its own; tell its pid, its status, and what was left."""
    become_subreaper()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)

    def tell(**fields: object) -> None:
        os.write(report, json.dumps(fields).encode() + b"\n")

    run = os.fork()
    if run == 0:
        os.close(report)
        os.setsid()
        os.execv(command[0], command)
    tell(pid=run)
    pid = status = 0
    while pid != run:
        pid, status = os.waitpid(-1, 0)
    tell(status=os.waitstatus_to_exitcode(status))
    gone = reap_all(seconds)
    left: list[str] = []
    while gone is None and (more := kill_all(children())):
        left += more
        reap_all(0.5)
    tell(gone=gone, left=left)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
