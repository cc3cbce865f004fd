"""The pytest plugin: options, markers, fixtures, header and summary.

Imports pytest only; whatever else is needed is imported by the hook or the fixture that needs it,
so that a project that has the plugin installed and does not use it pays nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_bottle.backends.contract import Backend
    from pytest_bottle.bottle import Bottle, Guest, Network, Sidecar
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.internet.contract import Internet

    BackendFactory = Callable[[], Backend]
    Scope = Literal["function", "class", "module", "package", "session"]

_SCOPES = ("function", "class", "module", "package", "session")
_KEEP = ("never", "on-failure", "always")
_INTERNETS = ("lab",)
_VERDICTS = ("passed", "violated", "inconclusive", "not supported", "not run", "waived")


class Settings(NamedTuple):
    """What the user chose; ``sources`` says where each choice was made."""

    backend: str
    internet: str
    keep: str
    mutant: str
    scope: str
    timeout: float
    sources: Mapping[str, str]


class _Option(NamedTuple):
    """A setting with its three names: ``--bottle-x``, ``BOTTLE_X`` and ``bottle_x``."""

    name: str
    default: str
    metavar: str
    help: str


_OPTIONS = (
    _Option("backend", "", "NAME", "what brings bottles up (default: the best of this machine)"),
    _Option("internet", "lab", "KIND", "what the egress network leads to: lab"),
    _Option("keep", "never", "WHEN", "keep bottles after the run: never, on-failure, always"),
    _Option("mutant", "", "ID", "weaken the backend on purpose, to see the check of that ID fail"),
    _Option("scope", "function", "SCOPE", "how long a bottle lives: " + ", ".join(_SCOPES)),
    _Option("timeout", "30", "SECONDS", "for each single step of a bottle's way up (0.1 to 3600)"),
)
_SETTINGS = pytest.StashKey[Settings]()
_SESSION = pytest.StashKey["_Session"]()


class Specs:
    """The hooks that other plugins and conftest files may implement."""

    @pytest.hookspec
    def pytest_bottle_backends(self, config: pytest.Config) -> Mapping[str, Callable[[], Backend]]:  # type: ignore[empty-body]
        """Offer backends by name.

        Args:
            config: the session's configuration.

        Returns:
            a factory for each name; it is called without arguments when the backend is first used.
        """


# -- configuration -------------------------------------------------------------------------------


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare our own hooks."""
    pluginmanager.add_hookspecs(Specs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and their ini twins."""
    group = parser.getgroup("bottle", "sandbox topology")
    for option in _OPTIONS:
        group.addoption(
            f"--bottle-{option.name}",
            dest=f"bottle_{option.name}",
            metavar=option.metavar,
            help=f"{option.help} [BOTTLE_{option.name.upper()}, ini: bottle_{option.name}]",
        )
        parser.addini(f"bottle_{option.name}", option.help, default=None)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and read and check the settings; nothing is touched."""
    config.addinivalue_line(
        "markers",
        "bottle(egress=[...], publish='127.0.0.31:18080', machine_port=0, command=[...], "
        "environment={...}): what the bottle of this test is to be.",
    )
    values, sources = {}, {}
    for option in _OPTIONS:
        values[option.name], sources[option.name] = _lookup(config, option)
    for name, known in (("keep", _KEEP), ("scope", _SCOPES), ("internet", _INTERNETS)):
        _check_choice(f"--bottle-{name}", values[name], known)
    timeout = _check_timeout(values.pop("timeout"))
    settings = Settings(**values, timeout=timeout, sources=sources)
    _check_backend(config, settings)
    config.stash[_SETTINGS] = settings
    config.stash[_SESSION] = _Session(config, settings)


def _lookup(config: pytest.Config, option: _Option) -> tuple[str, str]:
    """Command line before environment before ini before detection."""
    given = config.getoption(f"bottle_{option.name}")
    if given is not None:
        return str(given), "command line"
    variable = os.environ.get(f"BOTTLE_{option.name.upper()}")
    if variable:
        return variable, f"BOTTLE_{option.name.upper()}"
    ini = config.getini(f"bottle_{option.name}")
    if ini:
        return str(ini), "ini"
    return option.default, ""


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise pytest.UsageError(_unknown(what, value, known))


def _unknown(what: str, value: str, known: tuple[str, ...]) -> str:
    import difflib

    near = difflib.get_close_matches(value, known, 1, 0.4)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what}: {value!r} is not known{guess} (known: {', '.join(known)})"


def _check_timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= 3600:
        raise pytest.UsageError(
            f"--bottle-timeout: expected seconds from 0.1 to 3600, seen {text!r}"
        )
    return seconds


