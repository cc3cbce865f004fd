"""What the fixtures do: open a backend, make bottles, and take them down or keep them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol, Unpack

    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.bottle import Bottle
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.conformance.runs import Reopening
    from pytest_bottle.settings import Settings
    from pytest_bottle.spec import BottleSpec
    from pytest_bottle.words import Words

    class Standing(Protocol):
        """Something with a running bottle: a bottle itself, or the conformance suite's bench."""

        @property
        def topology(self) -> Topology:
            """The running bottle, as values."""

        def close(self) -> None:
            """Take it down."""


_KEPT = pytest.StashKey[list[tuple["Backend", str]]]()
#: The lifetimes that have not ended, in the order of their beginnings.
_LIVE = pytest.StashKey[list["Lifetime"]]()


#: The fixtures that lend bottles to tests; the conformance suite's own bottle is not among them.
LENDERS = frozenset({"bottle", "make_bottle", "sibling_bottle"})


class Lifetime:
    """Bottles that end together, last one first, unless ``keep`` lets them outlive the run.

    Args:
        request: of the fixture that they live for.
        backend: what they run on.
        keep: ``never``, ``on-failure`` (of a test during this lifetime) or ``always``.
    """

    def __init__(self, request: pytest.FixtureRequest, backend: Backend, keep: str) -> None:
        self._request = request
        self._backend = backend
        self._keep = keep
        self._failed_before = request.session.testsfailed
        self._bottles: list[Standing] = []
        self._live = request.config.stash.setdefault(_LIVE, [])
        self._live.append(self)

    @property
    def running(self) -> list[tuple[Backend, Topology]]:
        """The bottles of this lifetime, with what they run on."""
        return [(self._backend, bottle.topology) for bottle in self._bottles]

    def serves(self, item: pytest.Item) -> bool:
        """Tell whether an item uses these bottles, as far as its fixtures say."""
        node, fixture = self._request.node, self._request.fixturename
        if fixture not in LENDERS:
            return False
        asked = fixture in getattr(item, "fixturenames", ())
        return node is item or (asked and node in item.listchain())

    def add(self, bottle: Standing) -> None:
        """Let a bottle end with this lifetime."""
        self._bottles.append(bottle)

    def end(self) -> None:
        """Keep the bottles, or take all of them down even if one of them will not go."""
        self._live.remove(self)
        if self._is_to_stay():
            kept = self._request.config.stash.setdefault(_KEPT, [])
            where = self._request.node.nodeid or "the session"
            kept += [(self._backend, f"kept {one.topology.id} of {where}") for one in self._bottles]
            return
        with contextlib.ExitStack() as stack:
            for bottle in self._bottles:
                stack.callback(bottle.close)

    def _is_to_stay(self) -> bool:
        failed = self._request.session.testsfailed > self._failed_before
        return self._keep == "always" or (self._keep == "on-failure" and failed)


def used_by(item: pytest.Item) -> list[tuple[Backend, Topology]]:
    """Name the running bottles that an item uses, with what each runs on."""
    live = item.config.stash.get(_LIVE, [])
    return [one for lifetime in live if lifetime.serves(item) for one in lifetime.running]


class MakeBottle:
    """Makes bottles; a call takes the words of ``@pytest.mark.bottle``.

    Args:
        backend: what they run on.
        lifetime: what they end with.
        spec: what holds where a call says nothing: what ``bottle.yaml`` describes.
        folder: what relative paths are relative to.
    """

    def __init__(self, backend: Backend, lifetime: Lifetime, spec: BottleSpec, folder: str) -> None:
        self._backend = backend
        self._lifetime = lifetime
        self._spec = spec
        self._folder = folder

    def __call__(self, **words: Unpack[Words]) -> Bottle:
        """Bring a bottle up: ``make_bottle(egress=["packages.test"], command=["sleep", "60"])``.

        Args:
            words: as in ``bottle.yaml``; each takes the place of the same word there.

        Raises:
            ConfigurationError: a word has a value that makes no sense; nothing was touched.
            BottleError: it did not come up; nothing of it is left.
        """
        from pytest_bottle.words import read

        return self.make(read(words, self._spec, self._folder))

    def make(self, spec: BottleSpec) -> Bottle:
        """Bring up what a specification says."""
        from pytest_bottle.bottle import Bottle

        bottle = Bottle(self._backend, spec)
        self._lifetime.add(bottle)
        return bottle


