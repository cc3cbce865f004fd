"""What the report of a failed test shows of its bottles."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import ToyLog

pytestmark = pytest.mark.usefixtures("netns_works")

FETCHES = """
import pytest

def test_passes(bottled_agent):
    assert bottled_agent.fetch("http://allowed.test/of-the-one-that-passed").status == 200

def test_fails(bottled_agent):
    assert bottled_agent.fetch("http://denied.test/secret").status == 403
    assert bottled_agent.fetch("http://allowed.test/wanted").status == 201
"""
SECTIONS = [
    "-* bottle b*: sidecar -*",
    '{*"decision":"deny"*"host":"denied.test"*',
    '{*"decision":"allow"*"target":"http://allowed.test/wanted"*',
    "-* bottles: requests at the far side -*",
    "+*.* s dns  10.87.*:* > 192.88.99.53:53 allowed.test type 1",
    "+*.* s http 10.87.*:* > 192.88.99.*:80 GET http://allowed.test/wanted",
    "-* bottles: packets at the far side -*",
    "+*.* s tcp  10.87.*:* > 192.88.99.*:80 flags 0x02",
]


@pytest.mark.parametrize(
    "arguments",
    ["", "--bottle-scope=class", "--bottle-scope=module", "--bottle-scope=session", "-n 2"],
)
def test_a_failure_shows_what_its_bottle_wrote(pytester: pytest.Pytester, arguments: str) -> None:
    """The sidecar's record and what arrived at the far side during the test, whatever the scope."""
    pytester.makepyfile(FETCHES)

    result = pytester.runpytest_subprocess("--bottle-backend=netns", *arguments.split())

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(SECTIONS)
    far = str(result.stdout).partition("requests at the far side")[2]
    assert "of-the-one-that-passed" not in far


def test_junit_has_them_too(pytester: pytest.Pytester) -> None:
    """A JUnit file has the same texts as properties of the failed test, and only of that one."""
    pytester.makepyfile(FETCHES)

    pytester.runpytest_subprocess("--bottle-backend=netns", "--junitxml=out.xml")

    cases = {
        case.attrib["name"]: {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        for case in ET.parse(pytester.path / "out.xml").iter("testcase")
    }
    assert cases["test_passes"] == {}
    assert re.search("GET http://allowed.test/wanted$", requests_of(cases["test_fails"]), re.M)
    assert list(cases["test_fails"]) == [
        "bottle b2: sidecar",
        "bottles: requests at the far side",
        "bottles: packets at the far side",
    ]


def requests_of(properties: dict[str, str]) -> str:
    """Pick the far side's requests."""
    return properties["bottles: requests at the far side"]


def test_a_later_fixture_that_fails(pytester: pytest.Pytester) -> None:
    """A fixture that breaks after the bottle came up shows what it did in it."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def later(bottled_agent):
            bottled_agent.fetch("http://allowed.test/later")
            raise RuntimeError("no luck")

        def test_it(later): pass
        """
    )

    result = pytester.runpytest_subprocess("--bottle-backend=netns")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no luck", "-* bottle b1: sidecar -*", "*allowed.test/later*"])


def test_bottles_that_are_gone_say_so(pytester: pytest.Pytester) -> None:
    """Neither a bottle taken down nor a backend that died hides the failure itself."""
    pytester.makepyfile(
        """
        import os, signal, time
        import pytest
        from pytest_bottle.errors import TransportError

        def test_down(bottle):
            bottle.close()
            assert not "taken down"

        def test_dead(bottle, bottle_backend):
            pid = bottle_backend.engine.client.keeper_pid
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for ask in (bottle_backend.inventory, bottle_backend.internet.mark):
                with pytest.raises(TransportError):
                    while True:  # what it held ends a moment later
                        ask()
            time.sleep(1)  # and the last of it a moment after that
            assert not "dead"
        """
    )

    result = pytester.runpytest_subprocess("--bottle-backend=netns")

    assert result.parseoutcomes()["failed"] == 2
    result.stdout.fnmatch_lines(
        [
            "*assert not 'taken down'",
            "-* bottle b1 -*",
            "nothing can be read: BottleError: there is no such guest",
            "*assert not 'dead'",
            "-* bottle b2 -*",
            "nothing can be read: TransportError: *",
            "-* bottles: far side -*",
            "nothing can be read: TransportError: *",
        ]
    )


def test_only_the_last_lines(pytester: pytest.Pytester) -> None:
    """Fifty lines of each part, and it says how many are before them."""
    pytester.makepyfile(
        """
        def test_it(bottle):
            for number in range(60):
                bottle.agent.fetch(f"http://denied.test/{number}")
            assert 0
        """
    )

    result = pytester.runpytest_subprocess("--bottle-backend=netns")

    result.stdout.fnmatch_lines(["-* bottle b1: sidecar -*", "… 10 lines before these", '*/10"*'])
    result.stdout.no_fnmatch_line('*denied.test/9"*')


def test_each_bottle_of_a_test(pytester: pytest.Pytester) -> None:
    """Bottles of ``make_bottle`` and the sibling speak too; those of other tests do not."""
    pytester.makepyfile(
        """
        def test_other(bottle): pass

        def test_it(bottle, sibling_bottle, make_bottle):
            for one in (bottle, sibling_bottle, make_bottle()):
                one.agent.fetch("http://denied.test/")
            assert 0

        def test_without(): assert 0
        """
    )

    result = pytester.runpytest_subprocess("--bottle-backend=netns")

    sections = re.findall(r"^-+ (bottle\S* .*?) -+$", str(result.stdout), re.M)
    assert sorted(sections) == ["bottle b2: sidecar", "bottle b3: sidecar", "bottle b4: sidecar"]


def test_passing_tests_read_nothing(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A test that passes costs nothing: the backend is asked for its logs on failure only."""
    pytester.makepyfile(
        """
        from conftest import Toy

        def logs(self, topology):
            self.say(f"logs {topology.id}")
            return {"agent": bytes([255]) + b" said"}

        Toy.logs = logs

        def test_passes(bottle): pass
        def test_fails(bottle): assert 0
        """
    )

    result = pytester.runpytest()

    assert toy() == ["open", "up b1", "down b1", "up b2", "logs b2", "down b2", "close"]
    result.stdout.fnmatch_lines(["-* bottle b2: agent -*", "\ufffd said"])
