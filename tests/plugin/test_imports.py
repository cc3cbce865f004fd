"""What a run of one plain test imports, and when: pytest waits for every millisecond of it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("netns_works")

#: What there is when the session's processes are started: until then nothing runs beside us.
AT_THE_START = """
    pytest_bottle _wire backends backends.engines backends.engines.netns
    backends.engines.netns.client backends.engines.netns.session backends.kinds backends.selection
    conformance conformance.profiles conformance.test_checks errors fixtures plugin settings
    spelling
"""
#: What a plain test has no use for: words of markers and files, checks, stimuli, reports.
UNUSED = """
    backends.adapter backends.command conformance.registry emulator gate inquiry logs manifest
    outcome part_words planning reading reports row_words rows sidecar_words stimulus suite
    terminal verdict waivers words
"""
ONE_TEST = """
    def test_fetch(bottled_agent):
        assert bottled_agent.fetch("http://allowed.test/").status == 200
"""


def test_the_session_starts_before_the_rest_is_imported(pytester: pytest.Pytester) -> None:
    """When the keeper is started, what describes and makes bottles is still to come."""
    pytester.makepyfile(ONE_TEST)
    # By an audit hook: a module that we would have to import here would have been imported here.
    pytester.makeconftest(
        """
        import sys

        def listen(event, arguments):
            if event == "subprocess.Popen" and any("keeper" in word for word in arguments[1]):
                names = (name.removeprefix("pytest_bottle.") for name in sys.modules
                         if name.startswith("pytest_bottle"))
                print("at the start:", *sorted(names))

        sys.addaudithook(listen)
        """
    )

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=1)
    (line,) = (line for line in result.outlines if "at the start:" in line)
    assert line.partition("at the start: ")[2].split() == sorted(AT_THE_START.split())


def test_a_plain_test_imports_what_it_uses(pytester: pytest.Pytester) -> None:
    """After a run without a choice or a marker, nothing is loaded that serves only those."""
    pytester.makepyfile(ONE_TEST)
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            print("loaded:", *(name.removeprefix("pytest_bottle.") for name in sys.modules
                               if name.startswith("pytest_bottle.")))
        """
    )

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=1)
    (line,) = (line for line in result.outlines if line.startswith("loaded:"))
    loaded = line.split()[1:]
    assert "bottle" in loaded
    assert set(UNUSED.split()).isdisjoint(loaded)
