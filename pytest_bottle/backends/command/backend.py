"""The command backend: what the suite asks of a backend, asked of command lines."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pytest_bottle.backends import framed
from pytest_bottle.backends.base import BackendBase
from pytest_bottle.backends.command import answers
from pytest_bottle.backends.command.orders import place_of
from pytest_bottle.backends.contract import (
    BackendInfo,
    Endpoint,
    ExecResult,
    GuestInfo,
    NetworkInfo,
    Topology,
    User,
    Vantage,
)
from pytest_bottle.backends.running import run
from pytest_bottle.errors import (
    BottleError,
    BringUpError,
    ConfigurationError,
    DeadlineError,
    NotSupported,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_bottle.backends.command.machine import Machine, Machines
    from pytest_bottle.backends.command.orders import Orders
    from pytest_bottle.backends.contract import Fault, Resource
    from pytest_bottle.backends.running import Said
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.spec import BottleSpec

T = TypeVar("T")

#: Seconds on top of a program's own deadline for the way in and out.
_WAY = 5.0
#: Where nobody is, for networks that ``up`` says nothing of (RFC 5737): a part for each bottle.
_NOWHERE = {"internal": "192.0.2", "egress": "198.51.100"}
_GUIDE = "see docs/command-backend.md"


@dataclass
class Standing:
    """A bottle of ours.

    Attributes:
        life: our end of the pipe that ends with the bottle; the other one is ``up``'s.
        machine: where its command lines run, inside the lab; None for this machine.
        handle: what ``up`` called it.
    """

    life: int
    machine: Machine | None = None
    handle: str = ""


class CommandBackend(BackendBase):
    """A :class:`~pytest_bottle.backends.contract.Backend` out of command lines.

    Args:
        orders: what they are.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._session = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)
        self._bottles: dict[str, Standing] = {}
        self._lock = threading.Lock()  # of the dict, for a moment at a time
        self._machines: Machines | None = None
        if orders.inside_lab:
            from pytest_bottle.backends.command.machine import Machines

            self._machines = Machines()

    def describe(self) -> BackendInfo:
        """Say what the file says."""
        orders = self._orders
        detail = f"{orders.name}, by {orders.source}"
        return BackendInfo("command", orders.version, orders.features, detail=detail)

    # -- up and down -------------------------------------------------------------------------------

    def up(self, spec: BottleSpec) -> Topology:
        """Run ``up``; whatever it had made is taken down by ``down`` if it fails.

        Raises:
            ConfigurationError: the specification says what nothing here understands.
            BringUpError: it failed, was cut at its deadline, or printed no topology.
        """
        self._check(spec)
        name = f"{self._session}-b{next(self._numbers)}"
        life, ours = os.pipe()
        bottle = Standing(ours)
        with self._lock:
            self._bottles[name] = bottle
        try:
            if self._machines is not None:
                bottle.machine = self._machines.add(name)
            answer = self._bring_up(name, spec, bottle, life)
            bottle.handle = answer.handle
            return self._topology(name, spec, answer, bottle.machine)
        except BaseException as error:
            self._undo(name, error)
            raise
        finally:
            os.close(life)

    def _check(self, spec: BottleSpec) -> None:
        said = {
            "command": spec.command,
            "image": spec.image,
            "rootfs": spec.rootfs,
            "networks": spec.internal_subnet or spec.egress_subnet,
        }
        unknown = [
            word for word, value in said.items() if value and word not in self._orders.accepts
        ]
        unknown += [] if spec.sidecar.is_reference else ["sidecar"]
        if unknown:
            raise ConfigurationError(
                "the command backend does not know what to do with these words",
                where=self._orders.source,
                expected="words that it lists under `accepts`",
                seen=", ".join(unknown),
                next_step=_GUIDE,
            )

    def _bring_up(self, name: str, spec: BottleSpec, bottle: Standing, life: int) -> answers.Answer:
        del bottle
        if "up" not in self._orders.verbs:
            return answers.Answer()
        said = self._run(
            "up",
            name,
            {"BOTTLE_LIFE": f"/dev/fd/{life}"},
            stdin=answers.specification(spec),
            deadline=spec.timeout,
            files=[life],
        )
        return self._read(said, answers.topology, BringUpError)

    def _undo(self, name: str, error: BaseException) -> None:
        """Take down what there is of a bottle that did not come up; that failing is told too."""
        try:
            self._take_down(name)
        except BottleError as other:
            error.add_note(f"and taking it down failed: {other}")

    def down(self, topology: Topology) -> None:
        """Run ``down``, once the end of the bottle's pipe has said the same."""
        self._take_down(topology.id)

    def _take_down(self, name: str) -> None:
        bottle = self._bottles.get(name)
        if bottle is None:
            return
        try:
            if bottle.life >= 0:
                os.close(bottle.life)
                bottle.life = -1
            self._bring_down(name, bottle)
        finally:
            with self._lock:
                self._bottles.pop(name, None)
            if self._machines is not None:
                self._machines.remove(name)

    def _bring_down(self, name: str, bottle: Standing) -> None:
        del bottle
        if "down" in self._orders.verbs:
            self._require(self._run("down", name))

    def close(self, *, keep: bool = False) -> str:
        """Take down every bottle, and end the lab."""
        with contextlib.ExitStack() as stack:
            if self._machines is not None:
                stack.callback(self._machines.close)
            for name in list(self._bottles):
                stack.callback(self._take_down, name)
        return "bottles of the command backend cannot be kept" if keep else ""

    def _topology(
        self, name: str, spec: BottleSpec, answer: answers.Answer, machine: Machine | None
    ) -> Topology:
        internal = answer.internal or _nowhere("internal", name)
        egress = answer.egress or (machine.egress if machine else _nowhere("egress", name))
        here = machine.address if machine else ""
        agent = answer.agent or here or _nobody(internal)
        sidecar = answer.sidecar or here or _nobody(internal, agent)
        outer = answer.sidecar_outer or here or _nobody(egress)
        own = machine.environment if machine else {}
        return Topology(
            id=name,
            spec=spec,
            internal=NetworkInfo("internal", internal=True, **internal._asdict()),
            egress=NetworkInfo("egress", internal=False, **egress._asdict()),
            agent=GuestInfo("agent", {"internal": agent}),
            sidecar=GuestInfo("sidecar", {"internal": sidecar, "egress": outer}),
            proxy=answer.proxy or Endpoint(sidecar, 9099),
            published=answer.published,
            machine_published=answer.machine_published,
            environment={**own, **answer.environment, **spec.environment},
            python=answer.python or self._orders.python,
            denial=answer.denial,
            resolvers=answer.resolvers,
            lacks=answer.lacks,
            tls_opaque=answer.tls_opaque or spec.sidecar.tls_opaque,
        )

    # -- programs in guests ------------------------------------------------------------------------

    def exec(
        self,
        topology: Topology,
        vantage: Vantage,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: User = User.AGENT,
        timeout: float = 30.0,
        environment: Mapping[str, str] | None = None,
    ) -> ExecResult:
        """Run a program in a guest by its command line; the frame that comes back tells its end.

        Raises:
            NotSupported: no command line is mapped for that place.
            TransportError: there is no whole frame: nobody knows what became of the program.
            DeadlineError: the program or its command line was cut.
        """
        machine = self._running(topology.id).machine
        if machine is not None and vantage in machine.places:
            assert self._machines is not None
            return self._machines.exec(
                machine, vantage, topology.python, argv, stdin, timeout, environment or {}
            )
        place = place_of(vantage, user)
        if place not in self._orders.places:
            raise self._refusal(f"exec.{place}")
        own = topology.environment if vantage is Vantage.AGENT else {}
        word, given = framed.order(argv, {**own, **(environment or {})}, stdin, timeout)
        said = self._send(place, topology, given, timeout + _WAY)
        frame = framed.frame(word, said.stdout)
        return self._result(said, frame, f"{place}: {' '.join(argv)[:200]}")

    def _send(self, place: str, topology: Topology, given: bytes, deadline: float) -> Said:
        """Have an order carried out in a guest."""
        return self._run_line(
            [*self._orders.places[place], *framed.command_line(topology.python)],
            topology.id,
            {"BOTTLE_PLACE": place},
            stdin=given,
            deadline=deadline,
        )

    def _result(self, said: Said, frame: framed.Frame | None, where: str) -> ExecResult:
        if frame is None:
            what = "nobody knows what became of a command: its frame did not come back"
            kind = DeadlineError if said.cut else TransportError
            raise self._error(kind, what, said, where)
        return frame.result(where, said.duration)

    def address(self, topology: Topology, vantage: Vantage) -> str:
        """Tell the address of a place: what ``up`` has told, or what ``address`` prints."""
        machine = self._running(topology.id).machine
        if machine is not None and vantage in machine.places:
            assert self._machines is not None
            return self._machines.address(machine, vantage)
        if vantage in (Vantage.AGENT, Vantage.SIDECAR):
            return super().address(topology, vantage)
        place = {"BOTTLE_PLACE": place_of(vantage, User.AGENT)}
        return self._ask("address", answers.address, topology.id, place)

    # -- the rest ----------------------------------------------------------------------------------

    @property
    def internet(self) -> Internet:
        """The lab, with ``internet: lab``."""
        if self._machines is None:
            raise self._refusal("internet: lab")
        return self._machines.internet

    def trust(self) -> str:
        """Make the lab's certificates valid on the machines of all bottles."""
        return self._machines.trust() if self._machines is not None else ""

    def inventory(self) -> frozenset[Resource]:
        """Read what ``inventory`` prints."""
        return self._ask("inventory", answers.resources)

    def audit(self, topology: Topology) -> Sequence[Mapping[str, object]]:
        """Read what ``audit`` prints."""
        return self._ask("audit", answers.records, topology.id)

    def logs(self, topology: Topology) -> Mapping[str, bytes]:
        """Read what ``logs`` prints; without it nothing of them can be read."""
        if "logs" not in self._orders.verbs:
            return {}
        return self._ask("logs", answers.texts, topology.id)

    def fault(self, topology: Topology, fault: Fault) -> None:
        """Run ``fault``; when it ends, the harm is done."""
        kind = fault.name.lower().replace("_", "-")
        self._require(self._run("fault", topology.id, {"BOTTLE_FAULT": kind}))

    @property
    def session(self) -> str:
        """What every command line gets as ``BOTTLE_SESSION``."""
        return self._session

    def residue(self, session: str) -> frozenset[Resource]:
        """Read what ``residue`` prints for a session."""
        return self._ask("residue", answers.resources, more={"BOTTLE_SESSION": session})

    def sweep(self, session: str) -> None:
        """Run ``sweep`` for a session."""
        self._require(self._run("sweep", "", {"BOTTLE_SESSION": session}))

    # -- command lines -----------------------------------------------------------------------------

    def _running(self, name: str) -> Standing:
        bottle = self._bottles.get(name)
        if bottle is None or bottle.life < 0:
            raise TransportError(
                "the bottle is down", where=f"bottle {name}", expected="a running bottle"
            )
        return bottle

    def _run(
        self,
        verb: str,
        name: str = "",
        more: Mapping[str, str] | None = None,
        *,
        stdin: bytes = b"",
        deadline: float = 0.0,
        files: Sequence[int] = (),
    ) -> Said:
        line = self._orders.verbs.get(verb)
        if line is None:
            raise self._refusal(verb)
        deadline = deadline or self._orders.deadline
        return self._run_line(line, name, more or {}, stdin=stdin, deadline=deadline, files=files)

    def _run_line(
        self,
        line: Sequence[str],
        name: str,
        more: Mapping[str, str],
        *,
        stdin: bytes,
        deadline: float,
        files: Sequence[int] = (),
    ) -> Said:
        bottle = self._bottles.get(name)
        variables = {"BOTTLE_SESSION": self._session}
        if bottle is not None:
            variables |= {"BOTTLE_ID": name, "BOTTLE_HANDLE": bottle.handle}
            if bottle.machine is not None:
                line = [*bottle.machine.way_in(self._orders.folder), *line]
        return run(
            line,
            folder=self._orders.folder,
            variables={**variables, **more},
            deadline=deadline,
            stdin=stdin,
            files=files,
        )

    def _ask(
        self,
        verb: str,
        read: Callable[[bytes], T],
        name: str = "",
        more: Mapping[str, str] | None = None,
    ) -> T:
        return self._read(self._run(verb, name, more), read, TransportError)

    def _read(self, said: Said, read: Callable[[bytes], T], kind: type[BottleError]) -> T:
        self._require(said, kind)
        try:
            return read(said.stdout)
        except answers.Unreadable as error:
            what = "a command line printed something else than it was asked"
            raise self._error(kind, what, said, expected=str(error)) from None

    def _require(self, said: Said, kind: type[BottleError] = TransportError) -> None:
        if not said.ok:
            raise self._error(kind, "a command line failed", said)

    def _error(
        self, kind: type[BottleError], what: str, said: Said, where: str = "", expected: str = ""
    ) -> BottleError:
        return kind(
            what,
            where=f"{where and where + ', '}by {said.line}",
            expected=expected,
            seen=str(said),
            next_step=_GUIDE,
        )

    def _refusal(self, what: str) -> NotSupported:
        return NotSupported(
            f"the {self.describe().name} backend has no {what}",
            where=self._orders.source,
            expected=f"a command line for it: {_GUIDE.removeprefix('see ')}",
        )


def _nowhere(role: str, bottle: str) -> answers.Net:
    """Name a network that is not there, and that no other bottle's stand-in is."""
    number = int(bottle.rpartition("b")[2])
    first, start = _NOWHERE[role], number % 32 * 8
    return answers.Net(f"{first}.{start}/29", f"{first}.{start + 1}")


def _nobody(net: answers.Net, *taken: str) -> str:
    """Name the last address of a network that nobody is known to have."""
    network = ipaddress.ip_network(net.subnet)
    others = {net.gateway, *taken}
    candidates = (str(network.broadcast_address - n) for n in range(1, len(others) + 2))
    return next(one for one in candidates if one not in others)
