"""The one test that every check is an item of; its ID, not the node's, is the check's identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.registry import Check


def test_conformance(
    bottle_check: Check, _bottle_bench: Bench, request: pytest.FixtureRequest
) -> None:
    """Run one check on the chosen backend."""
    from pytest_bottle.suite import run_genuinely

    note = run_genuinely(request.node, bottle_check, _bottle_bench)
    request.node.user_properties.append(("bottle_note", note))
