"""LAT: what somebody on the internal segment may claim to be, and what he may overhear."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.conditions import ALLOWED
from pytest_bottle.conformance.encounters import attempt
from pytest_bottle.conformance.registry import Level, Severity, Witness, check
from pytest_bottle.firing import run_one
from pytest_bottle.stimulus import new_nonce

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.firing import Record

#: Seconds for which the probe reads along at the most; a word ends it.
_LISTENING = 10.0


@check(
    "LAT-04",
    "No spoofing on the internal segment",
    level=Level.STRICT,
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=frozenset({Feature.PRIVILEGED_PROBE}),
    evidence=("CVE-2020-13401", "GHSA-x84c-p2g9-rqv9"),
    apart=True,
)
def nobody_is_impersonated(bench: Bench) -> str:
    """The agent may not open a packet socket, with which it could claim the sidecar's or the
    gateway's address; and a privileged probe beside it, which may, neither gets into the tables of
    another bottle's guests by gratuitous ARP, neighbour advertisements and DHCP offers, nor reads
    what they say.
    """
    with bench.another() as ours, bench.another() as theirs:
        refused = _require_no_packet_socket(bench, ours)
        taken = _claim(bench, ours, theirs)
        return f"{refused}; {taken}; {_read_along(bench, ours, theirs)}"


def _require_no_packet_socket(bench: Bench, ours: Topology) -> str:
    what = {"kind": "sniff", "words": [], "until": "", "deadline": 0.1}
    users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in bench.features else [])]
    seen = []
    for user in users:
        record = bench.probe(Vantage.AGENT, what, user=user, topology=ours)
        if record["outcome"] == "listened":
            raise bench.violation(f"the agent as {user.value} may open a packet socket")
        if record["outcome"] != "not-sendable":
            raise bench.inconclusive(f"the agent as {user.value} could not even try: {record}")
        seen.append(str(record.get("errno")))
    return f"packet sockets: {', '.join(seen)}"


# -- claims ----------------------------------------------------------------------------------------


def _claim(bench: Bench, ours: Topology, theirs: Topology) -> str:
    """Claim addresses of both bottles; the bystander beside the probe is to believe it."""
    _meet(bench, ours, Vantage.BYSTANDER)
    _meet(bench, theirs, Vantage.AGENT)
    addresses = [address for one in (ours, theirs) for address in _claimable(bench, one)]
    what = {"kind": "claim", "addresses": addresses}
    said = bench.probe(Vantage.PRIVILEGED, what, topology=ours)
    if said["outcome"] != "sent" or "link" not in said:
        raise bench.inconclusive(f"the privileged probe could not claim anything: {said}")
    for vantage in (Vantage.AGENT, Vantage.SIDECAR):
        known = _neighbours(bench, theirs, vantage)
        fooled = [address for address, link in known.items() if link == said["link"]]
        if fooled:
            raise bench.violation(
                f"another bottle's {vantage.value} takes the probe for {', '.join(fooled)}"
            )
    believed = _neighbours(bench, ours, Vantage.BYSTANDER)
    if believed.get(ours.sidecar_address) != said["link"]:
        raise bench.inconclusive(f"not even the bystander believes the probe: {believed}")
    return f"{said['count']} claims, believed beside the probe only"


def _claimable(bench: Bench, topology: Topology) -> list[str]:
    """What there is to claim: those whom an agent speaks to, by IPv6 where they have it."""
    record = bench.probe(Vantage.SIDECAR, {"kind": "addresses"}, topology=topology)
    version6 = [host for _, host, _ in record.get("addresses", ()) if ":" in host and host != "::1"]
    agent, gateway = topology.agent_address, topology.internal.gateway
    return [topology.sidecar_address, gateway, agent, *version6]


def _meet(bench: Bench, topology: Topology, vantage: Vantage) -> None:
    """Let a guest speak to its sidecar, so that it knows that one's link address."""
    host, port = topology.proxy
    what = {"kind": "tcp", "host": host, "port": port, "nonce": new_nonce()}
    bench.probe(vantage, what, topology=topology)
    known = _neighbours(bench, topology, vantage)
    if host not in known:
        raise bench.inconclusive(f"{vantage.value} does not know its sidecar {host}: {known}")


def _neighbours(bench: Bench, topology: Topology, vantage: Vantage) -> Mapping[str, str]:
    record = bench.probe(vantage, {"kind": "neighbours"}, topology=topology)
    if "neighbours" not in record:
        raise bench.inconclusive(f"{vantage.value} does not tell whom it knows: {record}")
    found: Mapping[str, str] = record["neighbours"]
    return found


# -- reading along ---------------------------------------------------------------------------------


def _read_along(bench: Bench, ours: Topology, theirs: Topology) -> str:
    """Read along at the probe while the other bottle fetches, between words of the bystander."""
    first, last, fetched = new_nonce(), new_nonce(), new_nonce()
    what = {"kind": "sniff", "words": [first, fetched, last], "until": last}
    with ThreadPoolExecutor(1) as pool:
        # It is there before the others: one exec takes as long as another, and ours are several.
        reading = pool.submit(
            run_one, bench.backend, ours, Vantage.PRIVILEGED, what, deadline=_LISTENING
        )
        for _ in range(3):
            _cry(bench, ours, first)
        page = attempt("", Vantage.AGENT, {"kind": "http", "url": f"http://{ALLOWED}/{fetched}"})
        got = bench.probe(Vantage.AGENT, {**page.what, "proxy": "environment"}, topology=theirs)
        while not reading.done():
            _cry(bench, ours, last)
    record: Record = reading.result()
    if fetched in record.get("heard", ()):
        raise bench.violation("the probe read what another bottle's agent asked its sidecar for")
    if set(record.get("heard", ())) != {first, last}:
        raise bench.inconclusive(f"the probe did not even hear the bystander: {record}")
    if not got.get("status"):
        raise bench.inconclusive(f"the other bottle said nothing to be overheard: {got}")
    return f"read along, {record['frames']} frames, none of the other bottle's"


def _cry(bench: Bench, topology: Topology, word: str) -> None:
    """Let the bystander say a word to everybody on its network."""
    what = {"kind": "udp", "host": "255.255.255.255", "port": 9, "broadcast": True, "nonce": word}
    bench.probe(Vantage.BYSTANDER, what, topology=topology)
