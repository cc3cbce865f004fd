"""The registry of checks: what is in it agrees with the catalogue, and nothing gets in twice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Feature
from pytest_bottle.conformance.registry import Check, Level, Severity, Witness, all_checks, check

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench

#: The catalogue's own words (A.0): severity, level, witness.
CATALOGUE = """
CTL-01|critical|core|required|Witness hears what is meant to get out
CTL-02|critical|core|n/a|The probe itself works inside the agent
CTL-03|high|core|required|Witness stays alive across each negative
CTL-04|critical|core|required|Same bytes succeed from the open container
CTL-05|critical|core|n/a|The suite fails on a known-leaky backend
DNS-01|critical|core|required|No query straight to an outside resolver (UDP 53, IPv4 and IPv6)
DNS-02|high|core|required|No DNS over TCP, DoT or foreign DoH
DNS-03|critical|core|required|The given resolver does not carry denied names out
DNS-04|critical|core|required|No recursion from any address on the link
DNS-05|high|strict|required|Record types, long labels and search suffixes are covered
DNS-06|critical|core|required|A refused request is never looked up
DNS-07|medium|strict|required|Allowed zones are not a tunnel
DNS-08|medium|core|required|Rewriting resolver config opens nothing
DNS-09|high|core|required (H)|Host alias names do not lead to the host
DNS-10|low|quirk|no|Finding the sidecar needs no engine DNS, and the sidecar can resolve
HST-01|high|strict|required (H)|Host services on all interfaces are unreachable
HST-02|critical|core|required (H)|Host loopback services are unreachable
HST-03|medium|core|required|A port published on host loopback is not a way back in
HST-04|low|quirk|no|Loopback publish answers where the platform says
HST-05|critical|core|required (H)|Engine and host control sockets are absent
HST-06|high|strict|required|Published loopback ports are closed to the neighbourhood
HST-07|critical|core|no|vsock leads nowhere
HST-08|critical|core|no|The agent's namespaces are its own
IP6-01|critical|core|required|No TCP/UDP/ICMPv6 to a literal IPv6
IP6-02|high|core|no|No IPv6 address or route the backend did not mean to give
IP6-03|high|strict|required (H)|No link-local IPv6 to the host
IP6-04|high|core|required|The proxy treats IPv6 like IPv4
LAT-01|high|core|required|Bottles cannot talk to each other
LAT-02|critical|core|required|A bottle cannot borrow another's sidecar
LAT-03|high|core|required|Unrelated containers are strangers
LAT-04|high|strict|no|No spoofing on the internal segment
LAT-05|critical|core|required|The sidecar is not a router (explicit mode)
LAT-06|medium|strict|required|Agent ports are not exposed
LAT-07|medium|strict|required|Concurrent bottles keep disjoint addresses and policies
LIFE-01|critical|core|required|No packet escapes before the rules are in
LIFE-02|critical|core|required|Losing the sidecar fails closed
LIFE-03|high|core|required|The sidecar comes back as itself
LIFE-04|high|strict|required|A restarted agent is still confined
LIFE-05|high|strict|required|Host firewall churn opens nothing
LIFE-06|medium|strict|required|Drift is noticed, and the end equals the start
LIFE-07|high|core|no|A failed bring-up leaves nothing running
NET-01|critical|core|required|No TCP to a literal public IPv4
NET-02|high|core|required|No ICMP echo out
NET-03|high|core|required|No HTTPS by name without the proxy
NET-04|critical|core|required|No TCP on any port
NET-05|critical|core|required|No UDP datagram leaves, answered or not
NET-06|critical|core|required|No one-way leak in a handshake packet
NET-07|medium|strict|required|No other IP protocol
NET-08|high|strict|required|Filter evasions do not pass
NET-09|critical|core|required|The gateway will not route for the internal network
NET-10|high|core|required|No private, LAN or link-local destination, unicast or multicast
NET-11|critical|core|required|No cloud metadata
NET-12|low|quirk|no|Blocks are fast and unambiguous
PRV-01|critical|core|no|No network or system capabilities
PRV-02|critical|core|no|The agent cannot change its routes
PRV-03|critical|core|no|The agent cannot touch packet filters
PRV-04|high|core|no|No raw or packet sockets
PRV-05|high|strict|required|New namespaces do not lead out
PRV-06|high|core|no|Exec is clean: no gain, nothing inherited
PRV-07|medium|core|no|Network sysctls are read-only
PRV-08|critical|core|required|Root by the back door is the same prisoner
PXY-01|critical|core|required|An allowed destination works through the proxy (HTTP and HTTPS)
PXY-02|critical|core|required|A denied destination is refused by policy, attributably
PXY-03|critical|core|required|Every proxy dialect gives the same verdict
PXY-04|critical|core|required|Request target and Host header cannot disagree
PXY-05|high|core|required|Each request on a kept-alive connection is judged
PXY-06|high|strict|required|Framing tricks do not smuggle a second request
PXY-07|high|strict|required|TLS inside the tunnel names the host that was approved
PXY-08|high|transparent|required|Where TLS is opened, the inner Host is checked
PXY-09|high|core|required|Only declared ports
PXY-10|critical|core|required|Private, loopback, link-local and metadata literals are refused
PXY-11|high|core|required|An allowed name that resolves inward is refused (rebinding)
PXY-12|critical|core|required|Host spelling does not change the verdict
PXY-13|high|core|required|Wildcards stop at label boundaries
PXY-14|high|core|required|IP literals in odd spellings are still IP literals
PXY-15|high|core|no|The proxy cannot be pointed at itself
PXY-16|critical|core|no|The sidecar offers the agent one door
PXY-17|critical|core|required (H)|The host is not reachable through the proxy
PXY-18|critical|core|required|Clearing or abusing proxy variables opens nothing
PXY-19|high|core|required|A relay inside the agent gains nothing
PXY-20|high|core|required|The proxy serves its own agent only
PXY-21|critical|core|required|Empty, missing or broken policy means deny
PXY-22|high|strict|required|Tightening the policy takes effect
PXY-23|medium|strict|required|The audit record is complete
PXY-24|critical|core|no|Signing keys, credentials and policy stay on the sidecar's side
RES-01|high|core|no|A normal end leaves nothing
RES-02|high|core|no|A failing test or fixture cleans up too
RES-03|high|core|no|Ctrl-C and SIGTERM clean up
RES-04|high|core|required|SIGKILL is survivable
RES-05|critical|core|no|Cleaning never touches what is not ours
RES-06|medium|core|no|Cleanup trouble is reported, not swallowed
RES-07|medium|strict|no|Many bottles in a row do not wear the host out
TRN-01|critical|transparent|required|Direct HTTP and HTTPS land on the proxy
TRN-02|high|transparent|required|TLS fails closed until the bottle's CA is trusted, and works after
TRN-03|critical|transparent|required|Everything that is not redirected is dropped, not forwarded
TRN-04|critical|transparent|required|The original destination is judged, not only the claimed name
TRN-05|critical|transparent|no|Set-up privilege is gone before the agent's first instruction
TRN-06|high|transparent|required|Interception covers every process and user
TRN-07|high|transparent|required|The bottle's resolver is authoritative for what exists
TRN-08|critical|transparent|required|Losing the redirect closes the path
"""
ALL_ROWS = [tuple(line.split("|")) for line in CATALOGUE.split("\n")[1:-1]]
REGISTERED = [one.id for one in all_checks()]
ROWS = [row for row in ALL_ROWS if row[0] in REGISTERED]
IDS = [row[0] for row in ROWS]


def registered(identity: str) -> Check:
    """The check of an ID."""
    (found,) = (one for one in all_checks() if one.id == identity)
    return found


def test_every_registered_check_is_in_the_catalogue() -> None:
    """Each once, and in the order of their IDs; but for QRK, which are quirks and no more."""
    assert sorted(set(REGISTERED)) == REGISTERED
    others = [one for one in REGISTERED if one not in IDS]
    assert {one[:4] for one in others} == {"QRK-"}
    assert {registered(one).level for one in others} == {Level.QUIRK}


@pytest.mark.parametrize(("identity", "severity", "level", "_", "title"), ROWS, ids=IDS)
def test_a_check_is_what_the_catalogue_says(
    identity: str, severity: str, level: str, _: str, title: str
) -> None:
    """Its title, what a violation costs, and who must pass."""
    one = registered(identity)
    assert (one.title, one.severity, one.level) == (title, Severity(severity), Level(level))


@pytest.mark.parametrize(
    ("identity", "witness"),
    [pytest.param(row[0], Witness(row[3]), id=row[0]) for row in ROWS],
)
def test_the_catalogue_says_who_gives_the_verdict(identity: str, witness: Witness) -> None:
    """The far end alone, the bottle's host, or nobody but the prober."""
    assert registered(identity).witness is witness


