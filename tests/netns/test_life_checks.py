"""LIFE, PRV and HST checks on backends that lie or fail: a red control is no pass, nor a lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle.backends.contract import Fault, Vantage
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.errors import Inconclusive, Violation
from tests.judging import named
from tests.netns.test_privilege_checks import Lying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_bottle.backends.contract import Topology

    Change = Callable[[dict[str, Any]], None]

pytestmark = pytest.mark.usefixtures("netns_works")


class Careless(Lying):
    """A backend that lies, and that forgets to do what it is asked for."""

    forgets: frozenset[Fault] = frozenset()
    forgetful_of_logs = False

    def fault(self, topology: Topology, fault: Fault) -> None:
        """Do nothing about some faults."""
        if fault not in self.forgets:
            super().fault(topology, fault)

    def logs(self, topology: Topology) -> Mapping[str, bytes]:
        """Keep what was written to itself."""
        return {} if self.forgetful_of_logs else super().logs(topology)


@pytest.fixture(scope="module")
def bench(netns_works: None) -> Iterator[Bench]:
    """The suite's bottle on it."""
    backend = Careless()
    bench = Bench(backend)
    yield bench
    bench.close()
    backend.close()


@pytest.fixture
def careless(bench: Bench) -> Iterator[Careless]:
    """The backend, careful and honest again in the end."""
    assert isinstance(bench.backend, Careless)
    yield bench.backend
    for name in ("where", "change", "forgets", "forgetful_of_logs"):
        vars(bench.backend).pop(name, None)


def run(bench: Bench, identity: str) -> str:
    """Run one check."""
    return bench.run(named(identity))


@pytest.mark.parametrize("identity", ["LIFE-01", "LIFE-04", "LIFE-05"])
def test_an_agent_that_is_not_known_to_have_fired_proves_nothing(
    bench: Bench, careless: Careless, monkeypatch: pytest.MonkeyPatch, identity: str
) -> None:
    """Without the record of the agent's own command nobody knows that the race was run."""
    monkeypatch.setattr("pytest_bottle.conformance.boot._PATIENCE", 0.3)
    careless.forgetful_of_logs = True

    with pytest.raises(Inconclusive):
        run(bench, identity)


@pytest.mark.parametrize(
    ("identity", "fault", "words"),
    [
        ("LIFE-04", Fault.RESTART_AGENT, "did not run again"),
        ("LIFE-05", Fault.RELOAD_FIREWALL, "told of no reload"),
        ("LIFE-06", Fault.CONNECT_AGENT, "cannot get out"),
    ],
)
def test_a_fault_that_was_not_done_proves_nothing(
    bench: Bench, careless: Careless, identity: str, fault: Fault, words: str
) -> None:
    """The agent was not restarted, no rule has changed, or the third party did nothing."""
    careless.forgets = frozenset({fault})

    with pytest.raises(Inconclusive, match=words):
        run(bench, identity)


def answering(kind: str, answer: str) -> Change:
    """Give each request whose name has a word in it another answer."""

    def change(record: dict[str, Any]) -> None:
        for name in record.get("answers", {}):
            if kind in name:
                record["answers"][name] = answer

    return change


def with_values(record: dict[str, Any]) -> None:
    """Let a setting be another one each time."""
    if "values" in record:
        record["values"]["net/ipv4/ip_forward"] = str(id(record))


def found(*paths: str) -> Change:
    """Let the agent find sockets."""

    def change(record: dict[str, Any]) -> None:
        if "mounts" in record:
            record["found"] = [*paths]

    return change


def blind(record: dict[str, Any]) -> None:
    """Let the agent not find even its own."""
    if "mounts" in record:
        record["own"] = None


def unfiltered(record: dict[str, Any]) -> None:
    """Say that a process has no filter of system calls."""
    if "self" in record.get("processes", {}):
        record["processes"]["self"]["Seccomp"] = "0"


def nobody(record: dict[str, Any]) -> None:
    """Say that everybody is the same user."""
    for process in record.get("processes", {}).values():
        process["Uid"] = "1000\t1000\t1000\t1000"


@pytest.mark.parametrize(
    ("identity", "where", "change", "wanted"),
    [
        ("PRV-05", Vantage.AGENT, answering("clone3", "ENOSYS"), Inconclusive),
        ("PRV-05", Vantage.AGENT, answering("unshare network", "timeout"), Inconclusive),
        ("PRV-07", Vantage.AGENT, answering("ip_forward", "done"), Violation),
        ("PRV-07", Vantage.AGENT, answering("remount", "done"), Violation),
        ("PRV-07", Vantage.AGENT, answering("accept_ra", "EINVAL"), Inconclusive),
        ("PRV-07", Vantage.AGENT, with_values, Violation),
        ("PRV-07", Vantage.HOST, with_values, Violation),
        ("PRV-07", Vantage.PRIVILEGED, answering("ip_forward", "EROFS"), Inconclusive),
        ("PRV-08", Vantage.AGENT, unfiltered, Violation),
        ("PRV-08", Vantage.AGENT, nobody, Inconclusive),
        ("HST-05", Vantage.AGENT, found("/run/docker.sock"), Violation),
        ("HST-05", Vantage.AGENT, answering("docker", "done"), Violation),
        ("HST-05", Vantage.AGENT, blind, Inconclusive),
        ("HST-07", Vantage.AGENT, answering("SOCK_STREAM", "done"), Violation),
        ("HST-07", Vantage.AGENT, answering("SOCK_STREAM", "ENODEV"), Inconclusive),
    ],
    ids=lambda value: getattr(value, "__qualname__", getattr(value, "name", None)),
)
def test_every_answer_has_its_verdict(
    bench: Bench,
    careless: Careless,
    identity: str,
    where: Vantage,
    change: Change,
    wanted: type[Exception],
) -> None:
    """What was got is a violation; no clear answer, or a control that is red, proves nothing."""
    careless.where, careless.change = where, change

    with pytest.raises(wanted):
        run(bench, identity)


class Leaving(NetnsBackend):
    """A backend that forgets what it made of a bottle that did not come up."""

    def _remove(self, name: str) -> None:
        """Remove only what somebody asks for by a topology."""

    def down(self, topology: Topology) -> None:
        """Take a bottle down."""
        super()._remove(topology.id)


def test_what_a_failed_bring_up_leaves_is_seen() -> None:
    """A backend that does not clean up after itself is found out, with what is left."""
    backend = Leaving()
    try:
        bench = Bench(backend)
        with pytest.raises(Violation, match="this is left"):
            run(bench, "LIFE-07")
    finally:
        backend.close()


class NeverStarts(NetnsBackend):
    """A backend that never starts the agent's command, and says nothing about it."""

    def _start_agent(self, topology: Topology) -> None:
        """Leave the agent idle."""


def test_an_agent_that_never_runs_proves_nothing_about_one_that_must_not() -> None:
    """Where not even a sound agent is heard of, silence is no proof that a failed one never ran."""
    backend = NeverStarts()
    try:
        bench = Bench(backend)
        with pytest.raises(Inconclusive, match="not even heard of"):
            run(bench, "LIFE-07")
    finally:
        backend.close()


@pytest.mark.parametrize("identity", ["LIFE-02", "LIFE-03", "LIFE-04", "LAT-07"])
def test_a_thorough_check_passes_as_a_quick_one_does(identity: str) -> None:
    """With the catalogue's durations and repeats it has addresses and patience enough."""
    backend = NetnsBackend()
    try:
        assert Bench(backend, thorough=True).run(named(identity))
    finally:
        backend.close()
