"""``bottle.yaml`` in a run: where it is found, who may change it, and what is said about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import ToyLog

USAGE_ERROR = pytest.ExitCode.USAGE_ERROR
SHOW = """
def test_show(bottle_spec):
    hosts = [route.host for route in bottle_spec.egress]
    assert hosts == ["{host}"]
"""


def describe(pytester: pytest.Pytester, host: str, name: str = "bottle.yaml") -> None:
    """Write a file that lets one host through."""
    path = pytester.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"egress: {{routes: [{{host: {host}}}]}}\n")


# -- where it is --------------------------------------------------------------------------------


def test_it_is_found_beside_the_configuration(pytester: pytest.Pytester) -> None:
    """In the rootdir, wherever pytest is started; the header says so."""
    pytester.makeini("[pytest]")
    describe(pytester, "root.test")
    pytester.mkdir("sub").joinpath("test_it.py").write_text(SHOW.format(host="root.test"))

    result = pytester.runpytest("sub")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["bottle: * config bottle.yaml (found in the rootdir)*"])


def test_it_is_not_searched_for(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither above the rootdir nor below it."""
    describe(pytester, "above.test")
    root = pytester.mkdir("project")
    describe(pytester, "below.test", "project/below/bottle.yaml")
    (root / "pytest.ini").write_text("[pytest]")
    (root / "below" / "test_it.py").write_text(SHOW.format(host="allowed.test"))
    monkeypatch.chdir(root / "below")

    result = pytester.runpytest()

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("bottle: *")


@pytest.mark.parametrize("given", ["cli env ini", "env ini", "ini", "cli", "env"])
def test_who_names_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """The option before the variable before the ini key before what lies in the rootdir.

    The option and the variable are relative to where pytest was started, the key to its file.
    """
    for host in ("cli", "env"):
        describe(pytester, f"{host}.test", f"here/{host}.yaml")
    describe(pytester, "ini.test", "conf/ini.yaml")
    describe(pytester, "root.test")
    pytester.makeini("[pytest]\n" + ("bottle_config = conf/ini.yaml" if "ini" in given else ""))
    if "env" in given:
        monkeypatch.setenv("BOTTLE_CONFIG", "env.yaml")
    first = given.split()[0]
    test = pytester.path / "test_it.py"
    test.write_text(SHOW.format(host=f"{first}.test"))
    monkeypatch.chdir(pytester.path / "here")

    result = pytester.runpytest(
        *(["--bottle-config=cli.yaml"] if "cli" in given else []), str(test)
    )

    result.assert_outcomes(passed=1)
    source = {"cli": "--bottle-config", "env": "BOTTLE_CONFIG", "ini": "ini key bottle_config"}
    result.stdout.fnmatch_lines([f"bottle: * config *{first}.yaml ({source[first]})*"])


def test_the_key_is_relative_to_its_own_file(pytester: pytest.Pytester) -> None:
    """Also where that is none of the rootdir."""
    describe(pytester, "conf.test", "conf/mine.yaml")
    (pytester.path / "conf" / "pytest.ini").write_text("[pytest]\nbottle_config = mine.yaml")
    pytester.makepyfile(SHOW.format(host="conf.test"))

    pytester.runpytest("-c", "conf/pytest.ini", "--rootdir=.").assert_outcomes(passed=1)


# -- what is wrong with it ----------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--collect-only"], ["-n", "2"]])
def test_a_bad_file_is_a_usage_error(
    pytester: pytest.Pytester, toy: ToyLog, arguments: list[str]
) -> None:
    """With every error, a line each, and nothing touched: not even a test that needs no bottle."""
    (pytester.path / "bottle.yaml").write_text("comand: []\nuser: me\negress: [a b]\n")
    pytester.makepyfile("def test_it(bottle): pass\ndef test_other(): pass")

    result = pytester.runpytest_subprocess(*arguments)

    assert result.ret == USAGE_ERROR
    assert [line.split(": ")[1:3] for line in result.errlines if line] == [
        ["bottle.yaml:1", "comand"],
        ["bottle.yaml:2", "user"],
        ["bottle.yaml:3", "egress[0]"],
    ]
    result.stdout.no_fnmatch_line("*passed*")
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    assert toy() is None


@pytest.mark.parametrize(
    ("source", "start"),
    [
        ("cli", "--bottle-config: mine.yml: it cannot be read; did you mean 'mine.yaml'?"),
        ("env", "--bottle-config (from BOTTLE_CONFIG): mine.yml: it cannot be read; did"),
        ("ini", "--bottle-config (from ini key bottle_config): mine.yml: it cannot be read; did"),
    ],
)
def test_a_file_that_is_not_there(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, source: str, start: str
) -> None:
    """The line says who named it."""
    describe(pytester, "a.test", "mine.yaml")
    if source == "env":
        monkeypatch.setenv("BOTTLE_CONFIG", "mine.yml")
    if source == "ini":
        pytester.makeini("[pytest]\nbottle_config = mine.yml")

    result = pytester.runpytest(*(["--bottle-config=mine.yml"] if source == "cli" else []))

    assert result.ret == USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.startswith(f"ERROR: {start}")


