"""The checks of the proxy's path where a mutant alone would not show what they are worth."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from pytest_bottle.backends.black_hole import BlackHole
from pytest_bottle.backends.contract import Feature, Vantage
from pytest_bottle.conformance import talks
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.dialects import DIALECTS
from pytest_bottle.conformance.mutants.base import Errand, Meddler, NetnsBackend, open_mutant
from pytest_bottle.errors import Inconclusive, Violation
from tests.judging import named, taken_apart

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.spec import BottleSpec

pytestmark = pytest.mark.usefixtures("netns_works")


class Unrecorded(NetnsBackend):
    """A backend whose sidecar is of somebody else's making, and writes nothing down."""

    def up(self, spec: BottleSpec) -> Topology:
        """Take the feature away, as for a sidecar of the user's own."""
        return super().up(spec)._replace(lacks=frozenset({Feature.AUDIT}))

    def audit(self, topology: Topology) -> Sequence[Mapping[str, object]]:
        """Nobody may ask for what there is not."""
        raise AssertionError(f"the audit record of {topology.id} was asked for")


class Unasked(Meddler):
    """A CONNECT that has to be refused never gets to the proxy: the machine is too busy."""

    def meddle(self, errand: Errand) -> Errand:
        """Say nothing in its place, and give up soon."""
        if errand.vantage is not Vantage.AGENT or b"behind a refused CONNECT" not in errand.stdin:
            return errand
        program, request = taken_apart(errand.stdin)
        for operation in request["operations"]:
            for talk in operation.get("talks", ()):
                if talk["name"] == "words behind a refused CONNECT":
                    talk["steps"][0]["send"], talk["patience"] = "", 0.2
        return errand._replace(stdin=program + json.dumps(request).encode())


def test_a_proxy_that_was_not_heard_to_refuse_is_not_said_to_hold_on() -> None:
    """PXY-05 wants the proxy to close what it refused: without an answer, nothing is known."""
    backend = Unasked()
    try:
        checks = [named(one) for one in ("CTL-02", "PXY-01", "PXY-05")]
        with pytest.raises(Inconclusive, match="nothing is answered"):
            Bench(backend, checks=checks).run(checks[-1])
    finally:
        backend.close()


@pytest.fixture(scope="module")
def unrecorded() -> Iterator[Bench]:
    """A bench on a backend without an audit record."""
    backend = Unrecorded()
    bench = Bench(backend)
    yield bench
    bench.close()
    backend.close()


@pytest.mark.parametrize("identity", ["PXY-01", "PXY-02"])
def test_a_sidecar_without_a_record_is_judged_by_the_far_side(
    unrecorded: Bench, identity: str
) -> None:
    """The verdict is the witness's, and the note says that there was no record to read."""
    assert unrecorded.run(named(identity)).endswith("there is no audit record to read")


def test_every_dialect_is_held_with_the_proxy_in_both_columns(unrecorded: Bench) -> None:
    """Each cell of the matrix has a record, and a nonce of its own."""
    evidence = unrecorded.evidence
    cells = talks.held(evidence.plan, "PXY-03 dialects")
    assert len({talk.nonce for talk in cells.talks}) == len(cells.talks) == 2 * len(DIALECTS)
    assert talks.records(evidence, cells.name).keys() == {talk.name for talk in cells.talks}
    assert talks.unusable(evidence, cells) == ""


def test_each_proxy_variable_is_a_listener_to_ask(unrecorded: Bench) -> None:
    """What the variables advertise besides the proxy is asked too, once."""
    topology = unrecorded.topology
    assert talks.listeners(topology) == [topology.proxy]
    told = {**topology.environment, "all_proxy": "socks5h://192.0.2.9:1080", "HTTPS_PROXY": ""}
    found = talks.listeners(topology._replace(environment=told))
    assert [str(listener) for listener in found] == [str(topology.proxy), "192.0.2.9:1080"]


def test_a_proxy_that_tunnels_socks_is_heard_in_every_form_of_it() -> None:
    """Names, both families of addresses and datagrams: all count, and the first ones are named."""
    backend = open_mutant("PXY-03-M2")
    try:
        with pytest.raises(Violation) as caught:
            Bench(backend).run(named("PXY-03"))
    finally:
        backend.close()
    count, _, cells = caught.value.seen.partition(": ")
    assert count.startswith("5 conversations")
    for dialect in ("SOCKS5 IPv4 denied", "SOCKS5 IPv6 denied", "SOCKS5 UDP"):
        assert dialect in cells
    assert "GET" not in cells
    assert "SOCKS4" not in cells


def test_where_nothing_gets_through_no_literal_counts_as_refused() -> None:
    """On the black hole PXY-10 is inconclusive: the sidecar itself reaches nobody."""
    backend = BlackHole()
    try:
        with pytest.raises(Inconclusive):
            Bench(backend).run(named("PXY-10"))
    finally:
        backend.close()


class Told(NetnsBackend):
    """A backend that tells its agents to go past the proxy for a name."""

    def up(self, spec: BottleSpec) -> Topology:
        """Give the agent another NO_PROXY."""
        return super().up(dataclasses.replace(spec, environment={"NO_PROXY": "corp.test"}))


def test_a_no_proxy_that_lists_more_than_the_bottle_is_a_violation() -> None:
    """PXY-18 reads the agent's own variables."""
    backend = Told()
    try:
        with pytest.raises(Violation, match=r"NO_PROXY lists \['corp.test'\]"):
            Bench(backend).run(named("PXY-18"))
    finally:
        backend.close()
