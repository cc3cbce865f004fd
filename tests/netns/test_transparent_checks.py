"""The TRN checks on a backend that only claims to be transparent: it must pass none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.conformance.registry import Level
from pytest_bottle.errors import Inconclusive, Violation
from tests.judging import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.contract import BackendInfo

pytestmark = pytest.mark.usefixtures("netns_works")

WANTED = {
    "TRN-01": Violation,
    "TRN-02": Inconclusive,
    "TRN-03": Inconclusive,
    "TRN-04": Inconclusive,
    "TRN-05": Inconclusive,
    "TRN-06": Inconclusive,
    "TRN-07": Inconclusive,
    "TRN-08": Inconclusive,
}


class Boasting(NetnsBackend):
    """A backend with a feature that it has not."""

    def describe(self) -> BackendInfo:
        """Claim one feature more."""
        info = super().describe()
        return info._replace(features=info.features | {Feature.TRANSPARENT})


@pytest.fixture(scope="module")
def bench(netns_works: None) -> Iterator[Bench]:
    """The suite's bottle on it."""
    backend = Boasting()
    bench = Bench(backend)
    yield bench
    bench.close()
    backend.close()


@pytest.mark.parametrize("identity", WANTED)
def test_nothing_passes_without_the_redirect(bench: Bench, identity: str) -> None:
    """Where direct traffic is dropped, silence at the far side is no proof of anything."""
    check = named(identity)

    with pytest.raises(WANTED[identity]):
        bench.run(check)
    assert check.level is Level.TRANSPARENT
