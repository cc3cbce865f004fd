"""Why a kernel refuses namespaces, in words that name the switch."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple


class Switch(NamedTuple):
    """A setting that forbids user namespaces: its file, the value that does, and the remedy."""

    path: str
    value: str
    remedy: str
    binds_root: bool = False


SWITCHES = (
    Switch(
        "/proc/sys/user/max_user_namespaces",
        "0",
        "sysctl -w user.max_user_namespaces=15000 (as root)",
        binds_root=True,
    ),
    Switch(
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl -w kernel.unprivileged_userns_clone=1 (as root), or run as root",
    ),
    Switch(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (as root; Ubuntu 23.10 and "
        "later), an AppArmor profile that allows userns for this Python, or run as root",
    ),
)
_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS)
_GENERAL = "run on Linux 5.12 or newer, outside a container or in one with --privileged"


def explain(error: OSError, user: int | None = None) -> dict[str, str]:
    """Say which switch of this machine forbids what ``error`` reports, and what to do.

    Args:
        error: what the kernel said.
        user: the uid that asked; None means the process's own.

    Returns:
        the keyword fields of a :class:`~pytest_bottle.errors.BackendUnavailableError`.
    """
    root = (os.geteuid() if user is None else user) == 0
    switch = _find_switch(root=root) if error.errno in _FORBIDDEN else None
    where, seen, remedy = switch or ("", "", "")
    return {
        "what": "this machine does not let the netns engine make its namespaces",
        "where": where or str(error.strerror or error),
        "expected": "user namespaces for whoever runs pytest (Linux 5.12 or newer)",
        "seen": f"{seen}{'; ' if seen else ''}{_name(error)}: {error.strerror or error}",
        "next_step": remedy or _GENERAL,
    }


def _find_switch(*, root: bool) -> tuple[str, str, str] | None:
    for switch in SWITCHES:
        if (switch.binds_root or not root) and _read(switch.path) == switch.value:
            name = os.path.basename(switch.path)
            return switch.path, f"{name} = {switch.value}", switch.remedy
    if "\nSeccomp:\t2" in (_read("/proc/self/status") or ""):
        return (
            "the seccomp filter that this process runs under (a container's, most likely)",
            "Seccomp: 2 in /proc/self/status",
            "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
            "--security-opt systempaths=unconfined, or --privileged",
        )
    return None


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "error")
