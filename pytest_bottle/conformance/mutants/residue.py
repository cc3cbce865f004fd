"""Mutants of the RES checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.conformance.mutants.base import NetnsBackend, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence


class KeepsNetworks(NetnsEngine):
    """An engine that forgets to remove networks."""

    def delete_networks(self, names: Sequence[str]) -> None:
        del names


@mutant("RES-01")
def keeps_networks() -> NetnsBackend:
    """Networks stay when their bottle goes."""
    return NetnsBackend(KeepsNetworks())
