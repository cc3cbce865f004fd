"""How to run one check again, alone: the command line that a failure prints."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from pytest_bottle.backends import selection
from pytest_bottle.settings import path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

    from pytest_bottle.settings import Settings

#: Where the suite's own test is, by the name of its package.
_OURS = "pytest_bottle.conformance.test_checks"
#: Settings that name a file.
_FILES = {"command", "config"}
_TEST = f"{_OURS}::test_conformance"


def command(identity: str, options: Iterable[str], test: str = "") -> str:
    """Write the command line down.

    Args:
        identity: the ID of the check.
        options: what else it needs to come to the same verdict.
        test: the item, if it lies in a file of the user's own.
    """
    target = [test] if test else ["--pyargs", f"{_TEST}[{identity}]"]
    return shlex.join(["pytest", *target, *options])


def of(
    config: pytest.Config, settings: Settings, items: Iterable[pytest.Item] = ()
) -> Callable[[str], str]:
    """Make the function that writes the command line for a check of this run."""
    options = (*_pytests(config), *_ours(config, settings))

    def rerun(identity: str) -> str:
        return command(identity, options, _own_item(config, identity, items))

    return rerun


def _own_item(config: pytest.Config, identity: str, items: Iterable[pytest.Item]) -> str:
    """Find a check's item in a file of the user's own; empty if it is the package's."""
    for item in items:
        spec = getattr(item, "callspec", None)
        check = spec.params.get("bottle_check") if spec else None
        module = getattr(getattr(item, "module", None), "__name__", "")
        if check is not None and check.id == identity and module != _OURS:
            name = item.nodeid.partition("::")[2]
            return f"{_path(config, str(item.path))}::{name}"
    return ""


def _ours(config: pytest.Config, settings: Settings) -> Iterator[str]:
    """Yield what was chosen, wherever it was: the command line has the last word."""
    chosen = {name: choice.text for name, choice in settings.choices.items()}
    if "mutant" not in chosen:
        chosen.setdefault("backend", selection.detect())
    for name in _FILES & chosen.keys():
        chosen[name] = _path(config, path_of(settings.choices[name], config))
    for name in ("backend", "mutant", "command", "config", "internet", "timeout"):
        if name in chosen:
            yield f"--bottle-{name}={chosen[name]}"
    if settings.thorough:
        yield "--bottle-thorough"


def _pytests(config: pytest.Config) -> Iterator[str]:
    """Yield those of pytest's own options by which backends and settings are found."""
    for plugin in config.getoption("plugins") or ():
        if not plugin.startswith("no:"):
            yield f"-p{plugin}"
    for name, option in (("inifilename", "-c"), ("rootdir", "--rootdir=")):
        value = config.getoption(name, None)
        if value:
            yield f"{option}{value}"


def _path(config: pytest.Config, path: str) -> str:
    """Write a path down as it is seen from where pytest was started, if it lies below."""
    short = os.path.relpath(path, config.invocation_params.dir)
    return path if short.startswith("..") else short
