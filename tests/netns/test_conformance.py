"""The suite is itself tested: on a sound backend, on each mutant, and on the black hole."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from pytest_bottle.backends.black_hole import BlackHole
from pytest_bottle.backends.contract import ExecResult, User, Vantage
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, Rule
from pytest_bottle.conformance.bench import Bench
from pytest_bottle.conformance.mutants.base import Leaky, NetnsBackend, all_mutants, open_mutant
from pytest_bottle.conformance.plan import Plan
from pytest_bottle.conformance.registry import all_checks
from pytest_bottle.errors import ConfigurationError, Inconclusive, Violation
from pytest_bottle.spec import BottleSpec
from pytest_bottle.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pytest_bottle.backends.contract import Backend, Topology

pytestmark = pytest.mark.usefixtures("netns_works")

INSPECTIONS = {
    *("CTL-02", "HST-04", "HST-08", "PRV-01", "PRV-02", "PRV-04", "PRV-06", "RES-01"),
}
CONTROLS = {"CTL-01", "CTL-03", "CTL-04", "PXY-01"}
#: They let whole sweeps through, and the witness may lose some of 131,070 packets: CTL-03 says so.
FLOODS = {"LAT-05", "NET-09"}


def judge(backend: Backend, also: str = "") -> dict[str, Verdict]:
    """Run the checks of the common bench, and one that stands apart, on a backend and end it."""
    verdicts = {}
    try:
        bench = Bench(backend)
        for check in [check for check in all_checks() if not check.apart or check.id == also]:
            try:
                bench.run(check)
                verdicts[check.id] = Verdict.PASSED
            except Violation:
                verdicts[check.id] = Verdict.VIOLATED
            except Inconclusive:
                verdicts[check.id] = Verdict.INCONCLUSIVE
        bench.close()
    finally:
        backend.close()
    return verdicts


def test_the_netns_backend_passes() -> None:
    """On the netns backend every check passes, none is inconclusive."""
    verdicts = judge(NetnsBackend())

    assert set(verdicts.values()) == {Verdict.PASSED}, verdicts
    assert len(verdicts) >= 18


def test_every_check_that_stands_apart_passes() -> None:
    """On the netns backend the checks that break their own bottles pass too."""
    backend = NetnsBackend()
    try:
        bench = Bench(backend)
        for check in [check for check in all_checks() if check.apart]:
            assert bench.run(check)
    finally:
        backend.close()


@pytest.mark.parametrize("name", all_mutants())
def test_each_mutant_is_killed(name: str) -> None:
    """A weakened backend turns its own check red, with evidence, and just the listed others."""
    mutant = all_mutants()[name]
    verdicts = judge(open_mutant(name), mutant.check)

    violated = {check for check, verdict in verdicts.items() if verdict is Verdict.VIOLATED}
    flooded = name in FLOODS and "CTL-03" in violated
    assert violated - ({"CTL-03"} if flooded else set()) == {mutant.check, *mutant.also}, verdicts
    assert flooded or set(verdicts.values()) == {Verdict.PASSED, Verdict.VIOLATED}, verdicts


def test_nothing_passes_for_the_wrong_reason_on_the_black_hole() -> None:
    """Where nothing gets through, controls and PXY-01 are red and no claimed block passes."""
    verdicts = judge(BlackHole())

    passed = {check for check, verdict in verdicts.items() if verdict is Verdict.PASSED}
    violated = {check for check, verdict in verdicts.items() if verdict is Verdict.VIOLATED}
    assert passed == INSPECTIONS
    assert violated == CONTROLS
    negatives = set(verdicts) - INSPECTIONS - CONTROLS
    assert {verdicts[check] for check in negatives} == {Verdict.INCONCLUSIVE}


def test_a_violation_says_what_where_who_and_how_to_rerun() -> None:
    """A leak's message names property, stimulus, who heard what, evidence and rerun line."""
    backend = open_mutant("NET-01")
    try:
        bench = Bench(backend)
        check = next(c for c in all_checks() if c.id == "NET-01")
        with pytest.raises(Violation) as caught:
            bench.run(check)
    finally:
        backend.close()

    text = str(caught.value)
    assert "NET-01 VIOLATED: No TCP to a literal public IPv4" in text
    assert "tcp/443 to 192.175.48." in text
    assert "the witness heard" in text
    assert "nonce" in text
    assert "-k NET-01" in text
    assert "github.com/apple/container/issues/2062" in text


