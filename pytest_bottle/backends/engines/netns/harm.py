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
        left = {pid: state for pid, state in _states().items() if state not in states}
        if not left or time.monotonic() > end:
            return ", ".join(f"{pid} in state {state}" for pid, state in left.items())
        time.sleep(0.001)


def _states() -> dict[str, str]:
    """The states of all processes but ourselves and the first one."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat") as file:
            if int(pid) not in (1, os.getpid()):
                found[pid] = file.read().rpartition(")")[2].split()[0]
    return found