@contextlib.contextmanager
def open_backend(
    config: pytest.Config, settings: Settings, kept_lines: list[str]
) -> Iterator[Backend]:
    """Open the chosen backend, and end its session or say in ``kept_lines`` what is kept of it."""
    backend = settings.open_backend()
    try:
        yield backend
    finally:
        kept = [label for owner, label in config.stash.get(_KEPT, []) if owner is backend]
        hint = backend.close(keep=bool(kept))
        kept_lines += [*kept, *hint.splitlines()]


@contextlib.contextmanager
def make_bottles(
    request: pytest.FixtureRequest, backend: Backend, settings: Settings
) -> Iterator[MakeBottle]:
    """Lend out the maker of the bottles that live as long as the requesting fixture."""
    from pytest_bottle.marker import folder_of

    lifetime = Lifetime(request, backend, settings.keep)
    try:
        yield MakeBottle(backend, lifetime, settings.spec, folder_of(request.node))
    finally:
        lifetime.end()


@contextlib.contextmanager
def bottle_for(
    request: pytest.FixtureRequest, backend: Backend, settings: Settings, spec: object
) -> Iterator[Bottle]:
    """Bring up the bottle that the fixture ``bottle_spec`` describes.

    Raises:
        ConfigurationError: somebody's own ``bottle_spec`` returns something else.
    """
    from pytest_bottle.errors import ConfigurationError
    from pytest_bottle.spec import BottleSpec

    if not isinstance(spec, BottleSpec):
        raise ConfigurationError(
            "a fixture returned no specification",
            where="bottle_spec",
            expected="a BottleSpec, such as dataclasses.replace(bottle_spec, command=(...))",
            seen=repr(spec),
        )
    with make_bottles(request, backend, settings) as maker:
        yield maker.make(spec)


@contextlib.contextmanager
def sibling_of(
    bottle: Bottle, request: pytest.FixtureRequest, backend: Backend, settings: Settings
) -> Iterator[Bottle]:
    """Bring up a second bottle of the same specification, but for what two cannot share."""
    with make_bottles(request, backend, settings) as maker:
        yield maker.make(bottle.topology.spec.spare)


@contextlib.contextmanager
def bench_for(
    request: pytest.FixtureRequest, settings: Settings, kept_lines: list[str]
) -> Iterator[Bench]:
    """Set up the conformance suite's own bottle on a backend of its own."""
    from pytest_bottle import rerunning, suite
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.planning import known_checks

    config = request.config
    with open_backend(config, settings, kept_lines) as backend:
        lifetime = Lifetime(request, backend, settings.keep)
        bench = Bench(
            backend,
            settings.spec,
            _reopening(config, settings),
            checks=known_checks(config),
            rerun=rerunning.of(config, settings, request.session.items),
            thorough=settings.thorough,
            allow_host_faults=settings.allow_host_faults,
            ahead=_asked_for(request),
        )
        lifetime.add(bench)
        try:
            suite.hold(config, bench)
            yield bench
        finally:
            suite.release(config)
            try:
                bench.finish()
            finally:
                lifetime.end()


def _asked_for(request: pytest.FixtureRequest) -> list[Check]:
    """Name the checks that this run will ask for; a worker of xdist does not know which."""
    from pytest_bottle.conformance.ahead import checks_of

    if hasattr(request.config, "workerinput"):
        return []
    return checks_of(request.session.items)


def _reopening(config: pytest.Config, settings: Settings) -> Reopening:
    """Tell how another run of pytest comes to the backend of this one."""
    from pytest_bottle.backends import selection
    from pytest_bottle.conformance.runs import Reopening

    chosen = f"--bottle-backend={settings.backend or selection.detect()}"
    if settings.mutant:
        chosen = f"--bottle-mutant={settings.mutant}"
    installed = [plugin for plugin, _ in config.pluginmanager.list_plugin_distinfo()]
    offering = [one.plugin for one in config.hook.pytest_bottle_backends.get_hookimpls()]
    files = [getattr(one, "__file__", None) for one in offering if one not in installed]
    arguments = [chosen, f"--bottle-timeout={settings.spec.timeout}"]
    if settings.hosts:
        arguments.append(f"--bottle-host={selection.host_of(settings.hosts)}")
    if settings.command is not None:
        arguments.append(f"--bottle-command={settings.command.path}")
    return Reopening.of(
        settings.backend_name,
        *arguments,
        internet=settings.internet,
        plugins=filter(None, files),
    )
