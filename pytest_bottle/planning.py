"""What a run of the conformance suite is to do: the checks that it knows, and those it plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle import settings
from pytest_bottle.conformance import profiles
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.conformance.rows import checks_of

if TYPE_CHECKING:
    import pytest

    from pytest_bottle.conformance.registry import Check


def known_checks(config: pytest.Config) -> tuple[Check, ...]:
    """Every check that this run could make, the rows of the user's own policy among them.

    The survey fires their stimuli, and a waiver may name them.
    """
    return (*all_checks(), *checks_of(settings.of(config).spec.policy))


def planned_checks(config: pytest.Config) -> tuple[Check, ...]:
    """Every check that this run has to make: items, gate and report go by it, and by nothing else.

    It is the same on the controller and on each worker.
    """
    return profiles.planned(settings.of(config).profile, known_checks(config))
