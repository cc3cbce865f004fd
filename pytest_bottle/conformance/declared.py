"""What a backend declares of itself, tried out where that is cheap: a feature is a claim.

A feature that is there and not declared hides checks behind NOT_SUPPORTED; one that is declared and
not there makes them red for the wrong reason. Whatever cannot be tried says nothing here: its own
checks tell.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bottle.conformance.bench import Bench

#: Seconds that one try may take.
_PATIENCE = 5.0
_WHO = "import os; print(os.getuid())"
#: The scope of an IPv6 address that leads beyond the link (include/net/ipv6.h).
_GLOBAL = 0


def contradictions(bench: Bench) -> list[str]:
    """Name the features that a backend declares and has not, or has and does not declare."""
    found: list[str] = []
    for tried in (_root, _ipv6, _published, _audit, _inventory, _session):
        # A backend that cannot even be asked is judged by the checks that ask it.
        with contextlib.suppress(Exception):
            found += _tried(tried, bench)
    return found


def _tried(tried: Callable[[Bench], Iterator[str]], bench: Bench) -> list[str]:
    try:
        return [*tried(bench)]
    except ConfigurationError as error:  # what is declared was refused: the adapter tells
        return [error.seen]


def _root(bench: Bench) -> Iterator[str]:
    if Feature.EXEC_ROOT in bench.features:
        return  # every check that needs it runs something as root
    argv = [bench.topology.python, "-I", "-S", "-c", _WHO]
    ran = bench.backend.exec(bench.topology, Vantage.AGENT, argv, user=User.ROOT, timeout=_PATIENCE)
    if ran.ok and ran.out.strip() == "0":
        yield "no exec-root is declared, and a command runs as root in the agent"


def _ipv6(bench: Bench) -> Iterator[str]:
    if Feature.IPV6 in bench.features:
        return
    record = bench.probe(Vantage.AGENT, {"kind": "ipv6"})
    for one in record.get("addresses", ()):
        if one["scope"] == _GLOBAL and one["device"] != "lo":
            yield f"no ipv6 is declared, and the agent has {one['address']} on {one['device']}"


def _published(bench: Bench) -> Iterator[str]:
    there = bench.topology.published is not None
    if there and Feature.PUBLISH not in bench.backend.describe().features:
        yield f"no publish is declared, and {bench.topology.published} is published"
    if not there and Feature.PUBLISH in bench.features:
        yield "publish is declared, and the bottle has no published port"


def _audit(bench: Bench) -> Iterator[str]:
    declared = Feature.AUDIT in bench.backend.describe().features
    if declared and Feature.AUDIT in bench.topology.lacks:
        return
    url = "http://declared.test/"
    what = {"kind": "http", "proxy": "environment", "url": url}
    if bench.probe(Vantage.AGENT, what).get("status") is None:
        return  # no proxy has answered, so there is nothing to record: PXY-01 tells
    recorded = _recorded(bench)
    if declared and not recorded:
        yield "audit is declared, and the record holds nothing of a request by the proxy"
    if recorded and not declared:
        yield "no audit is declared, and there is a record of the sidecar's decisions"


def _recorded(bench: Bench) -> bool:
    """Tell whether there is a record; it may be written a little after the answer."""
    end = time.monotonic() + 1
    while not (there := bool(bench.backend.audit(bench.topology))) and time.monotonic() < end:
        time.sleep(0.02)
    return there


def _inventory(bench: Bench) -> Iterator[str]:
    listed = bench.backend.inventory()
    if Feature.INVENTORY in bench.features and not listed:
        yield "inventory is declared, and it lists nothing while a bottle runs"
    if Feature.INVENTORY not in bench.features and listed:
        yield "no inventory is declared, and inventory() lists what there is"


def _session(bench: Bench) -> Iterator[str]:
    left = bench.backend.residue(bench.backend.session)
    if Feature.SESSION in bench.features and not left:
        yield "session is declared, and residue() finds nothing of a session that is alive"
    if Feature.SESSION not in bench.features and left:
        yield "no session is declared, and residue() tells what there is of one"
