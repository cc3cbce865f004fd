"""The lab's addresses: who was given one is not taken for another."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.internet.hermetic import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How many of one kind a thorough run of LIFE-02 asks for: faults, rounds, two users and a mirror.
MANY = 4 * 16 * 3


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab that nobody serves: addresses need no server."""
    pairs = [socket.socketpair(), socket.socketpair()]
    made = Lab(pairs[0][0], pairs[1][0])
    yield made
    made.close()
    for _, other in pairs:
        other.close()


@pytest.mark.parametrize("family", [4, 6])
def test_an_address_for_one_port_is_nobodys_whole(lab: Lab, family: int) -> None:
    """Whoever needs an address at every port shares it with nobody, however many others ask."""
    whole = {lab.fresh_address(family) for _ in range(100)}
    shared = {lab.fresh_address(family, ("tcp", 443)) for _ in range(1000)}

    assert len(whole) == 100
    assert whole.isdisjoint(shared)


def test_a_thorough_check_and_a_survey_have_enough(lab: Lab) -> None:
    """As many stimuli of one kind as the longest check sends go to as many addresses twice over."""
    at = ("udp", 53)
    assert len({lab.fresh_address(4, at) for _ in range(2 * MANY)}) == 2 * MANY


def test_different_kinds_share_an_address(lab: Lab) -> None:
    """A protocol and port tells two stimuli apart, so each kind has the whole pool."""
    kinds = [("tcp", 443), ("udp", 443), ("tcp", 80)]
    assert len({lab.fresh_address(4, kind) for kind in kinds}) == 1
