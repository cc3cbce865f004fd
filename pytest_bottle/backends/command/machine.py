"""Machines inside the lab, for sandboxes that know nothing of it: this machine, rewired.

A machine is a network namespace on an egress network of the netns engine, so its only uplink is
the lab, and a mount namespace with the user's own files, of which a few are others: who resolves
names, and which authorities are trusted. Command lines that are about a bottle run there. Both
namespaces are held by processes only, and nothing is on disk.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_bottle.backends.command.answers import Net
from pytest_bottle.backends.contract import Vantage
from pytest_bottle.backends.engine_backend import RESOLVER, trusting
from pytest_bottle.backends.engines.contract import GuestRequest
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.errors import BringUpError
from pytest_bottle.spec import PLAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.backends.contract import ExecResult, GuestInfo, NetworkInfo
    from pytest_bottle.internet.contract import Internet

#: The authorities of this machine, in whose place the lab's are put.
_BUNDLE = NetnsEngine.authorities
_TRUST = trusting(_BUNDLE)
#: Makes the mount namespace, and holds it until its standard input ends. Whatever would ask the
#: real machine for a name, by a UNIX socket, is covered: names are the lab's affair.
_HOLD = """set -e
mount -t tmpfs none /mnt
printf 'nameserver %s\\n' "$1" >/mnt/resolv.conf
printf 'passwd: files\\ngroup: files\\nhosts: files dns\\n' >/mnt/nsswitch.conf
: >/mnt/authorities
if [ -e "$2" ]; then cat "$2" >/mnt/authorities; mount --bind /mnt/authorities "$2"; fi
for name in resolv.conf nsswitch.conf; do
  if [ -e /etc/$name ]; then mount --bind /mnt/$name /etc/$name; fi
done
for folder in /run/nscd /run/systemd/resolve; do
  if [ -d $folder ]; then mount -t tmpfs none $folder; fi
done
umount -l /mnt
echo ready
exec cat >/dev/null
"""
#: What comes back to the folder that the command lines are run in; entering has left it.
_RETURN = 'cd "$1" && shift && exec "$@"'
_PROXIES = [
    option
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    for spelling in (name, name.lower())
    for option in ("-u", spelling)
]
#: Guests of the engine's that stand at vantage points of such a bottle.
_SUFFIX = {Vantage.SIDECAR: "machine", Vantage.OPEN: "open"}


@dataclass
class Machine:
    """A machine of a bottle.

    Attributes:
        name: of the bottle.
        network: the egress network that it is on.
        guest: the engine's guest whose network it is.
        holder: holds its mount namespace.
        entry: enters it, up to the folder and the program.
        guests: those of the engine's that are attached.
    """

    name: str
    network: NetworkInfo
    guest: GuestInfo
    holder: subprocess.Popen[bytes]
    entry: list[str]
    guests: dict[Vantage, GuestInfo] = field(default_factory=dict)

    @property
    def places(self) -> frozenset[Vantage]:
        """Where programs run without a command line of the user's."""
        return frozenset(_SUFFIX)

    @property
    def egress(self) -> Net:
        """Its network, as ``up`` would tell it."""
        return Net(self.network.subnet, self.network.gateway)

    @property
    def address(self) -> str:
        """Its address there."""
        return self.guest.addresses[self.network.name]

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that lead programs to the lab's authority."""
        return _TRUST if os.path.exists(_BUNDLE) else {}

    def way_in(self, folder: str) -> list[str]:
        """What to put before a command line, so that it runs here."""
        return [*self.entry, "env", *_PROXIES, "sh", "-c", _RETURN, "sh", folder]


