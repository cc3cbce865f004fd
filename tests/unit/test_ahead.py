"""Checks that stand apart run beside each other: who begins when, and who gets which outcome."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_bottle.conformance.ahead import Ahead, checks_of, put_last
from pytest_bottle.conformance.registry import Check, all_checks
from pytest_bottle.errors import Violation

#: How long a test waits for what must happen.
PATIENCE = 60


def made(identity: str, *, apart: bool = True, alone: bool = False) -> Check:
    """A check that is like a real one but for what the order goes by."""
    return replace(all_checks()[0], id=identity, apart=apart, alone=alone)


A, B, C = made("A"), made("B"), made("C")
COMMON, ALONE = made("COMMON", apart=False), made("ALONE", alone=True)


class Runner:
    """Runs checks that last until all that are awaited have begun."""

    def __init__(self, *together: Check) -> None:
        self.begun: list[str] = []
        self.running: set[str] = set()
        self._together = threading.Barrier(len(together)) if together else None
        self._names = {check.id for check in together}

    def __call__(self, check: Check) -> str:
        """Run a check; it says who else ran when it ended."""
        self.begun.append(check.id)
        self.running.add(check.id)
        if check.id in self._names and self._together:
            self._together.wait(PATIENCE)
        seen = " ".join(sorted(self.running))
        if self._together and check.id in self._names:
            self._together.wait(PATIENCE)
        self.running.remove(check.id)
        return f"{check.id} beside {seen}"


def test_the_first_that_is_asked_for_starts_all() -> None:
    """They run at once, and each item gets the outcome of its own check."""
    ahead = Ahead([COMMON, A, B], Runner(A, B))

    assert ahead.outcome(COMMON) == "COMMON beside COMMON"
    assert ahead.outcome(A) == "A beside A B"
    assert ahead.outcome(B) == "B beside A B"
    ahead.close()


def test_nothing_starts_before_the_first_is_asked_for() -> None:
    """As long as items of the common bottle run, nobody is beside them."""
    runner = Runner()
    ahead = Ahead([COMMON, A, B], runner)

    ahead.outcome(COMMON)

    assert runner.begun == ["COMMON"]
    ahead.close()


@pytest.mark.parametrize("late", [COMMON, ALONE], ids=lambda check: check.id)
def test_who_must_not_be_disturbed_waits(late: Check) -> None:
    """In somebody else's order too: it runs when all that run ahead have ended."""
    runner = Runner(A, B)
    ahead = Ahead([A, late, B], runner)

    assert ahead.outcome(A) == "A beside A B"
    assert ahead.outcome(late) == f"{late.id} beside {late.id}"
    assert ahead.outcome(B) == "B beside A B"
    ahead.close()


def test_an_outcome_is_raised_where_it_is_asked_for() -> None:
    """An exception of a check is that of its own item, and of no other."""

    def run(check: Check) -> str:
        if check is A:
            raise Violation("A leaks")
        return "fine"

    ahead = Ahead([A, B], run)

    assert ahead.outcome(B) == "fine"
    with pytest.raises(Violation, match="A leaks"):
        ahead.outcome(A)
    ahead.close()


def test_who_asks_again_gets_another_run() -> None:
    """An outcome is given once: a second answer is a second observation."""
    runner = Runner()
    ahead = Ahead([A], runner)

    ahead.outcome(A)
    ahead.outcome(A)

    assert runner.begun == ["A", "A"]
    ahead.close()


def test_who_was_not_announced_runs_alone_when_asked_for() -> None:
    """So it is for a worker of xdist, which does not know what it will get."""
    runner = Runner()
    ahead = Ahead([], runner)

    assert ahead.outcome(A) == "A beside A"
    assert runner.begun == ["A"]


def test_the_end_waits_for_those_that_run_and_starts_no_other() -> None:
    """What a check uses must not go while it runs."""
    many = [made(f"D{number}") for number in range(6)]
    gate, ended, begun = threading.Event(), [], threading.Semaphore(0)

    def run(check: Check) -> str:
        begun.release()
        gate.wait(PATIENCE)
        ended.append(check.id)
        return "late"

    ahead = Ahead([A, *many], run)
    asked = threading.Thread(target=lambda: ahead.outcome(A))
    asked.start()
    for _ in range(3):
        assert begun.acquire(timeout=PATIENCE)
    end = time.monotonic() + PATIENCE
    while many[-1].id not in ahead._futures:  # the first may run before the last is ordered
        assert time.monotonic() < end
        time.sleep(0.001)
    waiting = [ahead._futures[check.id] for check in many[2:]]  # three of the seven run
    closing = threading.Thread(target=ahead.close)
    closing.start()
    while not all(future.cancelled() for future in waiting):
        assert time.monotonic() < end
        time.sleep(0.001)
    gate.set()
    closing.join(PATIENCE)
    asked.join(PATIENCE)

    assert ended
    assert len(ended) < len(many)


# -- the order of items --------------------------------------------------------------------------


def item(name: str, check: Check | None = None) -> Any:
    """An item as far as its order goes by it."""
    return SimpleNamespace(
        name=name, callspec=check and SimpleNamespace(params={"bottle_check": check})
    )


def names(items: list[Any]) -> list[str]:
    """The items' names in their order."""
    return [one.name for one in items]


def test_items_that_stand_apart_come_last() -> None:
    """First those on the common bottle, then who must be alone, then who may run ahead."""
    items = [item(c.id, c) for c in (A, COMMON, B, ALONE, made("E", apart=False))]

    put_last(items)

    assert names(items) == ["COMMON", "E", "ALONE", "A", "B"]


def test_other_items_stay_where_they_are() -> None:
    """A user's own tests are not moved, and the checks of the items are found."""
    items = [item("A", A), item("mine"), item("COMMON", COMMON), item("also mine")]

    put_last(items)

    assert names(items) == ["COMMON", "mine", "A", "also mine"]
    assert checks_of(items) == [COMMON, A]
