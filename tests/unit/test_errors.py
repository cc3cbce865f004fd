"""Errors: one family, and messages that say what, where, expected, seen and what to do next."""

from __future__ import annotations

import copy
import pickle

import pytest

from pytest_bottle import errors
from pytest_bottle.errors import (
    BackendUnavailableError,
    BottleError,
    BringUpError,
    ConfigurationError,
    DeadlineError,
    Facts,
    Inconclusive,
    NotSupported,
    TransportError,
    Violation,
)

FAMILY = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception) and value.__name__[0] != "_"
]
FIELDS = {"where": "here", "expected": "this", "seen": "that", "next_step": "do something"}


def test_the_family_is_known() -> None:
    """Whoever catches ``BottleError`` catches them all."""
    assert set(FAMILY) == {
        *(BottleError, ConfigurationError, BackendUnavailableError, BringUpError),
        *(TransportError, DeadlineError, Inconclusive, Violation, NotSupported),
    }
    assert all(issubclass(kind, BottleError) for kind in FAMILY)


@pytest.mark.parametrize("kind", FAMILY)
def test_a_message_answers_five_questions_in_order(kind: type[BottleError]) -> None:
    """One line each; and each answer can be asked for by name."""
    error = kind("it failed", **FIELDS)
    assert str(error) == (
        "it failed\n  where:    here\n  expected: this\n  seen:     that\n  next:     do something"
    )
    assert {name: getattr(error, name) for name in FIELDS} == FIELDS
    assert error.what == "it failed"


@pytest.mark.parametrize("kind", FAMILY)
def test_what_is_not_known_is_left_out(kind: type[BottleError]) -> None:
    """No empty lines, and only the clause itself when there is nothing else."""
    assert str(kind("it failed")) == "it failed"
    assert str(kind("it failed", seen="that")) == "it failed\n  seen:     that"


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_survives_its_way_to_another_process(kind: type[BottleError]) -> None:
    """With its message, its fields and its type."""
    error = kind("it failed", **FIELDS)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)


@pytest.mark.parametrize("kind", [Inconclusive, Violation])
def test_a_verdict_says_what_it_rests_on(kind: type[Inconclusive | Violation]) -> None:
    """Between what was seen and what is to be done, in another process too."""
    facts = Facts(sent="a packet", heard="it", cause="a hole")

    error = kind("it failed", seen="that", next_step="do something", facts=facts)

    assert str(error) == (
        "it failed\n  seen:     that\n  sent:     a packet\n  heard:    it\n  cause:    a hole\n"
        "  next:     do something"
    )
    assert pickle.loads(pickle.dumps(error)).facts == facts


def test_a_deadline_keeps_the_output_so_far() -> None:
    """It is a broken exec like any other, with something to read."""
    error = DeadlineError("cut", stdout=b"half a li", stderr=b"oops")
    assert (error.stdout, error.stderr) == (b"half a li", b"oops")
    assert (DeadlineError("cut").stdout, DeadlineError("cut").stderr) == (b"", b"")
    assert isinstance(error, TransportError)
    assert pickle.loads(pickle.dumps(error)).stdout == b"half a li"


def test_a_deadline_shows_the_end_of_the_output_so_far() -> None:
    """Its message quotes the last 500 characters of both outputs, whatever bytes they are."""
    error = DeadlineError("cut", seen="that", stdout=b"x" * 600 + b"\xff end", stderr=b"oops")

    _, seen = str(error).splitlines()
    assert seen.startswith("  seen:     that; standard output (605 bytes) ended in 'xxx")
    assert seen.count("x") == 495
    assert "\ufffd end'; standard error (4 bytes) was 'oops'" in seen


def test_only_a_violation_is_a_failed_assertion() -> None:
    """Runners count it as a failure; everything else is trouble, and never a pass."""
    assert [kind for kind in FAMILY if issubclass(kind, AssertionError)] == [Violation]


def test_a_broken_exec_is_no_verdict() -> None:
    """What catches the one does not catch the other."""
    for verdict in (Violation, Inconclusive, NotSupported):
        assert not issubclass(TransportError, verdict)
        assert not issubclass(verdict, TransportError)