class Machines:
    """The lab, and all machines inside it."""

    def __init__(self) -> None:
        self._engine = NetnsEngine()
        self._machines: dict[str, Machine] = {}
        self._authorities = b""
        # Bottles come and go in threads; none may miss the authorities, or go while it is told.
        self._lock = threading.Lock()

    @property
    def internet(self) -> Internet:
        """The lab."""
        return self._engine.internet

    def add(self, name: str) -> Machine:
        """Make a machine, or leave nothing of it."""
        with contextlib.ExitStack() as stack:
            network = f"{name}-egress"
            stack.callback(self._engine.delete_networks, (network,))
            self._engine.create_network(network, internal=False)
            (made,) = self._engine.networks((network,))
            guest = self._run_guest(f"{name}-machine", network, stack)
            holder, entry = self._hold(guest.name)
            machine = Machine(name, made, guest, holder, entry)
            machine.guests[Vantage.SIDECAR] = guest
            stack.callback(_let_go, holder)
            with self._lock:
                if self._authorities:
                    self._tell(machine)
                self._machines[name] = machine
            stack.pop_all()
        return machine

    def _run_guest(self, name: str, network: str, stack: contextlib.ExitStack) -> GuestInfo:
        stack.callback(self._engine.remove_guests, (name,))
        guest = self._engine.run_guest(
            GuestRequest(name, (network,), "machine", _TRUST, resolver=RESOLVER.host)
        )
        self._engine.settle((name,))
        return guest

    def _hold(self, guest: str) -> tuple[subprocess.Popen[bytes], list[str]]:
        """Start the process that holds a machine's mount namespace, in its network."""
        enter = self._user()
        pid = str(self._engine.pids()[guest])
        holder = subprocess.Popen(
            [
                *(*enter, "--net", "--target", pid),
                *("unshare", "--mount", "--propagation", "private"),
                *("sh", "-c", _HOLD, "sh", RESOLVER.host, _BUNDLE),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            seen = _let_go(holder)
            raise BringUpError(
                "a machine inside the lab did not start",
                where="nsenter, unshare and mount of util-linux",
                expected="a mount namespace in the lab's network",
                seen=seen.decode(errors="replace")[-500:],
            )
        return holder, [*enter, "--mount", "--net", "--target", str(holder.pid)]

    def _user(self) -> list[str]:
        """Root stays root; anybody else must be root of the engine's user namespace to get in."""
        enter = ["nsenter", "--preserve-credentials"]
        if os.geteuid() == 0:
            return enter
        return [*enter, f"--user=/proc/{self._engine.client.keeper_pid}/ns/user"]

    def remove(self, name: str) -> None:
        """Remove a machine with what is attached beside it; idempotent."""
        with self._lock:
            machine = self._machines.pop(name, None)
        if machine is None:
            return
        _let_go(machine.holder)
        self._engine.remove_guests([guest.name for guest in machine.guests.values()])
        self._engine.delete_networks((machine.network.name,))

    def close(self) -> None:
        """End the lab."""
        for name in list(self._machines):
            self.remove(name)
        self._engine.close()

    # -- the engine's own guests -------------------------------------------------------------------

    def exec(
        self,
        machine: Machine,
        vantage: Vantage,
        python: str,
        argv: Sequence[str],
        stdin: bytes,
        timeout: float,
        environment: Mapping[str, str],
    ) -> ExecResult:
        """Run a program in the network of the machine, or in that of a guest beside it."""
        guest = self._guest(machine, vantage)
        own = self._engine.python(PLAIN)
        argv = [own, *argv[1:]] if argv[0] == python else argv
        return self._engine.exec(
            guest.name, argv, stdin=stdin, environment=environment, timeout=timeout
        )

    def address(self, machine: Machine, vantage: Vantage) -> str:
        """Tell the address of such a guest."""
        return self._guest(machine, vantage).addresses[machine.network.name]

    def _guest(self, machine: Machine, vantage: Vantage) -> GuestInfo:
        if vantage not in machine.guests:
            name = f"{machine.name}-{_SUFFIX[vantage]}"
            with contextlib.ExitStack() as stack:
                machine.guests[vantage] = self._run_guest(name, machine.network.name, stack)
                stack.pop_all()
        return machine.guests[vantage]

    def trust(self) -> str:
        """Put the lab's authorities in the place of this machine's own, on every machine.

        Those that are made later have them from the beginning.
        """
        path = self._engine.trust()
        with self._lock:
            machines = [] if self._authorities else list(self._machines.values())
            for machine in machines:
                if not self._authorities:
                    read = self._engine.exec(machine.guest.name, ["cat", path])
                    self._authorities = read.stdout
                self._tell(machine)
        return path

    def _tell(self, machine: Machine) -> None:
        if os.path.exists(_BUNDLE):
            write = [*machine.entry, "sh", "-c", 'cat >"$1"', "sh", _BUNDLE]
            subprocess.run(write, input=self._authorities, check=True, timeout=30)


def _let_go(holder: subprocess.Popen[bytes]) -> bytes:
    """End a holder; returns what it complained of."""
    _, complaints = holder.communicate(timeout=10)
    return complaints
