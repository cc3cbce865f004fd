"""The embedded engine: bottles of Linux namespaces, with the lab as their Internet."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import signal
import socket
import time
import uuid
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import (
    BackendInfo,
    Endpoint,
    Fault,
    Feature,
    GuestInfo,
    NetworkInfo,
    Resource,
)
from pytest_bottle.backends.engines.netns import rootfs, subnets
from pytest_bottle.backends.engines.netns import session as sessions
from pytest_bottle.backends.engines.netns.awaited import Awaited
from pytest_bottle.backends.engines.netns.client import Client, interpreter
from pytest_bottle.backends.engines.netns.command import Command, Running
from pytest_bottle.backends.engines.netns.recipe import Recipe
from pytest_bottle.errors import BackendUnavailableError, BringUpError, ConfigurationError
from pytest_bottle.internet.hermetic import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.backends.contract import ExecResult
    from pytest_bottle.backends.engines.contract import ForwardRequest, GuestRequest, SidecarRequest
    from pytest_bottle.spec import BottleSpec

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What it can do: everything, for a proxy that programs are told of and that opens no TLS.
FEATURES = frozenset(Feature) - {Feature.TRANSPARENT, Feature.TLS_INTERCEPT}
#: Seconds that the kernel may take over a killed engine; usually 0.02.
_DEATH = 5.0
_HARM = {
    Fault.KILL_SIDECAR: "kill",
    Fault.STOP_AGENT: "kill",
    Fault.FREEZE_SIDECAR: "freeze",
    Fault.CUT_EGRESS: "cut",
    Fault.REMOVE_SIDECAR: "remove",
    Fault.RELOAD_FIREWALL: "reload",
    Fault.CONNECT_AGENT: "connect",
}
_HOMES = {"agent": "/home/agent", "root": "/root", "privileged": "/root"}


class NetnsEngine:
    """An :class:`~pytest_bottle.backends.engines.contract.Engine` in one process tree of our own.

    Args:
        client: a server that is starting already; None starts one.

    Raises:
        BackendUnavailableError: not Linux, or a switch of the machine forbids user namespaces.
    """

    #: One mount for all guests is behind it (:mod:`.confine`).
    authorities = "/etc/ssl/certs/ca-certificates.crt"

    def __init__(self, client: Client | None = None) -> None:
        if platform.system() != "Linux":
            raise BackendUnavailableError(
                "the netns backend needs Linux",
                where=platform.platform(),
                expected="Linux 5.12 or newer",
                seen=platform.system(),
                next_step="on a Mac choose --bottle-backend=macos-container",
            )
        self.client = client or Client()
        self.client.greet()
        self._environments: dict[str, Mapping[str, str]] = {}
        self._commands: dict[str, Running] = {}
        self._recipes: dict[str, Recipe] = {}
        #: The bridge in H of each network, by the network's name.
        self.bridges: dict[str, str] = {}
        self._networks: dict[str, NetworkInfo] = {}
        self._awaited = Awaited()
        self._served: set[str] = set()
        try:
            _, (witness, origin) = self.client.call("lab")
        except BaseException:
            self.client.close()
            raise
        self._lab = Lab(socket.socket(fileno=witness), socket.socket(fileno=origin))

    def info(self) -> BackendInfo:
        """Name the engine and what it can do."""
        kind = "root" if os.geteuid() == 0 else "rootless"
        return BackendInfo(
            name="netns",
            version=platform.release(),
            features=FEATURES,
            detail=f"Linux {platform.release()}, {kind}",
            disposable_host=True,
        )

    @property
    def internet(self) -> Lab:
        """The lab."""
        return self._lab

    def check(self, spec: BottleSpec) -> None:
        """Refuse images, a folder that is no root file system, and subnets that are in use."""
        for where, image in (("image", spec.image), ("sidecar.image", spec.sidecar.image)):
            if image:
                raise ConfigurationError(
                    "netns has no images",
                    where=where,
                    expected="no image: netns makes guests of this machine's own programs",
                    seen=repr(image),
                    next_step="use rootfs, a folder with the image's files; or a backend that has "
                    "images",
                )
        if spec.rootfs:
            rootfs.check(spec.rootfs)
        wanted = {"internal": spec.internal_subnet, "egress": spec.egress_subnet}
        subnets.check((f"networks.{name}", text) for name, text in wanted.items())

    def python(self, spec: BottleSpec) -> str:
        """The interpreter that runs us, at the same path in every guest; or the rootfs's own."""
        return rootfs.find_python(spec.rootfs) if spec.rootfs else interpreter()

    def together(self, *calls: Callable[[], object]) -> None:
        """Make calls one after the other: the server answers one at a time, and soon."""
        for call in calls:
            call()

    def loopback(self, candidates: Sequence[str], port: int) -> str:  # noqa: ARG002 - H is ours
        """Choose the first: H owns all of 127.0.0.0/8."""
        return next(iter(candidates), "")

    def create_network(self, name: str, *, internal: bool, subnet: str = "") -> None:
        """Make a bridge in H."""
        answer, _ = self.client.call("network_add", name=name, internal=internal, subnet=subnet)
        self.bridges[name] = answer["bridge"]
        self._networks[name] = NetworkInfo(name, internal, answer["subnet"], answer["gateway"])

    def networks(self, names: Sequence[str]) -> Sequence[NetworkInfo]:
        """Tell what was made; the server has said it by then."""
        return [self._networks[name] for name in names]

    def delete_networks(self, names: Sequence[str]) -> None:
        """Delete bridges."""
        for name in names:
            self._networks.pop(name, None)
        self.client.call("network_remove", names=list(names))

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        """Start a guest in namespaces of its own."""
        answer, (word,) = self.client.call(
            "guest_add",
            name=request.name,
            networks=list(request.networks),
            hostname=request.hostname,
            resolver=request.resolver,
            rootfs=request.rootfs,
        )
        self._recipes[request.name] = Recipe(request)
        who = f"guest {request.name}"
        self._awaited.add(request.name, who, word, request.timeout, execs=True)
        self._environments[request.name] = request.environment
        return GuestInfo(
            request.name, {cable["network"]: cable["ipv4"] for cable in answer["cables"]}
        )

    def settle(self, guests: Sequence[str]) -> None:
        """Hear the word of every part in these guests, here: the server has others to serve."""
        for guest in guests:
            self._awaited.wait(guest)
        self.client.call("settled", names=list(guests))
        if self._served.intersection(guests):  # a sidecar is of use when what it leads to is there
            self._lab.origin.ping()
            self._served.difference_update(guests)

    def start(
        self,
        guest: str,
        argv: Sequence[str],
        *,
        user: str = "agent",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run a guest's own command, its output into a file of the server's."""
        self._recipes[guest].command = lambda: self.start(
            guest, argv, user=user, environment=environment
        )
        status_read, status_write = os.pipe()
        output = self._log(guest, output=True)
        nothing = os.open(os.devnull, os.O_RDONLY)
        theirs = (nothing, output, output, status_write)
        if guest in self._commands:
            self._commands[guest].close()
        self._commands[guest] = Running(status_read)
        try:
            self._exec(guest, argv, user, environment or {}, uuid.uuid4().hex, theirs)
        finally:
            for fd in set(theirs):
                os.close(fd)

    def ended(self, guest: str, timeout: float = 0.0) -> str | None:
        """Tell how a guest's own command ended, by its status pipe."""
        return self._commands[guest].ended(timeout)

    def remove_guests(self, names: Sequence[str]) -> None:
        """Kill the guests' first processes; the kernel takes the rest."""
        self.client.call("guest_remove", names=list(names))
        for name in names:
            self._awaited.drop(name)
            self._served.discard(name)
            self._environments.pop(name, None)
            self._recipes.pop(name, None)
            if name in self._commands:
                self._commands.pop(name).close()

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint | None:
        """Fork the reference sidecar off the nursery; publish by inherited sockets."""
        self._served.add(guest)
        if request.publish is None:
            self._recipes[guest].service = lambda: self.run_sidecar(guest, request)
            self._order("sidecar", [], guest, request)
            return None
        with _machine_listener(request.machine_port) as machine:
            published = Endpoint(*machine.getsockname())
            same = request._replace(machine_port=published.port)
            self._recipes[guest].service = lambda: self.run_sidecar(guest, same)
            self._order("sidecar", [machine.fileno()], guest, request)
            return published

    def forward(self, guest: str, request: ForwardRequest) -> Endpoint:
        """Fork a forwarder off the nursery, likewise."""
        with _machine_listener(request.machine_port) as machine:
            published = Endpoint(*machine.getsockname())
            same = request._replace(machine_port=published.port)
            self._recipes[guest].service = lambda: self.forward(guest, same)
            self._order("forward", [machine.fileno()], guest, request)
            return published

    def _order(
        self,
        part: str,
        machine: Sequence[int],
        guest: str,
        request: SidecarRequest | ForwardRequest,
    ) -> None:
        self._awaited.wait(guest)  # what enters it must find it made
        fields = {"guest": guest, "publish": [request.publish] if request.publish else []}
        _, (word,) = self.client.call(part, machine, **{**request._asdict(), **fields})
        name = "forwarder" if part == "forward" else part
        self._awaited.add(guest, f"the {name} in {guest}", word, request.timeout)

    def exec(
        self,
        guest: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: str = "agent",
        environment: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> ExecResult:
        """Run a command in a guest's namespaces, with a clean environment and three files."""
        with contextlib.ExitStack() as stack:
            command = Command(f"{guest}: {' '.join(argv)[:200]}", timeout)
            stack.callback(command.close)
            self._exec(guest, argv, user, environment or {}, command.id, command.theirs)
            return command.run(stdin, cut=lambda: self.client.call("kill", id=command.id))

    def _exec(
        self,
        guest: str,
        argv: Sequence[str],
        user: str,
        environment: Mapping[str, str],
        identity: str,
        fds: Sequence[int],
    ) -> None:
        variables = {**self._variables(guest, user), **environment}
        self.client.call(
            "exec",
            fds,
            id=identity,
            guest=guest,
            argv=list(argv),
            user=user,
            environment=variables,
            folder=_HOMES[user],
        )

    def _variables(self, guest: str, user: str) -> dict[str, str]:
        """A user's variables in a guest: a clean environment, and the guest's own."""
        return {
            "PATH": _PATH,
            "HOME": _HOMES[user],
            "USER": "agent" if user == "agent" else "root",
            "LANG": "C.UTF-8",
            **self._environments.get(guest, {}),
        }

    def logs(self, guest: str) -> bytes:
        """Read what a guest's service wrote: the sidecar's audit, the host's canaries."""
        with open(self._log(guest, output=False), "rb") as file:
            return file.read()

    def output(self, guest: str) -> bytes:
        """Read what a guest's own command wrote."""
        with open(self._log(guest, output=True), "rb") as file:
            return file.read()

    def _log(self, guest: str, *, output: bool) -> int:
        _, (fd,) = self.client.call("logs", guest=guest, output=output)
        return fd

    def fault(self, guest: str, fault: Fault, network: str) -> None:
        """Signal the guest's processes from within its PID namespace, or change its cables.

        A restarted sidecar keeps its guest, and with that its addresses; a restarted agent gets a
        new one, which is given the old address as the lowest that is free.
        """
        if fault is Fault.STOP_ENGINE:
            self._stop()
        elif fault is Fault.RESTART_AGENT:
            recipe = self._recipes[guest]
            self.remove_guests([guest])
            self.run_guest(recipe.guest)
            self._revive(guest, recipe)
        elif fault is Fault.RESTART_SIDECAR:
            recipe = self._recipes[guest]
            self.client.call("fault", guest=guest, kind="kill", network=network)
            self._revive(guest, recipe)
        else:
            self.client.call("fault", guest=guest, kind=_HARM[fault], network=network)

    def _revive(self, guest: str, recipe: Recipe) -> None:
        """Run in a guest what ran there before."""
        if recipe.service is not None:
            recipe.service()
        self.settle([guest])
        if recipe.command is not None:
            recipe.command()

    def _stop(self) -> None:
        """Kill the keeper, with which everything goes; wait until the kernel has taken it."""
        os.kill(self.client.keeper_pid, signal.SIGKILL)
        self.client.wait()
        end = time.monotonic() + _DEATH
        while self.residue(self.session) and time.monotonic() < end:
            time.sleep(0.005)

    def configure(self, where: str, changes: Sequence[Sequence[object]]) -> None:
        """Change routes, rules, links or settings of ``host``, ``lab`` or a guest (mutants do)."""
        self.client.call("configure", where=where, changes=[list(change) for change in changes])

    def trust(self, authority: str = "") -> str:
        """Trust an authority, or mint the lab's, once; every guest trusts it from then on."""
        answer, _ = self.client.call("trust", authority=authority)
        return str(answer["file"])

    def inventory(self) -> frozenset[Resource]:
        """Ask the kernel what exists in the session's namespaces."""
        answer, _ = self.client.call("inventory")
        return frozenset(Resource(kind, name) for kind, names in answer.items() for name in names)

    @property
    def session(self) -> str:
        """Its mark, and the identities of its keeper and of the process that opened it."""
        return str(self.client.session)

    def residue(self, session: str) -> frozenset[Resource]:
        """List a session's processes on this machine and their network namespaces."""
        return sessions.residue(sessions.Session.parse(session))

    def sweep(self, session: str) -> None:
        """Kill what there is of a dead session."""
        sessions.sweep(sessions.Session.parse(session))

    def pids(self) -> dict[str, int]:
        """The guests' first processes, as the machine numbers them."""
        answer, pidfds = self.client.call("pids")
        return dict(zip(answer["names"], map(_pid_of, pidfds), strict=True))

    def close(self, *, keep: bool = False) -> str:
        """End the session, or leave it running and say how to enter and remove it."""
        self._awaited.close()
        while self._commands:
            self._commands.popitem()[1].close()
        if not keep:
            self._lab.close()
            self.client.close()
            return ""
        from pytest_bottle.backends.engines.netns.entering import Ways

        pids, ways = self.pids(), Ways(self.client.keeper_pid)
        lines = []
        for name, pid in sorted(pids.items()):
            if name.endswith(("-agent", "-sidecar")):  # the parts of the bottle itself
                who = ways.as_agent(pid, self._variables(name, "agent"))
                lines.append(f"enter {name} as its own user: {who}")
            lines.append(f"enter {name} with every privilege: {ways.privileged(pid)}")
        self.client.keep()
        self.client.leave()
        return "\n".join([*lines, f"remove all of it: kill {self.client.keeper_pid}"])


def _pid_of(pidfd: int) -> int:
    """The process behind a pidfd, as numbered here (proc(5), fdinfo)."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    finally:
        os.close(pidfd)


def _machine_listener(port: int) -> socket.socket:
    sock = None
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(128)
    except OSError as error:
        if sock is not None:
            sock.close()
        taken = error.errno == errno.EADDRINUSE
        raise BringUpError(
            "the published port is taken" if taken else "a port cannot be published",
            where=f"127.0.0.1:{port} of this machine",
            expected="a free port",
            seen=str(error.strerror),
            next_step="choose another machine_port, or 0 to let the kernel choose",
        ) from error
    return sock
