"""What all tests share: whether user namespaces work here, one backend, one record of commands."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.containers import recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bottle.bottle import Bottle
    from pytest_bottle.conformance.mutants.base import NetnsBackend

_TRY = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) != 0)"


@pytest.fixture(scope="session", autouse=True)
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], list[list[str]]]]:
    """Hold every command line of all tests, in whichever process, to Apple's grammar."""
    with recording(tmp_path_factory.mktemp("record") / "argv") as lines:
        yield lines


@pytest.fixture(scope="session")
def netns_works() -> None:
    """Skip, as NOT RUN, where the kernel gives this user no namespaces."""
    if not sys.platform.startswith("linux"):
        pytest.skip("NOT RUN: network namespaces need Linux")
    if subprocess.run([sys.executable, "-c", _TRY], check=False, timeout=200).returncode:
        pytest.skip("NOT RUN: this machine forbids user namespaces to this user")


@pytest.fixture(scope="session")
def netns(netns_works: None) -> Iterator[NetnsBackend]:
    """A netns backend for the whole session of this worker."""
    from pytest_bottle.conformance.mutants.base import NetnsBackend

    backend = NetnsBackend()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def shared_bottle(netns: NetnsBackend) -> Iterator[Bottle]:
    """One bottle for the tests of a module that only look at it."""
    from pytest_bottle.bottle import Bottle
    from pytest_bottle.spec import BottleSpec

    with Bottle(netns, BottleSpec()) as bottle:
        yield bottle
