"""The embedded engine: bottles of Linux namespaces, with the lab as their Internet."""

from __future__ import annotations

import contextlib
import os
import platform
import select
import socket
import uuid
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import (
    BackendInfo,
    Endpoint,
    Feature,
    GuestInfo,
    NetworkInfo,
    Resource,
)
from pytest_bottle.backends.engines.netns.client import Client, interpreter
from pytest_bottle.backends.engines.netns.command import Command, read_status
from pytest_bottle.errors import BackendUnavailableError, BringUpError
from pytest_bottle.internet.hermetic import Lab

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.backends.contract import ExecResult, GuestRequest, SidecarRequest

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: How long a guest's own command must live to count as started, in seconds.
_SETTLE = 0.25
_HOMES = {"agent": "/home/agent", "root": "/root", "privileged": "/root"}


class NetnsEngine:
    """An :class:`~pytest_bottle.backends.contract.Engine` in one process tree of our own.

    Args:
        client: a server that is starting already; None starts one.

    Raises:
        BackendUnavailableError: not Linux, or a switch of the machine forbids user namespaces.
    """

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
        #: The bridge in H of each network, by the network's name.
        self.bridges: dict[str, str] = {}
        self._lab_awaited = False
        _, (witness, origin) = self.client.call("lab")
        self._lab = Lab(socket.socket(fileno=witness), socket.socket(fileno=origin))

    def info(self) -> BackendInfo:
        """Name the engine and what it can do: everything."""
        kind = "root" if os.geteuid() == 0 else "rootless"
        return BackendInfo(
            name="netns",
            version=platform.release(),
            features=frozenset(Feature),
            detail=f"Linux {platform.release()}, {kind}, lab internet",
        )

    @property
    def internet(self) -> Lab:
        """The lab."""
        return self._lab

    @property
    def python(self) -> str:
        """The interpreter that runs us, at the same path in every guest."""
        return interpreter()

    def create_network(self, name: str, *, internal: bool) -> NetworkInfo:
        """Make a bridge in H."""
        answer, _ = self.client.call("network_add", name=name, internal=internal)
        self.bridges[name] = answer["bridge"]
        return NetworkInfo(name, internal, answer["subnet"], answer["gateway"])

    def delete_networks(self, names: Sequence[str]) -> None:
        """Delete bridges."""
        self.client.call("network_remove", names=list(names))

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        """Start a guest in namespaces of its own."""
        answer, _ = self.client.call(
            "guest_add",
            name=request.name,
            networks=list(request.networks),
            hostname=request.hostname,
            resolver=request.resolver,
            timeout=request.timeout,
        )
        self._environments[request.name] = request.environment
        if self._lab_awaited:  # a sidecar is of use when what it leads to is there
            self._lab.origin.ping()
            self._lab_awaited = False
        if request.command:
            try:
                self._start_command(request)
            except BaseException:
                self.remove_guests([request.name])
                raise
        return GuestInfo(
            request.name, {cable["network"]: cable["ipv4"] for cable in answer["cables"]}
        )

    def _start_command(self, request: GuestRequest) -> None:
        """Run a guest's own command in the background; it must outlive its first moments."""
        status_read, status_write = os.pipe()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, status_read)
            output = self._log(request.name, output=True)
            nothing = os.open(os.devnull, os.O_RDONLY)
            theirs = (nothing, output, output, status_write)
            try:
                self._exec(request.name, request.command, "agent", {}, uuid.uuid4().hex, theirs)
            finally:
                for fd in set(theirs):
                    os.close(fd)
            if not select.select([status_read], [], [], _SETTLE)[0]:
                return
            raise BringUpError(
                "a guest's command ended at once",
                where=f"{request.name}: {' '.join(request.command)}",
                expected=f"a program that exists and runs for more than {_SETTLE:g} s",
                seen=_last_words(os.read(status_read, 4096), self.output(request.name)),
                next_step="give the agent a long-running command, or none",
            )

    def remove_guests(self, names: Sequence[str]) -> None:
        """Kill the guests' first processes; the kernel takes the rest."""
        self.client.call("guest_remove", names=list(names))
        for name in names:
            self._environments.pop(name, None)

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint:
        """Fork the reference sidecar off the server; publish by inherited sockets."""
        with _machine_listener(request.machine_port) as machine:
            self.client.call(
                "sidecar",
                [machine.fileno()],
                guest=guest,
                config=request.config,
                listen=[request.listen.host, request.listen.port],
                publish=[[request.publish.host, request.publish.port]],
                timeout=request.timeout,
            )
            self._lab_awaited = True
            return Endpoint(*machine.getsockname())

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

    def configure(self, where: str, changes: Sequence[Sequence[object]]) -> None:
        """Change routes, rules, links or settings of ``host``, ``lab`` or a guest (mutants do)."""
        self.client.call("configure", where=where, changes=[list(change) for change in changes])

    def trust(self) -> str:
        """Mint the lab's authority, once; every guest trusts it from then on."""
        answer, _ = self.client.call("trust")
        return str(answer["file"])

    def inventory(self) -> frozenset[Resource]:
        """Ask the kernel what exists in the session's namespaces."""
        answer, _ = self.client.call("inventory")
        return frozenset(Resource(kind, name) for kind, names in answer.items() for name in names)

    def pids(self) -> dict[str, int]:
        """The guests' first processes, as the machine numbers them."""
        answer, pidfds = self.client.call("pids")
        return dict(zip(answer["names"], map(_pid_of, pidfds), strict=True))

    def close(self, *, keep: bool = False) -> str:
        """End the session, or leave it running and say how to enter and remove it."""
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


def _last_words(status: bytes, output: bytes) -> str:
    said = read_status(status)
    end = said.get("error") or ", ".join(f"{key} {value}" for key, value in said.items())
    return f"{end}; output: {output[-500:].decode(errors='replace')!r}"


def _pid_of(pidfd: int) -> int:
    """The process behind a pidfd, as numbered here (proc(5), fdinfo)."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
    finally:
        os.close(pidfd)


def _machine_listener(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise BringUpError(
            "the published port is taken",
            where=f"127.0.0.1:{port} of this machine",
            expected="a free port",
            seen=str(error.strerror),
            next_step="choose another machine_port, or 0 to let the kernel choose",
        ) from error
    return sock
