"""What the plugin's tests share: a toy backend that writes down what it is asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

# Runs inside this process must find our modules loaded: pytester unloads what a run has imported,
# and a second copy of the errors would not be ours.
import pytest_bottle.conformance.bench
import pytest_bottle.conformance.mutants.base
import pytest_bottle.fixtures
import pytest_bottle.outcome
import pytest_bottle.terminal  # noqa: F401 - they are to be loaded, no more
from pytest_bottle.conformance.registry import all_checks

if TYPE_CHECKING:
    from pathlib import Path

all_checks()

_TOY = '''
from pytest_bottle import (
    BackendBase, BackendInfo, Endpoint, ExecResult, GuestInfo, NetworkInfo, Topology
)

class Toy(BackendBase):
    """A backend without any system behind it."""

    def __init__(self):
        self.bottles = 0
        self.say("open")

    def say(self, word):
        with open({log!r}, "a") as log:
            log.write(word + "\\n")

    def describe(self):
        return BackendInfo("toy", "1", frozenset())

    def up(self, spec):
        self.bottles += 1
        self.say(f"up b{{self.bottles}}")
        inner = NetworkInfo("inner", True, "198.51.100.0/24", "198.51.100.1")
        outer = NetworkInfo("outer", False, "203.0.113.0/24", "203.0.113.1")
        return Topology(
            id=f"b{{self.bottles}}", spec=spec, internal=inner, egress=outer,
            agent=GuestInfo("agent", {{"inner": "198.51.100.2"}}),
            sidecar=GuestInfo("sidecar", {{"inner": "198.51.100.3", "outer": "203.0.113.3"}}),
            proxy=Endpoint("198.51.100.3", 9099), published=None, machine_published=None,
            environment={{}}, python="/usr/bin/python3",
        )

    def exec(self, topology, vantage, argv, **how):
        return ExecResult(0, b"1000", b"")

    def down(self, topology):
        self.say(f"down {{topology.id}}")

    def close(self, *, keep=False):
        self.say("keep" if keep else "close")
        return "enter b1: sh\\nremove all of it: kill 1" if keep else ""

def pytest_bottle_backends(config):
    return {{"toy": Toy}}
'''


class ToyLog:
    """What the toy backend was asked, in order; None if it was never opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> list[str] | None:
        """Read it."""
        return self.path.read_text().splitlines() if self.path.exists() else None


@pytest.fixture(autouse=True)
def quiet_surroundings(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs these tests out of the runs under test, and big plugins."""
    for name in [name for name in os.environ if name.startswith("BOTTLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider -p no:hypothesispytest")


@pytest.fixture
def toy(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> ToyLog:
    """Offer the backend ``toy`` from the root conftest.py, and choose it."""
    log = pytester.path / "toy.log"
    pytester.makeconftest(_TOY.format(log=str(log)))
    monkeypatch.setenv("BOTTLE_BACKEND", "toy")
    return ToyLog(log)
