"""Backends from elsewhere are held to the contract, and told what is wrong with them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle import (
    BackendBase,
    BackendInfo,
    BackendUnavailableError,
    BottleSpec,
    BringUpError,
    ConfigurationError,
    Endpoint,
    ExecResult,
    Feature,
    GuestInfo,
    NetworkInfo,
    NotSupported,
    Topology,
    TransportError,
    User,
    Vantage,
)
from pytest_bottle.backends.adapter import checked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.backends.contract import Backend

TOPOLOGY = Topology(
    id="b1",
    spec=BottleSpec(),
    internal=NetworkInfo("inner", True, "198.51.100.0/24", "198.51.100.1"),
    egress=NetworkInfo("outer", False, "203.0.113.0/24", "203.0.113.1"),
    agent=GuestInfo("agent", {"inner": "198.51.100.2"}),
    sidecar=GuestInfo("sidecar", {"inner": "198.51.100.3", "outer": "203.0.113.3"}),
    proxy=Endpoint("198.51.100.3", 9099),
    published=None,
    machine_published=None,
    environment={},
    python=sys.executable,
)


class Plain(BackendBase):
    """A backend that keeps the contract, and writes down what was done to it."""

    features: Any = frozenset()

    def __init__(self) -> None:
        self.done: list[str] = []

    def describe(self) -> Any:
        """Name it, with the features of its class."""
        return BackendInfo("plain", "1", self.features)

    def up(self, spec: Any) -> Any:
        """Say what bottle there is."""
        self.done.append("up")
        return TOPOLOGY

    def down(self, topology: Any) -> None:
        """Write it down."""
        self.done.append("down")

    def exec(self, topology: Any, vantage: Any, argv: Any, **how: Any) -> Any:
        """Answer as the interpreter would."""
        root = how.get("user") is User.ROOT
        return ExecResult(0, b"0\n" if root else b"1000\n", b"")

    def close(self, *, keep: bool = False) -> str:
        """Write it down."""
        self.done.append("close")
        return ""


class Duck:
    """A backend that inherits nothing, and has only what every backend has."""

    describe = Plain.describe
    up, down, exec, close = Plain.up, Plain.down, Plain.exec, Plain.close
    features: Any = frozenset()

    def __init__(self) -> None:
        self.done: list[str] = []


def variant(**changes: Any) -> Any:
    """Make a class like ``Plain`` with other members."""
    return type("Odd", (Plain,), changes)


def refuse(*_: object, **__: object) -> Any:
    """Refuse whatever is asked."""
    raise NotSupported("not here")


def opened(factory: Callable[[], Any]) -> Backend:
    """Open what a factory makes, under the name ``mine``."""
    return checked("mine", factory)


@pytest.mark.parametrize("kind", [Plain, Duck])
def test_a_backend_that_keeps_the_contract(kind: type) -> None:
    """It is used as it is; what it leaves out refuses, or has a plain answer."""
    backend = opened(kind)

    assert backend.up(BottleSpec()) is TOPOLOGY
    assert backend.exec(TOPOLOGY, Vantage.AGENT, ["true"]).ok
    assert backend.describe().name == "plain"
    assert (backend.trust(), dict(backend.logs(TOPOLOGY))) == ("", {})
    assert backend.address(TOPOLOGY, Vantage.SIDECAR) == "198.51.100.3"
    for ask in (
        lambda: backend.internet,
        lambda: backend.session,
        lambda: backend.audit(TOPOLOGY),
        backend.inventory,
        lambda: backend.address(TOPOLOGY, Vantage.OPEN),
    ):
        with pytest.raises(NotSupported, match=rf"backend {kind.__name__} has no "):
            ask()
    assert backend.done == ["up"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("factory", "seen"),
    [
        (lambda: None, "no describe(); no up(); no down(); no exec(); no close()"),
        (variant(exec=None), "no exec()"),
        (variant(describe=lambda _: "plain"), "describe() returned 'plain', no BackendInfo"),
        (variant(describe=lambda _: 1 / 0), "describe() raised ZeroDivisionError: "),
        (variant(features=[Feature.LAB]), "is [<Feature.LAB: 'lab'>], no frozenset of Feature"),
        (variant(features=frozenset({"lab"})), "is frozenset({'lab'}), no frozenset of Feature"),
        (
            variant(features=frozenset(Feature) - {Feature.EXEC_ROOT, Feature.HOST_EXEC}),
            "declares Feature.AUDIT without audit(); declares Feature.CONNECT without fault(); "
            "declares Feature.FAULT without fault(); "
            "declares Feature.FIREWALL_RELOAD without fault(); "
            "declares Feature.INVENTORY without inventory(); "
            "declares Feature.LAB without internet; declares Feature.LAB without trust(); "
            "declares Feature.NEIGHBOUR without address(); "
            "declares Feature.OPEN_GUEST without address(); "
            "declares Feature.PRIVILEGED_PROBE without address(); "
            "declares Feature.RELOAD without reload(); declares Feature.RESTART without fault(); "
            "declares Feature.SESSION without session; declares Feature.SESSION without residue(); "
            "declares Feature.SESSION without sweep(); "
            "declares Feature.STOP without fault(); "
            "declares Feature.STOP_ENGINE without fault(); "
            "declares Feature.STRANGER without address()",
        ),
        (
            variant(exec=lambda _, topology, vantage, argv: None),
            "exec(topology, vantage, argv) cannot be called as the contract says: got an un",
        ),
        (variant(down=lambda _: None), "down() cannot be called as the contract says: too many"),
    ],
)
def test_what_is_no_backend(factory: Callable[[], Any], seen: str) -> None:
    """Whatever a backend lacks or says wrongly is named when it is opened, all of it at once."""
    with pytest.raises(ConfigurationError) as caught:
        opened(factory)

    error = caught.value
    assert seen in error.seen
    kind = type(factory())
    assert error.where == f"backend 'mine', class {kind.__module__}.{kind.__qualname__}"
    assert error.expected
    assert "docs/backend-authors.md" in error.next_step


def test_a_wrong_backend_is_closed_again() -> None:
    """What its factory has opened does not stay open."""
    backend = variant(features=frozenset({Feature.AUDIT}))()

    with pytest.raises(ConfigurationError):
        opened(lambda: backend)

    assert backend.done == ["close"]


def test_a_factory_that_fails() -> None:
    """Its error is the cause of ours, which names it; an error of ours goes through as it is."""

    def broken() -> Backend:
        raise OSError("no such device")

    with pytest.raises(BackendUnavailableError) as caught:
        opened(broken)
    with pytest.raises(NotSupported, match="not here"):
        opened(refuse)

    assert caught.value.seen == "OSError: no such device"
    assert "factory" in caught.value.where
    assert "test_a_factory_that_fails.<locals>.broken" in caught.value.where
    assert isinstance(caught.value.__cause__, OSError)


def test_an_incomplete_subclass_is_named() -> None:
    """Python itself refuses a subclass of the base without a required method; we say where."""
    incomplete = type("Incomplete", (BackendBase,), {"describe": Plain.describe})

    with pytest.raises(BackendUnavailableError) as caught:
        opened(incomplete)

    assert "abstract class Incomplete" in caught.value.seen
    assert "exec" in caught.value.seen


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        (variant(up=lambda *_: "b1"), "up() returned 'b1', no Topology"),
        (
            variant(up=lambda *_: TOPOLOGY._replace(agent=GuestInfo("agent", {}))),
            "guest 'agent' has no address on network 'inner'",
        ),
        (variant(up=lambda *_: TOPOLOGY._replace(python="")), "Topology.python is '', no path"),
        (variant(exec=lambda *_, **__: 0), "exec() returned 0, no ExecResult"),
    ],
)
def test_a_bottle_of_another_shape(kind: type, seen: str) -> None:
    """An answer of another type is a mistake of the backend's, and is said to be."""
    with pytest.raises(ConfigurationError) as caught:
        opened(kind).up(BottleSpec())

    assert seen in caught.value.seen


