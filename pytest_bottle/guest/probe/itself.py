"""What a process can see of itself and of its neighbours in /proc."""

from __future__ import annotations

import contextlib
import errno
import os

from pytest_bottle.guest.probe.core import operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record


@operation("status")
def status(operation: Operation, _deadline: float) -> Record:
    """Read the identity and the capability sets of processes (proc(5)); ``*`` is all of them."""
    found = {}
    for pid in map(str, operation["pids"]):
        if pid != "*":
            found[pid] = _status_of(pid)
            continue
        for each in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                found[each] = _status_of(each)
    return {"outcome": "answered", "processes": found}


def _status_of(pid: str) -> dict[str, str | None]:
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    names = ("Name", "Uid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
    return {name: lines.get(name) for name in (*names, "Seccomp", "State")}


@operation("namespaces")
def namespaces(_operation: Operation, _deadline: float) -> Record:
    """Read which namespaces we are in, and the kernel whose numbers these are (namespaces(7))."""
    found = {}
    for name in ("net", "pid", "ipc", "mnt", "uts", "user"):
        found[name] = os.readlink(f"/proc/self/ns/{name}")
    with open("/proc/sys/kernel/random/boot_id") as file:
        return {"outcome": "answered", "namespaces": found, "kernel": file.read().strip()}


@operation("setns")
def setns(_operation: Operation, _deadline: float) -> Record:
    """Try to enter the network namespace of every process that we can see (setns(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    answers = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/ns/net") as file:
                code = ctypes.get_errno() if libc.setns(file.fileno(), 0x40000000) else 0
        except OSError as error:  # we may not even look at it, or it has ended
            code = error.errno or 0
        answers[pid] = errno.errorcode.get(code, str(code)) if code else "done"
    return {"outcome": "answered", "answers": answers}


@operation("variables")
def variables(operation: Operation, _deadline: float) -> Record:
    """Tell what some variables are that a program of this guest is given."""
    return {"outcome": "answered", "variables": {n: os.environ.get(n) for n in operation["names"]}}
