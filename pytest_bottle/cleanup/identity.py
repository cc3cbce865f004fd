"""Who owns a session: a process, told by its number, its start and its machine.

A label that another run reads has to tell a live owner from a dead one whose number somebody else
has now, and the processes of this machine from those of others that use the same engine.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import subprocess
import uuid
from contextlib import suppress
from typing import NamedTuple

#: Files that tell Linux machines apart, the first for as long as the machine is up.
_IDS = ("/proc/sys/kernel/random/boot_id", "/etc/machine-id")


class Owner(NamedTuple):
    """A process of a machine, and when it started, in whatever unit the machine tells that."""

    machine: str
    pid: int
    start: str

    def __str__(self) -> str:
        return f"{self.machine}.{self.pid}.{self.start}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Read what ``str`` gave; None if it is something else."""
        found = re.fullmatch(r"([0-9a-f]{12})\.(\d+)\.(\d+)", text)
        return cls(found[1], int(found[2]), found[3]) if found else None

    @classmethod
    def of_us(cls) -> Owner:
        """Identify this process."""
        return cls(machine(), os.getpid(), start_of(os.getpid()))

    @property
    def is_ours(self) -> bool:
        """Whether it is, or was, a process of this machine, so that we can tell whether it runs."""
        return self.machine == machine()

    @property
    def is_dead(self) -> bool:
        """Whether it is certain that it has ended."""
        return self.is_ours and start_of(self.pid) != self.start


@functools.cache
def machine() -> str:
    """Name this machine, and the process numbers that hold here."""
    parts = [platform.node()]
    for path in _IDS:
        with suppress(OSError), open(path) as file:
            parts.append(file.read().strip())
            break
    else:
        parts.append(f"{uuid.getnode():x}")
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def start_of(pid: int) -> str:
    """Tell when a process started, as digits; empty if there is none, a zombie counts as none."""
    if os.path.exists("/proc/self/stat"):
        with suppress(OSError), open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            return "" if fields[0] in ("Z", "X") else fields[19]
        return ""
    asked = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    done = subprocess.run(
        asked, capture_output=True, text=True, timeout=10, check=False, env={"LC_ALL": "C"}
    )
    state, _, since = done.stdout.strip().partition(" ")
    if not since or state.startswith("Z"):
        return ""
    return str(int(hashlib.sha256(since.split().__repr__().encode()).hexdigest()[:12], 16))
