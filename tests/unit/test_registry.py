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
HST-03|medium|core|required|A port published on host loopback is not a way back in
HST-04|low|quirk|no|Loopback publish answers where the platform says
LAT-05|critical|core|required|The sidecar is not a router (explicit mode)
NET-01|critical|core|required|No TCP to a literal public IPv4
NET-02|high|core|required|No ICMP echo out
NET-03|high|core|required|No HTTPS by name without the proxy
NET-04|critical|core|required|No TCP on any port
NET-05|critical|core|required|No UDP datagram leaves, answered or not
NET-09|critical|core|required|The gateway will not route for the internal network
PRV-01|critical|core|no|No network or system capabilities
PRV-02|critical|core|no|The agent cannot change its routes
PRV-03|critical|core|no|The agent cannot touch packet filters
PRV-04|high|core|no|No raw or packet sockets
PRV-06|high|core|no|Exec is clean: no gain, nothing inherited
PXY-01|critical|core|required|An allowed destination works through the proxy (HTTP and HTTPS)
PXY-02|critical|core|required|A denied destination is refused by policy, attributably
RES-01|high|core|no|A normal end leaves nothing
RES-02|high|core|no|A failing test or fixture cleans up too
RES-03|high|core|no|Ctrl-C and SIGTERM clean up
RES-04|high|core|required|SIGKILL is survivable
"""
ROWS = [tuple(cell.strip() for cell in line.split("|")) for line in CATALOGUE.split("\n")[1:-1]]
IDS = [row[0] for row in ROWS]


def registered(identity: str) -> Check:
    """The check of an ID."""
    (found,) = (one for one in all_checks() if one.id == identity)
    return found


def test_the_first_18_checks_are_registered() -> None:
    """Each once, and in the order of their IDs."""
    found = [one.id for one in all_checks()]
    assert [identity for identity in found if identity in IDS] == IDS
    assert found == sorted(set(found))


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
