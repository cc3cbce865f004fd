"""Backends from elsewhere that do not keep the contract, as a run of pytest shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import ToyLog


def test_a_backend_that_lies(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """It fails each test with all that is wrong, without a traceback; nothing was brought up."""
    pytester.makepyfile(
        """
        from conftest import Toy
        from pytest_bottle import BackendInfo, Feature

        def describe(self):
            return BackendInfo("toy", "1", frozenset({Feature.AUDIT, Feature.INVENTORY}))

        Toy.describe = describe

        def test_it(bottle): pass
        def test_that(bottle_backend): pass
        """
    )

    result = pytester.runpytest()

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_it*",
            "a backend does not keep the contract",
            "  where:    backend 'toy', class conftest.Toy",
            "  expected: the methods of pytest_bottle.Backend, for what its features say",
            "  seen:     declares Feature.AUDIT without audit(); declares Feature.INVENTORY *",
            "  next:     see docs/backend-authors.md: the contract",
        ]
    )
    result.stdout.no_fnmatch_line("*adapter.py*")
    assert toy() == ["open", "close"]


def test_the_suite_calls_a_lie_no_skip(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A declared feature that is refused when a check uses it is red, never NOT SUPPORTED."""
    pytester.makepyfile(
        """
        from conftest import Toy
        from pytest_bottle import BackendInfo, Feature, NotSupported
        from pytest_bottle.conformance import test_conformance

        def describe(self):
            return BackendInfo("toy", "1", frozenset({Feature.INVENTORY}))

        def inventory(self):
            raise NotSupported("not today")

        Toy.describe, Toy.inventory = describe, inventory
        """
    )

    result = pytester.runpytest("-k", "RES-01")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*a backend contradicts its features",
            "*declares Feature.INVENTORY, and inventory says: not today",
            "INCONCLUSIVE  RES-01 *",
            "bottle: a declared feature is contradicted: declares Feature.INVENTORY, and *",
        ]
    )


def test_a_factory_that_raises(pytester: pytest.Pytester) -> None:
    """What a factory raises is told with its name; the cause is there on demand."""
    pytester.makeconftest(
        """
        def open_it():
            raise OSError("the daemon does not answer")

        def pytest_bottle_backends(config):
            return {"mine": open_it}
        """
    )
    pytester.makepyfile("def test_it(bottle): pass")

    result = pytester.runpytest("--bottle-backend=mine")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "a backend could not be opened",
            "  where:    backend 'mine', its factory conftest.open_it",
            "  seen:     OSError: the daemon does not answer",
        ]
    )
    full = pytester.runpytest("--bottle-backend=mine", "--full-trace")
    full.stdout.fnmatch_lines(["*raise OSError*"])


def test_a_conftest_in_a_folder(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A conftest.py offers backends if its folder is named; of another it is read too late."""
    folder = pytester.mkdir("below")
    (pytester.path / "conftest.py").rename(folder / "conftest.py")
    (folder / "test_it.py").write_text("def test_it(bottle): pass")

    named = pytester.runpytest("below")
    unnamed = pytester.runpytest()

    named.assert_outcomes(passed=1)
    assert unnamed.ret == pytest.ExitCode.USAGE_ERROR
    unnamed.stderr.fnmatch_lines(["*'toy' is not known*"])


def test_a_detected_backend_is_not_an_offered_one(
    pytester: pytest.Pytester, toy: ToyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offering a backend chooses nothing: who names none gets the best of this machine."""
    monkeypatch.delenv("BOTTLE_BACKEND")
    pytester.makepyfile("def test_it(): pass")

    pytester.runpytest().assert_outcomes(passed=1)

    assert toy() is None
