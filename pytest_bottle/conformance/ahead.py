"""Checks that stand apart run beside each other: most of their time they wait.

They come last in a run, and from the moment that the first of them is asked for, all of them run on
bottles of their own, a few at once. Each item then gets its own check's outcome. One that looks at
what others do as well (:attr:`.Check.alone`), or that uses the common bottle, never runs meanwhile.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    import pytest

    from pytest_bottle.conformance.registry import Check

#: How many run at once; each keeps several bottles or runs of pytest busy.
_AT_ONCE = 3


class Ahead:
    """Runs checks in the background, ahead of the items that ask for their outcomes.

    Args:
        checks: those that will be asked for, in that order; the others run when they are asked for.
        run: runs a check and returns its note, or raises its outcome.
    """

    def __init__(self, checks: Iterable[Check], run: Callable[[Check], str]) -> None:
        self._waiting = [check for check in checks if check.apart and not check.alone]
        self._run = run
        self._pool: ThreadPoolExecutor | None = None
        self._futures: dict[str, Future[str]] = {}

    def outcome(self, check: Check) -> str:
        """Run a check, or wait for the end of its run; returns its note, or raises its outcome."""
        if check in self._waiting:
            self._start()
        future = self._futures.pop(check.id, None)
        if future is not None:
            return future.result()
        wait(self._futures.values())  # an order of somebody else's: it must not be disturbed
        return self._run(check)

    def _start(self) -> None:
        self._pool = self._pool or ThreadPoolExecutor(_AT_ONCE, "bottle-apart")
        for check in self._waiting:
            self._futures[check.id] = self._pool.submit(self._run, check)
        self._waiting = []

    def close(self) -> None:
        """Start nothing more, and wait for those that run."""
        self._waiting = []
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def checks_of(items: Iterable[pytest.Item]) -> list[Check]:
    """Name the checks of a run's items, in the order of the items."""
    found = (_check_of(item) for item in items)
    return [check for check in found if check is not None]


def put_last(items: list[pytest.Item]) -> None:
    """Put the items of checks that stand apart behind those of the others; other items stay put."""
    ours = [(n, check) for n, item in enumerate(items) if (check := _check_of(item))]
    # Those that must be alone run before the others begin, and nobody waits for anybody.
    order = sorted(ours, key=lambda one: (one[1].apart, not one[1].alone))
    moved = [items[n] for n, _ in order]
    for (place, _), item in zip(ours, moved, strict=True):
        items[place] = item


def _check_of(item: pytest.Item) -> Check | None:
    spec = getattr(item, "callspec", None)
    return spec.params.get("bottle_check") if spec else None