def test_a_survey_is_never_given_an_address_twice() -> None:
    """Two stimuli for one address would be taken for each other, so it is an error."""
    backend = NetnsBackend()
    try:
        topology = backend.up(BottleSpec())
        plan = Plan(topology, backend.internet, frozenset(), {}, {})
        targets = {plan.target() for _ in range(3 * 254)}
        with pytest.raises(ConfigurationError, match="more addresses than the far side has"):
            plan.target()
    finally:
        backend.close()

    assert len(targets) == 3 * 254


# -- backends that leak or lie where a hasty suite does not look -----------------------------------


class _Tampered(NetnsBackend):
    """A backend that meddles with what is run in its guests."""

    def exec(
        self,
        topology: Topology,
        vantage: Vantage,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        user: User = User.AGENT,
        **more: Any,
    ) -> ExecResult:
        """Run a command, after ``meddle`` had its say."""
        result = self.meddle(topology, vantage, stdin, user)
        if isinstance(result, ExecResult):
            return result
        vantage, stdin = result
        return super().exec(topology, vantage, argv, stdin=stdin, user=user, **more)

    def meddle(
        self, topology: Topology, vantage: Vantage, stdin: bytes, user: User
    ) -> tuple[Vantage, bytes] | ExecResult:
        """Say where to run what instead, or what came of it."""
        raise NotImplementedError

    def run(self, topology: Topology, vantage: Vantage, code: str) -> None:
        """Run Python code in a guest."""
        result = super().exec(topology, vantage, [topology.python, "-c", code])
        assert result.ok, result.err


def taken_apart(stdin: bytes) -> tuple[bytes, dict[str, Any]]:
    """The probe itself, and what it is asked to do."""
    line, _, rest = stdin.partition(b"\n")
    sizes = (part.split(b":")[1:] for part in line.split()[1:])
    size = sum(int(each) for pair in sizes for each in pair)
    return line + b"\n" + rest[:size], json.loads(rest[size:])


class Late(_Tampered):
    """A datagram of the agent gets out for real, long after it was sent."""

    kept = ""

    def meddle(
        self, topology: Topology, vantage: Vantage, stdin: bytes, user: User
    ) -> tuple[Vantage, bytes] | ExecResult:
        """Keep one datagram of the agent until the last beats are due."""
        if vantage is Vantage.AGENT and b'"id": "NET-05' in stdin:
            operations = taken_apart(stdin)[1]["operations"]
            one = next(o for o in operations if o["id"].startswith("NET-05"))
            where = (one["host"], one["port"])
            self.kept = f"sendto({one['nonce'].encode()!r}, {where!r})"
        if b'"id": "beat after' in stdin and self.kept:
            self.run(topology, Vantage.OPEN, f"import socket; socket.socket(2, 2).{self.kept}")
        return vantage, stdin


class RootOpen(_Tampered):
    """Only the agent's user is held back; its root is not (a firewall by user)."""

    def meddle(
        self, topology: Topology, vantage: Vantage, stdin: bytes, user: User
    ) -> tuple[Vantage, bytes] | ExecResult:
        """Let root's stimuli go out from the open guest."""
        del topology
        open_to = vantage is Vantage.AGENT and user is User.ROOT and b'"NET-0' in stdin
        return Vantage.OPEN if open_to else vantage, stdin


class Corrupt(_Tampered):
    """The proxy keeps a body's length, and nothing else of it."""

    def meddle(
        self, topology: Topology, vantage: Vantage, stdin: bytes, user: User
    ) -> tuple[Vantage, bytes] | ExecResult:
        """Replace the body of the agent's POST."""
        del topology
        if b'"id": "PXY-01 POST"' in stdin:
            program, request = taken_apart(stdin)
            for operation in request["operations"]:
                if operation["id"] == "PXY-01 POST":
                    operation["body"] = "Y" * operation.pop("size")
            stdin = program + json.dumps(request).encode()
        return vantage, stdin


class OtherPage(_Tampered):
    """The proxy asks the origin for another page."""

    def meddle(
        self, topology: Topology, vantage: Vantage, stdin: bytes, user: User
    ) -> tuple[Vantage, bytes] | ExecResult:
        """Change the path of the agent's GET."""
        del topology
        if b'"id": "PXY-01 GET"' in stdin:
            program, request = taken_apart(stdin)
            for operation in request["operations"]:
                if operation["id"] == "PXY-01 GET":
                    operation["url"] = "http://allowed.test/another"
            stdin = program + json.dumps(request).encode()
        return vantage, stdin


