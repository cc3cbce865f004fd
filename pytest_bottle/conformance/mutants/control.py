"""Mutants of the checks of what controls a host."""

from __future__ import annotations

from pytest_bottle.conformance.mutants.base import NetnsBackend, mutant, patched

#: Lets the agent's first process listen on a socket of an engine's name, through its exec.
_SOCKET = """
import os, socket
from pytest_bottle.backends.engines.netns import confine
enter = confine.enter_root
def enter_root(name, *more):
    enter(name, *more)
    if name.endswith("-agent"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("/run/docker.sock")
        sock.listen(8)
        os.chmod("/run/docker.sock", 0o666)
        os.set_inheritable(sock.detach(), True)
confine.enter_root = enter_root
"""


@mutant("HST-05")
def socket_of_an_engine() -> NetnsBackend:
    """There is /run/docker.sock in the agent, and somebody answers.

    In the catalogue the engine's own is bound there; here it is one that nobody reads from.
    """
    return patched(f"exec({_SOCKET!r}, {{}})")


@mutant("HST-07")
def vsock_opens() -> NetnsBackend:
    """The guests' filter of system calls does not know AF_VSOCK."""
    return patched(
        "import struct; from pytest_bottle.backends.engines.netns import linux; "
        "whole = linux.seccomp_filter; "
        "rule = [struct.pack('HBBI', 0x15, 0, 1, family) for family in (40, 255)]; "
        "linux.seccomp_filter = lambda: whole().replace(*rule)"
    )
