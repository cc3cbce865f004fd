"""An emulator of each version for the tests of a module, and nothing of it left between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bottle.emulator import Emulator
from tests.emulating import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def _cli(netns_works: None) -> Iterator[Cli]:
    with Emulator("1.0.0") as daemon:
        cli = Cli(daemon)
        cli.load()
        yield cli


@pytest.fixture
def cli(_cli: Cli) -> Iterator[Cli]:
    """The command line of 1.0.0, with an image and without containers."""
    yield _cli
    _cli.clean()


@pytest.fixture(scope="module")
def _newest(netns_works: None) -> Iterator[Cli]:
    with Emulator("1.2.2") as daemon:
        cli = Cli(daemon)
        cli.load()
        yield cli


@pytest.fixture
def newest(_newest: Cli) -> Iterator[Cli]:
    """The command line of 1.2.2, likewise."""
    yield _newest
    _newest.clean()