class Dials(_Tampered):
    """The sidecar does something upstream about a denied name, and then denies."""

    code = ""

    def meddle(
        self, topology: Topology, vantage: Vantage, stdin: bytes, user: User
    ) -> tuple[Vantage, bytes] | ExecResult:
        """Run the code in the sidecar when the agent asks for the denied name."""
        if b'"id": "PXY-02 GET"' in stdin and vantage is Vantage.AGENT:
            operations = taken_apart(stdin)[1]["operations"]
            name = next(o["url"] for o in operations if o["id"] == "PXY-02 GET").split("/")[2]
            self.run(topology, Vantage.SIDECAR, f"import socket; name = {name!r}; {self.code}")
        return vantage, stdin


class DialsVersion6(Dials):
    """It connects over IPv6."""

    code = (
        "there = socket.getaddrinfo('denied.test', 80, socket.AF_INET6, 1)[0][4]; "
        "socket.create_connection(there[:2], 2)"
    )


class LooksUp(Dials):
    """It only looks the name up."""

    code = "socket.getaddrinfo(name, 80)"


class SecondProcess(NetnsBackend):
    """Beside the agent's first process there is one with capabilities."""

    def up(self, spec: Any) -> Topology:
        """Start the process; it ends with its bottle."""
        topology = super().up(spec)
        code = "import time; time.sleep(60)"

        def stay() -> None:
            with contextlib.suppress(Exception):  # cut off by the end of the guest
                argv = [topology.python, "-c", code]
                self.netns.exec(topology.agent.name, argv, user="privileged", timeout=61)

        threading.Thread(target=stay, daemon=True).start()
        return topology


class OddUdpPort(Leaky):
    """The gateway forwards one UDP port that is on no list."""

    port = 40053

    def weaken(self, topology: Topology) -> None:
        """Open the port."""
        self.open_gateway(topology, Rule(0, protocol="udp", port=self.port))
        self.give_default_route(topology)


class Dns(OddUdpPort):
    """The gateway forwards UDP to port 53 only."""

    port = 53


class ToEgressOnly(Leaky):
    """The gateway forwards to the egress networks, and to nobody beyond them."""

    def weaken(self, topology: Topology) -> None:
        """Open the way."""
        inner, outer = (net.subnet for net in (topology.internal, topology.egress))
        bridge = f"int{inner.split('.')[2]}"
        self.netns.configure("host", [["sysctl", f"net/ipv4/conf/{bridge}/forwarding", "1"]])
        self.add_rules(
            topology,
            Rule(50, iif=bridge, to=outer),
            Rule(60, FR_ACT_PROHIBIT, iif=bridge),
            Rule(40, iif=f"egr{outer.split('.')[2]}", to=inner),
        )


class InwardTcp(Leaky):
    """The sidecar forwards TCP inwards; no answer finds its way back."""

    def weaken(self, topology: Topology) -> None:
        """Open the way."""
        inner = topology.internal.subnet
        rules = (
            Rule(40, iif="eth0", protocol="tcp", to=inner),
            Rule(41, FR_ACT_PROHIBIT, iif="eth0", to=inner),
            Rule(42, FR_ACT_PROHIBIT, iif="eth1", to="0.0.0.0/1"),
            Rule(43, FR_ACT_PROHIBIT, iif="eth1", to="128.0.0.0/1"),
        )
        self.forward(topology, *rules)

    def forward(self, topology: Topology, *rules: Rule) -> None:
        """Let the sidecar forward what the rules let through."""
        changes: list[list[Any]] = [["sysctl", "net/ipv4/ip_forward", "1"]]
        changes += [["rule", rule._asdict()] for rule in rules]
        self.netns.configure(topology.sidecar.name, changes)


class OutwardOddPort(InwardTcp):
    """The sidecar forwards one UDP port outwards, which is on no list."""

    def weaken(self, topology: Topology) -> None:
        """Open the way."""
        self.forward(
            topology,
            Rule(40, iif="eth1", protocol="udp", port=40053),
            Rule(41, FR_ACT_PROHIBIT, iif="eth0", to=topology.internal.subnet),
            Rule(42, FR_ACT_PROHIBIT, iif="eth1", to="0.0.0.0/1"),
            Rule(43, FR_ACT_PROHIBIT, iif="eth1", to="128.0.0.0/1"),
        )