def _fail(*_: object, **__: object) -> ExecResult:
    raise TransportError("no such program", where="/usr/bin/python9")


def _only_at(*places: tuple[Vantage, User]) -> Callable[..., ExecResult]:
    def run(_: object, __: object, vantage: Vantage, ___: object, **how: Any) -> ExecResult:
        if (vantage, how["user"]) not in places:
            _fail()
        return ExecResult(0, b"0\n", b"")

    return run


AGENT, ROOT = (Vantage.AGENT, User.AGENT), (Vantage.AGENT, User.ROOT)


@pytest.mark.parametrize(
    ("features", "run", "where"),
    [
        ((), _fail, "vantage point 'agent' as agent"),
        ((), lambda *_, **__: ExecResult(1, b"", b"boom"), "vantage point 'agent' as agent"),
        ((), lambda *_, **__: ExecResult(0, b"Python", b""), "vantage point 'agent' as agent"),
        ((Feature.EXEC_ROOT,), _only_at(AGENT), "vantage point 'agent' as root"),
        (
            (Feature.EXEC_ROOT,),
            lambda *_, **__: ExecResult(0, b"1000", b""),
            "vantage point 'agent' as root",
        ),
        ((Feature.HOST_EXEC,), _only_at(AGENT), "vantage point 'host' as agent"),
        ((Feature.HOST_EXEC, Feature.EXEC_ROOT), _only_at(AGENT, ROOT), "vantage point 'host'"),
    ],
)
def test_a_first_bottle_in_which_nothing_runs(
    features: tuple[Feature, ...], run: Callable[..., ExecResult], where: str
) -> None:
    """A declared place at which no interpreter runs is found at the first bottle, which goes."""
    backend = variant(features=frozenset(features), exec=run)()

    with pytest.raises(BringUpError, match="interpreter does not run") as caught:
        opened(lambda: backend).up(BottleSpec())

    assert where in caught.value.where
    assert backend.done == ["up", "down"]


