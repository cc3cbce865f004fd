"""PRV-03, PRV-04 and PRV-06 on backends that lie: a control that is red is no pass, nor a lie."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle.backends.contract import ExecResult, Vantage
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import NetnsBackend
from pytest_bottle.errors import Inconclusive, Violation
from tests.judging import named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_bottle.backends.contract import Topology

    Change = Callable[[dict[str, Any]], None]

pytestmark = pytest.mark.usefixtures("netns_works")


class Lying(NetnsBackend):
    """A backend that changes what the probe said at one vantage point."""

    where = Vantage.AGENT
    change: Change | None = None
    variables: dict[str, str] | None = None

    def exec(
        self,
        topology: Topology,
        vantage: Vantage,
        argv: Sequence[str],
        *,
        environment: Any = None,
        **more: Any,
    ) -> ExecResult:
        """Run a command, then change each record of what it said."""
        environment = {**(environment or {}), **(self.variables or {})}
        result = super().exec(topology, vantage, argv, environment=environment, **more)
        if vantage is not self.where or self.change is None:
            return result
        records = [json.loads(line) for line in result.stdout.splitlines()]
        for record in records:
            self.change(record)
        lines = [json.dumps(record).encode() + b"\n" for record in records]
        return result._replace(stdout=b"".join(lines))


@pytest.fixture(scope="module")
def bench(netns_works: None) -> Iterator[Bench]:
    """The suite's bottle on a backend that lies when it is told to."""
    backend = Lying()
    bench = Bench(backend)
    yield bench
    bench.close()
    backend.close()


@pytest.fixture
def lying(bench: Bench) -> Iterator[Lying]:
    """The backend, honest again in the end."""
    assert isinstance(bench.backend, Lying)
    yield bench.backend
    for name in ("where", "change", "variables"):
        vars(bench.backend).pop(name, None)


def run(bench: Bench, identity: str) -> str:
    """Run one check."""
    return bench.run(named(identity))


def answering(kind: str, answer: str) -> Change:
    """Give one kind of request another answer."""

    def change(record: dict[str, Any]) -> None:
        if kind in record.get("answers", {}):
            record["answers"][kind] = answer

    return change


def emptied(record: dict[str, Any]) -> None:
    """Lose every answer but the first."""
    if "answers" in record:
        record["answers"] = dict(list(record["answers"].items())[:1])


def all_refused(record: dict[str, Any]) -> None:
    """Refuse everything."""
    if "answers" in record:
        record["answers"] = dict.fromkeys(record["answers"], "EPERM")


@pytest.mark.parametrize(
    ("identity", "where", "change", "wanted"),
    [
        ("PRV-03", Vantage.AGENT, answering("tc", "done"), Violation),
        ("PRV-03", Vantage.AGENT, answering("bpf", "done"), Violation),
        ("PRV-03", Vantage.AGENT, answering("iptables", "EINVAL"), Violation),
        ("PRV-03", Vantage.AGENT, answering("tc", "timeout"), Inconclusive),
        ("PRV-03", Vantage.AGENT, answering("tc", "EOPNOTSUPP"), Inconclusive),
        ("PRV-03", Vantage.AGENT, emptied, Inconclusive),
        ("PRV-03", Vantage.PRIVILEGED, all_refused, Inconclusive),
        ("PRV-04", Vantage.AGENT, answering("AF_PACKET", "done"), Violation),
        ("PRV-04", Vantage.AGENT, answering("/dev/net/tun", "done"), Violation),
        ("PRV-04", Vantage.AGENT, answering("SOCK_RAW IPv4", "EPROTONOSUPPORT"), Inconclusive),
        ("PRV-04", Vantage.PRIVILEGED, answering("AF_PACKET", "EPERM"), Inconclusive),
        ("PRV-04", Vantage.AGENT, emptied, Inconclusive),
    ],
)
def test_every_answer_has_its_verdict(
    bench: Bench,
    lying: Lying,
    identity: str,
    where: Vantage,
    change: Change,
    wanted: type[Exception],
) -> None:
    """Past the permission check is a violation; no answer, or a refused control, proves nothing."""
    lying.where, lying.change = where, change

    with pytest.raises(wanted):
        run(bench, identity)


