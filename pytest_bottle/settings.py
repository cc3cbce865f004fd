"""The settings of a run, checked before anything is touched.

Whoever chose nothing waits for this import before the backend can be started: what only a choice
needs is imported where it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_bottle.backends import kinds, selection
from pytest_bottle.conformance.profiles import DEFAULT, PROFILES
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.spelling import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pytest_bottle.backends.command.orders import Orders
    from pytest_bottle.backends.contract import Backend
    from pytest_bottle.manifest import Manifest
    from pytest_bottle.spec import BottleSpec
    from pytest_bottle.waivers import Waiver

    BackendFactory = Callable[[], Backend]

#: How long a bottle may live, shortest first. There is no ``package``: pytest gives the fixtures of
#: a plugin the whole session then.
SCOPES = ("function", "class", "module", "session")
#: Where the configuration file was found that nobody named.
DISCOVERED = "found in the rootdir"
#: What holds in a session; whoever chose nothing gets it when somebody first asks.
_SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_WORDS: Mapping[str, Collection[str]] = {
    "gate": (*_TRUE, *_FALSE),
    "keep": ("never", "on-failure", "always"),
    "require": ("partial", "conformant"),
    "profile": PROFILES,
    "scope": SCOPES,
    "thorough": (*_TRUE, *_FALSE),
    "allow_host_faults": (*_TRUE, *_FALSE),
}


#: Settings whose text is their value.
_AS_THEY_ARE = frozenset({"backend", "keep", "mutant", "profile", "require", "scope"})


class Choice(NamedTuple):
    """A setting's text, and where it was given: an option, a variable or an ini key."""

    text: str
    source: str


