"""``unittest.TestCase`` classes use the fixtures."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import ToyLog


@pytest.mark.usefixtures("netns_works")
def test_usefixtures_gives_attributes(pytester: pytest.Pytester) -> None:
    """What ``usefixtures`` names is an attribute, in ``setUp`` already; the marker counts."""
    pytester.makepyfile(
        """
        import unittest
        import pytest

        @pytest.mark.bottle(egress=["packages.test"])
        @pytest.mark.usefixtures("bottled_agent", "egress_sidecar")
        class TestEgress(unittest.TestCase):
            def setUp(self):
                self.assertEqual(self.bottled_agent.fetch("http://packages.test/").status, 200)

            def test_denied(self):
                response = self.bottled_agent.fetch("http://allowed.test/")
                self.assertEqual(response.denied, "not-allowed")

            def test_record(self):
                self.assertEqual(len(self.egress_sidecar.audit()), 1)

            @pytest.mark.usefixtures("sibling_bottle")
            def test_sibling(self):
                self.assertNotEqual(self.sibling_bottle.agent.address, self.bottled_agent.address)

        @pytest.mark.usefixtures("bottle", "internal_network", "egress_network", "make_bottle")
        class TestAll(unittest.TestCase):
            def test_it(self):
                self.assertEqual(self.bottle.internal_network, self.internal_network)
                self.assertFalse(self.egress_network.internal)
                self.assertNotEqual(self.make_bottle().topology.id, self.bottle.topology.id)

        @pytest.mark.usefixtures("bottle_internet", "bottle_backend")
        class TestSession(unittest.TestCase):
            def test_it(self):
                self.assertIs(self.bottle_internet, self.bottle_backend.internet)
        """
    )

    pytester.runpytest("--bottle-backend=netns").assert_outcomes(passed=5)


def test_autouse_fixture(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """The way of pytest itself, an autouse fixture in the class, works as with any fixture."""
    pytester.makepyfile(
        """
        import unittest
        import pytest

        class TestIt(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _bottle(self, bottle):
                self.mine = bottle

            def test_it(self):
                self.assertEqual(self.mine.topology.id, "b1")
        """
    )

    pytester.runpytest().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("scope", "ups"), [("function", 2), ("class", 1), ("module", 1), ("session", 1)]
)
def test_life_of_the_attributes(
    pytester: pytest.Pytester, toy: ToyLog, scope: str, ups: int
) -> None:
    """Of the instance when each test has a bottle, of the class when they share one.

    ``setUpClass`` runs before the bottle comes up and ``tearDownClass`` after it went, unless it
    outlives the class; the attributes are not there yet in any case.
    """
    pytester.makepyfile(
        f"""
        import unittest
        import pytest

        @pytest.mark.usefixtures("bottle")
        class TestIt(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                assert not hasattr(cls, "bottle")
                cls.note("set up")

            @classmethod
            def tearDownClass(cls):
                cls.note("torn down")

            @staticmethod
            def note(word):
                with open("toy.log", "a") as log:
                    print(word, file=log)

            def test_a(self):
                assert ("bottle" in vars(type(self))) == ({scope!r} != "function")
                assert self.bottle.topology.id == "b1"

            def test_b(self):
                assert self.bottle.topology.id == "b{ups}"
        """
    )

    pytester.runpytest(f"--bottle-scope={scope}").assert_outcomes(passed=2)

    life = [f"{word} b{n}" for n in range(1, ups + 1) for word in ("up", "down")]
    log = toy() or []
    assert [line for line in log if "b" in line] == life
    around = [line for line in log if "b1" in line or "set" in line or "torn" in line]
    outlived = ["up b1", "set up", "torn down", "down b1"]
    assert around == (
        outlived if scope in ("module", "session") else ["set up", "up b1", "down b1", "torn down"]
    )


def test_plain_classes_get_no_attributes(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A class that is no TestCase asks by argument, and stays as it is written."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.usefixtures("bottle")
        class TestIt:
            def test_it(self):
                assert not hasattr(self, "bottle")
        """
    )

    pytester.runpytest().assert_outcomes(passed=1)


def test_foreign_fixtures_are_left_alone(pytester: pytest.Pytester, toy: ToyLog) -> None:
    """A fixture of the user's own is not put anywhere: pytest does not do that either."""
    pytester.makepyfile(
        """
        import unittest
        import pytest

        @pytest.fixture
        def own(): return 1

        @pytest.mark.usefixtures("own", "bottle")
        class TestIt(unittest.TestCase):
            def test_it(self):
                assert not hasattr(self, "own")
                assert self.bottle
        """
    )

    pytester.runpytest().assert_outcomes(passed=1)


def test_plain_unittest_has_no_fixtures(pytester: pytest.Pytester) -> None:
    """Under ``python -m unittest`` nobody sets the attributes: a clear error, never a pass."""
    pytester.makepyfile(
        test_it="""
        import unittest
        import pytest

        @pytest.mark.usefixtures("bottled_agent")
        class TestIt(unittest.TestCase):
            def test_it(self):
                self.bottled_agent.run("true")
        """
    )

    result = pytester.run(sys.executable, "-m", "unittest", "test_it")

    assert result.ret == 1
    result.stderr.fnmatch_lines(["AttributeError: * no attribute 'bottled_agent'"])
