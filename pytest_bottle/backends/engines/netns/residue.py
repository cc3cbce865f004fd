"""What the kernel says is there, asked from inside the session's PID namespace."""

from __future__ import annotations

import os
from contextlib import suppress


def processes() -> list[str]:
    """Every process of the session but the server itself, as ``pid name``; zombies do not count."""
    found = []
    for pid in _pids():
        with suppress(OSError), open(f"/proc/{pid}/stat") as file:
            # The name may hold blanks and brackets: it ends at the last closing one.
            before, _, after = file.read().rpartition(")")
            if after.split()[0] != "Z" and pid != os.getpid():
                found.append(f"{pid} {before.partition('(')[2]}")
    return found


def network_namespaces() -> list[str]:
    """Every network namespace that a process of the session is in or holds open."""
    paths = [f"/proc/{pid}/ns/net" for pid in _pids()]
    with suppress(OSError):
        paths += [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    found = set()
    for path in paths:
        with suppress(OSError):
            target = os.readlink(path)
            if target.startswith("net:"):
                found.add(target)
    return sorted(found)


def listeners() -> list[str]:
    """Every listening TCP socket of the current network namespace, as the kernel prints it."""
    found = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError), open(f"/proc/self/net/{name}") as file:
            rows = [line.split() for line in file.readlines()[1:]]
            found += [f"{name} {row[1]}" for row in rows if row[3] == "0A"]
    return found


def files(folder: str) -> list[str]:
    """Every file and folder below ``folder``."""
    return sorted(
        os.path.relpath(os.path.join(top, name), folder)
        for top, folders, names in os.walk(folder)
        for name in (*folders, *names)
    )


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
