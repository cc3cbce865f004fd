"""The conformance suite: one item for each check, for any backend.

Two front doors: ``pytest --pyargs pytest_bottle.conformance --bottle-backend=NAME``, or in a file
of one's own ``from pytest_bottle.conformance import test_conformance``.
"""

from __future__ import annotations

from pytest_bottle.conformance.test_checks import test_conformance

__all__ = ["test_conformance"]