def test_only_the_first_bottle_is_tried() -> None:
    """Further bottles cost nothing on top."""
    calls: list[Vantage] = []

    def run(_: object, __: object, vantage: Vantage, ___: object, **how: Any) -> ExecResult:
        calls.append(vantage)
        return ExecResult(0, b"0", b"")

    backend = opened(variant(features=frozenset({Feature.HOST_EXEC}), exec=run))
    for _ in range(3):
        backend.up(BottleSpec())

    assert calls == [Vantage.AGENT, Vantage.HOST]


@pytest.mark.parametrize(
    ("feature", "name", "ask"),
    [
        (Feature.AUDIT, "audit", lambda one: one.audit(TOPOLOGY)),
        (Feature.INVENTORY, "inventory", lambda one: one.inventory()),
        (Feature.LAB, "internet", lambda one: one.internet),
        (Feature.SESSION, "session", lambda one: one.session),
        (Feature.NEIGHBOUR, "address", lambda one: one.address(TOPOLOGY, Vantage.NEIGHBOUR)),
        (Feature.OPEN_GUEST, "exec", lambda one: one.exec(TOPOLOGY, Vantage.OPEN, ["true"])),
        (
            Feature.EXEC_ROOT,
            "exec",
            lambda one: one.exec(TOPOLOGY, Vantage.AGENT, ["true"], user=User.ROOT),
        ),
    ],
)
def test_a_feature_that_is_refused_when_used(
    feature: Feature, name: str, ask: Callable[[Backend], object]
) -> None:
    """A backend may not declare what it then refuses: that is an error, never a skip."""
    refusing = property(refuse) if name in ("internet", "session") else refuse
    others = dict.fromkeys(("trust", "residue", "sweep", "address"), refuse)
    kind = variant(**{**others, "features": frozenset({feature}), name: refusing})

    with pytest.raises(ConfigurationError, match="contradicts its features") as caught:
        ask(opened(kind))

    assert caught.value.seen == f"declares Feature.{feature.name}, and {name} says: not here"


def test_what_a_bottle_lacks_may_be_refused() -> None:
    """A feature of the backend that one bottle does not have is no contradiction there."""
    backend = opened(variant(audit=refuse, features=frozenset({Feature.AUDIT})))

    with pytest.raises(NotSupported, match="not here"):
        backend.audit(TOPOLOGY._replace(lacks=frozenset({Feature.AUDIT})))


def test_a_backends_own_members_show_through() -> None:
    """Authors reach what else their backend has; what nobody has is an AttributeError."""
    backend: Any = opened(Plain)

    assert backend.done == []
    with pytest.raises(AttributeError):
        backend.no_such_thing()