@pytest.mark.parametrize("one", all_checks(), ids=lambda one: one.id)
def test_a_check_says_what_must_hold(one: Check) -> None:
    """A permanent ID, a requirement of its own, and what it rests on."""
    assert re.fullmatch(r"[A-Z0-9]{3,4}-\d\d", one.id)
    assert len(one.requirement) > 20
    assert one.requirement != one.title
    assert one.evidence
    assert all(isinstance(feature, Feature) for feature in one.needs)


def test_requirements_are_not_copied() -> None:
    """Two checks with one requirement would be one check."""
    texts = [one.requirement for one in all_checks()]
    assert len(set(texts)) == len(texts)
    titles = [one.title for one in all_checks()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("one", all_checks(), ids=lambda one: one.id)
def test_a_witness_needs_a_far_side(one: Check) -> None:
    """Where the far end gives the verdict, there has to be one: else NOT_SUPPORTED."""
    if one.witness is not Witness.NO:
        assert Feature.LAB in one.needs


def test_asking_again_registers_nothing_again() -> None:
    """The modules are imported once; the checks stay the same objects."""
    assert all_checks() == all_checks()


def test_an_id_is_registered_once() -> None:
    """IDs are never reused: the second one is refused, and the first one stays."""
    before = all_checks()

    def body(bench: Bench) -> str:
        """Another requirement."""
        raise NotImplementedError

    with pytest.raises(ValueError, match="NET-01 is registered twice"):
        check("NET-01", "Another title")(body)
    assert all_checks() == before


@pytest.mark.parametrize("text", [None, "", " \n "])
def test_a_check_without_a_requirement_is_refused(text: str | None) -> None:
    """Its docstring is what it demands; nothing is registered."""
    before = all_checks()

    def body(bench: Bench) -> str:
        raise NotImplementedError

    body.__doc__ = text
    with pytest.raises(ValueError, match="XXX-01 has no requirement"):
        check("XXX-01", "A title")(body)
    assert all_checks() == before


def test_a_requirement_is_one_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the docstring is broken into lines; and the body is handed back as it is."""
    monkeypatch.setattr("pytest_bottle.conformance.registry._CHECKS", {})

    def body(bench: Bench) -> str:
        raise NotImplementedError

    body.__doc__ = "One thing\n        must hold.\n    "
    assert check("XXX-01", "A title")(body) is body
    (one,) = all_checks()
    assert (one.requirement, one.body, one.stimuli) == ("One thing must hold.", body, None)
    assert (one.level, one.severity, one.witness) == (
        Level.CORE,
        Severity.CRITICAL,
        Witness.REQUIRED,
    )
