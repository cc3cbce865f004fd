"""What the plugin costs those who do not use it: nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_bottle import plugin


def test_nothing_is_imported_at_the_top() -> None:
    """The module's own imports are pytest and what pytest has imported long before."""
    code = (
        "import pytest, sys; before = set(sys.modules); import pytest_bottle.plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["pytest_bottle", "pytest_bottle.plugin"]


def test_no_class_is_built_at_the_top_but_the_hooks() -> None:
    """The module stays cheap: named tuples, data classes and enums cost more than all the rest."""
    tree = ast.parse(Path(plugin.__file__).read_text())

    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == ["Specs"]


def test_a_run_without_it_loads_nothing(pytester: pytest.Pytester) -> None:
    """After a run that uses none of it, no module of ours but the plugin is loaded."""
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            print("loaded:", *sorted(name for name in sys.modules if "pytest_bottle" in name))
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", [1, 2])
        def test_good(n, tmp_path): pass
        def test_bad(): assert False
        """
    )

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["loaded: pytest_bottle pytest_bottle.plugin"])


def test_switched_off(pytester: pytest.Pytester) -> None:
    """``-p no:bottle`` takes away fixtures and options, and nothing breaks."""
    pytester.makepyfile("def test_it(): pass\ndef test_bottled(bottle): pass")

    result = pytester.runpytest("-p", "no:bottle")
    refused = pytester.runpytest("-p", "no:bottle", "--bottle-keep=never")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'bottle' not found"])
    assert refused.ret == pytest.ExitCode.USAGE_ERROR


def test_strict_settings(pytester: pytest.Pytester) -> None:
    """Strict markers and strict configuration know the marker and every ini key."""
    pytester.makeini(
        """
        [pytest]
        addopts = --strict-markers --strict-config
        bottle_backend = netns
        bottle_gate = false
        bottle_internet = lab
        bottle_keep = never
        bottle_profile = core@1
        bottle_scope = function
        bottle_timeout = 10
        """
        if sys.platform.startswith("linux")
        else "[pytest]\naddopts = --strict-markers --strict-config\nbottle_timeout = 10"
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.bottle(egress=["a.test"])
        def test_it(): pass
        """
    )

    pytester.runpytest("-W", "error").assert_outcomes(passed=1)


def test_help_names_every_option_with_its_twins(pytester: pytest.Pytester) -> None:
    """``--help`` shows each option, its variable and its ini key."""
    text = " ".join(str(pytester.runpytest("--help").stdout).split())

    names = ("backend", "config", "internet", "keep", "mutant", "profile", "report", "require")
    flags = ("allow_host_faults", "gate", "thorough")
    for name in (*names, "scope", "timeout", "waivers", *flags):
        option = f"--bottle-{name.replace('_', '-')}"
        assert f"{option}{' ' if name in flags else '='}" in text
        assert f"[env: BOTTLE_{name.upper()}, ini: bottle_{name}]" in text
        assert f"bottle_{name} (" in text
