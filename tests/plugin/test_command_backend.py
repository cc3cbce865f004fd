"""The command backend as a run of pytest shows it: its file, its errors, its verdicts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[[str], None]

SCRIPT = """
echo called >> calls
# The first command is the look that the adapter takes at a new bottle.
if [ "$(wc -l < calls)" = 1 ]; then exec "$@"; fi
{broken}
"""


@pytest.fixture
def write(pytester: pytest.Pytester) -> Write:
    """Write a backend that breaks after its first exec, and a suite that runs on it."""

    def lay_out(broken: str) -> None:
        pytester.makefile(".sh", it=SCRIPT.format(broken=broken))
        pytester.makefile(
            ".yaml",
            **{
                "bottle-command": f"""
                python: {sys.executable}
                exec: [sh, it.sh]
                inventory: [sh, it.sh]
                """
            },
        )
        pytester.makepyfile("from pytest_bottle.conformance import test_conformance")

    return lay_out


@pytest.mark.parametrize(
    ("broken", "seen"),
    [
        ("echo garbage", "standard output 'garbage"),
        ("exit 125", "exit status 125; standard output empty"),
        ("kill -9 $$", "signal 9"),
    ],
)
def test_a_broken_command_is_inconclusive(
    pytester: pytest.Pytester, write: Write, broken: str, seen: str
) -> None:
    """The suite is red, says INCONCLUSIVE, and quotes the command line and what it printed."""
    write(broken)

    result = pytester.runpytest("--bottle-backend=command", "-k", "RES-01")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*by sh it.sh*{seen}*", "INCONCLUSIVE  RES-01 *"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_user_sees_a_transport_error(pytester: pytest.Pytester, write: Write) -> None:
    """A test of the user's own fails with the transport's error, as one of the suite's does."""
    write("echo who are you >&2; exit 3")
    pytester.makepyfile("def test_it(bottled_agent): assert bottled_agent.run('true')")

    result = pytester.runpytest("--bottle-backend=command")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*nobody knows what became of a command*", "*who are you*"])


@pytest.mark.parametrize("given", ["option", "variable", "ini", "found"])
def test_where_the_file_is(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """By option, variable or ini key; if nobody says, it is bottle-command.yaml in the rootdir."""
    name = "bottle-command" if given == "found" else "mine"
    pytester.makefile(".yaml", **{name: f"python: {sys.executable}\nexec: [env]\n"})
    pytester.makepyfile("def test_it(bottled_agent): assert bottled_agent.run('pwd').ok")
    arguments = ["--bottle-backend=command"]
    if given == "option":
        arguments.append("--bottle-command=mine.yaml")
    elif given == "variable":
        monkeypatch.setenv("BOTTLE_COMMAND", "mine.yaml")
    elif given == "ini":
        pytester.makeini("[pytest]\nbottle_command = mine.yaml")

    pytester.runpytest(*arguments).assert_outcomes(passed=1)


def test_a_file_that_is_not_there(pytester: pytest.Pytester) -> None:
    """One usage error that names it, before anything is run."""
    pytester.makefile(".yaml", **{"bottle-comand": "exec: [env]"})
    pytester.makepyfile("def test_it(bottle): pass")

    result = pytester.runpytest("--bottle-backend=command")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*bottle-command.yaml: it cannot be read; did you mean 'bottle-comand.yaml'?*"]
    )


def test_a_file_with_errors(pytester: pytest.Pytester) -> None:
    """A usage error for each of them, all at once; the option that named the file is told."""
    pytester.makefile(".yaml", mine="exec: [no-such-program]\ninventry: [cat]\ninternet: lob\n")
    pytester.makepyfile("def test_it(bottle): pass")

    result = pytester.runpytest("--bottle-backend=command", "--bottle-command=mine.yaml")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*--bottle-command: mine.yaml:1: exec: there is no such program*",
            "*--bottle-command: mine.yaml:2: inventry: *did you mean 'inventory'?*",
            "*--bottle-command: mine.yaml:3: internet: *did you mean 'lab'?*",
        ]
    )