def _check_backend(config: pytest.Config, settings: Settings) -> None:
    if not settings.backend and not settings.mutant:
        return
    from pytest_bottle.backends import selection

    if settings.backend:
        known = (*selection.BUILT_IN, *_offered(config))
        _check_choice("--bottle-backend", settings.backend, known)
        reason = selection.impossible_here(settings.backend)
        if reason:
            raise pytest.UsageError(f"--bottle-backend: {reason}")
    if settings.mutant:
        from pytest_bottle.conformance import mutants

        _check_choice("--bottle-mutant", settings.mutant, tuple(sorted(mutants.MUTANTS)))
        if settings.backend not in ("", "netns"):
            raise pytest.UsageError(
                f"--bottle-mutant: mutants live on the netns backend, not on {settings.backend!r}"
            )


def _offered(config: pytest.Config) -> dict[str, BackendFactory]:
    offers: list[Mapping[str, BackendFactory]] = config.hook.pytest_bottle_backends(config=config)
    return {name: factory for offer in offers for name, factory in offer.items()}


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what was chosen and where; nothing when nothing was."""
    settings = config.stash[_SETTINGS]
    if not any(settings.sources.values()):
        return None
    chosen = {
        name: f"{name} {getattr(settings, name)} ({source})"
        for name, source in settings.sources.items()
        if source
    }
    backend = chosen.pop("backend", "") or "backend by detection"
    return "bottle: " + ", ".join([backend, *chosen.values()])


# -- markers and parametrisation -----------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check every ``bottle`` marker before anything runs."""
    scope = config.stash[_SETTINGS].scope
    checked = set()
    for item in items:
        for node, mark in item.iter_markers_with_node("bottle"):
            if (node, mark) not in checked:
                checked.add((node, mark))
                _check_marker(node, mark, scope)


def _check_marker(node: pytest.Collector | pytest.Item, mark: pytest.Mark, scope: str) -> None:
    from pytest_bottle.errors import BottleError

    try:
        if mark.args:
            raise TypeError("it takes keywords only")
        _spec_of(mark, 30.0)
    except (BottleError, TypeError) as error:
        raise pytest.UsageError(
            f"{node.nodeid}: @pytest.mark.bottle cannot be read: {error}\n"
            "  words: egress=[...], publish='127.0.0.31:18080', machine_port=0, command=[...], "
            "environment={...}"
        ) from None
    if _rank(node) < _SCOPES.index(scope):
        raise pytest.UsageError(
            f"{node.nodeid}: @pytest.mark.bottle stands on a smaller part than a bottle lives for "
            f"(bottle_scope = {scope}); put it on the {scope}, or choose a smaller scope"
        )


def _rank(node: object) -> int:
    kinds = (pytest.Item, pytest.Class, pytest.Module, pytest.Package, pytest.Session)
    return next((rank for rank, kind in enumerate(kinds) if isinstance(node, kind)), 4)


def _spec_of(mark: pytest.Mark | None, timeout: float) -> Any:  # noqa: ANN401 - a BottleSpec
    from pytest_bottle.spec import BottleSpec

    words = dict(mark.kwargs) if mark is not None else {}
    return BottleSpec.from_words(**words, timeout=timeout)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the conformance test one item for each check."""
    if "bottle_check" in metafunc.fixturenames:
        from pytest_bottle.conformance.registry import all_checks

        checks = all_checks()
        metafunc.parametrize("bottle_check", checks, ids=[check.id for check in checks])


# -- the session's backend and its bottles -----------------------------------------------------------


class _Session:
    """The backend of a pytest session, opened at its first use, and what it keeps."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self.kept: list[str] = []

    def open(self) -> Backend:
        from pytest_bottle.backends import selection
        from pytest_bottle.conformance import mutants

        name = self._settings.backend or selection.detect()
        factory = _offered(self._config).get(name) or selection.BUILT_IN[name]
        if self._settings.mutant:
            return mutants.open_mutant(self._settings.mutant)
        return factory()

    def close(self, backend: Backend) -> None:
        """End the backend's session, or say how to enter and remove what it keeps."""
        hint = backend.close(keep=bool(self.kept))
        if hint:
            lines = [f"kept: {', '.join(self.kept)}", *hint.splitlines()]
            self.kept[:] = lines
            output = getattr(self._config, "workeroutput", None)
            if output is not None:
                output["bottle_kept"] = lines

    def should_keep(self, failed: bool) -> bool:  # noqa: FBT001 - the one fact
        return self._settings.keep == "always" or (self._settings.keep == "on-failure" and failed)


