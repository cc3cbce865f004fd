"""Mutants of the PXY checks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_bottle.conformance.mutants.base import NetnsBackend, mutant
from pytest_bottle.spec import EgressRoute

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.spec import BottleSpec


@mutant("PXY-02")
class AllowAll(NetnsBackend):
    """The sidecar's default action is allow."""

    def up(self, spec: BottleSpec) -> Topology:
        everything = EgressRoute("*", (80, 443))
        return super().up(dataclasses.replace(spec, egress=(*spec.egress, everything)))
