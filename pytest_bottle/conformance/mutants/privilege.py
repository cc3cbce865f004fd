"""Mutants of the PRV checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import User, Vantage
from pytest_bottle.conformance.mutants.base import Errand, Meddler, NetnsBackend, mutant, patched

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology


@mutant("PRV-03", also=["PRV-01", "PRV-02", "PRV-04"])
class PowerfulRoot(NetnsBackend):
    """An exec as root keeps NET_ADMIN and NET_RAW."""

    def _place(self, topology: Topology, vantage: Vantage, user: User) -> tuple[str, str]:
        guest, who = super()._place(topology, vantage, user)
        powerful = vantage is Vantage.AGENT and user is User.ROOT
        return guest, "privileged" if powerful else who


#: Gives up all but NET_RAW (bit 13) and goes on as the program in its arguments. The bounding set
#: keeps NET_ADMIN, which is out of reach: no_new_privs lets no exec raise the permitted set.
_ONLY_RAW = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
sets = struct.pack("6I", 1 << 13, 1 << 13, 1 << 13, 0, 0, 0)
if libc.capset(struct.pack("Ii", 0x20080522, 0), sets):
    raise OSError(ctypes.get_errno(), "capset")
os.execvp(sys.argv[1], sys.argv[1:])
"""


@mutant("PRV-04", also=["PRV-01"])
class RawRoot(Meddler, PowerfulRoot):
    """An exec as root keeps NET_RAW, and no more."""

    def meddle(self, errand: Errand) -> Errand:
        if not (errand.is_the_agents and errand.user is User.ROOT):
            return errand
        python = [errand.topology.python, "-I", "-S", "-c", _ONLY_RAW]
        return errand._replace(argv=[*python, *errand.argv])


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