class Settings(NamedTuple):
    """What the user chose, or what holds without a choice.

    Attributes:
        backend: its name; empty leaves it to detection.
        internet: the kind of far side; empty leaves it to the backend.
        mutant: the check whose mutant stands in for the backend; empty for none.
        profile: the name of what the conformance suite is to check.
        allow_host_faults: whether checks may change a host that is not made for the session.
        thorough: whether checks take the catalogue's durations and numbers of repeats.
        command: what the command backend runs; None if another backend was chosen.
        hosts: the Macs that bottles are on, as ``ssh://`` URLs; none for this machine.
        image: a saved image of the guests, loaded where it is missing.
        gate: whether a planned check without a good verdict makes the run red.
        require: the result that a gated run must reach, or better.
        reports: the files that the run's record is written to.
        waivers: the violations that are excused.
        described: what a bottle is by the configuration file and the options; None where nothing
            was said about it.
        ignored: one line for each key of the configuration file that has no meaning here.
        offered: the backends of other plugins and of conftest files.
        choices: what was chosen, by name, as it was written.
    """

    backend: str = ""
    internet: str = ""
    keep: str = "never"
    mutant: str = ""
    profile: str = DEFAULT
    scope: str = "function"
    thorough: bool = False
    allow_host_faults: bool = False
    command: Orders | None = None
    hosts: tuple[str, ...] = ()
    image: str = ""
    gate: bool = False
    require: str = "partial"
    reports: tuple[str, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    described: BottleSpec | None = None
    ignored: tuple[str, ...] = ()
    offered: Mapping[str, BackendFactory] = MappingProxyType({})
    choices: Mapping[str, Choice] = MappingProxyType({})

    @property
    def spec(self) -> BottleSpec:
        """What a bottle is where no marker says otherwise."""
        from pytest_bottle.spec import PLAIN

        return self.described or PLAIN

    @property
    def backend_name(self) -> str:
        """The name of what is judged, as on the command line; a mutant is of the netns backend."""
        return "netns" if self.mutant else self.backend or selection.detect()

    @property
    def internet_kind(self) -> str:
        """What the egress network leads to: ``lab``, ``guest``, ``guest,live`` or ``none``."""
        return self.internet or kinds.default(self.backend_name)

    def open_backend(self) -> Backend:
        """Open the chosen backend, or the best one of this machine."""
        if self.mutant:
            from pytest_bottle.conformance.mutants.base import open_mutant

            return open_mutant(self.mutant)
        name = self.backend or selection.detect()
        if name in self.offered:
            from pytest_bottle.backends.adapter import checked

            return checked(name, self.offered[name])
        if self.command is not None:
            return selection.commands(self.command)
        if name == selection.CONTAINERS:
            return selection.containers(self.internet_kind, self.hosts, self.image)
        return selection.BUILT_IN[name](self.internet_kind)


def of(config: pytest.Config) -> Settings:
    """Tell what holds in a session."""
    return config.stash.setdefault(_SETTINGS, Settings())


def hold(config: pytest.Config, choices: Mapping[str, Choice]) -> None:
    """Check what was chosen, and let it hold in this session."""
    settings = config.stash[_SETTINGS] = read(choices, config)
    if "waivers" in choices:
        config.stash[_SETTINGS] = settings._replace(waivers=_waivers(choices["waivers"], config))


def read(choices: Mapping[str, Choice], config: pytest.Config) -> Settings:
    """Check what was chosen.

    Raises:
        pytest.UsageError: a value that is not known, or can never work on this machine; a
            configuration file that cannot be read, with everything that is wrong with it.
    """
    offered = _offered_backends(config)
    for name, choice in choices.items():
        if name in _WORDS:
            _check_word(name, choice, _WORDS[name])
    if "backend" in choices:
        _check_backend(choices["backend"], offered, elsewhere="host" in choices)
    if "mutant" in choices:
        _check_mutant(choices["mutant"], choices.get("backend"))
    values: dict[str, Any] = {
        name: choice.text for name, choice in choices.items() if name in _AS_THEY_ARE
    }
    if "internet" in choices:
        values["internet"] = _internet(choices)
    for flag in ("allow_host_faults", "gate", "thorough"):
        values[flag] = flag in choices and choices[flag].text in _TRUE
    if "report" in choices:
        values["reports"] = _report_paths(choices["report"], config)
    # Who wants a record, or a result, wants to know that nothing is missing in it.
    values["gate"] |= "report" in choices or "require" in choices
    if "host" in choices:
        values["hosts"] = _hosts(choices)
    if "image" in choices:
        values["image"] = path_of(choices["image"], config)
    if "config" in choices:
        read = _described(choices["config"], config)
        values |= {"described": read.spec, "ignored": read.ignored}
    if "timeout" in choices:
        values["described"] = _timed(values.get("described"), choices["timeout"])
    command = _commands(choices, config) if values.get("backend") == selection.COMMAND else None
    return Settings(**values, command=command, offered=offered, choices=choices)


def describe(choices: Mapping[str, Choice]) -> str:
    """Say in one line what was chosen and where; a backend by detection is named too."""
    found = {"backend": Choice(selection.detect(), "detected")} if "mutant" not in choices else {}
    return "bottle: " + ", ".join(
        f"{name} {text} ({source})" for name, (text, source) in {**found, **choices}.items()
    )


def _usage_error(name: str, choice: Choice, message: str) -> pytest.UsageError:
    option = f"--bottle-{name.replace('_', '-')}"
    source = "" if choice.source == option else f" (from {choice.source})"
    return pytest.UsageError(f"{option}{source}: {message}")


def _check_word(name: str, choice: Choice, known: Collection[str]) -> None:
    if choice.text not in known:
        raise _usage_error(name, choice, unknown(choice.text, known))


def _internet(choices: Mapping[str, Choice]) -> str:
    """Read the kind of far side, one that the backend of this run can have."""
    choice = choices["internet"]
    backend = choices["backend"].text if "backend" in choices else selection.detect()
    try:
        kind = kinds.read(choice.text)
    except ValueError as error:
        raise _usage_error("internet", choice, str(error)) from None
    if reason := kinds.impossible(kind, backend, mutant="mutant" in choices):
        raise _usage_error("internet", choice, reason)
    return kind


def _hosts(choices: Mapping[str, Choice]) -> tuple[str, ...]:
    """Read the machines that bottles are to be on; only a Mac's can be elsewhere."""
    from pytest_bottle.backends.engines import ssh

    choice = choices["host"]
    backend = choices["backend"].text if "backend" in choices else selection.detect()
    if backend != selection.CONTAINERS:
        message = f"only {selection.CONTAINERS!r} has bottles on another machine, not {backend!r}"
        raise _usage_error("host", choice, message)
    hosts = tuple(filter(None, re.split(r"[,\s]+", choice.text)))
    try:
        for host in hosts:
            ssh.parse(host)
    except ConfigurationError as error:
        message = f"expected {error.expected}; seen {error.seen}"
        raise _usage_error("host", choice, message) from None
    return hosts


def _timed(described: BottleSpec | None, choice: Choice) -> BottleSpec:
    """Give each step of a bottle's way up the seconds that were chosen."""
    from dataclasses import replace

    from pytest_bottle.spec import LONGEST_TIMEOUT, PLAIN, SHORTEST_TIMEOUT

    try:
        seconds = float(choice.text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_TIMEOUT <= seconds <= LONGEST_TIMEOUT:
        limits = f"{SHORTEST_TIMEOUT} to {LONGEST_TIMEOUT}"
        message = f"expected seconds from {limits}, seen {choice.text!r}"
        raise _usage_error("timeout", choice, message)
    return replace(described or PLAIN, timeout=seconds)


def _described(choice: Choice, config: pytest.Config) -> Manifest:
    from pytest_bottle import manifest

    try:
        return manifest.load(path_of(choice, config))
    except ConfigurationError as error:
        raise _file_error("config", choice, error) from None


def _commands(choices: Mapping[str, Choice], config: pytest.Config) -> Orders:
    from pytest_bottle.backends.command import loading

    choice = choices.get("command", Choice(selection.COMMAND_FILE, DISCOVERED))
    try:
        orders = loading.load(path_of(choice, config))
    except ConfigurationError as error:
        raise _file_error("command", choice, error) from None
    if orders.inside_lab and (reason := selection.impossible_here("netns")):
        raise _usage_error("command", choice, f"internet: lab: {reason}")
    return orders


def _waivers(choice: Choice, config: pytest.Config) -> tuple[Waiver, ...]:
    from pytest_bottle import waivers
    from pytest_bottle.planning import known_checks

    held = of(config)
    try:
        return waivers.load(
            path_of(choice, config),
            checks=[check.id for check in known_checks(config)],
            backends=(*selection.BUILT_IN, *held.offered),
        )
    except ConfigurationError as error:
        raise _file_error("waivers", choice, error) from None


def _file_error(name: str, choice: Choice, error: ConfigurationError) -> pytest.UsageError:
    option = "" if choice.source == DISCOVERED else f"--bottle-{name} (from {choice.source}): "
    option = option.replace(f" (from --bottle-{name})", "")
    return pytest.UsageError(*(option + line for line in error.lines))


def _report_paths(choice: Choice, config: pytest.Config) -> tuple[str, ...]:
    from pytest_bottle.reports import FORMATS

    names = [name.strip() for name in choice.text.split(",")]
    for name in names:
        kind = os.path.splitext(name)[1]
        if kind not in FORMATS:
            message = f"the format of {name!r}, by its end: {unknown(kind, FORMATS)}"
            raise _usage_error("report", choice, message)
    return tuple(os.path.join(_folder(choice, config), name) for name in names)


def path_of(choice: Choice, config: pytest.Config) -> str:
    """Tell the path of a file that was chosen; what it is relative to depends on where that was."""
    return os.path.join(_folder(choice, config), choice.text)


def _folder(choice: Choice, config: pytest.Config) -> str:
    if choice.source == DISCOVERED:
        return str(config.rootpath)
    if choice.source.startswith("ini "):
        return str(config.inipath.parent if config.inipath else config.rootpath)
    return str(config.invocation_params.dir)


def _check_backend(
    choice: Choice, offered: Mapping[str, BackendFactory], *, elsewhere: bool
) -> None:
    _check_word("backend", choice, (*selection.BUILT_IN, *offered))
    if reason := selection.impossible_here(choice.text, elsewhere=elsewhere):
        raise _usage_error("backend", choice, reason)


def _check_mutant(choice: Choice, backend: Choice | None) -> None:
    if backend is not None and backend.text != "netns":
        message = f"mutants live on the netns backend, not on {backend.text!r}"
        raise _usage_error("mutant", choice, message)
    # Before the import, for it works on Linux only.
    if reason := selection.impossible_here("netns"):
        raise _usage_error("mutant", choice, reason)
    from pytest_bottle.conformance.mutants.base import all_mutants

    _check_word("mutant", choice, all_mutants())


def _offered_backends(config: pytest.Config) -> dict[str, BackendFactory]:
    offered: dict[str, BackendFactory] = {}
    for offer in config.hook.pytest_bottle_backends(config=config):
        if not (isinstance(offer, Mapping) and all(map(callable, offer.values()))):
            raise _offer_error(config, f"expected a mapping of names to factories, seen {offer!r}")
        for name, factory in offer.items():
            if name in selection.BUILT_IN:
                raise _offer_error(config, f"{name!r} is a backend of pytest-bottle's own")
            if name in offered:
                raise _offer_error(config, f"a backend named {name!r} is offered twice")
            offered[name] = factory
    return offered


def _offer_error(config: pytest.Config, message: str) -> pytest.UsageError:
    offers = config.hook.pytest_bottle_backends.get_hookimpls()
    plugins = ", ".join(str(one.plugin_name) for one in offers)
    return pytest.UsageError(f"pytest_bottle_backends: {message} (implemented by: {plugins})")