class _Maker:
    """Makes bottles for one request and takes them down when it ends, last one first."""

    def __init__(self, request: pytest.FixtureRequest, backend: Backend) -> None:
        self._request = request
        self._backend = backend
        self._failed_before = request.session.testsfailed
        self._bottles: list[Bottle] = []

    def __call__(self, **words: Any) -> Bottle:  # noqa: ANN401 - a specification's words
        from pytest_bottle.bottle import Bottle
        from pytest_bottle.spec import BottleSpec

        timeout = self._request.config.stash[_SETTINGS].timeout
        return self._make(Bottle, BottleSpec.from_words(**words, timeout=timeout))

    def for_node(self) -> Bottle:
        """Make the bottle that the closest marker describes."""
        from pytest_bottle.bottle import Bottle

        timeout = self._request.config.stash[_SETTINGS].timeout
        mark = self._request.node.get_closest_marker("bottle")
        return self._make(Bottle, _spec_of(mark, timeout))

    def _make(self, kind: type[Bottle], spec: Any) -> Bottle:  # noqa: ANN401 - a BottleSpec
        bottle = kind(self._backend, spec)
        self._bottles.append(bottle)
        return bottle

    def finish(self) -> None:
        session = self._request.config.stash[_SESSION]
        if session.should_keep(self._request.session.testsfailed > self._failed_before):
            session.kept += [f"bottle {bottle.topology.id}" for bottle in self._bottles]
            return
        while self._bottles:
            self._bottles.pop().close()


def _scope(fixture_name: str, config: pytest.Config) -> Scope:
    del fixture_name
    scope: Any = config.stash[_SETTINGS].scope
    chosen: Scope = scope
    return chosen


# -- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bottle_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backend that brings this session's bottles up.

    Chosen by ``--bottle-backend``, ``BOTTLE_BACKEND`` or the ini key ``bottle_backend``, in this
    order; otherwise the best one of this machine.
    """
    session = request.config.stash[_SESSION]
    backend = session.open()
    yield backend
    session.close(backend)


@pytest.fixture(scope="session")
def bottle_internet(bottle_backend: Backend) -> Internet:
    """The far side of the bottles: the lab, with its witness, its DNS and its origins.

    ``bottle_internet.mark()`` and ``.heard(mark)`` tell what arrived there in between.
    """
    return bottle_backend.internet


@pytest.fixture(scope=_scope)
def make_bottle(
    request: pytest.FixtureRequest, bottle_backend: Backend
) -> Iterator[Callable[..., Bottle]]:
    """A function that makes further bottles, taken down together at the end.

    It takes the words of ``@pytest.mark.bottle``: ``make_bottle(egress=["packages.test"])``.
    """
    maker = _Maker(request, bottle_backend)
    yield maker
    maker.finish()


@pytest.fixture(scope=_scope)
def bottle(request: pytest.FixtureRequest, bottle_backend: Backend) -> Iterator[Bottle]:
    """A running bottle: an agent on an internal network, and an egress sidecar as its way out.

    ``@pytest.mark.bottle(egress=["packages.test:443"])`` says what the sidecar lets through; without
    it that is ``allowed.test``. It lives as long as ``bottle_scope`` says: one test by default.
    """
    maker = _Maker(request, bottle_backend)
    yield maker.for_node()
    maker.finish()


@pytest.fixture(scope=_scope)
def internal_network(bottle: Bottle) -> Network:
    """The bottle's internal network: ``name``, ``subnet``, ``gateway``; nothing leads out of it."""
    return bottle.internal_network


@pytest.fixture(scope=_scope)
def egress_network(bottle: Bottle) -> Network:
    """The bottle's egress network, which leads to the internet; only the sidecar is on it."""
    return bottle.egress_network


@pytest.fixture(scope=_scope)
def egress_sidecar(bottle: Bottle) -> Sidecar:
    """The dual-homed sidecar: ``proxy_url``, ``published_url``, ``audit()``, ``run()``."""
    return bottle.sidecar


@pytest.fixture(scope=_scope)
def bottled_agent(bottle: Bottle) -> Guest:
    """The agent in its bottle: ``fetch(url)``, ``probe(Tcp(...))``, ``run(...)``, ``host``.

    ``bottled_agent.fetch("https://allowed.test/").status == 200`` goes by the sidecar's proxy;
    ``bottled_agent.probe(Tcp("1.1.1.1", 443)).blocked`` is judged at the far end.
    """
    return bottle.agent


