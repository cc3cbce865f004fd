"""Mutants of the PRV checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import User, Vantage
from pytest_bottle.conformance.mutants.base import Errand, Meddler, NetnsBackend, mutant, patched

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology


@mutant("PRV-03", also=["PRV-01", "PRV-02", "PRV-04", "PRV-07", "PRV-08", "PXY-16"])
@mutant("PRV-07", also=["PRV-01", "PRV-02", "PRV-03", "PRV-04", "PRV-08", "PXY-16"])
class PowerfulRoot(NetnsBackend):
    """An exec as root keeps NET_ADMIN and NET_RAW, and /proc/sys is writable for it.

    By the routes that it makes for PRV-02 the sidecar's outer address is there for PXY-16.

    In the catalogue a container without masked paths is PRV-07's. Here the kernel lets nobody write
    a network's settings who lacks NET_ADMIN there, whatever is mounted.
    """

    def _place(self, topology: Topology, vantage: Vantage, user: User) -> tuple[str, str]:
        guest, who = super()._place(topology, vantage, user)
        powerful = vantage is Vantage.AGENT and user is User.ROOT
        return guest, "privileged" if powerful else who


#: Gives up all but the capability in its first argument and goes on as the program in the others.
#: The bounding set keeps both, out of reach: no_new_privs lets no exec raise the permitted set.
_ONLY = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
one = 1 << int(sys.argv[1])
if libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", one, one, one, 0, 0, 0)):
    raise OSError(ctypes.get_errno(), "capset")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def _with_only(errand: Errand, capability: int) -> Errand:
    """Let root of the agent have no more than one capability."""
    if not (errand.is_the_agents and errand.user is User.ROOT):
        return errand
    python = [errand.topology.python, "-I", "-S", "-c", _ONLY, str(capability)]
    return errand._replace(argv=[*python, *errand.argv])


@mutant("PRV-04", also=["PRV-01", "PRV-08"])
class RawRoot(Meddler, PowerfulRoot):
    """An exec as root keeps NET_RAW, and no more."""

    def meddle(self, errand: Errand) -> Errand:
        return _with_only(errand, 13)


@mutant("PRV-06")
def new_privileges() -> NetnsBackend:
    """Nobody sets no_new_privs."""
    return patched(
        "from pytest_bottle.backends.engines.netns import linux; "
        "linux.forbid_new_privileges = lambda: None"
    )


@mutant("PRV-06-M2")
def leaked_folder() -> NetnsBackend:
    """A folder of the machine is open in the agent (CVE-2024-21626)."""
    return patched(
        "import os; from pytest_bottle.backends.engines.netns import confine; "
        "leak = os.dup2(os.open('/', os.O_RDONLY | os.O_DIRECTORY), 99); "
        "close = confine.close_all_but; "
        "confine.close_all_but = lambda keep: close((*keep, leak))"
    )


@mutant("PRV-01", also=["PRV-08"])
def own_administrator() -> NetnsBackend:
    """The agent keeps NET_ADMIN, in the user namespace that it lives in.

    Its network belongs to another one, so nothing but its status tells.
    """
    return patched(
        "from pytest_bottle.backends.engines.netns import linux; "
        "drop = linux.drop_capabilities; "
        "linux.drop_capabilities = lambda keep=frozenset(): drop(keep | {linux.CAP_NET_ADMIN})"
    )


@mutant("PRV-02", also=["PRV-01", "PRV-03", "PRV-07", "PRV-08", "PXY-16"])
class AdministeringRoot(Meddler, PowerfulRoot):
    """An exec as root keeps NET_ADMIN, and no more; PXY-16 sees the routes that it makes."""

    def meddle(self, errand: Errand) -> Errand:
        return _with_only(errand, 12)


#: Makes the standing user namespaces without closing them to nesting.
_NESTING = (
    "import builtins; from pytest_bottle.backends.engines.netns import settling; "
    "settling.open = lambda path, *more: "
    "builtins.open('/dev/null' if 'max_user_namespaces' in path else path, *more)"
)


@mutant("PRV-05")
class NestedElsewhere(Meddler):
    """Who makes namespaces of its own gets sockets of the egress network in them.

    The catalogue leaves a cable of the host movable. Here namespaces can be nested, and a process
    that makes some is started on the egress network, as by a helper that connects whoever asks.
    """

    def __init__(self) -> None:
        super().__init__(patched(_NESTING).netns)

    def meddle(self, errand: Errand) -> Errand:
        nests = errand.is_the_agents and b'"kind": "nest"' in errand.stdin
        return errand._replace(vantage=Vantage.OPEN) if nests else errand


@mutant("PRV-08", also=["HST-07"])
def unfiltered_root() -> NetnsBackend:
    """An exec as root has no system call filter.

    In the catalogue a packet filter goes by the user's id. Here there is none, and the two users
    have one id outside; what they do not share is how they are confined.
    """
    return patched(
        "from pytest_bottle.backends.engines.netns import confine, guests, linux; "
        "install = linux.install_filter; linux.install_filter = lambda p: p and install(p); "
        "become = guests.Users.become; "
        "guests.Users.become = lambda self, user, **how: "
        "confine.harden(self._namespaces[user], b'', **how) "
        "if user == 'root' else become(self, user, **how)"
    )
