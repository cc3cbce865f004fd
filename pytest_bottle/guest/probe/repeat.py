"""Doing one thing over and over, while something happens elsewhere."""

from __future__ import annotations

import time

from pytest_bottle.guest.probe.core import attempt, operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_bottle.guest.probe.core import Operation, Record


@operation("repeat")
def repeat(operation: Operation, deadline: float) -> Record:
    """Do an operation again and again until the deadline; count the outcomes, with their status.

    ``pause`` seconds lie between two of them.
    """
    counts: dict[str, int] = {}
    inner, end = operation["operation"], time.monotonic() + deadline
    while time.monotonic() < end:
        record = attempt(inner["kind"], inner, inner["deadline"])
        name = " ".join(str(record[key]) for key in ("outcome", "status") if key in record)
        counts[name] = counts.get(name, 0) + 1
        time.sleep(operation.get("pause", 0.0))
    return {"outcome": "answered", "counts": counts}
