"""What can be imported from the package itself, and when it is looked up."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pytest_bottle


@pytest.mark.parametrize("name", pytest_bottle.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name of __all__ can be had from the package, and is called that where it lives."""
    assert getattr(pytest_bottle, name).__name__ == name


def test_typing_and_run_time_agree() -> None:
    """The imports that type checkers see name just what is in __all__."""
    with open(pytest_bottle.__file__) as file:
        seen = {line.split()[-1] for line in file if line.startswith("    from pytest_bottle.")}

    assert seen == set(pytest_bottle.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that does not exist is refused as any module would."""
    with pytest.raises(AttributeError, match="has no attribute 'Tpc'"):
        pytest_bottle.Tpc  # noqa: B018


def test_importing_the_package_imports_nothing_else_of_ours() -> None:
    """The package alone pulls in none of its own modules."""
    script = (
        "import sys, pytest_bottle\n"
        "print([m for m in sys.modules if m.startswith('pytest_bottle.')])"
    )

    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200
    )

    assert said.stdout.strip() == "[]"
