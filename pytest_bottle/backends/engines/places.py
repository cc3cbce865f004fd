"""Places as values: what a watchdog needs to get to where its session's engine is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bottle.backends.engines.cli import Here
from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.backends.engines.cli import Place


def save(place: Place) -> dict[str, object]:
    """Describe a place, JSON-able, so that another process can go there."""
    described: dict[str, object] = getattr(place, "described", {"kind": "here"})
    return described


def restore(described: Mapping[str, Any]) -> Place:
    """Go to a place that was described.

    Raises:
        ConfigurationError: nobody knows such a kind.
    """
    if described.get("kind") == "here":
        return Here()
    if described.get("kind") == "ssh":
        from pytest_bottle.backends.engines.ssh import Ssh

        return Ssh(described["url"])
    raise ConfigurationError("this describes no place", where=repr(described))
