"""IP6: what the proxy makes of IPv6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance import inward
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.internet import zone

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench

_METADATA = "fd00:ec2::254"
#: What the list has, and the sidecar itself reaches: its loopback, twice, and the far side's.
_LISTED = ("::1", "::ffff:127.0.0.1", _METADATA)
#: An address with a zone, as URLs spell it (RFC 6874); the list has it without.
_ZONED, _UNZONED = "fe80::7%25eth0", "fe80::7"


@check(
    "IP6-04",
    "The proxy treats IPv6 like IPv4",
    severity=Severity.HIGH,
    needs=frozenset({Feature.LAB, Feature.IPV6}),
    evidence=(
        "https://github.com/RakuenSoftware/aimee/pull/2531",
        "https://github.com/vladkesler/initrunner/pull/140",
    ),
    apart=True,
    alone=True,  # as for PXY-10
)
def version6_is_treated_alike(bench: Bench) -> str:
    """An IPv6 address that is on no list is refused. Loopback, link-local, metadata and unique
    local ones are refused even if the list has them, as literals and as the only address of a
    listed name. A listed name whose only address is an outward IPv6 one can be reached.
    """
    internet = bench.backend.internet
    internet.listen(tcp=[inward.PORT])
    unlisted = internet.fresh_address(6)
    listed = (zone.ONLY6, zone.INWARD6, _UNZONED, *_LISTED)
    with bench.another(inward.listing(bench.spare, listed)) as topology:
        asked = (unlisted, *_LISTED, _ZONED, zone.INWARD6)
        held = inward.conversations("IP6-04", topology, asked)
        allowed = inward.conversations("listed", topology, [zone.ONLY6])
        direct = {unlisted, *_LISTED, zone.INSIDE6}
        watched = {unlisted, _METADATA, zone.INSIDE6, _UNZONED}
        seen = inward.ask(bench, topology, direct, watched, held, allowed)
        inward.require_listed(bench, seen, allowed)
        inward.require_asked(bench, seen, direct)
    return f"{len(held.talks)} requests for IPv6 addresses: none went there; {zone.ONLY6} is there"
