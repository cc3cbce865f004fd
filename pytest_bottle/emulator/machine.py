"""The namespaces behind the emulator: what a Mac and its virtual machines are made of here.

The engine's host H stands for the Mac, its bridges for the vmnet networks, a guest for a virtual
machine. What H forwards and answers decides what a network isolates, and faults change it there.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_bottle.backends.engines.netns.awaited import Awaited
from pytest_bottle.backends.engines.netns.client import Client, interpreter
from pytest_bottle.backends.engines.netns.command import read_status
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_BLACKHOLE, Rule
from pytest_bottle.backends.engines.netns.subnets import PREFIX6
from pytest_bottle.emulator import faults, stand_ins

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: The host, as the engine calls it: the emulated Mac.
MAC: Final = "host"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Seconds for a guest's first process, and for a published port, to be there.
_START: Final = 30.0


class User(NamedTuple):
    """Who a process is: its ids, its capabilities, and whether it may set kernel settings."""

    uid: int
    gid: int
    capabilities: Sequence[int]
    settings: bool


class Leg(NamedTuple):
    """A guest's place on a network: its host number there, its link address, its packets' size."""

    network: str
    number: int
    mac: str
    mtu: int


class Ended(NamedTuple):
    """How a process ended; ``missing`` has the reason if it never ran."""

    status: int
    missing: str = ""


class Process:
    """A process in a guest; each of its waits may be called once, by one thread.

    Args:
        identity: names it for the engine.
        status: the pipe that tells its end, ours to close.
        begun: the pipe that closes when it has been exec'd, likewise.
    """

    def __init__(self, identity: str, status: int, begun: int) -> None:
        self.identity = identity
        self._status = status
        self._begun = begun
        self._said = b""

    def wait_for_start(self) -> str:
        """Wait until its program runs; returns why it does not, or nothing."""
        with os.fdopen(self._begun, "rb", 0) as file:
            file.read()
        self._begun = -1
        if select.select([self._status], [], [], 0)[0]:
            self._said = os.read(self._status, 4096)
        return str(read_status(self._said).get("error", ""))

    def wait(self) -> Ended:
        """Wait for its end: its exit status, 128 and the signal, or 255 if nobody knows."""
        if self._begun >= 0:
            os.close(self._begun)
        with os.fdopen(self._status, "rb", 0) as file:
            while not self._said.endswith(b"\n") and (part := file.read(4096)):
                self._said += part
        status = read_status(self._said)
        if "error" in status:
            return Ended(1, str(status["error"]))
        return Ended(status["exit"] if "exit" in status else 128 + status.get("signal", 127))


def wire(guest: str) -> str:
    """Name a container's guest for the engine, whose own names it cannot take then."""
    return f"c-{guest}"


