"""The pytest plugin: hooks, options, the marker and the fixtures.

Imports pytest only; what is behind a hook or a fixture is imported by those who use it, so that a
project that has the plugin installed and does not use it pays nothing.
"""

from __future__ import annotations

import os
import sys
import time
import types
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from typing import Literal

    from pytest_bottle.backends.contract import Backend
    from pytest_bottle.bottle import Bottle, Guest, Network, Sidecar
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.fixtures import MakeBottle
    from pytest_bottle.internet.contract import Internet
    from pytest_bottle.settings import Choice, Settings
    from pytest_bottle.spec import BottleSpec

    Scope = Literal["session", "package", "module", "class", "function"]


#: Settings with three names each (``--bottle-x``, ``BOTTLE_X`` and the ini key ``bottle_x``), what
#: their value is called, and what they are for.
_OPTIONS = (
    ("allow_host_faults", "", "let checks reload the firewall of a host that others use as well"),
    ("backend", "NAME", "what brings bottles up (default: the best of this machine)"),
    ("command", "PATH", "what the command backend runs (default: bottle-command.yaml there)"),
    ("config", "PATH", "what a bottle is (default: bottle.yaml in the rootdir, if there is one)"),
    ("gate", "", "let the run be red unless every planned check has a good verdict"),
    ("host", "URL", "the Mac that bottles are on, ssh://user@mac; may be given more than once"),
    ("image", "PATH", "a saved image of macos-container's guests, for a Mac without the Internet"),
    (
        "internet",
        "KIND",
        "what the egress network leads to: lab; guest (a Mac's default); guest,live",
    ),
    ("keep", "WHEN", "let bottles outlive the run: never (the default), on-failure, always"),
    ("mutant", "ID", "weaken the backend on purpose, to see the check of that ID fail"),
    (
        "profile",
        "NAME",
        "what is checked: core@1, strict@1, transparent@1, all (the default)",
    ),
    ("report", "PATH", "write the record of a gated run: a .json, or several after commas"),
    ("require", "RESULT", "what a gated run must reach: partial (the default), conformant"),
    ("scope", "SCOPE", "a bottle's life: function (the default), class, module, session"),
    ("thorough", "", "let checks take the catalogue's durations and repeats, not quick ones"),
    ("timeout", "SECONDS", "for each step of a bottle's way up: 0.1 to 3600 (default: 30)"),
    ("waivers", "PATH", "excused violations (default: bottle-waivers.yaml in the rootdir)"),
)
#: The types of ini values that TOML can say better than by a string.
_INI_TYPES: dict[str, Literal["bool", "float"]] = {
    "gate": "bool",
    "allow_host_faults": "bool",
    "thorough": "bool",
    "timeout": "float",
}
#: Files that are found without being named.
_DISCOVERED = {"config": "bottle.yaml", "waivers": "bottle-waivers.yaml"}
_CHOICES: pytest.StashKey[dict[str, Choice]] = pytest.StashKey()
_KEPT: pytest.StashKey[list[str]] = pytest.StashKey()
_BEGAN: pytest.StashKey[int] = pytest.StashKey()
_RECEIVED: pytest.StashKey[list[Any]] = pytest.StashKey()


#: The fixtures that a ``unittest.TestCase`` can have as attributes.
_OF_THE_SESSION = frozenset({"bottle_backend", "bottle_internet"})
_FIXTURES = _OF_THE_SESSION | {
    *("bottle", "bottled_agent", "egress_network", "egress_sidecar", "internal_network"),
    *("make_bottle", "sibling_bottle"),
}


