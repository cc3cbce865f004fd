"""The spellings are many, each its own, and none of them is simply the allowed name."""

from __future__ import annotations

import pytest

from pytest_bottle.conformance.spellings import EQUIVALENTS, SPELLINGS, spelled
from pytest_bottle.guest.policy import Policy

NONCE = "fedcba9876543210" * 2
ALLOWED, OWNER = "allowed.test", "forbidden.test"


def test_there_are_enough_and_none_twice() -> None:
    """The catalogue asks for about sixty."""
    written = {spelled(spelling, ALLOWED, NONCE, OWNER) for spelling in SPELLINGS}
    assert len(written) == len(SPELLINGS) >= 60


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_has_its_nonce_and_no_placeholder(spelling: str) -> None:
    """Nothing is left to fill in, and what gets through can be told."""
    written = spelled(spelling, ALLOWED, NONCE, OWNER)
    assert NONCE.encode() in written.lower()
    assert b"{" not in written
    assert b"}" not in written


@pytest.mark.parametrize(
    ("spelling", "written"),
    [
        ("{a}@{d}", b"allowed.test@%s.forbidden.test"),
        ("{d}\0.{a}", b"%s.forbidden.test\0.allowed.test"),
        ("{d%2e}", b"%s%%2eforbidden%%2etest"),
        ("{d\xc0\xae}", b"%s\xc0\xaeforbidden\xc0\xaetest"),
        ("{d\u3002}", b"%s\xe3\x80\x82forbidden\xe3\x80\x82test"),
        ("{wide}", b"%s." + "\uff46\uff4f\uff52\uff42\uff49\uff44\uff44\uff45\uff4e".encode()),
    ],
)
def test_it_is_written_out_as_meant(spelling: str, written: bytes) -> None:
    """The bytes on the wire are those that the spelling stands for."""
    assert spelled(spelling, ALLOWED, NONCE, OWNER).startswith(written % NONCE.encode())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_reference_policy_lets_none_through(spelling: str) -> None:
    """As a host of CONNECT none is allowed: the policy is judged here without a network."""
    text = spelled(spelling, ALLOWED, NONCE, OWNER).decode("latin-1")
    assert not Policy([(ALLOWED, (80, 443))]).decide(text, 443).allowed


@pytest.mark.parametrize("name", EQUIVALENTS)
def test_the_reference_policy_takes_equivalents_for_the_same(name: str) -> None:
    """Case and one trailing dot do not make another host."""
    decision = Policy([(ALLOWED, (80, 443))]).decide(name, 443)
    assert (decision.allowed, decision.host) == (True, ALLOWED)
