"""Direct requests of the agent, past all proxy variables, and what has to become of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.encounters import attempt
from pytest_bottle.firing import Operation, Volley, fire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record
    from pytest_bottle.internet.lab import Hearing

#: What a backend must have for the checks of a transparent sidecar.
TRANSPARENT = frozenset({Feature.LAB, Feature.OPEN_GUEST, Feature.TRANSPARENT})
SCHEMES = ("http", "https")
#: Seconds that a request may take: whoever takes it on the way may look a name up first.
PATIENCE = 5.0


def ask(
    url: str,
    name: str = "",
    *,
    vantage: Vantage = Vantage.AGENT,
    user: User = User.AGENT,
    **more: object,
) -> Operation:
    """Make a direct request, whatever the proxy variables say; ``%s`` stands for its nonce."""
    what = {"kind": "http", "url": url, "proxy": None, "deadline": PATIENCE, **more}
    return attempt(name or f"direct {url}", vantage, what, user)


def both(host: str, name: str = "") -> list[Operation]:
    """Ask a name by HTTP and by HTTPS."""
    return [ask(f"{s}://{host}/%s", name and f"{name} {s}") for s in SCHEMES]


def fire_direct(
    bench: Bench, operations: Sequence[Operation], topology: Topology | None = None
) -> tuple[Volley, Hearing]:
    """Run operations, and tell what the witness heard meanwhile."""
    start = bench.backend.internet.mark()
    volley = fire(bench.backend, topology or bench.topology, operations, PATIENCE)
    return volley, bench.backend.internet.heard(start)


def is_heard(hearing: Hearing, one: Operation, hosts: Iterable[str] = ()) -> bool:
    """Tell whether the witness heard a request by its nonce, or anybody at some addresses."""
    nonce, known = str(one.what["nonce"]).encode(), set(hosts)
    return any(nonce in r.payload.lower() or r.dst in known for r in hearing.records)


def has_arrived(hearing: Hearing, one: Operation) -> bool:
    """Tell whether the witness heard a stimulus by TCP or UDP: its nonce, or its destination.

    The address may be others' too, who send to other ports or by the other protocol.
    """
    own = ({"tcp": 6, "udp": 17}[str(one.what["kind"])], one.what["host"], one.what["port"])
    return is_heard(hearing, one) or any((r.proto, r.dst, r.dport) == own for r in hearing.records)


def _unserved(record: Record, outer: str) -> str:
    """Say why a direct request was not answered by way of the sidecar; empty if it was."""
    if record.get("status") != 200:
        return f"no answer: { {key: record.get(key) for key in ('outcome', 'status', 'detail')} }"
    try:
        client = json.loads(record["body"]).get("client")
    except (ValueError, AttributeError):
        return f"the answer is not the origin's: {record['body'][:200]!r}"
    return "" if client == outer else f"the origin saw {client}, not the sidecar {outer}"


def broken(volley: Volley, allowed: Iterable[Operation], topology: Topology) -> str:
    """The positive control of this room: what is allowed goes through, by the sidecar."""
    outer = topology.sidecar_outer_address
    for one in allowed:
        why = _unserved(volley.records.get(one.name, {}), outer)
        if why:
            return f"{one.name}: {why} {volley.failure(one)}"
    return ""


def lost(hearing: Hearing) -> str:
    """Say that the witness was not all ears; empty if it was."""
    return f"the witness lost {hearing.lost} packets" if hearing.lost else ""


def open_control(bench: Bench, tries: Iterable[Operation]) -> str:
    """Say which of some attempts does not even arrive from the open guest; empty if all do."""
    mirrors = [
        Operation(f"{one.name} (open)", Vantage.OPEN, {**one.what, "insecure": True})
        for one in tries
    ]
    _, hearing = fire_direct(bench, mirrors)
    deaf = [one.name for one in mirrors if not is_heard(hearing, one, [host_of(one)])]
    return lost(hearing) or (f"the witness did not even hear {deaf[0]}" if deaf else "")


def host_of(one: Operation) -> str:
    """Tell where an attempt goes."""
    return str(one.what.get("host") or str(one.what["url"]).split("/")[2])