class Specs:
    """The hooks that plugins and conftest files may implement."""

    @pytest.hookspec
    def pytest_bottle_backends(self, config: pytest.Config) -> Mapping[str, Callable[[], Backend]]:  # type: ignore[empty-body]
        """Offer backends by name, in a plugin or in the conftest.py of the root or a named folder.

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
    for name, metavar, text in _OPTIONS:
        takes: Any = {"metavar": metavar} if metavar else {"action": "store_const", "const": "true"}
        if name == "host":
            takes["action"] = "append"
        group.addoption(
            _flag(name),
            dest=f"bottle_{name}",
            help=f"{text} [env: BOTTLE_{name.upper()}, ini: bottle_{name}]",
            **takes,
        )
        parser.addini(f"bottle_{name}", text, type=_INI_TYPES.get(name, "string"), default=None)
    group.addoption(
        "--bottle-explain",
        action="append",
        metavar="ID",
        help="say what a check is about, such as NET-05, or all of them, and run nothing",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Explain checks instead of running any."""
    if config.getoption("bottle_explain") is None:
        return None
    from pytest_bottle import settings
    from pytest_bottle.conformance import explain

    settings.hold(config, _choices(config))
    return explain.to_terminal(config.getoption("bottle_explain"), config)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and check what was chosen; nothing is touched."""
    config.addinivalue_line(
        "markers",
        "bottle(egress=[...], ports=[...], command=[...], user=..., environment={...}, image=..., "
        "rootfs=..., sidecar={...}, networks={...}): what the bottle of this test is to be, in the "
        "words of bottle.yaml.",
    )
    config.addinivalue_line(
        "markers",
        "bottle_spike: the checks that ask the seven questions of bot-bottle's networking spike "
        "again; with -m bottle_spike the answers are printed as a Markdown table.",
    )
    config.stash[_KEPT] = []
    _listen(config)
    config.stash[_CHOICES] = choices = _choices(config)
    if choices or config.hook.pytest_bottle_backends.get_hookimpls():
        from pytest_bottle import settings

        settings.hold(config, choices)
        if settings.of(config).gate:
            from pytest_bottle import gate

            gate.watch(config)


def _listen(config: pytest.Config) -> None:
    """Keep the reports with facts of ours, and those that tell of a crash, wherever items run."""
    received: list[Any] = []
    config.stash[_RECEIVED] = received

    def pytest_runtest_logreport(report: Any) -> None:
        if "id" in getattr(report, "bottle", ()) or report.when == "???":
            received.append(report)

    listener = types.ModuleType("bottle_listener")
    listener.pytest_runtest_logreport = pytest_runtest_logreport  # type: ignore[attr-defined]
    config.pluginmanager.register(listener, "bottle-listener")


def _flag(name: str) -> str:
    """Spell a setting's name as on the command line."""
    return f"--bottle-{name.replace('_', '-')}"


def _choices(config: pytest.Config) -> dict[str, Choice]:
    """Find what was chosen: the command line before the environment before the ini file."""
    found = {}
    for name, *_ in _OPTIONS:
        given = (
            (config.getoption(f"bottle_{name}"), _flag(name)),
            (os.environ.get(f"BOTTLE_{name.upper()}") or None, f"BOTTLE_{name.upper()}"),
            (_ini(config, name), f"ini key bottle_{name}"),
        )
        chosen = [(_text(value), source) for value, source in given if value is not None]
        if chosen:
            from pytest_bottle.settings import Choice

            found[name] = Choice(*chosen[0])
    for name, file in _DISCOVERED.items():
        if name not in found and os.path.lexists(config.rootpath / file):
            from pytest_bottle.settings import DISCOVERED, Choice

            found[name] = Choice(file, DISCOVERED)
    return found


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ini(config: pytest.Config, name: str) -> object:
    key = f"bottle_{name}"
    try:
        value = config.getini(key)
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"{_flag(name)} (from ini key {key}): {error}") from None
    return None if value == "" else value


def _settings(config: pytest.Config) -> Settings:
    """What holds; whoever chose nothing comes here only when a fixture is used."""
    from pytest_bottle import settings

    return settings.of(config)


