"""What the survey's lookups are judged by: who asked for which name, and who heard of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance import telling
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.errors import Facts
from pytest_bottle.firing import Operation
from pytest_bottle.guest import dnswire
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.firing import Record
    from pytest_bottle.internet.records import Heard

#: A zone that no bottle lets anybody ask for; PXY-02 wants to hear nothing of denied.test.
ZONE = "elsewhere.test"
#: The sidecar's own lookup of an allowed name: the control of every lookup that must not be heard.
_ALLOWED_LOOKUP = "lookup by the sidecar"
#: Seconds that a resolver inside may take; the answer from the far side is back in milliseconds.
PATIENCE = 1.0


def users(plan: Plan) -> tuple[User, ...]:
    """List whom the agent's commands can run as."""
    return (User.AGENT, User.ROOT) if Feature.EXEC_ROOT in plan.features else (User.AGENT,)


def resolve(zone: str) -> dict[str, object]:
    """A lookup under two names of its own: one by hand, one by the library."""
    raw, name = (f"{new_nonce()}.{zone}" for _ in range(2))
    return {"kind": "resolve", "raw": raw, "name": name, "deadline": PATIENCE}


def plan_lookup(plan: Plan) -> None:
    """Let the sidecar look an allowed name up, once for all checks that rest on it."""
    operation = Operation(_ALLOWED_LOOKUP, Vantage.SIDECAR, resolve(ALLOWED))
    if operation.name not in {other.name for other in plan.during}:
        plan.during.append(operation)


def fired(bench: Bench, prefix: str) -> list[Operation]:
    """Find the operations of the window whose names begin so."""
    return [o for o in bench.evidence.plan.during if o.name.startswith(prefix)]


def record_of(bench: Bench, operation: Operation) -> Record:
    """Give what the probe recorded of an operation; without a record nothing is concluded."""
    volley = bench.evidence.volley
    record = volley.records.get(operation.name)
    if record is None or record["outcome"] != "answered":
        raise bench.inconclusive(f"{operation.name}: {record or volley.failures}")
    return record


def mark_of(name: str) -> bytes:
    """What a name is known by on the wire: its first label, or all of it for an address's own."""
    if name.endswith(".arpa"):
        return dnswire.encode_name(name)[:-1]
    return name.partition(".")[0].encode()


def about(bench: Bench, marks: Iterable[bytes]) -> list[Heard]:
    """What the witness heard with one of these in it; names may change their case."""
    wanted = list(marks)
    records = bench.evidence.since_opened
    return [r for r in records if any(mark in r.payload.lower() for mark in wanted)]


def require_unheard(bench: Bench, names: Iterable[str]) -> None:
    """Require that the witness heard of none of these names."""
    heard = about(bench, map(mark_of, names))
    if heard:
        told = f"{telling.packets(heard)}: {heard[0].payload[:80]!r}"
        facts = Facts(heard=told, how="somebody asked in the agent's stead")
        raise bench.violation("names that the agent asked for got out", facts)


def require_lookups_heard(bench: Bench) -> None:
    """The controls: the path works, and what the sidecar asks its resolver for is heard."""
    unmet = bench.unmet() or (
        f"the witness lost {bench.evidence.lost} packets" if bench.evidence.lost else ""
    )
    if unmet:
        raise bench.inconclusive(unmet)
    (asked,) = fired(bench, _ALLOWED_LOOKUP)
    for key in ("raw", "name"):
        if not about(bench, [mark_of(str(asked.what[key]))]):
            record = bench.evidence.volley.records.get(_ALLOWED_LOOKUP)
            raise bench.inconclusive(f"a name that the sidecar asked for was not heard: {record}")
