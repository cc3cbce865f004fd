"""What mutants are made of: a netns backend that is open to tampering, and their registry."""

from __future__ import annotations

import abc
import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pytest_bottle.backends.contract import ExecResult, User, Vantage
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, Rule
from pytest_bottle.backends.engines.netns.tampering import patched_engine as patched_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_bottle.backends.contract import Backend, BackendInfo, Topology
    from pytest_bottle.spec import BottleSpec


class NetnsBackend(EngineBackend):
    """An engine backend whose engine is known to be netns, so that it can be tampered with."""

    def __init__(self, engine: NetnsEngine | None = None) -> None:
        self.netns = engine or NetnsEngine()
        self.mutant = ""
        self._rules: dict[str, list[Rule]] = {}
        super().__init__(self.netns)

    def describe(self) -> BackendInfo:
        """Name the engine, and whose mutant it is."""
        return super().describe()._replace(mutant=self.mutant)

    def down(self, topology: Topology) -> None:
        self._change("delete_rule", self._rules.pop(topology.id, []))
        super().down(topology)

    def add_rules(self, topology: Topology, *rules: Rule) -> None:
        """Add routing rules to H, until the bottle goes down."""
        self._change("rule", rules)
        self._rules[topology.id] = [*self._rules.get(topology.id, []), *rules]

    def drop_rules(self, topology: Topology, priority: int) -> None:
        """Delete those of its rules that have a priority."""
        gone = [rule for rule in self._rules[topology.id] if rule.priority == priority]
        self._change("delete_rule", gone)
        self._rules[topology.id] = [r for r in self._rules[topology.id] if r not in gone]

    def _change(self, verb: str, rules: Sequence[Rule]) -> None:
        if rules:
            self.netns.configure("host", [[verb, rule._asdict()] for rule in rules])


class Errand(NamedTuple):
    """A command on its way to a guest."""

    topology: Topology
    vantage: Vantage
    argv: Sequence[str]
    stdin: bytes
    user: User

    @property
    def is_the_agents(self) -> bool:
        """Whether it goes to the agent, as whichever user."""
        return self.vantage is Vantage.AGENT


class Meddler(NetnsBackend, abc.ABC):
    """A backend that has its say about each command before that is run."""

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
        errand = self.meddle(Errand(topology, vantage, argv, stdin, user))
        if isinstance(errand, ExecResult):
            return errand
        return super().exec(
            errand.topology,
            errand.vantage,
            errand.argv,
            stdin=errand.stdin,
            user=errand.user,
            timeout=timeout,
            environment=environment,
        )

    @abc.abstractmethod
    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Say what to run where instead, or what came of it without running anything."""


class Leaky(NetnsBackend, abc.ABC):
    """A bottle whose host forwards some of what its internal network hands to it.

    The catalogue's mutants insert nft rules that accept and masquerade. Here routing rules and
    forwarding do the same harm, and the lab's own route back stands in for the masquerade.
    """

    def up(self, spec: BottleSpec) -> Topology:
        topology = super().up(spec)
        self.weaken(topology)
        return topology

    @abc.abstractmethod
    def weaken(self, topology: Topology) -> None:
        """Open what the mutant opens."""

    def open_gateway(self, topology: Topology, *rules: Rule) -> None:
        """Let H forward from the internal bridge: all of it, or only what ``rules`` let through."""
        bridge = self.netns.bridges[topology.internal.name]
        inner = [rule._replace(priority=50, iif=bridge) for rule in rules]
        rest = [Rule(60, FR_ACT_PROHIBIT, iif=bridge)] if rules else []
        # Replies get the way back that H refuses to everybody else.
        back = Rule(40, iif="up0", to=topology.internal.subnet)
        self.add_rules(topology, *inner, *rest, back)
        setting = f"net/ipv4/conf/{bridge}/forwarding"
        self.netns.configure("host", [["sysctl", setting, "1"]])

    def close_gateway(self, topology: Topology) -> None:
        """Let H forward from the internal bridge no more."""
        bridge = self.netns.bridges[topology.internal.name]
        self.netns.configure("host", [["sysctl", f"net/ipv4/conf/{bridge}/forwarding", "0"]])

    def give_default_route(self, topology: Topology) -> None:
        """Let the agent itself use the gateway."""
        self.give_route(topology, "0.0.0.0/0")

    def give_route(self, topology: Topology, network: str) -> None:
        """Let the agent itself use the gateway for some addresses."""
        route = ["route", network, {"via": topology.internal.gateway}]
        self.netns.configure(topology.agent.name, [route])


def patched(code: str) -> NetnsBackend:
    """Open a backend whose session runs a line of code before its own."""
    return NetnsBackend(patched_engine(code))


_M = TypeVar("_M", bound="Callable[[], NetnsBackend]")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A backend weakened on purpose.

    Attributes:
        name: the ID of the check that must catch it; a second one of a check ends in ``-M2``.
        make: opens it.
        also: the IDs of all other checks that see the same harm.
        harness: it is the suite that is broken, not the bottle: no negative may be PASSED.
        blind: the IDs of the negatives that turn INCONCLUSIVE then; None for all of the survey's.
    """

    name: str
    make: Callable[[], NetnsBackend]
    also: frozenset[str]
    harness: bool = False
    blind: frozenset[str] | None = None

    @property
    def check(self) -> str:
        """The ID of the check that must catch it."""
        return self.name.partition("-M")[0]


_MUTANTS: dict[str, Mutant] = {}


def mutant(
    name: str,
    *,
    also: Iterable[str] = (),
    harness: bool = False,
    blind: Iterable[str] | None = None,
) -> Callable[[_M], _M]:
    """Register a class, or a function without arguments, that opens a mutant (:class:`Mutant`)."""

    def register(make: _M) -> _M:
        blinded = None if blind is None else frozenset(blind)
        _MUTANTS[name] = Mutant(name, make, frozenset(also), harness, blinded)
        return make

    return register


def all_mutants() -> Mapping[str, Mutant]:
    """Every mutant of the package, by name."""
    from pytest_bottle.conformance import mutants

    for module in pkgutil.iter_modules(mutants.__path__):
        importlib.import_module(f"{mutants.__name__}.{module.name}")
    return dict(sorted(_MUTANTS.items()))


def open_mutant(name: str) -> Backend:
    """Open a mutant."""
    backend = all_mutants()[name].make()
    backend.mutant = name
    return backend