def _scope(fixture_name: str, config: pytest.Config) -> Scope:
    del fixture_name
    chosen: Any = _settings(config).scope if "scope" in config.stash[_CHOICES] else "function"
    scope: Scope = chosen
    return scope


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what was chosen and where, and what was ignored; nothing when nothing was."""
    choices = config.stash[_CHOICES]
    if not choices:
        return []
    from pytest_bottle import settings

    return [settings.describe(choices), *_ignored(config)]


def _ignored(config: pytest.Config) -> list[str]:
    return [f"bottle: {line}" for line in _settings(config).ignored]


# -- collection ----------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check every ``bottle`` marker before anything runs, and put checks in their order.

    Raises:
        pytest.UsageError: a marker cannot be read, or stands where no bottle would see it.
    """
    if any("bottle_check" in getattr(item, "fixturenames", ()) for item in items):
        from pytest_bottle.conformance import ahead

        ahead.put_last(items)
    marked = [item for item in items if item.get_closest_marker("bottle")]
    if not marked:
        return
    from pytest_bottle import marker

    settings = _settings(config)
    problems = marker.problems(marked, settings.scope, settings.spec)
    if not problems:
        return
    output = getattr(config, "workeroutput", None)
    if output is None:
        raise pytest.UsageError(*problems)
    # xdist would make an internal error of it; the controller raises it in our stead.
    output["bottle_problems"] = problems
    items.clear()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the conformance test one item for each check that is planned."""
    if "bottle_check" in metafunc.fixturenames:
        from pytest_bottle.conformance import spike
        from pytest_bottle.planning import planned_checks

        marks = (getattr(pytest.mark, spike.MARKER),)
        planned = planned_checks(metafunc.config)
        items = [
            pytest.param(check, id=check.id, marks=marks if check.id in spike.CHECKS else ())
            for check in planned
        ]
        metafunc.parametrize("bottle_check", items)


# -- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bottle_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backend that brings this session's bottles up.

    Chosen by ``--bottle-backend``, ``BOTTLE_BACKEND`` or the ini key ``bottle_backend``, in this
    order; otherwise the best one of this machine.
    """
    from pytest_bottle import fixtures

    config = request.config
    with fixtures.open_backend(config, _settings(config), config.stash[_KEPT]) as backend:
        yield backend


@pytest.fixture(scope="session")
def bottle_internet(bottle_backend: Backend) -> Internet:
    """The far side of the bottles: the lab, with its witness, its DNS and its origins.

    ``bottle_internet.listen(tcp=[8443])`` makes it answer on a further port, at every address;
    ``bottle_internet.mark()`` and ``.heard(mark)`` tell what arrived there in between.
    """
    return bottle_backend.internet


@pytest.fixture(scope=_scope)
def make_bottle(request: pytest.FixtureRequest, bottle_backend: Backend) -> Iterator[MakeBottle]:
    """A function that makes further bottles, taken down together at the end.

    It takes the words of ``@pytest.mark.bottle``: ``make_bottle(egress=["packages.test"])``. Each
    takes the place of the same word of ``bottle.yaml``.
    """
    from pytest_bottle import fixtures

    with fixtures.make_bottles(request, bottle_backend, _settings(request.config)) as maker:
        yield maker


@pytest.fixture(scope=_scope)
def bottle_spec(request: pytest.FixtureRequest) -> BottleSpec:
    """What the bottle is to be: ``bottle.yaml``, with the closest marker's words laid over it.

    The place to change it from a test: a fixture of this name that returns
    ``dataclasses.replace(bottle_spec, environment={"TOKEN": "placeholder"})``.
    """
    from pytest_bottle import marker

    return marker.spec_for(request.node, _settings(request.config).spec)


@pytest.fixture(scope=_scope)
def bottle(
    request: pytest.FixtureRequest, bottle_spec: BottleSpec, bottle_backend: Backend
) -> Iterator[Bottle]:
    """A running bottle: an agent on an internal network, and an egress sidecar as its way out.

    ``@pytest.mark.bottle(egress=["packages.test:443"])`` says what the sidecar lets through;
    without it that is ``allowed.test``. It lives as long as ``bottle_scope`` says: one test by
    default.
    """
    from pytest_bottle import fixtures

    settings = _settings(request.config)
    with fixtures.bottle_for(request, bottle_backend, settings, bottle_spec) as made:
        yield made


@pytest.fixture(scope=_scope)
def sibling_bottle(
    request: pytest.FixtureRequest, bottle_backend: Backend, bottle: Bottle
) -> Iterator[Bottle]:
    """A second bottle like ``bottle``, on networks of its own: what its neighbours on the host are.

    It has the same specification, but for what two cannot share: its published port and its
    subnets are chosen anew. It comes up when a test asks for it and goes before ``bottle`` does.
    """
    from pytest_bottle import fixtures

    with fixtures.sibling_of(bottle, request, bottle_backend, _settings(request.config)) as made:
        yield made


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
    ``bottled_agent.probe(Tcp("192.88.99.200", 443)).blocked`` is judged at the far end; addresses
    that are not its own, such as 1.1.1.1, only with ``--bottle-internet=lab``.
    """
    return bottle.agent


@pytest.fixture(scope="session")
def _bottle_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The conformance suite's own bottle, out of reach of a user's overriding fixtures."""
    from pytest_bottle import fixtures

    kept = request.config.stash[_KEPT]
    with fixtures.bench_for(request, _settings(request.config), kept) as bench:
        yield bench