@pytest.fixture(scope="session")
def _bottle_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The conformance suite's own bottle, out of reach of a user's overriding fixtures."""
    from pytest_bottle.conformance.bench import Bench

    session = request.config.stash[_SESSION]
    backend = session.open()
    try:
        bench = Bench(backend, request.config.stash[_SETTINGS].timeout)
        yield bench
        if session.should_keep(request.session.testsfailed > 0):
            session.kept.append(f"bottle {bench.topology.id}")
    finally:
        session.close(backend)


# -- verdicts in reports and on the terminal -------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[Any]:  # a generator, as pluggy's wrappers are
    """Put the verdict on the report: attributes that can be JSON travel through xdist."""
    report: pytest.TestReport = yield
    verdict = _verdict_of(item, call, report)
    if verdict:
        check = getattr(item, "callspec", None) and item.callspec.params.get("bottle_check")
        facts = {"verdict": verdict}
        if check is not None:
            facts |= {"id": check.id, "title": check.title, "level": check.level.value}
            facts["note"] = dict(item.user_properties).get("bottle_note", "")
            item.user_properties += [("bottle_check", check.id), ("bottle_verdict", verdict)]
            if call.excinfo is not None and isinstance(call.excinfo.value, Exception):
                report.longrepr = _message_of(call.excinfo.value, report.longrepr)
        report.bottle = facts  # type: ignore[attr-defined]
    return report


def _verdict_of(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
    is_check = "bottle_check" in getattr(item, "fixturenames", ())
    if call.excinfo is None:
        return "passed" if is_check and report.when == "call" and report.passed else ""
    name = type(call.excinfo.value).__name__
    if name == "Inconclusive":
        return "inconclusive"
    if not is_check:
        return ""
    if name == "NotSupported":
        report.outcome = "skipped"
        return "not supported"
    if name == "Violation":
        return "violated"
    # Whatever else happened to a check, nothing was found out about the property.
    return "inconclusive" if report.failed else "not run"


def _message_of(error: Exception, longrepr: Any) -> Any:  # noqa: ANN401 - pytest's own union
    if type(error).__name__ == "NotSupported":
        return (type(error).__module__, 0, str(error))
    return str(error) if hasattr(error, "next_step") else longrepr


def pytest_report_teststatus(
    report: pytest.TestReport | pytest.CollectReport,
) -> tuple[str, str, str | tuple[str, Mapping[str, bool]]] | None:
    """Give an inconclusive outcome a category of its own; underneath it stays a failure."""
    verdict = getattr(report, "bottle", {}).get("verdict")
    if verdict == "inconclusive":
        return "inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})
    if verdict == "not supported":
        return "not supported", "n", ("NOT SUPPORTED", {"yellow": True})
    return None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was inconclusive, the verdict of every check, and how to enter what was kept."""
    if config.getoption("no_summary", default=False):
        return
    reports = [
        report
        for group in terminalreporter.stats.values()
        for report in group
        if getattr(report, "bottle", None)
    ]
    inconclusive = [r for r in reports if r.bottle["verdict"] == "inconclusive"]
    if inconclusive and config.option.tbstyle != "no":
        terminalreporter.section("INCONCLUSIVE", yellow=True)
        for report in inconclusive:
            terminalreporter.section(report.nodeid, sep="_", yellow=True)
            report.toterminal(terminalreporter._tw)  # noqa: SLF001 - as pytest's own sections do
    checks = sorted(
        (r.bottle for r in reports if "id" in r.bottle), key=lambda facts: str(facts["id"])
    )
    if checks:
        _print_verdicts(terminalreporter, checks)
    for line in config.stash[_SESSION].kept:
        terminalreporter.line(f"bottle: {line}")


def _print_verdicts(
    terminalreporter: pytest.TerminalReporter, checks: list[dict[str, str]]
) -> None:
    terminalreporter.section("bottle verdicts")
    colours = {"passed": "green", "violated": "red", "inconclusive": "yellow"}
    for facts in checks:
        verdict = facts["verdict"]
        terminalreporter.write(f"{verdict.upper():<14}", **{colours.get(verdict, "yellow"): True})
        terminalreporter.line(f"{facts['id']:<7} {facts['title']}")
        if facts["note"]:
            terminalreporter.line(f"{'':<14}        {facts['note']}", light=True)
    counts = [f"{sum(c['verdict'] == v for c in checks)} {v}" for v in _VERDICTS]
    terminalreporter.line(", ".join(counts))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ANN401 - xdist's own type
    """Take over from an xdist worker what it kept."""
    del error
    output = getattr(node, "workeroutput", {})
    node.config.stash[_SESSION].kept += output.get("bottle_kept", [])