LEAKS: list[tuple[type[NetnsBackend], set[str]]] = [
    (Late, {"NET-05"}),
    (
        RootOpen,
        {*(f"NET-0{n}" for n in range(1, 6)), "IP6-01", "DNS-01", "DNS-03", "DNS-04", "PXY-18"},
    ),
    (Corrupt, {"PXY-01"}),
    (OtherPage, {"PXY-01"}),
    (DialsVersion6, {"PXY-02"}),
    (LooksUp, {"PXY-02"}),
    (SecondProcess, {"PRV-01"}),
    (Dns, {"DNS-01", "DNS-04", "NET-05"}),
    (OddUdpPort, {"NET-05"}),
    (ToEgressOnly, {"NET-09"}),
    (InwardTcp, {"LAT-05"}),
    (OutwardOddPort, {"LAT-05"}),
]


@pytest.mark.parametrize(("make", "checks"), LEAKS, ids=[make.__name__ for make, _ in LEAKS])
def test_each_leak_and_each_lie_is_found(make: type[NetnsBackend], checks: set[str]) -> None:
    """What a hasty suite would let pass turns just its own checks red."""
    verdicts = judge(make())

    violated = {check for check, verdict in verdicts.items() if verdict is Verdict.VIOLATED}
    assert violated == checks, verdicts


class BrokenFetches(_Tampered):
    """Single fetches of the agent and its sibling fail by a defect of the prober."""

    def meddle(
        self, topology: Topology, vantage: Vantage, stdin: bytes, user: User
    ) -> tuple[Vantage, bytes] | ExecResult:
        """Answer like a guest that lacks what the probe needs."""
        operations = taken_apart(stdin)[1]["operations"] if stdin else []
        if vantage is Vantage.AGENT and {o["kind"] for o in operations} == {"http"}:
            records = [{"id": o["id"], "outcome": "tool-error"} for o in operations]
            lines = [json.dumps(record) for record in (*records, {"done": len(records)})]
            return ExecResult(0, "\n".join(lines).encode() + b"\n", b"")
        return vantage, stdin


def test_a_fetch_that_could_not_be_tried_proves_nothing() -> None:
    """HST-03 is inconclusive when the prober failed by itself."""
    verdicts = judge(BrokenFetches())

    assert verdicts["HST-03"] is Verdict.INCONCLUSIVE, verdicts


# -- the two front doors ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "-n 2"])
def test_front_door_by_package(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """`--pyargs pytest_bottle.conformance` passes, prints each verdict, and fills JUnit."""
    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--pyargs", "pytest_bottle.conformance"),
        *("--bottle-backend=netns", "--junitxml=out.xml", "-p", "no:cacheprovider", *workers),
    )

    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*bottle verdicts*",
            "PASSED *NET-01 *No TCP to a literal public IPv4",
            f"{len(all_checks())} passed, 0 violated, 0 inconclusive, 0 not supported, "
            "0 not run, 0 waived",
        ]
    )
    cases = ET.parse(Path(pytester.path, "out.xml")).iter("testcase")
    properties = [p.attrib for case in cases for p in case.iter("property")]
    assert {"name": "bottle_check", "value": "PXY-01"} in properties


def test_front_door_in_ones_own_file(pytester: pytest.Pytester) -> None:
    """Importing test_conformance into a file of one's own gives the same items there."""
    pytester.makepyfile(test_mine="from pytest_bottle.conformance import test_conformance\n")

    result = pytester.run(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "NET-01 or PXY-01"),
        "test_mine.py",
    )

    assert result.ret == 0
    result.stdout.fnmatch_lines([f"*2 passed, {len(all_checks()) - 2} deselected*"])


def test_a_mutant_from_the_command_line_is_red(pytester: pytest.Pytester) -> None:
    """`--bottle-mutant=ID` fails with exit status 1 and shows the check as violated."""
    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--pyargs", "pytest_bottle.conformance"),
        *("--bottle-mutant=PXY-02", "-p", "no:cacheprovider"),
    )

    assert result.ret == 1
    red = 1 + len(all_mutants()["PXY-02"].also)
    counts = f"{len(all_checks()) - red} passed, {red} violated, 0 inconclusive*"
    result.stdout.fnmatch_lines(["VIOLATED *PXY-02 *", counts])
