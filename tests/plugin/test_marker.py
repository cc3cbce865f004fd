"""The marker: its words, where it may stand, and what is said about a bad one."""

from __future__ import annotations

import pytest

USAGE_ERROR = pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            'egres=["a.test"]',
            "'egres' is not known; did you mean 'egress'? "
            "(known: egress, publish, machine_port, command, environment)",
        ),
        ("timeout=3", "'timeout' is not known (known: egress, *"),
        ('["a.test"]', "expected keywords only (egress, publish, *), seen [[]'a.test'[]]"),
        ('egress="a.test"', "egress: *expected a list, such as *, seen *a.test*"),
        ("egress=5", "egress: *expected a list, such as *, seen 5"),
        ('egress=["a b"]', "egress: *expected host, host:port, *, seen 'a b'"),
        ("publish=18080", "publish: *expected address:port, *, seen 18080"),
        ('publish="0.0.0.0:80"', "publish: *expected an address in 127.0.0.0/8, *"),
        ('machine_port="80"', "machine_port: *expected *65535, seen '80'"),
        ("machine_port=65536", "machine_port: *expected *65535, seen 65536"),
        ('command="sleep 5"', "command: *expected a list, such as *, seen 'sleep 5'"),
        ('environment=["A=1"]', "environment: *expected *, seen [[]'A=1'[]]"),
    ],
)
def test_bad_words(pytester: pytest.Pytester, words: str, expected: str) -> None:
    """A word that is not known or has another kind of value is a usage error, naming the test."""
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.bottle({words})
        def test_it():
            pass
        """
    )

    result = pytester.runpytest("--strict-markers")

    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *::test_it: @pytest.mark.bottle: {expected}"])


def test_every_bad_marker_is_named_once(pytester: pytest.Pytester) -> None:
    """All bad markers are told at once, one line each, however many tests they stand over."""
    pytester.makepyfile(
        test_bad="""
        import pytest

        @pytest.mark.bottle(egres=[])
        class TestMany:
            def test_one(self): pass
            def test_two(self): pass

        @pytest.mark.bottle("a.test")
        def test_other(): pass
        """
    )

    result = pytester.runpytest()

    assert result.ret == USAGE_ERROR
    errors = [line.partition(" @")[0] for line in result.errlines if line]
    assert errors == ["ERROR: test_bad.py::TestMany:", "ERROR: test_bad.py::test_other:"]


def test_bad_markers_under_xdist(pytester: pytest.Pytester) -> None:
    """With -n 2 the same line and the same exit status come from the controller."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.bottle(egres=[])
        def test_it(): pass
        def test_other(): pass
        """
    )

    result = pytester.runpytest_subprocess("-n", "2")

    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *::test_it: @pytest.mark.bottle: 'egres' is not known*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*passed*")


@pytest.mark.parametrize(
    ("scope", "place", "remedy"),
    [
        ("class", "TestIt::test_in_class", "put the marker on the class"),
        ("module", "TestIt::test_in_class", "put the marker on the module"),
        ("module", "TestIt", "put the marker on the module"),
        ("module", "test_alone", "put the marker on the module"),
        ("session", "test_alone", "use make_bottle"),
        ("session", "module", "use make_bottle"),
    ],
)
def test_marker_below_the_scope(
    pytester: pytest.Pytester, scope: str, place: str, remedy: str
) -> None:
    """A marker on less than a bottle lives for would never be seen, so it is a usage error."""
    mark = '@pytest.mark.bottle(egress=["a.test"])'
    lines = {
        name: mark if name == place else ""
        for name in ("TestIt", "TestIt::test_in_class", "test_alone")
    }
    pytester.makepyfile(
        test_it=f"""
        import pytest
        {'pytestmark = pytest.mark.bottle(egress=["a.test"])' if place == "module" else ""}
        {lines["TestIt"]}
        class TestIt:
            {lines["TestIt::test_in_class"]}
            def test_in_class(self): pass

        {lines["test_alone"]}
        def test_alone(): pass
        """
    )

    result = pytester.runpytest(f"--bottle-scope={scope}")

    assert result.ret == USAGE_ERROR
    node = "test_it.py" if place == "module" else f"test_it.py::{place}"
    result.stderr.fnmatch_lines(
        [f"ERROR: {node}: @pytest.mark.bottle stands on the *for the {scope} *; {remedy}, or *"]
    )


def test_function_outside_of_classes(pytester: pytest.Pytester, toy: object) -> None:
    """With scope class a function of its own counts as its own class, and so does its marker."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.bottle(egress=["a.test"])
        def test_alone(bottle):
            assert bottle.topology.spec.egress[0].host == "a.test"
        """
    )

    pytester.runpytest("--bottle-scope=class").assert_outcomes(passed=1)


def test_closest_marker_wins(pytester: pytest.Pytester, toy: object) -> None:
    """Of several markers the one closest to the test holds, and it alone."""
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.bottle(egress=["module.test"], environment={"A": "1"})

        @pytest.mark.bottle(egress=["function.test"])
        def test_own(bottle):
            spec = bottle.topology.spec
            assert ([r.host for r in spec.egress], spec.environment) == (["function.test"], {})

        @pytest.mark.parametrize(
            "n", [pytest.param(1, marks=pytest.mark.bottle(egress=["parameter.test"]))]
        )
        def test_parameter(bottle, n):
            assert bottle.topology.spec.egress[0].host == "parameter.test"

        def test_inherited(bottle):
            assert bottle.topology.spec.egress[0].host == "module.test"
        """
    )

    pytester.runpytest().assert_outcomes(passed=3)


def test_marker_is_registered(pytester: pytest.Pytester) -> None:
    """``--markers`` explains it, so that strict markers let it pass."""
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.bottle(egress=*): what *"])
