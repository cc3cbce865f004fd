"""Exchanges the functions by which the engine meets the kernel for ones that can fail.

They are ``os``, ``open``, ``socket``, the C library behind ``linux``, and rtnetlink requests (which
are garbled, so that the kernel itself refuses them). Whom a fault is for, and whether it has
struck, stands in memory that all processes of a family share.
"""

from __future__ import annotations

import builtins
import ctypes
import mmap
import os
import resource
import selectors
import socket
from typing import TYPE_CHECKING, Any

from pytest_bottle.backends.engines.netns import linux
from pytest_bottle.backends.engines.netns.children import Children
from pytest_bottle.backends.engines.netns.rtnetlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Callable

ROLES = (
    "owner",  # pytest's side
    "keeper",
    "helper",  # writes the id maps, mints certificates
    "server",
    "settler",  # makes a user namespace
    "nursery",
    "nurseling",  # origins and sidecars
    "witness",
    "guest",  # a guest's first process
    "undertaker",  # deletes bridges
)


class Slot(ctypes.Structure):
    """Which call of a role's is to fail, how, how many there were, and which one it was."""

    _fields_ = (
        ("count", ctypes.c_uint32),
        ("at", ctypes.c_uint32),
        ("errno", ctypes.c_uint32),
        ("hit", ctypes.c_uint32),
        ("label", ctypes.c_char * 112),
    )
    count: int
    at: int
    errno: int
    hit: int
    label: bytes


_SHARED = mmap.mmap(-1, ctypes.sizeof(Slot) * len(ROLES))
SLOTS = {
    role: Slot.from_buffer(_SHARED, ctypes.sizeof(Slot) * place) for place, role in enumerate(ROLES)
}


class Me:
    """What this process is; a child inherits it and becomes something else."""

    role = "owner"
    next_role = "keeper"
    ready = False
    last: Any = None


def is_struck(label: str) -> int:
    """Count a call of this process's; returns the errno that it is to fail with, or 0."""
    if Me.ready:
        return 0
    slot = SLOTS[Me.role]
    slot.count += 1
    if slot.count != slot.at:
        return 0
    slot.hit, slot.label = 1, label.encode()[:111]
    if slot.errno == 0:
        os._exit(137)
    return slot.errno


def strike(label: str) -> None:
    """Fail, if it is this call's turn."""
    code = is_struck(label)
    if code:
        raise OSError(code, os.strerror(code))


# -- the seams -------------------------------------------------------------------------------------


def _wrap(place: Any, name: str) -> None:
    real = getattr(place, name)

    def faulty(*args: Any, **options: Any) -> Any:
        about = next((a for a in args if isinstance(a, str | bytes | int)), "")
        strike(f"{name}({about!r})")
        return real(*args, **options)

    setattr(place, name, faulty)


class _Libc:
    """The C library, whose calls fail when it is their turn, with -1 and an errno."""

    def __init__(self, real: ctypes.CDLL) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Callable[..., int]:
        real = getattr(self._real, name)

        def call(*args: Any) -> int:
            said = ", ".join(str(getattr(a, "value", a)) for a in args[:2])
            label = f"{name}({said})"
            # The bounding set is dropped one by one, in a row: that counts as one call.
            again = label.startswith("prctl(24,") and Me.last == "prctl(24"
            Me.last = "prctl(24" if label.startswith("prctl(24,") else label
            code = 0 if again else is_struck(label)
            if code:
                ctypes.set_errno(code)
                return -1
            return int(real(*args))

        return call


def _wrap_netlink() -> None:
    real = Netlink._add

    def add(self: Netlink, kind: int, flags: int, body: bytes, label: str) -> None:
        # No such request: the kernel does nothing, and says EOPNOTSUPP in its turn.
        real(self, 0x0FFF if is_struck(f"rtnetlink {label}") else kind, flags, body, label)

    Netlink._add = add  # type: ignore[method-assign]


def _wrap_sockets() -> None:
    for name in ("bind", "listen", "sendmsg", "recvmsg", "send", "recv", "setsockopt"):
        _wrap(socket.socket, name)
    real = socket.socket.__init__

    def init(self: socket.socket, *args: Any, **options: Any) -> None:
        if options.get("fileno") is None and len(args) < 4:
            strike(f"socket({', '.join(map(str, args))})")
        real(self, *args, **options)

    socket.socket.__init__ = init  # type: ignore[method-assign]
    _wrap(socket, "socketpair")
    _wrap(socket, "sethostname")


def _wrap_write() -> None:
    real = os.write

    def write(fd: int, data: bytes) -> int:
        strike(f"write({fd}, {data[:20]!r})")
        Me.ready = Me.ready or data == b"ready"  # it is up: what comes now is another matter
        return real(fd, data)

    os.write = write  # type: ignore[assignment]


def _wrap_fork() -> None:
    real = os.fork

    def fork() -> int:
        strike("fork()")
        pid = real()
        if pid == 0:
            Me.role, Me.next_role = Me.next_role, _HEIRS.get(Me.next_role, "nurseling")
        elif Me.role == "keeper":
            Me.next_role = "server"
        return pid

    os.fork = fork
    fork_child = Children.fork

    def fork_known(self: Children, keep: Any, run: Any, at_end: Any = None) -> int:
        what = getattr(run, "func", run)
        Me.next_role = _CHILDREN.get(what.__qualname__, "guest")
        try:
            return fork_child(self, keep, run, at_end)
        finally:
            Me.next_role = "settler"

    Children.fork = fork_known  # type: ignore[method-assign]


#: What the next child of a role is, where nothing else says so.
_HEIRS = {"keeper": "helper", "server": "settler", "nursery": "nurseling"}
_CHILDREN = {
    "serve": "nursery",
    "Lab._be_witness": "witness",
    "Fabric.demolish": "undertaker",
}


def install() -> None:
    """Exchange the functions by which the engine meets the kernel, in this process and below."""
    for name in (
        *("open", "pipe", "pipe2", "dup", "dup2", "mkdir", "pidfd_open", "setsid", "setresuid"),
        *("setresgid", "setgroups", "symlink", "chdir", "chmod", "execve", "memfd_create"),
        "waitid",
    ):
        _wrap(os, name)
    _wrap(builtins, "open")
    _wrap(resource, "setrlimit")
    _wrap(selectors, "DefaultSelector")
    _wrap_sockets()
    _wrap_write()
    _wrap_fork()
    _wrap_netlink()
    linux._libc = _Libc(linux._libc)  # type: ignore[assignment]
