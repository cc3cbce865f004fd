"""The far side as a guest of the engine: what it hears, and what its loss comes to."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines import carried
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.rtnetlink import Rule
from pytest_bottle.backends.far_side import NAME
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import (
    BottleError,
    ConfigurationError,
    Inconclusive,
    NotSupported,
    TransportError,
    Violation,
)
from pytest_bottle.firing import run_one
from pytest_bottle.spec import BottleSpec
from pytest_bottle.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.registry import Check

pytestmark = pytest.mark.usefixtures("netns_works")

#: The controls, and the checks that ask whether something gets out.
CONTROLS = [f"CTL-0{number}" for number in range(1, 6)]
NEGATIVES = ["NET-01", "NET-02", "NET-03", "NET-06", "NET-09", "DNS-01", "DNS-02"]


class OnNetns(EngineBackend):
    """A backend with such a far side, whose engine can be tampered with."""

    def __init__(self, internet: str = "guest") -> None:
        self.netns = NetnsEngine()
        super().__init__(self.netns, internet)

    def leak(self, topology: Topology) -> None:
        """Let the bottle's host forward what its internal network hands to it, and answers."""
        bridge = self.netns.bridges[topology.internal.name]
        egress = self.netns.bridges[topology.egress.name]
        changes: list[list[object]] = [["sysctl", f"net/ipv4/conf/{bridge}/forwarding", "1"]]
        for door in (egress, "up0"):
            rule = Rule(40, iif=door, to=topology.internal.subnet)
            changes.append(["rule", rule._asdict()])
        self.netns.configure("host", changes)
        route = ["route", "0.0.0.0/0", {"via": topology.internal.gateway}]
        self.netns.configure(topology.agent.name, [route])


@pytest.fixture
def backend() -> Iterator[OnNetns]:
    """A session of its own, for each test may break the far side."""
    backend = OnNetns()
    yield backend
    backend.close()


def named(*names: str) -> list[Check]:
    """The checks of these IDs."""
    return [check for check in all_checks() if check.id in names]


def bench_of(backend: OnNetns, *names: str) -> Bench:
    """A bench whose survey is about these checks, and what all blocks depend on."""
    return Bench(backend, checks=named("CTL-02", "PXY-01", *names))


def verdicts(bench: Bench, *names: str) -> dict[str, str]:
    """What each check comes to, in a word."""
    found = {}
    for check in named(*names):
        try:
            bench.run(check)
            found[check.id] = "passed"
        except (Violation, Inconclusive, NotSupported) as error:
            found[check.id] = type(error).__name__
    return found


def test_a_tight_bottle_passes_and_the_controls_are_green(backend: OnNetns) -> None:
    """The same checks come to the same as with the lab, on evidence of the guest's witness."""
    bench = Bench(backend)
    found = verdicts(bench, *CONTROLS, *NEGATIVES, "PXY-01", "PXY-02", "PXY-03", "IP6-02")
    assert {name: verdict for name, verdict in found.items() if verdict != "passed"} == {}
    assert bench.evidence.window.records, "its witness heard nothing at all"


def test_what_takes_the_lab_is_not_supported_by_name(backend: OnNetns) -> None:
    """Nobody hears a leak to a private address here: it is no pass, and no block."""
    bench = Bench(backend)
    for check in named("NET-10", "NET-11", "PXY-10", "PXY-11", "PXY-14"):
        with pytest.raises(NotSupported, match=Feature.EVERY_ADDRESS.value):
            bench.run(check)


def test_a_bottle_that_leaks_is_heard(backend: OnNetns) -> None:
    """The agent's way out leads to the far side's network, and the witness there decides."""
    claimed = ("NET-01", "NET-02", "NET-09", "DNS-01")
    bench = bench_of(backend, *claimed)
    backend.leak(bench.topology)
    assert set(verdicts(bench, *claimed).values()) == {"Violation"}


def deafened() -> bytes:
    """The far side's program with an ear that listens where nobody speaks."""
    deaf = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(carried.far_side())) as given,
        zipfile.ZipFile(deaf, "w") as made,
    ):
        for name in given.namelist():
            data = given.read(name)
            if name.endswith("internet/witness.py"):
                bent = data.replace(
                    b"    return ear\n", b"    ear.bind(('lo', 0))\n    return ear\n"
                )
                assert bent != data
                data = bent
            made.writestr(name, data)
    return deaf.getvalue()


