"""What can be done to the processes of a guest: all of them at once, but for its idle first one."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Final

#: The signal of each kind of harm, and the states of processes to which it was done (proc(5)).
STROKES: Final = {"kill": (signal.SIGKILL, "ZX"), "freeze": (signal.SIGSTOP, "TtZX")}
#: Seconds that the kernel may take over it.
DEADLINE: Final = 2.0


def strike(kind: str) -> str:
    """Send the signal to every other process of our PID namespace, and wait until it has worked.

    Runs in a child that was forked into the guest's namespaces. The kernel itself leaves out the
    caller and the namespace's first process (kill(2)).

    Returns:
        the processes that it did not work on; empty if there are none.
    """
    number, states = STROKES[kind]
    with suppress(ProcessLookupError):  # nobody is there
        os.kill(-1, number)
    end = time.monotonic() + DEADLINE
    while True:
        left = {one: state for one, state in _states().items() if state not in states}
        if not left or time.monotonic() > end:
            return ", ".join(f"{one} in state {state}" for one, state in left.items())
        time.sleep(0.001)


def _states() -> dict[str, str]:
    """The states of all threads but ourselves and the first process.

    A killed process is a zombie when its first thread is, while others still hold its sockets.
    """
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) in (1, os.getpid()):
            continue
        with suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(FileNotFoundError, ProcessLookupError):
                    found[thread] = _state(f"/proc/{pid}/task/{thread}/stat")
    return found


def _state(path: str) -> str:
    with open(path) as file:
        return file.read().rpartition(")")[2].split()[0]
