"""Backends from elsewhere, held to the contract: when they are opened, and at each answer.

A backend that lacks methods or lies about its features must fail, and say where; otherwise its own
mistakes would read like properties of the sandbox that it brings up.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pytest_bottle.backends.base import BackendBase, Refusals
from pytest_bottle.backends.contract import (
    FAULTS_OF,
    FEATURE_OF,
    BackendInfo,
    ExecResult,
    Feature,
    Topology,
    User,
    Vantage,
)
from pytest_bottle.errors import (
    BackendUnavailableError,
    BottleError,
    BringUpError,
    ConfigurationError,
    NotSupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bottle.backends.contract import Backend

_GUIDE = "see docs/backend-authors.md: the contract"
#: What every backend has, and what stands behind a feature.
_ALWAYS = ("describe", "up", "down", "exec", "close")
_BEHIND: Mapping[Feature, tuple[str, ...]] = {
    Feature.LAB: ("internet", "trust"),
    Feature.PRIVILEGED_PROBE: ("address",),
    Feature.OPEN_GUEST: ("address",),
    Feature.NEIGHBOUR: ("address",),
    Feature.STRANGER: ("address",),
    Feature.AUDIT: ("audit",),
    **dict.fromkeys(FAULTS_OF, ("fault",)),
    Feature.RELOAD: ("reload",),
    Feature.SESSION: ("session", "residue", "sweep"),
    Feature.INVENTORY: ("inventory",),
}
_PROPERTIES = frozenset({"internet", "session"})
#: How each method is called: by position, and by keyword.
_CALLS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "describe": (0, ()),
    "up": (1, ()),
    "down": (1, ()),
    "exec": (3, ("stdin", "user", "timeout", "environment")),
    "close": (0, ("keep",)),
    "address": (2, ()),
    "audit": (1, ()),
    "logs": (1, ()),
    "fault": (2, ()),
    "reload": (2, ()),
    "trust": (0, ()),
    "inventory": (0, ()),
    "residue": (1, ()),
    "sweep": (1, ()),
}
#: What a method must return; a value of another type is a mistake of the backend's.
_RETURNS: Mapping[str, type] = {
    "describe": BackendInfo,
    "up": Topology,
    "exec": ExecResult,
    "address": str,
    "audit": Sequence,
    "logs": Mapping,
    "trust": str,
    "inventory": frozenset,
    "residue": frozenset,
}
#: Tells that an interpreter runs, and as whom.
_TRIAL = "import os; print(os.getuid())"


def checked(name: str, factory: Callable[[], Backend]) -> Backend:
    """Open a backend that somebody offers, and hold it to the contract from then on.

    Args:
        name: that it is offered under.
        factory: opens it.

    Raises:
        BackendUnavailableError: the factory failed.
        ConfigurationError: what it opened is no backend, or contradicts itself; it is closed again.
    """
    backend = _open(name, factory)
    try:
        info = _info(name, backend)
        wrong = [*_missing(backend, info.features), *_misshapen(backend)]
        if wrong:
            raise _mistake(name, backend, "a backend does not keep the contract", wrong)
    except BaseException:
        with contextlib.suppress(Exception):
            backend.close()
        raise
    return cast("Backend", _Checked(name, backend, info.features))


def _open(name: str, factory: Callable[[], Backend]) -> Backend:
    try:
        return factory()
    except BottleError:
        raise
    except Exception as error:
        raise BackendUnavailableError(
            "a backend could not be opened",
            where=f"backend {name!r}, its factory {_name_of(factory)}",
            expected="a backend, or a BottleError that says why there is none here",
            seen=f"{type(error).__name__}: {error}",
            next_step="the cause is shown with --full-trace",
        ) from error


def _info(name: str, backend: Backend) -> BackendInfo:
    """Ask a backend what it is, and believe no answer of another shape."""
    absent = [method for method in _ALWAYS if not _has(backend, method)]
    if absent:
        wrong = [f"no {method}()" for method in absent]
        raise _mistake(name, backend, "a backend lacks required methods", wrong)
    try:
        info = backend.describe()
    except Exception as error:
        wrong = [f"describe() raised {type(error).__name__}: {error}"]
        raise _mistake(name, backend, "a backend does not describe itself", wrong) from error
    if wrong := list(_odd_info(info)):
        raise _mistake(name, backend, "a backend does not describe itself", wrong)
    return info


def _odd_info(info: object) -> Iterator[str]:
    if not isinstance(info, BackendInfo):
        yield f"describe() returned {_shown(info)}, no BackendInfo"
        return
    if not isinstance(info.name, str) or not info.name:
        yield f"BackendInfo.name is {info.name!r}, no name"
    features: object = info.features
    if not isinstance(features, frozenset) or not all(isinstance(f, Feature) for f in features):
        yield f"BackendInfo.features is {_shown(features)}, no frozenset of Feature"


def _missing(backend: Backend, features: frozenset[Feature]) -> Iterator[str]:
    """Name what a backend claims by a feature and does not have."""
    for feature in sorted(features, key=lambda one: one.value):
        for method in _BEHIND.get(feature, ()):
            if not _has(backend, method):
                shown = method if method in _PROPERTIES else f"{method}()"
                yield f"declares Feature.{feature.name} without {shown}"


def _has(backend: object, name: str) -> bool:
    """Tell whether a backend has a method of its own, not the one that only refuses."""
    missing = object()
    found = inspect.getattr_static(backend, name, missing)
    if found is missing:  # a wrapper may pass on what it has not
        return name not in _PROPERTIES and callable(getattr(backend, name, None))
    if found is inspect.getattr_static(BackendBase, name):
        return False
    return name in _PROPERTIES or callable(getattr(backend, name, None))


def _misshapen(backend: Backend) -> Iterator[str]:
    """Name the methods that cannot be called as the suite calls them."""
    for name, (count, keywords) in _CALLS.items():
        if not _has(backend, name):
            continue
        try:
            signature = inspect.signature(getattr(backend, name))
            signature.bind(*[None] * count, **dict.fromkeys(keywords))
        except ValueError:  # not written in Python
            continue
        except TypeError as error:
            yield f"{name}{signature} cannot be called as the contract says: {error}"


class _Checked:
    """A backend whose answers are looked at; everything else of it shows through."""

    def __init__(self, name: str, backend: Backend, features: frozenset[Feature]) -> None:
        self._name = name
        self._backend = backend
        self._features = features
        kind = type(backend)
        stand_in = type(kind.__name__, (Refusals,), {"__module__": kind.__module__})
        self._stand_in: Refusals = stand_in()
        self._tried = False

    def __repr__(self) -> str:
        return f"<backend {self._name!r}: {self._backend!r}>"

    def __getattr__(self, name: str) -> Any:
        absent = inspect.getattr_static(self._backend, name, None) is None
        if absent and hasattr(Refusals, name) and not _has(self._backend, name):
            return getattr(self._stand_in, name)
        if name in _PROPERTIES:
            return self._call(name, lambda: getattr(self._backend, name))
        value = getattr(self._backend, name)
        return functools.partial(self._call, name, value) if name in _CALLS else value

    def _call(self, name: str, method: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        try:
            answer = method(*args, **keywords)
        except NotSupported as error:
            claimed = self._claimed(name, args, keywords)
            if claimed is None:
                raise
            wrong = [f"declares Feature.{claimed.name}, and {name} says: {error.what}"]
            raise self._mistake("a backend contradicts its features", wrong) from error
        wanted = _RETURNS.get(name)
        if wanted and not isinstance(answer, wanted):
            wrong = [f"{name}() returned {_shown(answer)}, no {wanted.__name__}"]
            raise self._mistake("a backend gave an answer of another type", wrong)
        if name == "up":
            self._look_at(answer)
        return answer

    def _claimed(
        self, name: str, args: Sequence[Any], keywords: Mapping[str, Any]
    ) -> Feature | None:
        """Find the feature by which a call had to work; None if the backend may refuse it."""
        features = [feature for feature, names in _BEHIND.items() if name in names]
        if name in ("exec", "address"):
            features = [f for v, f in FEATURE_OF.items() if v in args]
        if name == "fault":
            features = [f for f, faults in FAULTS_OF.items() if args[1] in faults]
        if name == "exec" and keywords.get("user") is User.ROOT and Vantage.AGENT in args:
            features.append(Feature.EXEC_ROOT)
        lacks = args[0].lacks if args and isinstance(args[0], Topology) else frozenset()
        return next((f for f in features if f in self._features - lacks), None)

    def _look_at(self, topology: Topology) -> None:
        """Look at a new bottle, and for once try what its features say; take it down if not so."""
        try:
            wrong = list(_odd_topology(topology))
            if wrong:
                raise self._mistake("a backend describes a bottle wrongly", wrong)
            if not self._tried:
                self._try(topology)
        except BaseException:
            with contextlib.suppress(Exception):
                self._backend.down(topology)
            raise
        self._tried = True

    def _try(self, topology: Topology) -> None:
        """Run the interpreter wherever a command can be run without attaching anything."""
        features = self._features - topology.lacks
        self._run(topology, Vantage.AGENT, User.AGENT)
        if Feature.EXEC_ROOT in features:
            self._run(topology, Vantage.AGENT, User.ROOT)
        if Feature.HOST_EXEC in features:
            self._run(topology, Vantage.HOST, User.AGENT)

    def _run(self, topology: Topology, vantage: Vantage, user: User) -> None:
        argv = [topology.python, "-I", "-S", "-c", _TRIAL]
        try:
            result = self.exec(topology, vantage, argv, user=user)
        except ConfigurationError:
            raise
        except BottleError as error:
            raise self._useless(vantage, user, str(error)) from error
        uid = result.out.strip()
        is_root = uid == "0" or vantage is not Vantage.AGENT or user is User.AGENT
        if not result.ok or not uid.isdigit() or not is_root:
            seen = f"exit status {result.exit_status}, {result.out[-200:]!r}, {result.err[-500:]!r}"
            raise self._useless(vantage, user, seen)

    def _useless(self, vantage: Vantage, user: User, seen: str) -> BringUpError:
        return BringUpError(
            "the probe's interpreter does not run in a new bottle",
            where=f"backend {self._name!r}, at vantage point {vantage.value!r} as {user.value}",
            expected="Topology.python names a Python 3.8 or newer, and exec() runs it as that user",
            seen=seen,
            next_step=f"{_GUIDE}; a feature that is not there must not be declared",
        )

    def _mistake(self, what: str, wrong: Sequence[str]) -> ConfigurationError:
        return _mistake(self._name, self._backend, what, wrong)


def _odd_topology(topology: Topology) -> Iterator[str]:
    for guest, network in (
        (topology.agent, topology.internal),
        (topology.sidecar, topology.internal),
        (topology.sidecar, topology.egress),
    ):
        if network.name not in guest.addresses:
            yield f"guest {guest.name!r} has no address on network {network.name!r}"
    if not isinstance(topology.python, str) or not topology.python:
        yield f"Topology.python is {topology.python!r}, no path"


def _mistake(name: str, backend: object, what: str, wrong: Sequence[str]) -> ConfigurationError:
    return ConfigurationError(
        what,
        where=f"backend {name!r}, class {_name_of(type(backend))}",
        expected="the methods of pytest_bottle.Backend, for what its features say",
        seen="; ".join(wrong),
        next_step=_GUIDE,
    )


def _name_of(thing: object) -> str:
    module = getattr(thing, "__module__", "?")
    return f"{module}.{getattr(thing, '__qualname__', repr(thing))}"


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text[:60]}… ({type(value).__name__})" if len(text) > 60 else text
