"""Profiles: lists that are data and agree with the catalogue, and that let nothing in by chance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_bottle.conformance.profiles import PROFILES, gates, is_preview, planned
from pytest_bottle.conformance.registry import Check, Level, all_checks
from tests.judging import named
from tests.unit.test_registry import ALL_ROWS

LEVELS = {row[0]: Level(row[2]) for row in ALL_ROWS}


def of(*levels: Level) -> set[str]:
    """The IDs of the catalogue at these levels."""
    return {identity for identity, level in LEVELS.items() if level in levels}


@pytest.fixture
def example() -> Check:
    """A check that is in every profile."""
    return named("NET-01")


@pytest.mark.parametrize(
    ("profile", "levels"),
    [
        ("core@1", {Level.CORE}),
        ("strict@1", {Level.CORE, Level.STRICT}),
        ("transparent@1", {Level.CORE, Level.TRANSPARENT}),
        ("all", {*Level}),
    ],
)
def test_a_profile_is_its_levels(profile: str, levels: set[Level]) -> None:
    """Each list holds exactly the catalogue's checks of its levels."""
    assert PROFILES[profile] == of(*levels)


def test_every_listed_check_is_registered() -> None:
    """A profile demands nothing that does not exist."""
    assert PROFILES["all"] - {one.id for one in all_checks()} == set()


def test_a_new_check_is_a_preview(example: Check) -> None:
    """It is planned where its level is looked at, and gates nobody."""
    new = replace(example, id="NET-99")
    strict = replace(new, level=Level.STRICT)

    assert is_preview(new)
    assert not gates(new)
    assert planned("core@1", [example, new, strict]) == (example, new)
    assert planned("all", [example, new, strict]) == (example, new, strict)


def test_quirks_do_not_gate(example: Check) -> None:
    """They are planned in ``all``, and nowhere else."""
    quirk = replace(example, id="NET-12", level=Level.QUIRK)

    assert gates(example)
    assert not gates(quirk)
    assert planned("all", [quirk]) == (quirk,)
    assert planned("strict@1", [quirk]) == ()


@pytest.mark.parametrize("profile", PROFILES)
def test_a_users_own_check_is_everywhere(example: Check, profile: str) -> None:
    """What a bottle.yaml demands is planned in every profile, and it gates."""
    own = replace(example, id="USER-database")

    assert planned(profile, [own]) == (own,)
    assert gates(own)
