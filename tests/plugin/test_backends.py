"""Backends from elsewhere: the hook, its misuse, and a backend that cannot work here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import ToyLog


def test_backend_from_a_conftest(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A backend that a conftest.py offers is chosen by name, opened at first use, closed once."""
    pytester.makepyfile(
        """
        def test_one(bottle): assert bottle.topology.id == "b1"
        def test_none(): pass
        def test_two(bottle): assert bottle.topology.id == "b2"
        """
    )

    pytester.runpytest("--bottle-backend=toy").assert_outcomes(passed=3)

    assert toy() == ["open", "up b1", "down b1", "up b2", "down b2", "close"]


def test_unused_backend_is_not_opened(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """Choosing a backend opens nothing if no test asks for a bottle."""
    pytester.makepyfile("def test(): pass")

    pytester.runpytest("--bottle-backend=toy").assert_outcomes(passed=1)

    assert toy() is None


@pytest.mark.parametrize("mode", ["--collect-only", "--setup-plan", "--fixtures", "--markers"])
def test_looking_touches_nothing(pytester: pytest.Pytester, toy: ToyLog, mode: str) -> None:
    """Modes that only look never open the chosen backend, for a test or for the suite."""
    pytester.makepyfile(
        """
        from pytest_bottle.conformance import test_conformance
        def test_it(bottled_agent, egress_sidecar, make_bottle, bottle_internet): pass
        """
    )

    result = pytester.runpytest(mode)

    assert result.ret == 0
    assert toy() is None


def test_users_own_fixture_is_used(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """Who overrides ``bottle_backend`` gets bottles on that, and closes it themselves."""
    pytester.makepyfile(
        """
        import pytest
        from conftest import Toy

        @pytest.fixture(scope="session")
        def bottle_backend():
            backend = Toy()
            yield backend
            backend.say("mine is closed")

        def test_it(bottle, make_bottle):
            make_bottle()
        """
    )

    pytester.runpytest("--bottle-backend=netns").assert_outcomes(passed=1)

    assert toy() == ["open", "up b1", "up b2", "down b2", "down b1", "mine is closed"]


def test_all_bottles_go_though_one_will_not(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """If taking one bottle down fails, the test errs, and the others go all the same."""
    pytester.makepyfile(
        """
        def test_it(make_bottle):
            one, two, three = make_bottle(), make_bottle(), make_bottle()
            def refuse():
                raise RuntimeError("it will not go")
            two.close = refuse
        """
    )

    result = pytester.runpytest()

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: it will not go"])
    assert toy() == ["open", "up b1", "up b2", "up b3", "down b3", "down b1", "close"]


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        ('{"netns": dict}', "'netns' is a backend of pytest-bottle's own"),
        ('{"own": dict}', "a backend named 'own' is offered twice"),
        ('["own"]', "expected a mapping of names to factories, seen ['own']"),
        ('{"other": "own"}', "expected a mapping of names to factories, seen {'other': 'own'}"),
    ],
)
def test_bad_offers(pytester: pytest.Pytester, offer: str, expected: str) -> None:
    """An offer that cannot be told from another, or is none, is a usage error that says by whom."""
    pytester.makepyfile(
        first_plugin='def pytest_bottle_backends(config): return {"own": dict}',
        second_plugin=f"def pytest_bottle_backends(config): return {offer}",
        test_it="def test(): pass",
    )

    pytester.syspathinsert()

    result = pytester.runpytest("-p", "first_plugin", "-p", "second_plugin")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.startswith(f"ERROR: pytest_bottle_backends: {expected} (implemented by: ")
    assert "second_plugin" in line


def test_unavailable_backend(pytester: pytest.Pytester) -> None:
    """A backend that cannot work here is tried once, told in full once, and without traceback."""
    pytester.makeconftest(
        """
        from pytest_bottle.errors import BackendUnavailableError

        def refuse():
            print("tried")
            try:
                open("/no/such/device")
            except OSError as error:
                raise BackendUnavailableError("no device", next_step="plug it in") from error

        def pytest_bottle_backends(config):
            return {"broken": refuse}
        """
    )
    pytester.makepyfile("def test_a(bottle): pass\ndef test_b(bottled_agent): pass")

    result = pytester.runpytest("--bottle-backend=broken", "-s")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(errors=2)
    assert str(result.stdout).count("tried") == 1
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_a*",
            "no device",
            "  next:     plug it in",
            "*ERROR at setup of test_b*",
            "no device",
            "  the error is told in full at *::test_a",
            "*short test summary info*",
            "ERROR *::test_a - no device*",
        ],
        consecutive=False,
    )
    for wall in ("*Traceback*", "*raise *", "*OSError*", "*FileNotFoundError*", "*plugin.py*"):
        result.stdout.no_fnmatch_line(wall)


def test_the_whole_traceback_on_demand(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """An error of ours ends at the user's own line; ``--full-trace`` shows what is behind it."""
    pytester.makepyfile(
        """
        def test_it(make_bottle):
            make_bottle(egress="a.test")
        """
    )

    short = pytester.runpytest()
    full = pytester.runpytest("--full-trace")

    short.stdout.fnmatch_lines(['>*make_bottle(egress="a.test")', "E  *ConfigurationError: *"])
    short.stdout.no_fnmatch_line("*words.py*")
    full.stdout.fnmatch_lines(["*words.py:*"])
