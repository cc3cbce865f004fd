"""RES: residue, what a bottle leaves on its host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.registry import Severity, Witness, check

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench


@check(
    "RES-01",
    "A normal end leaves nothing",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=frozenset({Feature.INVENTORY}),
    evidence=(
        "https://github.com/eltmon/overdeck/issues/3900",
        "https://github.com/ROCm/TheRock/issues/4926",
        "https://github.com/avast/pytest-docker/pull/33",
    ),
)
def normal_end_leaves_nothing(bench: Bench) -> str:
    """The host's inventory after teardown equals the one before."""
    before = bench.backend.inventory()
    topology = bench.backend.up(bench.spare)
    try:
        there = bench.backend.inventory() - before
    finally:
        bench.backend.down(topology)
    left = bench.backend.inventory() - before
    if left:
        names = ", ".join(f"{r.kind} {r.name}" for r in sorted(left))
        raise bench.violation(f"{len(left)} of {len(there)} resources are left: {names}")
    kinds = {resource.kind for resource in there}
    if len(kinds) < 2 or not any("process" in k or "guest" in k or "container" in k for k in kinds):
        raise bench.inconclusive(
            f"the inventory does not see a running bottle: kinds {sorted(kinds)}"
        )
    return f"{len(there)} resources of {len(kinds)} kinds came and went"
