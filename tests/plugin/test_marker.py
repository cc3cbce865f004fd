"""The marker: its words, where it may stand, and what is said about a bad one."""

from __future__ import annotations

import pytest

USAGE_ERROR = pytest.ExitCode.USAGE_ERROR


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            'egres=["a.test"]',
            "egres: there is no such word; did you mean 'egress'? expected one of: image, rootfs, "
            "command, user, environment, env, egress, ports, publish, machine_port, sidecar, "
            "networks, seen 'egres'",
        ),
        ("timeout=3", "timeout: there is no such word: expected one of: image, *, seen 'timeout'"),
        ('["a.test"]', "expected keywords only (image, rootfs, *), seen [[]'a.test'[]]"),
        ('egress=[{"host": "a.test", "dlp": 1}]', "egress[[]0[]].dlp: there is no such word: *"),
        ('sidecar={"command": ["x"], "port": 0}', "sidecar.port: this is no port: *, seen 0"),
        ('sidecar={"port": 8080}', "sidecar: the reference sidecar is as it is: *"),
        (
            'rootfs="nowhere"',
            "rootfs: there is no such folder: expected *nowhere*",
        ),
        ('networks={"internal": "10.0.0.0/8"}', "networks.internal: a subnet will not do: *"),
        ('egress="a.test"', "egress: *expected a list, such as *, seen *a.test*"),
        ("egress=5", "egress: *expected a list, such as *, seen 5"),
        ('egress=["a b"]', "egress[[]0[]]: *expected host, host:port, *, seen 'a b'"),
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


def test_everything_wrong_in_a_marker_is_told(pytester: pytest.Pytester) -> None:
    """A line for each problem, not for the first one alone; nothing has run."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.bottle("a.test", user="me", egress=["a b", {"host": "a.test", "ports": [0]}])
        def test_it(): pass
        """
    )

    result = pytester.runpytest("--collect-only")

    assert result.ret == USAGE_ERROR
    words = [line.split(": ")[3] for line in result.errlines if line]
    assert words[0].startswith("expected keywords only")
    assert words[1:] == ["user", "egress[0]", "egress[1].ports[0]"]


def test_a_markers_paths_are_relative_to_its_file(pytester: pytest.Pytester, toy: object) -> None:
    """Wherever pytest was started; so are those of ``make_bottle``."""
    folder = pytester.mkdir("tests")
    (folder / "rootfs").mkdir()
    (folder / "test_it.py").write_text(
        """
import os
import pytest

ROOTFS = os.path.join(os.path.dirname(__file__), "rootfs")

@pytest.mark.bottle(rootfs="rootfs")
def test_marker(bottle_spec):
    assert bottle_spec.rootfs == ROOTFS

def test_make_bottle(make_bottle):
    assert make_bottle(rootfs="rootfs").topology.spec.rootfs == ROOTFS
"""
    )

    pytester.runpytest().assert_outcomes(passed=2)


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
    result.stderr.fnmatch_lines(["ERROR: *::test_it: @pytest.mark.bottle: egres: there is no*"])
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