def test_a_deaf_witness_is_red_and_passes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could not have heard has not heard nothing: everything else works, and it is tight."""
    program = deafened()
    monkeypatch.setattr(carried, "far_side", lambda: program)
    backend = OnNetns()
    try:
        found = verdicts(bench_of(backend, *NEGATIVES), *CONTROLS, *NEGATIVES)
    finally:
        backend.close()
    assert found["CTL-01"] == found["CTL-03"] == "Violation"
    assert "passed" not in {found[name] for name in NEGATIVES}


def test_an_unreachable_far_side_is_red_and_passes_nothing(backend: OnNetns) -> None:
    """It can still be asked, and hears nobody: silence without controls is no block."""
    bench = bench_of(backend, *NEGATIVES[:3])
    backend.netns.configure(NAME, [["sysctl", "net/ipv4/conf/all/arp_ignore", "8"]])
    found = verdicts(bench, "CTL-01", *NEGATIVES[:3])
    assert found.pop("CTL-01") == "Violation"
    assert "passed" not in found.values()


def test_a_far_side_that_dies_is_inconclusive(backend: OnNetns) -> None:
    """Its guest is gone in the middle of a session: nothing can be said any more, so nothing is."""
    bench = Bench(backend)
    backend.netns.remove_guests([NAME])
    found = verdicts(bench, *NEGATIVES[:3], "PXY-02")
    assert set(found.values()) == {"Inconclusive"}


def test_its_death_is_told_at_the_next_question(backend: OnNetns) -> None:
    """Who asks for a mark hears what is wrong, in time, and not an empty window."""
    mark = backend.internet.mark()
    backend.netns.remove_guests([NAME])
    with pytest.raises(TransportError):
        backend.internet.heard(mark)


def test_a_bottle_cannot_have_an_egress_network_of_its_own(backend: OnNetns) -> None:
    """It would lead to nobody."""
    with pytest.raises(ConfigurationError, match="the egress network is the far side's"):
        backend.up(BottleSpec(egress_subnet="10.99.0.0/24"))


def test_https_by_the_proxy_is_trusted(backend: OnNetns) -> None:
    """A name's certificate is made outside, when it is first greeted, and handed in."""
    topology = backend.up(BottleSpec())
    backend.trust()
    for _ in range(2):
        what = {"kind": "http", "url": "https://allowed.test/", "proxy": "environment"}
        record = run_one(backend, topology, Vantage.AGENT, what, deadline=60.0)
        assert record.get("status") == 200, record


def test_the_inventory_is_the_same_each_time(backend: OnNetns) -> None:
    """Questions to the far side are processes too, and none of them is taken for residue."""
    backend.trust()
    before = backend.inventory()
    backend.down(backend.up(BottleSpec()))
    assert backend.inventory() - before == frozenset()


def test_a_failed_far_side_leaves_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that was given is closed, and the error says what the program said."""
    monkeypatch.setattr("pytest_bottle.backends.engines.carried.far_side", lambda: b"no zip")
    engine = NetnsEngine()
    with pytest.raises(BottleError, match="did not get ready"):
        EngineBackend(engine, "guest")
    engine.client.wait()
    assert engine.residue(engine.session) == frozenset()


# -- guest,live: here the lab plays the real Internet, and no packet can leave it ------------------


def test_silence_of_a_literal_address_is_half_a_block() -> None:
    """The sidecar gets an answer of 1.1.1.1 and the agent none: NET-01 to NET-03 pass."""
    backend = OnNetns("guest,live")
    try:
        bench = bench_of(backend, "CTL-04", "CTL-05", "NET-01", "NET-02", "NET-03")
        assert set(verdicts(bench, "CTL-04", "CTL-05", "NET-01", "NET-02", "NET-03").values()) == {
            "passed"
        }
        found = {one.finding for one in bench.judged("NET-01") if not one.claim.witnessed}
        assert found == {Finding.BLOCKED_TWO_WAY}
    finally:
        backend.close()


def test_an_answer_of_a_literal_address_is_a_leak() -> None:
    """Nobody of ours listens there: the answer itself is the evidence."""
    backend = OnNetns("guest,live")
    try:
        bench = bench_of(backend, "NET-01")
        backend.leak(bench.topology)
        assert verdicts(bench, "NET-01") == {"NET-01": "Violation"}
        found = {one.finding for one in bench.judged("NET-01") if not one.claim.witnessed}
        assert found == {Finding.LEAKED}
    finally:
        backend.close()


def test_a_literal_address_that_nobody_gets_to_proves_nothing() -> None:
    """Without a way out for the sidecar, the agent's silence is INCONCLUSIVE."""
    backend = OnNetns("guest,live")
    try:
        bench = bench_of(backend, "NET-01")
        backend.netns.configure("host", [["delete_route", "0.0.0.0/0"]])
        assert verdicts(bench, "NET-01") == {"NET-01": "Inconclusive"}
    finally:
        backend.close()
