"""The emulator's containers: created, started, ended and removed, as the API server does it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pytest_bottle.emulator import faults, publishing, values
from pytest_bottle.emulator.machine import Ended, User, wire
from pytest_bottle.emulator.shapes import now
from pytest_bottle.emulator.tee import Tee
from pytest_bottle.emulator.values import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.emulator.machine import Machine, Process
    from pytest_bottle.emulator.networks import Networks

#: Seconds from the end of a container that is to be removed by itself until it is.
_LATER: Final = 0.5
#: Seconds after SIGKILL for a container to be gone.
_DEATH: Final = 10.0


_UNKNOWN: Final = Ended(255)


@dataclass
class Container:
    """A container, running or not.

    Attributes:
        configuration: as JSON shows it.
        auto_remove: it goes by itself when it ends (``--rm``).
        publishers: what its published ports need to be kept for.
        busy: held while it is being started or taken down.
    """

    id: str
    configuration: dict[str, Any]
    auto_remove: bool = False
    state: str = "stopped"
    started: str = ""
    attachments: list[dict[str, Any]] = field(default_factory=list)
    process: Process | None = None
    publishers: list[Callable[[], None]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    end: Ended = _UNKNOWN
    busy: threading.RLock = field(default_factory=threading.RLock)

    @property
    def networks(self) -> list[str]:
        """The names of the networks it refers to."""
        return [one["network"] for one in self.configuration["networks"]]

    def shape(self) -> dict[str, Any]:
        """What JSON shows of it."""
        status: dict[str, Any] = {"networks": self.attachments, "state": self.state}
        if self.started:
            status["startedDate"] = self.started
        return {"configuration": self.configuration, "id": self.id, "status": status}


class Containers:
    """All containers of a daemon.

    Args:
        machine: runs them.
        networks: what they hang on.
        folder: for their logs.
        version: of the API server.
        loopbacks: the addresses of the Mac's loopback interface, by a function.
    """

    def __init__(
        self,
        machine: Machine,
        networks: Networks,
        folder: str,
        version: str,
        loopbacks: Callable[[], Sequence[str]],
    ) -> None:
        self._machine = machine
        self._networks = networks
        self._folder = folder
        self._version = version
        self._loopbacks = loopbacks
        self._lock = threading.Lock()
        self._known: dict[str, Container] = {}

    def all(self) -> list[Container]:
        """Every container, as created."""
        with self._lock:
            return list(self._known.values())

    def find(self, name: str) -> Container | None:
        """Find a container."""
        return self._known.get(name)

    def get(self, name: str) -> Container:
        """Find a container, as a client's first question does.

        Raises:
            RefusedError: there is none.
        """
        found = self.find(name)
        if found is None:
            raise RefusedError(f"get failed: container {name} not found")
        return found

    def referring(self) -> dict[str, list[str]]:
        """The containers that refer to each network, running or not."""
        found: dict[str, list[str]] = {}
        for one in self.all():
            for name in one.networks:
                found.setdefault(name, []).append(one.id)
        return found

    def create(self, container: Container) -> None:
        """Take a new container in; it does not run yet."""
        for name in container.networks:
            self._networks.get(name)
        with self._lock:
            if container.id in self._known:
                old = self._version < "1.2.0"
                said = f"container already exists: {container.id}"
                cause = f'failed to create container (cause: "exists: "{said}"")'
                raise RefusedError(cause if old else said)
            self._known[container.id] = container

    def folder(self, container: Container) -> str:
        """Where a container's files of the daemon's lie."""
        return os.path.join(self._folder, container.id)

    def log(self, container: Container) -> str:
        """The file of what its first process wrote; there is none before the first start."""
        return os.path.join(self.folder(container), "stdio.log")

    # -- start ------------------------------------------------------------------

    def start(
        self, container: Container, files: Sequence[int] | None, switched_on: frozenset[str]
    ) -> None:
        """Start a container: a machine, its ports, and its first process while those open.

        Args:
            container: a stopped one; a running one stays as it is.
            files: three files of the caller's to attach it to; None leaves it to itself.
            switched_on: faults that are in force.

        Raises:
            RefusedError: it does not start, and is stopped.
        """
        with container.busy:
            if container.state == "running":
                return
            if len(container.id) > 64:
                said = f"container id length {len(container.id)} exceeds maximum of 64 characters"
                raise RefusedError(said)
            try:
                with contextlib.ExitStack() as ports:
                    for there in self._boot(container, switched_on):
                        ports.callback(there)
                    self._launch(container, files)
            except BaseException:
                self._take_down(container)
                raise

    def _boot(
        self, container: Container, switched_on: frozenset[str]
    ) -> Sequence[Callable[[], None]]:
        """Start its machine; returns what waits for its ports, which are bound."""
        configuration = container.configuration
        wanted = [
            values.Wanted(
                one["network"], one["options"].get("macAddress"), one["options"].get("mtu", 1280)
            )
            for one in configuration["networks"]
        ]
        legs = self._networks.legs(container.id, wanted)
        hostname = container.id.partition(".")[0]
        hosts = "127.0.0.1 localhost\n"
        networks = [self._networks.get(leg.network) for leg in legs]
        if legs:
            hosts += f"{networks[0].subnet[legs[0].number]} {hostname}\n"
        gateway = networks[0].gateway if networks else ""
        resolv_conf = _resolv_conf(configuration.get("dns"), gateway)
        cables = self._machine.start_guest(container.id, hostname, legs, hosts, resolv_conf)
        shown = configuration["networks"]
        container.attachments = [
            self._attachment(*parts) for parts in zip(shown, networks, legs, cables, strict=True)
        ]
        container.state, container.started = "running", now()
        container.ended.clear()
        if not cables:
            return ()
        return publishing.open_all(
            self._machine, container, cables[0]["ipv4"], self._loopbacks(), switched_on
        )

    def _attachment(
        self, asked: Mapping[str, Any], network: Any, leg: Any, cable: Mapping[str, Any]
    ) -> dict[str, Any]:
        shown = {
            "hostname": asked["options"]["hostname"],
            "ipv4Address": f"{cable['ipv4']}/{network.subnet.prefixlen}",
            "ipv4Gateway": network.gateway,
            "macAddress": leg.mac,
            "mtu": leg.mtu,
            "network": network.name,
        }
        if cable["ipv6"]:
            shown["ipv6Address"] = f"{cable['ipv6']}/64"
        if self._version >= "1.1.0":
            shown["variant"] = "reserved"
        return shown

    def _launch(self, container: Container, files: Sequence[int] | None) -> None:
        """Run the first process, and let a thread wait for its end."""
        os.makedirs(self.folder(container), exist_ok=True)
        log = os.open(self.log(container), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        init = container.configuration["initProcess"]
        with Tee(log, files) as tee:
            process = self._machine.run(
                wire(container.id),
                [init["executable"], *init["arguments"]],
                user=self.user(container, init["user"]),
                files=tee.theirs,
                environment=dict(line.split("=", 1) for line in init["environment"]),
                folder=init["workingDirectory"],
            )
            missing = process.wait_for_start()
        container.process = process
        if missing:
            process.wait()
            raise RefusedError(f"failed to find target executable {init['executable']}: {missing}")
        threading.Thread(target=self._watch, args=(container, process, tee), daemon=True).start()

    def user(self, container: Container, described: Mapping[str, Any]) -> User:
        """Who a process in a container is: always by the container's own configuration (S39)."""
        uid, gid = values.ids(described)
        shown = container.configuration
        granted = values.effective(shown["capAdd"], shown["capDrop"])
        # /proc/sys became read-only with 1.2.0, and can be left writable from 1.2.1 on.
        known = () if self._version < "1.2.0" else values.READ_ONLY
        is_open = "/proc/sys" not in shown.get("readonlyPaths", known)
        return User(uid, gid, granted, uid == 0 and is_open)

    # -- end ----------------------------------------------------------------------

    def _watch(self, container: Container, process: Process, tee: Tee) -> None:
        end = process.wait()
        tee.wait()
        with container.busy:
            if container.process is process:
                container.end = end
                self._take_down(container)
        if container.auto_remove:
            threading.Timer(_LATER, self._forget, [container]).start()

    def _take_down(self, container: Container) -> None:
        """Let the machine of a container go; its address is free again."""
        for close in container.publishers:
            close()
        container.publishers.clear()
        with contextlib.suppress(Exception):  # it may never have come up
            self._machine.remove_guest(container.id)
        self._networks.release(container.id)
        container.process = None
        container.state, container.attachments = "stopped", []
        container.ended.set()

    def stop(self, container: Container, number: int, seconds: float) -> None:
        """Ask a container to end, wait, and kill it; one that is stopped stays so."""
        process = container.process
        if container.state == "running" and process is not None:
            if seconds > 0:
                self._machine.signal(process, number)
                container.ended.wait(seconds)
            self.end(container)

    def end(self, container: Container) -> None:
        """Take a container down, whatever runs in it; it is done on return."""
        with container.busy:
            if container.state == "running":
                container.end = Ended(128 + signal.SIGKILL)
                self._take_down(container)

    def signal(self, container: Container, number: int) -> None:
        """Send a signal to the first process."""
        process = container.process
        if container.state != "running" or process is None:
            said = "no runtime client exists: container is stopped"
            raise RefusedError(f'failed to kill container (cause: "invalidState: "{said}"")')
        self._machine.signal(process, number)
        if number == signal.SIGKILL:
            container.ended.wait(_DEATH)

    def delete(self, name: str, *, force: bool, switched_on: frozenset[str]) -> None:
        """Remove a container; a running one only by force."""
        container = self.find(name)
        if container is None:
            raise RefusedError(_failed("delete", f'notFound: "container with ID {name} not found"'))
        with container.busy:
            if container.state == "running":
                if not force:
                    said = f"container {name} is running and can not be deleted"
                    raise RefusedError(_failed("delete", f'invalidState: "{said}"'))
                self.end(container)
        if faults.SLOW_DELETE in switched_on:
            self._networks.linger(container.networks, container.id)
        self._forget(container)

    def _forget(self, container: Container) -> None:
        with self._lock:
            if self._known.get(container.id) is container:
                del self._known[container.id]
        shutil.rmtree(self.folder(container), ignore_errors=True)

    def close(self) -> None:
        """End every container, at once."""
        for one in self.all():
            for close in one.publishers:
                close()


def _failed(what: str, cause: str) -> str:
    return f'internalError: "failed to {what} container" (cause: "{cause}")'


def _resolv_conf(dns: Mapping[str, Any] | None, gateway: str) -> str:
    """What the agent in a guest writes; without servers of its own, the first network's gateway."""
    if dns is None:
        return ""
    servers = dns["nameservers"] or ([gateway] if gateway else [])
    lines = [f"nameserver {one}" for one in servers]
    if "domain" in dns:
        lines.append(f"domain {dns['domain']}")
    for key, word in (("searchDomains", "search"), ("options", "options")):
        if dns[key]:
            lines.append(f"{word} {' '.join(dns[key])}")
    return "".join(f"{line}\n" for line in lines)
