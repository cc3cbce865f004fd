"""Features are claims: what a running bottle says of those that its backend declares."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.black_hole import BlackHole
from pytest_bottle.backends.contract import BackendInfo, Feature
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.declared import contradictions
from pytest_bottle.conformance.mutants.base import NetnsBackend, open_mutant

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bottle.backends.contract import Backend

pytestmark = pytest.mark.usefixtures("netns_works")


def found(backend: Backend) -> list[str]:
    """What contradicts the features of a backend, which is ended."""
    with closing(backend):
        return contradictions(Bench(backend))


def hiding(backend: Backend, *features: Feature) -> Backend:
    """A backend that has some features and does not say so."""
    info = backend.describe()

    def describe() -> BackendInfo:
        return info._replace(features=info.features - {*features})

    backend.describe = describe  # type: ignore[method-assign]
    return backend


@pytest.mark.parametrize("opened", [NetnsBackend, BlackHole, lambda: open_mutant("NET-01")])
def test_an_honest_backend(opened: Callable[[], Backend]) -> None:
    """Nothing contradicts what the bundled backends declare, whatever they let through."""
    assert found(opened()) == []


def test_an_address_that_nobody_declared() -> None:
    """A backend without IPv6 whose agent has a global address contradicts itself."""
    (line,) = found(hiding(open_mutant("IP6-01"), Feature.IPV6))

    assert line.startswith("no ipv6 is declared, and the agent has ")


def test_ipv6_that_is_not_there() -> None:
    """A backend without IPv6 whose agent has none is believed."""
    assert found(hiding(NetnsBackend(), Feature.IPV6)) == []


def test_each_lie_is_told() -> None:
    """All that is hidden is found at once, each in a line of its own."""
    hidden = (Feature.EXEC_ROOT, Feature.AUDIT, Feature.PUBLISH, Feature.INVENTORY, Feature.SESSION)

    lines = found(hiding(NetnsBackend(), *hidden))

    assert [line.split(" is declared")[0] for line in lines] == [
        *("no exec-root", "no publish", "no audit", "no inventory", "no session"),
    ]