@pytest.mark.parametrize(
    ("kind", "answer"), [("AF_XDP", "EAFNOSUPPORT"), ("/dev/kvm", "ENOENT"), ("AF_XDP", "EACCES")]
)
def test_what_only_the_agent_lacks_is_refused(
    bench: Bench, lying: Lying, kind: str, answer: str
) -> None:
    """A family that is hidden from the agent, or a device that is not in its guest, is closed."""
    lying.change = answering(kind, answer)

    assert "4 kinds of socket refused" in run(bench, "PRV-04")


# -- PRV-06 ----------------------------------------------------------------------------------------


def own_files(**files: list[str]) -> Change:
    """Add open files to the agent's process."""

    def change(record: dict[str, Any]) -> None:
        if "self" in record.get("processes", {}) and "files" in record["processes"]["self"]:
            record["processes"]["self"]["files"] |= files

    return change


def other_process(record: dict[str, Any]) -> None:
    """Let another process of the agent carry the variable that the suite has planted."""
    names = [name for name in os.environ if name.startswith("BOTTLE_CANARY_")]
    if "1" in record.get("processes", {}) and "environment" in record["processes"]["1"]:
        record["processes"]["1"]["environment"] = [f"{name}={os.environ[name]}" for name in names]


def unreadable(record: dict[str, Any]) -> None:
    """Leave out what the agent's own process says."""
    if "environment" in record.get("processes", {}).get("self", {}):
        record["processes"]["self"]["environment"] = "[Errno 13] Permission denied"


def no_new_privileges(value: str | None) -> Change:
    """Say something else of the agent's first process."""

    def change(record: dict[str, Any]) -> None:
        if "NoNewPrivs" in record.get("processes", {}).get("1", {}):
            record["processes"]["1"]["NoNewPrivs"] = value

    return change


def gained(record: dict[str, Any]) -> None:
    """Let the planted program say that it is root."""
    if len(record.get("said", [])) >= 2 and "output" in record["said"][1]:
        one = record["said"][1]
        one["output"] = one["output"].replace("\t1000\t1000", "\t1000\t0")


def said_nothing(record: dict[str, Any]) -> None:
    """Lose what every program said."""
    if "said" in record:
        record["said"] = [{"errno": "ENOENT"} for _ in record["said"]]


@pytest.mark.parametrize(
    ("change", "wanted", "words"),
    [
        (own_files(**{"7": ["socket:[1]", "file"]}), Violation, "more than its three files"),
        (own_files(**{"1": ["/", "folder"]}), Violation, "more than its three files"),
        (other_process, Violation, "canary of the machine is with process 1"),
        (unreadable, Inconclusive, "cannot be read"),
        (no_new_privileges("0"), Violation, "process 1 .* NoNewPrivs is 0"),
        (no_new_privileges(None), Inconclusive, "process 1"),
        (gained, Violation, "gave the agent .*1000 0"),
        (said_nothing, Inconclusive, "cannot read its own status"),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_every_sign_of_an_unclean_exec_is_seen(
    bench: Bench, lying: Lying, change: Change, wanted: type[Exception], words: str
) -> None:
    """A further file, a folder, a canary, a process that may gain, a program that did."""
    lying.change = change

    with pytest.raises(wanted, match=words):
        run(bench, "PRV-06")


def test_a_variable_that_nobody_declared_is_seen(bench: Bench, lying: Lying) -> None:
    """A backend that hands one of its own variables to the agent is found out, by its name."""
    lying.variables = {"ENGINE_SECRET": "1"}

    with pytest.raises(Violation, match=r"undeclared variables: \['ENGINE_SECRET'\]"):
        run(bench, "PRV-06")


def test_the_canaries_are_gone_with_the_check(bench: Bench) -> None:
    """The suite's own process is as before: no variable, no open folder."""
    before = (dict(os.environ), len(os.listdir("/proc/self/fd")))

    assert run(bench, "PRV-06")

    assert (dict(os.environ), len(os.listdir("/proc/self/fd"))) == before
