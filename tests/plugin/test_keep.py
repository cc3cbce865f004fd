"""What outlives a run, and how the run says so."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.family import allowed

if TYPE_CHECKING:
    from tests.plugin.conftest import ToyLog

SUITE = """
def test_good(bottle): pass
def test_bad(bottle): assert False
def test_good_again(bottle): pass
"""


def kept_lines(result: pytest.RunResult) -> list[str]:
    """Pick the lines about what is kept."""
    return [
        line.removeprefix("bottle: ")
        for line in result.outlines
        if line.startswith("bottle: ") and "backend " not in line
    ]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("never", "open, up b1, down b1, up b2, down b2, up b3, down b3, close"),
        ("on-failure", "open, up b1, down b1, up b2, up b3, down b3, keep"),
        ("always", "open, up b1, up b2, up b3, keep"),
    ],
)
def test_which_bottles_stay(
    pytester: pytest.Pytester, toy: ToyLog, keep: str, expected: str
) -> None:
    """Never none, on-failure those of failed tests, always all; the backend stays with them."""
    pytester.makepyfile(test_it=SUITE)

    result = pytester.runpytest(f"--bottle-keep={keep}")

    result.assert_outcomes(passed=2, failed=1)
    assert toy() == expected.split(", ")
    bottles = [line for line in kept_lines(result) if line.startswith("kept ")]
    assert (
        bottles
        == {
            "never": [],
            "on-failure": ["kept b2 of test_it.py::test_bad"],
            "always": [
                "kept b1 of test_it.py::test_good",
                "kept b2 of test_it.py::test_bad",
                "kept b3 of test_it.py::test_good_again",
            ],
        }[keep]
    )


@pytest.mark.parametrize("arguments", [(), ("-q",), ("--no-summary",)])
def test_the_run_says_how_to_enter_and_remove(
    pytester: pytest.Pytester, toy: ToyLog, arguments: tuple[str, ...]
) -> None:
    """The backend's own lines follow, whatever else of the output is switched off."""
    pytester.makepyfile(test_it="def test_it(bottle): pass")

    result = pytester.runpytest("--bottle-keep=always", *arguments)

    assert kept_lines(result) == [
        "kept b1 of test_it.py::test_it",
        "enter b1: sh",
        "remove all of it: kill 1",
    ]


def test_inconclusive_is_a_failure(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """The bottle of an inconclusive test stays on-failure."""
    pytester.makepyfile(
        """
        from pytest_bottle.errors import Inconclusive
        def test_it(bottle): raise Inconclusive("who knows")
        """
    )

    pytester.runpytest("--bottle-keep=on-failure")

    assert toy() == ["open", "up b1", "keep"]


def test_shared_bottle_of_a_failed_test(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A shared bottle stays if any test failed during its life, and not for one before it."""
    pytester.makepyfile(
        test_1="def test_bad(): assert False",
        test_2="def test_good(bottle): pass",
        test_3="def test_bad(bottle): assert False\ndef test_good(bottle): pass",
    )

    result = pytester.runpytest("--bottle-keep=on-failure", "--bottle-scope=module")

    assert toy() == ["open", "up b1", "down b1", "up b2", "keep"]
    assert kept_lines(result)[0] == "kept b2 of test_3.py"


def test_all_of_make_bottle_stay(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """The further bottles of a failed test stay together."""
    pytester.makepyfile(
        """
        def test_it(make_bottle):
            make_bottle(), make_bottle()
            assert False
        """
    )

    pytester.runpytest("--bottle-keep=on-failure")

    assert toy() == ["open", "up b1", "up b2", "keep"]


def test_the_suites_bottle_stays_alone(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """The suite's bottle has a backend of its own: keeping it keeps no other backend."""
    pytester.makepyfile(
        """
        def test_mine(bottle_check, _bottle_bench, request):
            request.getfixturevalue("bottle_backend")
            assert False
        """
    )

    result = pytester.runpytest("-k", "NET-01", "--bottle-keep=on-failure")

    assert toy() == ["open", "up b1", "open", "close", "keep"]
    assert kept_lines(result)[0] == "kept b1 of the session"


def test_workers_tell_the_controller(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """With -n 2 each worker's lines arrive, marked with its name."""
    pytester.makepyfile(test_1="def test_1(bottle): pass", test_2="def test_2(bottle): pass")

    result = pytester.runpytest_subprocess("-n", "2", "--dist=loadfile", "--bottle-keep=always")

    result.assert_outcomes(passed=2)
    kept = sorted(line.partition("] ")[2] for line in kept_lines(result))
    assert [line for line in kept if line.startswith("kept")] == [
        "kept b1 of test_1.py::test_1",
        "kept b1 of test_2.py::test_2",
    ]
    assert kept.count("remove all of it: kill 1") == 2
    assert {line[:5] for line in kept_lines(result)} == {"[gw0]", "[gw1]"}


_ASK = "id -u; hostname; grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNewPrivs' /proc/self/status; set"
_CONFINED = [*(f"Cap{name}:\t{0:016x}" for name in ("Inh", "Prm", "Eff", "Amb")), "NoNewPrivs:\t1"]


@pytest.mark.usefixtures("netns_works")
def test_every_printed_line_works(pytester: pytest.Pytester) -> None:
    """Each line, run as it is printed, enters its part or removes all; the agent's is confined."""
    for tool in ("nsenter", "setpriv"):
        if not shutil.which(tool):
            pytest.skip(f"NOT RUN: {tool} of util-linux is not installed")
    pytester.makepyfile(
        test_it="""
        def test_it(bottle):
            bottle.neighbour.run("true")
            assert bottle.agent.run("sh", "-c", "echo mine > ~/note").ok
        """
    )

    result = pytester.runpytest_subprocess("--bottle-keep=always", "--bottle-backend=netns")

    result.assert_outcomes(passed=1)
    _, *lines = kept_lines(result)
    ways = dict(line.split(": ", 1) for line in lines)
    remove = ways.pop("remove all of it")
    try:
        said = {way: run_line(line, _ASK) for way, line in ways.items()}
        agent = ways["enter b1-agent as its own user"]
        assert run_line(agent, "cat ~/note; whoami; touch /usr/x 2>&1 | wc -l") == [
            *("mine", "agent", "1")
        ]
    finally:
        # The line is nothing but a kill of one process, which this test has started.
        assert re.fullmatch(r"kill \d+", remove)
        assert subprocess.run(["sh", "-c", remove], check=False, timeout=60).returncode == 0
    assert set(ways) == {
        "enter b1-agent as its own user",
        "enter b1-agent with every privilege",
        "enter b1-sidecar as its own user",
        "enter b1-sidecar with every privilege",
        "enter b1-neighbour with every privilege",
    }
    for way, (uid, hostname, *rest) in said.items():
        assert hostname == way.split()[1]
        if way.endswith("its own user"):
            assert uid == "1000"
            assert rest[:5] == _CONFINED
    variables = said["enter b1-agent as its own user"][7:]
    assert any(line.startswith("HTTP_PROXY='http://10.86.") for line in variables)
    assert wait_for_end(int(remove.split()[1]))


def run_line(line: str, script: str) -> list[str]:
    """Run a printed line in a shell, as somebody at a terminal would, and type a script there."""
    done = subprocess.run(
        ["sh", "-c", line], input=script, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.stdout, (line, done.stderr)
    return done.stdout.splitlines()


def wait_for_end(pid: int) -> bool:
    """Tell whether a process ends within a second; nobody may be there to reap it."""
    end = time.monotonic() + allowed()
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False
