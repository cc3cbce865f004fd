"""The engine over ``container``: networks, guests, and commands in them.

Facts are those of ``docs/apple-container.md``; S numbers are the networking spike's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from pytest_bottle.backends import framed
from pytest_bottle.backends.contract import (
    BackendInfo,
    ExecResult,
    Fault,
    Feature,
    GuestInfo,
    NetworkInfo,
    Resource,
)
from pytest_bottle.backends.engines import cli, reserved
from pytest_bottle.backends.engines.contract import PortTakenError
from pytest_bottle.backends.engines.macos_container import (
    answers,
    gate,
    image,
    inside,
    removal,
    services,
)
from pytest_bottle.backends.engines.macos_container.labels import Session
from pytest_bottle.backends.engines.macos_container.removal import CONTAINER, NETWORK
from pytest_bottle.backends.engines.macos_container.session import OpenSession
from pytest_bottle.errors import (
    BringUpError,
    ConfigurationError,
    DeadlineError,
    NotSupported,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.backends.contract import Endpoint
    from pytest_bottle.backends.engines.cli import Cli
    from pytest_bottle.backends.engines.contract import ForwardRequest, GuestRequest, SidecarRequest
    from pytest_bottle.backends.running import Said
    from pytest_bottle.spec import BottleSpec

HOST: Final = "host"
#: What it can do. Not the faults: a leg cannot be taken off a running container, and a restarted
#: one gets other addresses (S17). Not IPv6: nothing says what a guest's is.
FEATURES: Final = frozenset(
    {
        Feature.EXEC_ROOT,
        Feature.PRIVILEGED_PROBE,
        Feature.OPEN_GUEST,
        Feature.NEIGHBOUR,
        Feature.STRANGER,
        Feature.EITHER_ORDER,
        Feature.STOP,
        Feature.HOST_EXEC,
        Feature.PUBLISH,
        Feature.AUDIT,
        Feature.RELOAD,
        Feature.SESSION,
        Feature.INVENTORY,
    }
)
#: Whom a user's commands run as, in the options of ``exec``.
_USERS: Final = {
    "agent": ("--uid", "1000", "--gid", "1000"),
    "root": ("--uid", "0", "--gid", "0"),
    "privileged": ("--uid", "0", "--gid", "0"),
}
#: Seconds that a call may take on its way, besides what runs at its end.
_WAY: Final = 15.0
_BUSY: Final = b"has a pending operation"
_TAKEN: Final = b"Address already in use"


class ContainerEngine:
    """An :class:`~pytest_bottle.backends.engines.contract.Engine` over Apple's ``container``.

    Args:
        program: the command.
        name: the backend's, as on the command line.
        saved_image: a file to load the guests' image from, should it be missing.
        emulated: whether it only behaves like Apple's.

    Raises:
        BackendUnavailableError: it cannot be used here, with what to do about it.
    """

    #: Apple's networks lead to the real Internet; the far side is a guest.
    internet = None
    #: Beside the image's own, which a guest's root need not be able to write to.
    authorities = inside.AUTHORITIES

    def __init__(
        self, program: Cli, *, name: str, saved_image: str = "", emulated: bool = False
    ) -> None:
        self.program = program
        self._name, self._emulated = name, emulated
        if not emulated:
            gate.check_machine(program.place.machine(), program.place.name)
        self._gate = gate.check_service(program, emulated=emulated)
        has_image = self._look_around()
        if not has_image:
            image.provide(program, saved_image)
        self._session = OpenSession(program)
        self._guests: dict[str, services.Guest] = {}
        self._internal: dict[str, bool] = {}
        self._authority = ""
        self._lock = threading.Lock()

    def _look_around(self) -> bool:
        """Sweep what dead runs left; tells whether the guests' image is there."""
        found: list[bool] = []
        cli.together(
            [
                lambda: found.append(image.exists(self.program, image.NAME)),
                lambda: removal.sweep(self.program, removal.listed(self.program)),
            ]
        )
        return found == [True]

    def info(self) -> BackendInfo:
        """Name the engine and what it can do."""
        kind = "emulated on Linux namespaces; no Mac" if self._emulated else "on a Mac"
        return BackendInfo(
            name=self._name,
            version=self._gate.version,
            features=FEATURES,
            emulated=self._emulated,
            detail=f"{self._gate.detail}, {kind}, {self.program.place.name}",
            disposable_host=self._emulated,
        )

    def check(self, spec: BottleSpec) -> None:
        """Refuse a folder as file system, and images that are not in the store."""
        if spec.rootfs:
            raise ConfigurationError(
                f"{self._name} makes guests of images",
                where="rootfs",
                expected="no rootfs",
                seen=repr(spec.rootfs),
                next_step="make an image of the folder, and name it as image",
            )
        for where, name in (("image", spec.image), ("sidecar.image", spec.sidecar.image)):
            if name:
                image.check(self.program, name, where)

    def python(self, spec: BottleSpec) -> str:  # noqa: ARG002 - it is the same in all
        """What the image's PATH finds."""
        return inside.PYTHON

    def together(self, *calls: Callable[[], object]) -> None:
        """Make calls beside each other: each starts a process, and some a machine."""
        cli.together(calls)

    def loopback(self, candidates: Sequence[str], port: int) -> str:
        """Choose the first that is free; macOS has 127.0.0.1 only, until told more (S23)."""
        place, left = self.program.place, list(candidates)
        while found := place.first_free(left, port):
            if reserved.hold(place.name, found, port):
                break
            left.remove(found)  # another session's, which has not got to publish there yet
        return found

    # -- networks ---------------------------------------------------------------------

    def create_network(self, name: str, *, internal: bool, subnet: str = "") -> None:
        """Make a network.

        Raises:
            TransportError: what the command says, an overlapping subnet for example.
        """
        theirs, labels = self._session.begin(NETWORK, name)
        options = ["--internal"] if internal else []
        options += ["--subnet", subnet] if subnet else []
        busy = cli.Retry(lambda said: _BUSY in said.stderr, 10.0)
        self.program.call("network", "create", *options, *labels, theirs, retry=busy)
        self._session.made(theirs)
        self._internal[name] = internal

    def networks(self, names: Sequence[str]) -> Sequence[NetworkInfo]:
        """Read back what networks came to be, by one call.

        Raises:
            BringUpError: one is not of the mode that was asked for.
            TransportError: one is not there.
        """
        theirs = [self._session.identity.name(name) for name in names]
        said = self.program.call("network", "inspect", *theirs)
        place = self.program.place.name
        found = answers.all_of(theirs, answers.networks(said, place), said, place)
        made = []
        for name, one in zip(names, found, strict=True):
            mode = "hostOnly" if self._internal[name] else "nat"
            if one.mode != mode:
                raise BringUpError(
                    "a network is not as it was asked for",
                    where=f"network {one.name}",
                    expected=f"mode {mode}",
                    seen=f"mode {one.mode}",
                )
            made.append(NetworkInfo(name, self._internal[name], one.subnet, one.gateway))
        return made

    def delete_networks(self, names: Sequence[str]) -> None:
        """Delete networks."""
        self._session.remove_networks(names)

    # -- guests -----------------------------------------------------------------------

    def run_guest(self, request: GuestRequest) -> GuestInfo:
        """Start a guest that idles, and read back its addresses."""
        theirs, labels = self._session.begin(CONTAINER, request.name)
        options = [*labels, *self._options(request)]
        chosen = request.image or image.NAME
        program, argument = inside.IDLE
        options += ["--entrypoint", program]
        argv = ["run", "--detach", "--init", "--name", theirs, *options, chosen, argument]
        self._run(argv, request)
        self._session.made(theirs)
        guest = services.Guest(theirs, dict(request.environment), "", request.publishes)
        with self._lock:
            self._guests[request.name] = guest
        if request.serves:
            guest.service = services.begin_sidecar(self, request.name, guest, request.timeout)
        legs = self._legs(theirs)
        networks = [self._session.identity.name(network) for network in request.networks]
        missing = [name for name in networks if name not in legs]
        if missing:
            raise BringUpError(
                "a guest did not get all of its legs",
                where=f"container {theirs}",
                expected=f"an address on each of {', '.join(networks)}",
                seen=f"addresses {legs}",
            )
        guest.outer = legs[networks[0]] if networks else ""
        if self._authority:
            self._teach(request.name)
        addresses = {name: legs[its] for name, its in zip(request.networks, networks, strict=True)}
        return GuestInfo(request.name, addresses)

    def _run(self, argv: Sequence[str], request: GuestRequest) -> None:
        said = self.program.run(*argv, deadline=request.timeout + _WAY)
        if said.ok:
            return
        error, door = cli.failure(said, self.program.place.name), request.publishes
        if door is None or _TAKEN not in said.stderr:
            raise error
        raise PortTakenError(
            "the published port is taken",
            where=error.where,
            expected=f"nobody at {door.at}",
            seen=error.seen,
        )

    def _options(self, request: GuestRequest) -> list[str]:
        """The options that make a guest what is asked for; egress first, it routes (S11)."""
        words = []
        for network in request.networks:
            words += ["--network", self._session.identity.name(network)]
        words += ["--dns", request.resolver] if request.resolver else ["--no-dns"]
        words += self._rights(request)
        if request.publishes is not None:
            for door in self.program.place.doors(*request.publishes):
                words += ["--publish", f"{door}:{services.PUBLISHED}"]
        for name, text in request.environment.items():
            words += ["--env", f"{name}={text}"]
        return words

    def _rights(self, request: GuestRequest) -> list[str]:
        """The options that say what processes may do: controls set up what an agent must not."""
        if not request.privileged:
            return ["--cap-drop", "ALL"]
        # /proc/sys is read-only since 1.2.0, for whatever capabilities.
        opened = ["--read-only-path", "NONE"] if self._gate.can_open_paths else []
        return ["--cap-add", "NET_ADMIN", *opened]

    def _legs(self, theirs: str) -> dict[str, str]:
        said = self.program.call("inspect", theirs)
        place = self.program.place.name
        (made,) = answers.all_of([theirs], answers.containers(said, place), said, place)
        if made.state != "running":
            raise BringUpError(
                "a guest does not run",
                where=f"container {theirs}",
                expected="running",
                seen=made.state,
                next_step=f"container logs {theirs}",
            )
        return {leg.network: leg.address for leg in made.legs}

    def settle(self, guests: Sequence[str]) -> None:
        """Nothing is left to wait for: ``run`` and what serves have said that they are there."""

    def remove_guests(self, names: Sequence[str]) -> None:
        """Kill and remove guests."""
        with self._lock:
            gone = [self._guests.pop(name) for name in names if name in self._guests]
        for guest in gone:
            if guest.service is not None:
                guest.service.drop()
        place, doors = self.program.place, [one.publishes.at for one in gone if one.publishes]
        for door in doors:
            place.forget(door)
        self._session.remove_containers(names)
        for door in doors:
            reserved.let_go(place.name, *door)

    # -- commands -----------------------------------------------------------------------

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
        """Run a command in a guest, or at the host as whoever runs us there."""
        where = f"{guest}: {' '.join(argv)[:200]}"
        if guest == HOST:
            python = self.program.place.python
            own = [python if argv[0] == inside.PYTHON else argv[0], *argv[1:]]
            word, given = framed.order(own, environment or {}, stdin, timeout)
            line = framed.command_line(python)
            said = self.program.at_host(*line, stdin=given, deadline=timeout + _WAY)
            return self._result(said, word, where)
        variables = {**services.variables(self._guest(guest), user), **(environment or {})}
        order = framed.order(argv, variables, stdin, timeout)
        return self.ask(guest, framed.command_line(inside.PYTHON), order, user, timeout, where)

    def ask(
        self,
        guest: str,
        line: list[str],
        order: tuple[str, bytes | int],
        user: str,
        timeout: float,
        where: str = "",
    ) -> ExecResult:
        """Run in a guest what answers in a frame.

        Args:
            guest: where.
            line: the command line.
            order: the frame's word, and the standard input, which may be an open file.
            user: whom it runs as.
            timeout: seconds that it takes at most by itself.
            where: how an error calls it.
        """
        word, given = order
        argv = ["exec", "--interactive", *_USERS[user], self._guest(guest).name, *line]
        said = self.program.run(*argv, stdin=given, deadline=timeout + _WAY)
        return self._result(said, word, where or guest)

    def _guest(self, name: str) -> services.Guest:
        guest = self._guests.get(name)
        if guest is None:
            raise TransportError("there is no such guest", where=name, expected="a running guest")
        return guest

    def _result(self, said: Said, word: str, where: str) -> ExecResult:
        """Tell what became of a command by its frame: no exit status of the engine's can."""
        frame = framed.frame(word, said.stdout)
        if frame is None:
            error = cli.failure(
                said, self.program.place.name, what="nobody knows what became of a command"
            )
            if said.cut:
                raise DeadlineError(error.what, where=where, seen=error.seen)
            raise error
        return frame.result(where, said.duration)

    def start(
        self,
        guest: str,
        argv: Sequence[str],
        *,
        user: str = "agent",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a guest's own command, and let go of it."""
        its = self._guest(guest)
        its.log = services.OUTPUT[user]
        variables = {**services.variables(its, user), **(environment or {})}
        order = inside.order(argv, its.log, variables)
        services.launch(self, guest, order, user)

    def ended(self, guest: str, timeout: float = 0.0) -> str | None:
        """Tell how it ended: whoever waits for it in the guest wrote that down."""
        argv = inside.wait(self._guest(guest).log, timeout)
        return self.exec(guest, argv, user="root", timeout=timeout + _WAY).out or None

    def output(self, guest: str) -> bytes:
        """Read what it wrote."""
        return self.exec(guest, inside.read(self._guest(guest).log), user="root").stdout

    def run_sidecar(self, guest: str, request: SidecarRequest) -> Endpoint | None:
        """Run the reference sidecar in a guest; it serves on return."""
        services.run_sidecar(self, guest, self._guest(guest), request)
        if request.publish is None:
            return None
        return self.program.place.reach(request.publish, request.machine_port)

    def forward(self, guest: str, request: ForwardRequest) -> Endpoint:
        """Run a forwarder where the engine publishes to, for it writes down who came."""
        services.run_forwarder(self, guest, self._guest(guest), request)
        return self.program.place.reach(request.publish, request.machine_port)

    def logs(self, guest: str) -> bytes:
        """Read what the engine's own services in the guest wrote."""
        if guest == HOST:
            return b""
        return self.exec(guest, inside.read(inside.SERVICE_LOG), user="root").stdout

    def fault(self, guest: str, fault: Fault, network: str) -> None:  # noqa: ARG002
        """Kill, freeze or stop a guest, or remove it; no other harm can be done.

        Raises:
            NotSupported: another fault.
            TransportError: it could not be done, or there was nothing to do it to.
        """
        if fault is Fault.REMOVE_SIDECAR:
            self.remove_guests([guest])
            return
        if fault is Fault.STOP_AGENT:
            self.program.call("stop", self._guest(guest).name)
            return
        number = {Fault.KILL_SIDECAR: 9, Fault.FREEZE_SIDECAR: 19}.get(fault)
        if number is None:
            raise NotSupported(f"container cannot {fault.value}", where=guest)
        self._harm(guest, number)

    def _harm(self, guest: str, signal: int) -> None:
        """Signal all that serves in a guest; a harm that met nothing is no harm."""
        reached = 0
        for user in ("root", "agent"):  # root has no capability to signal others
            result = self.exec(guest, inside.harm(signal), user=user)
            if not result.ok:
                raise TransportError(
                    "a guest's processes could not be signalled",
                    where=f"{guest}, as {user}",
                    expected="exit status 0",
                    seen=f"exit status {result.exit_status}: {result.err[-500:]}",
                )
            reached += int(result.out)
        if not reached:
            raise TransportError(
                "there is no process in a guest to signal",
                where=guest,
                expected=f"one at least that takes signal {signal}",
                seen="none",
            )

    def trust(self, authority: str = "") -> str:
        """Put an authority into every guest's certificates, those of later guests too."""
        if authority and authority != self._authority:
            self._authority = authority
            with self._lock:
                guests = list(self._guests)
            cli.together([lambda guest=guest: self._teach(guest) for guest in guests])  # type: ignore[misc]
        return self.authorities

    def _teach(self, guest: str) -> None:
        argv, text = inside.trust(), self._authority.encode()
        result = self.exec(guest, argv, stdin=text, user="root")
        if not result.ok:
            raise TransportError(
                "a guest did not take an authority", where=guest, seen=result.err[-500:]
            )

    # -- the session ----------------------------------------------------------------------

    @property
    def session(self) -> str:
        """What its label says, and who opened it."""
        return str(self._session.identity)

    def inventory(self) -> frozenset[Resource]:
        """List what there is of this session."""
        return self.residue(self.session)

    def residue(self, session: str) -> frozenset[Resource]:
        """List the containers and networks with a session's label."""
        containers, networks = removal.listed(self.program).of(Session.parse(session))
        return frozenset(
            [
                *(Resource(CONTAINER, name) for name in containers),
                *(Resource(NETWORK, name) for name in networks),
            ]
        )

    def sweep(self, session: str) -> None:
        """Remove what there is of a dead session."""
        whose = Session.parse(session)
        if not whose.owner.is_dead:
            raise ConfigurationError(
                "a session that may be alive is not swept",
                where=session,
                expected=f"the end of process {whose.owner.pid} of this machine, which opened it",
                seen="it runs" if whose.owner.is_ours else "it is another machine's",
            )
        removal.remove_session(self.program, whose)

    def close(self, *, keep: bool = False) -> str:
        """End the session, or leave it and say how to enter and remove it."""
        for guest in self._guests.values():
            if guest.service is not None:
                guest.service.drop()
        if not keep:
            self._session.close()
            self.program.place.close()
            return ""
        containers, networks = self._session.leave()
        self.program.place.close()
        enter = [f"enter {name}: container exec -it {name} sh" for name in reversed(containers)]
        delete = f"container delete --force {' '.join(containers)}"
        remove = f"remove all of it: {delete} && container network delete {' '.join(networks)}"
        return "\n".join([*enter, remove])