class Machine:
    """The engine's session, and what the emulator needs of it.

    Args:
        switched_on: the faults that are in force from the start.
    """

    def __init__(self, switched_on: frozenset[str], client: Client | None = None) -> None:
        self._faults = switched_on
        self._engine = NetnsEngine(client)
        self._client = self._engine.client
        self._rules: dict[str, list[Rule]] = {}
        self._inner: dict[str, str] = {}
        self._outer: dict[str, str] = {}
        self._lock = threading.Lock()
        self._answers_names = False

    @property
    def session(self) -> str:
        """What the engine's processes can be told by."""
        return self._engine.session

    @property
    def keeper_pid(self) -> int:
        """The engine's keeper: what ends with it is everything."""
        return self._client.keeper_pid

    def close(self) -> None:
        """End all of it."""
        self._engine.close()

    # -- networks -------------------------------------------------------------

    def add_network(
        self, name: str, subnet: str, *, internal: bool, switched_on: Iterable[str] = ()
    ) -> str:
        """Make a network; returns its IPv6 subnet, empty for none.

        ``switched_on`` are faults of this call, beside those of the start.
        """
        made, _ = self._client.call(
            "network_add", name=f"n-{name}", internal=internal, subnet=subnet
        )
        with self._lock:
            known = self._inner if internal else self._outer
            known[name] = made["bridge"]
            on = self._faults.union(switched_on)
            self._open(name, made["bridge"], subnet, on, internal=internal)
        return "" if internal else f"{PREFIX6}1:{int(made['bridge'][3:]):x}::/64"

    def delete_networks(self, names: Sequence[str]) -> None:
        """Delete networks that nobody is attached to, and what a fault had added."""
        with self._lock:
            for name in names:
                self._configure(MAC, "delete_rule", self._rules.pop(name, []))
                self._inner.pop(name, None)
                self._outer.pop(name, None)
        self._client.call("network_remove", names=[f"n-{name}" for name in names])

    def _open(
        self, name: str, bridge: str, subnet: str, switched_on: frozenset[str], *, internal: bool
    ) -> None:
        """Let the host do to a new network what the faults say."""
        rules: list[Rule] = []
        if internal and faults.HOST_ON_GATEWAY in switched_on:
            rules += [Rule(15, iif="lo", to=subnet, protocol=one) for one in ("tcp", "udp")]
        if faults.GATEWAY_DNS in switched_on:
            if internal:
                rules += [
                    Rule(14, iif="lo", to=subnet, protocol=one, origin=53) for one in ("tcp", "udp")
                ]
            self._answer_names()
        if internal and faults.HOST_FORWARDING in switched_on:
            rules += [Rule(50, iif=bridge, protocol="tcp")]
            rules += [Rule(60, FR_ACT_BLACKHOLE, iif=bridge)]
            rules += _ways_back(subnet, ["up0", *self._outer.values()])
            setting = f"net/ipv4/conf/{bridge}/forwarding"
            self._client.call("configure", where=MAC, changes=[["sysctl", setting, "1"]])
        if not internal and faults.HOST_FORWARDING in switched_on:
            for inner in self._inner:
                subnets = [r.to for r in self._rules.get(inner, []) if r.priority == 40 and r.to]
                more = _ways_back(subnets[0], [bridge]) if subnets else []
                self._configure(MAC, "rule", more)
                self._rules[inner] = [*self._rules.get(inner, []), *more]
        self._configure(MAC, "rule", rules)
        self._rules[name] = rules

    def _answer_names(self) -> None:
        """Run a resolver on the emulated Mac, once, which asks the far side."""
        if not self._answers_names:
            self._answers_names = True
            argv = [interpreter(), "-ISc", stand_ins.RESOLVER]
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self.run(MAC, argv, user="agent", files=(nothing, nothing, nothing))
            os.close(nothing)

    def _configure(self, where: str, verb: str, rules: Sequence[Rule]) -> None:
        if rules:
            changes = [[verb, rule._asdict()] for rule in rules]
            self._client.call("configure", where=where, changes=changes)

    # -- guests -----------------------------------------------------------------

    def start_guest(
        self, guest: str, hostname: str, legs: Sequence[Leg], hosts: str, resolv_conf: str
    ) -> list[dict[str, Any]]:
        """Start a guest; returns its cables, each with the addresses and the gateway.

        The first network gives the default route whatever its mode (S11), and ``/etc`` is the
        guest's own to change.
        """
        name, awaited = wire(guest), Awaited()
        answer, (word,) = self._client.call(
            "guest_add",
            name=name,
            networks=[f"n-{leg.network}" for leg in legs],
            hostname=hostname,
            resolver=None,
            rootfs="",
            wishes={
                "numbers": [leg.number for leg in legs],
                "hosts": hosts,
                "resolv_conf": resolv_conf,
            },
        )
        cables: list[dict[str, Any]] = answer["cables"]
        try:
            awaited.add(name, f"container {guest}", word, _START, execs=True)
            shapes = zip(legs, cables, strict=True)
            changes: list[list[Any]] = [
                ["shape", cable["device"], {"mac": leg.mac, "mtu": leg.mtu}]
                for leg, cable in shapes
            ]
            if cables:
                way = {"via": cables[0]["gateway"], "replace": True}
                changes.append(["route", "0.0.0.0/0", way])
            awaited.wait(name)
            if changes:
                self._client.call("configure", where=name, changes=changes)
        except BaseException:
            self.remove_guest(guest)
            raise
        finally:
            awaited.close()
        return cables

    def remove_guest(self, guest: str) -> None:
        """End a guest and all that runs in it; an unknown one is no error."""
        self._client.call("guest_remove", names=[wire(guest)])

    def publish(
        self, guest: str, door: socket.socket, at_mac: tuple[str, int], target: tuple[str, int]
    ) -> Callable[[], None]:
        """Let a listening socket of this machine, and one of the Mac's, lead to a guest's port.

        Returns:
            what waits until they do.
        """
        name, awaited = wire(guest), Awaited()
        _, (word,) = self._client.call(
            "forward",
            [door.fileno()],
            guest=name,
            targets=[target],
            publish=[at_mac],
            timeout=_START,
        )
        awaited.add(name, f"a published port of {guest}", word, _START)
        return lambda: awaited.wait(name)

    def slam(self, door: socket.socket, at_mac: tuple[str, int]) -> Process:
        """Accept on a published port and reset, here and at the Mac (#2029)."""
        argv = [interpreter(), "-ISc", stand_ins.RESETTER, at_mac[0], str(at_mac[1])]
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            return self.run(MAC, argv, user="agent", files=(door.fileno(), nothing, nothing))
        finally:
            os.close(nothing)

    # -- processes ---------------------------------------------------------------

    def run(
        self,
        guest: str,
        argv: Sequence[str],
        *,
        user: User | str,
        files: Sequence[int],
        environment: Mapping[str, str] | None = None,
        folder: str = "/",
    ) -> Process:
        """Start a process in a guest, on three files that stay the caller's.

        ``guest`` is as the engine calls it: :func:`wire` or :data:`MAC`.
        """
        status_read, status_write = os.pipe()
        begun_read, begun_write = os.pipe()
        identity = uuid.uuid4().hex
        variables = {"HOME": "/root", **(environment or {})}
        # An image here has no files of its own: the interpreter that runs us is its Python.
        own = os.path.dirname(interpreter())
        variables["PATH"] = f"{own}:{variables.get('PATH', _PATH)}"
        try:
            self._client.call(
                "exec",
                [*files, status_write, begun_write],
                id=identity,
                guest=guest,
                argv=list(argv),
                user=user if isinstance(user, str) else list(user),
                environment=variables,
                folder=folder,
            )
        except BaseException:
            os.close(status_read)
            os.close(begun_read)
            raise
        finally:
            os.close(status_write)
            os.close(begun_write)
        return Process(identity, status_read, begun_read)

    def signal(self, process: Process, number: int = signal.SIGKILL) -> None:
        """Send a signal; SIGKILL is for all of its session."""
        self._client.call("kill", id=process.identity, signal=number)

    def inventory(self) -> dict[str, list[str]]:
        """List what the kernel knows of the session (for tests)."""
        answer, _ = self._client.call("inventory")
        return {kind: list(names) for kind, names in answer.items()}


def _ways_back(subnet: str, bridges: Iterable[str]) -> list[Rule]:
    return [Rule(40, iif=bridge, to=subnet, protocol="tcp") for bridge in bridges]
