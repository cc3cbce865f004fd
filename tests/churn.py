"""Brings bottles up and down in a child, and kills the child at a random instant, many times.

Run as a program: ``python -m tests.churn SEED TIMES SECONDS``. It is a subreaper, so whatever
outlives the child becomes a child of its own, and "no child is left" is the kernel's word. Prints a
JSON line for each time: what the child was about (``start``, ``up``, ``down``), when it was killed
(seconds), and how long until nothing was left (seconds, or null).
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time

from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.spec import BottleSpec
from tests.reaper import become_subreaper, children, kill_all, reap_all

#: What the child is about, and about how many seconds each takes it.
PHASES = {"start": 0.1, "up": 0.04, "down": 0.004}
_NAMES = list(PHASES)


def churn(phase: mmap.mmap) -> None:
    """Start a session; bring a bottle up and down in it until somebody kills us."""
    phase[0] = _NAMES.index("start")
    backend = EngineBackend(NetnsEngine())
    while True:
        phase[0] = _NAMES.index("up")
        topology = backend.up(BottleSpec())
        phase[0] = _NAMES.index("down")
        backend.down(topology)


def kill_once(phase: mmap.mmap, when: str, delay: float, seconds: float) -> dict[str, object]:
    """Let a child churn until so long after a phase has begun, and see what its end leaves."""
    phase[0] = 0
    pid = os.fork()
    if pid == 0:
        try:
            churn(phase)
        finally:
            os._exit(99)
    end = time.monotonic() + 60
    while _NAMES[phase[0]] != when and time.monotonic() < end:
        time.sleep(0.0002)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    about = _NAMES[phase[0]]
    _, status = os.waitpid(pid, 0)
    gone = reap_all(seconds)
    left = kill_all(children()) if gone is None else []
    killed = os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return {"phase": about, "delay": delay, "gone": gone, "left": left, "killed": killed}


def main(seed: str, times: int, seconds: float) -> None:
    """Do it so many times; the instants are those of the seed."""
    become_subreaper()
    choose = random.Random(seed)
    phase = mmap.mmap(-1, 1)
    kill_once(phase, "down", 0.1, seconds)  # what is imported late is imported now
    for number in range(times):
        when = _NAMES[number % len(_NAMES)]
        delay = choose.uniform(0.0, PHASES[when])
        end = kill_once(phase, when, delay, seconds)
        os.write(1, json.dumps(end).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
