"""A backend without a far side: what does not need one does not ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.contract import BackendInfo
    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.internet.contract import Internet

#: Without the lab, and what netns has not anyway.
LACKING = {Feature.LAB, Feature.TRANSPARENT}
CHECKS = [check for check in all_checks() if not LACKING & check.needs and not check.apart]


class Labless(NetnsBackend):
    """The netns backend, without a lab as far as anybody can tell."""

    def describe(self) -> BackendInfo:
        """Leave the lab out."""
        info = super().describe()
        return info._replace(features=info.features - {Feature.LAB})

    @property
    def internet(self) -> Internet:
        """Nobody is to come here."""
        raise RuntimeError("somebody asked for the internet")


@pytest.fixture(scope="module")
def bench(netns_works: None) -> Iterator[Bench]:
    """The suite's bottle on such a backend."""
    backend = Labless()
    try:
        yield Bench(backend)
    finally:
        backend.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_what_needs_no_lab_asks_for_none(check: Check, bench: Bench) -> None:
    """A check that does not name the lab among its needs passes without one."""
    assert bench.run(check)


def test_the_others_are_not_supported(bench: Bench) -> None:
    """Every check that names it says so, before it asks anything."""
    for check in all_checks():
        if Feature.LAB in check.needs:
            with pytest.raises(NotSupported, match="without lab"):
                bench.run(check)
