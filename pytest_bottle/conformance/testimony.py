"""What the suite's bottle has to say for a report, as values that JSON knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_bottle.conformance.declared import contradictions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.ruling import Judged


def introduce(bench: Bench) -> dict[str, Any]:
    """Say what is judged: the backend, its version and features, and where its egress leads."""
    info = bench.backend.describe()
    return {
        "name": info.name,
        "version": info.version,
        "detail": info.detail,
        "emulated": info.emulated,
        "mutant": info.mutant,
        "features": sorted(feature.value for feature in info.features),
        "lacks": sorted(feature.value for feature in bench.topology.lacks),
        "contradictions": contradictions(bench),
    }


def evidence_of(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """Say for each claim what was sent, what the prober saw, and what the far end heard of it."""
    return [
        {
            "stimulus": one.claim.shot.name,
            "vantage": one.claim.shot.vantage.value,
            "nonce": one.claim.shot.nonce,
            "finding": one.finding.value,
            "prober": one.outcome,
            "control": one.claim.mirror.name,
            "heard": [
                {"from": packet.src, "to": packet.dst, "at": packet.time_ns / 1e9}
                for packet in one.heard[:3]
            ],
        }
        for one in judged
    ]