# -- unittest ------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Give a ``unittest.TestCase`` the fixtures of ours that ``usefixtures`` names on it.

    They become attributes of the instance, before its ``setUp`` runs; those that outlive the test
    become attributes of the class.
    """
    case = getattr(item, "cls", None)
    unittest = sys.modules.get("unittest")
    if case is None or unittest is None or not issubclass(case, unittest.TestCase):
        return
    shared = _scope("", item.config) != "function"
    for mark in item.iter_markers("usefixtures"):
        for name in _FIXTURES.intersection(mark.args):
            owner = case if shared or name in _OF_THE_SESSION else item.instance  # type: ignore[attr-defined]
            setattr(owner, name, item.funcargs[name])  # type: ignore[attr-defined]


# -- reports -------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember when a test began: a failure shows what the far side heard since."""
    item.stash[_BEGAN] = time.monotonic_ns()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the verdict on the report of a check, and of a test that ended in an error of ours."""
    report = yield
    if "bottle_check" in getattr(item, "fixturenames", ()) or _is_error_of_ours(call):
        from pytest_bottle import outcome

        outcome.put_on(report, item, call)
    if report.failed:
        _add_logs(report, item)
    return report


def _add_logs(report: pytest.TestReport, item: pytest.Item) -> None:
    fixtures = sys.modules.get("pytest_bottle.fixtures")  # who never imported it has no bottle
    bottles = fixtures.used_by(item) if fixtures else []
    if bottles:
        from pytest_bottle import logs

        logs.put_on(report, item, bottles, item.stash.get(_BEGAN, 0))


def _is_error_of_ours(call: pytest.CallInfo[None]) -> bool:
    errors = sys.modules.get("pytest_bottle.errors")  # who never imported it cannot raise one
    return bool(errors and call.excinfo and isinstance(call.excinfo.value, errors.BottleError))


def pytest_report_teststatus(
    report: pytest.TestReport | pytest.CollectReport,
) -> tuple[str, str, tuple[str, Mapping[str, bool]]] | None:
    """Give our verdicts categories of their own; underneath inconclusive stays a failure."""
    verdict = getattr(report, "bottle", {}).get("verdict")
    if verdict == "inconclusive" and report.outcome != "skipped":
        return "inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})
    if verdict in ("not supported", "waived"):
        return verdict, verdict[0], (verdict.upper(), {"yellow": True})
    if verdict in ("violated", "inconclusive") and report.outcome == "skipped":
        return "recorded", "r", ("RECORDED", {"yellow": True})
    return None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was inconclusive, the verdict of every check, and how to enter what was kept."""
    every = [one for group in terminalreporter.stats.values() for one in group]
    reports = [one for one in every if hasattr(one, "bottle")]
    if config.get_verbosity() < 0 or config.getoption("no_header", default=False):
        for line in _ignored(config) if config.stash[_CHOICES] else ():
            terminalreporter.write_line(line)
    if reports or _is_gated(config):
        from pytest_bottle import terminal

        terminal.summarise(terminalreporter, config, reports)
    _print_kept(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Tell what outlives the run also where there was no summary: somebody has to remove it."""
    _print_kept(config)


def _print_kept(config: pytest.Config) -> None:
    kept = config.stash.get(_KEPT, [])
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if kept and reporter:
        reporter.section("bottles kept", yellow=True)
        while kept:
            reporter.line(f"bottle: {kept.pop(0)}")


# -- xdist ---------------------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the controller what this worker keeps; or settle what the whole run comes to."""
    config = session.config
    output = getattr(config, "workeroutput", None)
    if output is not None:
        worker = config.workerinput["workerid"]  # type: ignore[attr-defined]
        output["bottle_kept"] = [f"[{worker}] {line}" for line in config.stash[_KEPT]]
    elif config.stash[_RECEIVED] or _is_gated(config):
        from pytest_bottle import gate

        gate.settle(session, config.stash[_RECEIVED])


def _is_gated(config: pytest.Config) -> bool:
    return bool(config.stash[_CHOICES]) and _settings(config).gate


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over from a worker what it keeps, and what it found wrong in the markers.

    Raises:
        pytest.UsageError: in the worker's stead.
    """
    del error
    output = getattr(node, "workeroutput", {})
    node.config.stash[_KEPT] += output.get("bottle_kept", [])
    if problems := output.get("bottle_problems"):
        raise pytest.UsageError(*problems)
