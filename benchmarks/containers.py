"""A bottle on the emulated ``container`` against one on netns, in one run; medians.

Run it as ``python -m benchmarks.containers``.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from benchmarks.__main__ import row
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.macos_container import opening
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.spec import BottleSpec

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend

_ROUNDS = 8


def measure(backend: Backend) -> tuple[float, float, float]:
    """Time bring-up, teardown, and both together, in seconds."""
    ups, downs = [], []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        topology = backend.up(BottleSpec())
        up = time.perf_counter()
        backend.down(topology)
        ups.append(up - began)
        downs.append(time.perf_counter() - up)
    both = [up + down for up, down in zip(ups, downs, strict=True)]
    return statistics.median(ups), statistics.median(downs), statistics.median(both)


def main() -> None:
    """Print both, and how many times as long the emulated one takes."""
    figures = {}
    engine = opening.emulated()
    for name, backend in (("netns", NetnsBackend()), ("emulated", EngineBackend(engine))):
        figures[name] = measure(backend)
        backend.close()
    for step, what in enumerate(("bring-up", "teardown", "both")):
        plain, emulated = figures["netns"][step], figures["emulated"][step]
        row(f"{what}, netns", f"{plain * 1e3:.1f} ms", "")
        row(f"{what}, emulated container", f"{emulated * 1e3:.1f} ms", "")
        row(f"{what}, ratio", f"{emulated / plain:.1f}", "<= 3")


if __name__ == "__main__":
    main()