def test_a_dangling_file_is_not_overlooked(pytester: pytest.Pytester) -> None:
    """Whatever is called bottle.yaml in the rootdir is meant."""
    (pytester.path / "bottle.yaml").symlink_to("nowhere.yaml")
    pytester.makepyfile("def test_it(): pass")

    result = pytester.runpytest()

    assert result.ret == USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: bottle.yaml: it cannot be read*No such file*"])


# -- what is ignored ----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["-q"], ["--no-header"], ["-n", "1"], ["-W", "error"]])
def test_what_is_ignored_is_told(pytester: pytest.Pytester, arguments: list[str]) -> None:
    """Once, whether there is a header or not, and it is no error."""
    (pytester.path / "bottle.yaml").write_text("extends: base\negress: {routes: []}\n")
    pytester.makepyfile("def test_it(): pass")

    result = pytester.runpytest(*arguments)

    assert result.ret == 0
    told = [line for line in result.outlines if "extends is ignored" in line]
    assert len(told) == 1
    assert told[0].startswith("bottle: bottle.yaml:1: extends is ignored: bot-bottle's own")


# -- who may change it --------------------------------------------------------------------------


def test_words_are_laid_over_the_file(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A marker's and those of ``make_bottle``; what they do not say is as in the file."""
    (pytester.path / "bottle.yaml").write_text(
        "environment: {A: '1'}\nuser: root\negress: [file.test]\ntimeout: 7\n"
    )
    pytester.makepyfile(
        """
        import pytest

        def words(spec):
            return [r.host for r in spec.egress], dict(spec.environment), spec.user, spec.timeout

        def test_file(bottle):
            assert words(bottle.topology.spec) == (["file.test"], {"A": "1"}, "root", 7)

        @pytest.mark.bottle(egress=["marker.test"])
        def test_marker(bottle):
            assert words(bottle.topology.spec) == (["marker.test"], {"A": "1"}, "root", 7)

        @pytest.mark.bottle(egress=["marker.test"])
        def test_maker(make_bottle):
            spec = make_bottle(environment={}, user="agent").topology.spec
            assert words(spec) == (["file.test"], {}, "agent", 7)
        """
    )

    pytester.runpytest().assert_outcomes(passed=3)


def test_the_option_wins_over_the_files_timeout(pytester: pytest.Pytester) -> None:
    """It is a setting of the run."""
    (pytester.path / "bottle.yaml").write_text("timeout: 7\n")
    pytester.makepyfile("def test_it(bottle_spec): assert bottle_spec.timeout == 3")

    pytester.runpytest("--bottle-timeout=3").assert_outcomes(passed=1)


def test_users_change_the_specification(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A fixture ``bottle_spec`` of their own sees ours, marker and all, and decides."""
    pytester.makepyfile(
        """
        import dataclasses
        import pytest

        @pytest.fixture
        def bottle_spec(bottle_spec):
            return dataclasses.replace(bottle_spec, environment={"A": "mine"})

        @pytest.mark.bottle(egress=["marker.test"], environment={"A": "marker"})
        def test_it(bottle):
            spec = bottle.topology.spec
            assert spec.egress[0].host == "marker.test"
            assert spec.environment == {"A": "mine"}
        """
    )

    pytester.runpytest().assert_outcomes(passed=1)


def test_a_fixture_that_returns_something_else(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """It is named, and no bottle comes up."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def bottle_spec():
            return {"egress": []}

        def test_it(bottle): pass
        """
    )

    result = pytester.runpytest()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a fixture returned no specification*", "*bottle_spec*"])
    assert toy() == ["open", "close"]


def test_one_specification_for_a_longer_life(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """``bottle_spec`` lives as long as the bottle does."""
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.bottle(egress=["module.test"])
        seen = []

        @pytest.mark.parametrize("n", [1, 2])
        def test_it(bottle_spec, bottle, n):
            seen.append(bottle_spec)
            assert bottle.topology.spec is bottle_spec is seen[0]
            assert bottle_spec.egress[0].host == "module.test"
        """
    )

    pytester.runpytest("--bottle-scope=module").assert_outcomes(passed=2)


def test_the_suites_own_bottle() -> None:
    """It is the file's, but for the routes and the command, which the checks rely on.

    A further bottle of it leaves networks and the published address to the backend.
    """
    from types import SimpleNamespace
    from typing import Any

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.spec import DEFAULT_EGRESS, BottleSpec, EgressRoute, PublishedPort

    made: list[BottleSpec] = []

    def up(spec: BottleSpec) -> SimpleNamespace:
        made.append(spec)
        return SimpleNamespace(id="b", spec=spec)

    backend: Any = SimpleNamespace(up=up, down=lambda topology: None)
    spec = BottleSpec(
        egress=(EgressRoute("a.test"),),
        command=("sleep", "5"),
        environment={"A": "1"},
        publish=PublishedPort("127.0.0.30", 80, 9090),
        internal_subnet="10.89.0.0/24",
        timeout=3,
    )

    bench = Bench(backend, spec)
    assert bench.sibling

    assert [one.egress for one in made] == [DEFAULT_EGRESS] * 2
    assert [one.command for one in made] == [()] * 2
    assert [one.environment for one in made] == [{"A": "1"}] * 2
    assert [one.internal_subnet for one in made] == ["10.89.0.0/24", ""]
    assert [one.publish for one in made] == [spec.publish, PublishedPort(None, 80)]
    assert [one.timeout for one in made] == [3, 3]
