"""Telling the resolver otherwise: every way by which a guest may change whom its library asks."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from pytest_bottle.guest.probe.core import ECHO, answer, operation
from pytest_bottle.guest.probe.names import ask_for, look_up, servers_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.guest.probe.core import Operation, Record

_RESOLV, _HOSTS = "/etc/resolv.conf", "/etc/hosts"
#: Puts a file in another's place for itself alone, in namespaces of its own (unshare(2)), and then
#: looks a name up. Root needs no user namespace for that.
_MOUNT = """
import ctypes, os, socket, sys
source, target, name = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
must(libc.unshare(0x20000 | (0x10000000 if os.getuid() else 0)))
must(libc.mount(None, b"/", None, 0x44000, None))
must(libc.mount(source.encode(), target.encode(), None, 0x1000, None))
print(*{a[4][0] for a in socket.getaddrinfo(name, 0)})
"""


@operation("rewritten")
def rewritten(operation: Operation, deadline: float) -> Record:
    """Name a server of one's own in each way, and let a name of its own be looked up each time.

    ``file`` and ``hosts`` write over the guest's own files, ``mount`` covers one, ``copy`` is read
    by a resolver of our own, and ``variables`` only change which names the library asks for.
    """
    names, server = operation["names"], operation["server"]
    trials = {
        "file": lambda: _in_place(server, names["file"], deadline),
        "hosts": lambda: _by_hosts(server, names["hosts"], operation["nonce"], deadline),
        "mount": lambda: _covered(server, names["mount"], deadline),
        "copy": lambda: _copied(server, names["copy"], deadline),
        "variables": lambda: _by_variables(names["variables"], deadline),
    }
    return {"outcome": "answered", "ways": {name: answer(trials[name]) for name in trials}}


def _in_place(server: str, name: str, deadline: float) -> str:
    with open(_RESOLV, "w") as file:
        file.write(f"nameserver {server}\n")
    return look_up(name, {}, deadline)


def _by_hosts(server: str, name: str, nonce: str, deadline: float) -> str:
    """Give the name that address, and connect by the name."""
    with open(_HOSTS, "a") as file:
        file.write(f"{server} {name}\n")
    with socket.create_connection((name, 443), deadline) as sock:
        sock.sendall(f"BOTTLE {nonce}\n".encode())
        return "echo" if ECHO in sock.recv(512) else "connected"


def _covered(server: str, name: str, deadline: float) -> str:
    import subprocess

    with _file(f"nameserver {server}\n") as path:
        argv = [sys.executable, "-I", "-S", "-c", _MOUNT, path, _RESOLV, name]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline + 15.0
        )
    words = (done.stdout or done.stderr).decode("latin-1").strip().splitlines()
    return words[-1] if words else f"status {done.returncode}"


def _copied(server: str, name: str, deadline: float) -> str:
    with _file(f"nameserver {server}\n") as path:
        (first,) = servers_of(path)
        return ask_for(first, name, 1, deadline)


def _by_variables(name: str, deadline: float) -> str:
    """Make the library expand a bare label, by a search list and by an alias (hostname(7))."""
    label, _, domain = name.partition(".")
    with _file(f"bottlealias {name}\n") as path:
        found = look_up("bottlealias", {"HOSTALIASES": path}, deadline)
    return f"{look_up(label, {'LOCALDOMAIN': domain}, deadline)}; alias: {found}"


@contextlib.contextmanager
def _file(text: str) -> Iterator[str]:
    """Lend out the path of a file that anybody may read."""
    import tempfile

    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        os.chmod(file.name, 0o644)
        yield file.name
