"""Backends that leak or lie where a hasty suite does not look."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bottle.backends.contract import ExecResult, User, Vantage
from pytest_bottle.backends.engines.netns.rtnetlink import FR_ACT_PROHIBIT, Rule
from pytest_bottle.conformance.mutants.base import Errand, Leaky, Meddler, NetnsBackend
from pytest_bottle.verdict import Verdict
from tests.judging import judge, judge_row, taken_apart

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Topology

pytestmark = pytest.mark.usefixtures("netns_works")


class _Tampered(Meddler):
    """A backend that meddles with what is run in its guests."""

    def run(self, topology: Topology, vantage: Vantage, code: str) -> None:
        """Run Python code in a guest."""
        place, user = self._place(topology, vantage, User.AGENT)
        assert self.netns.exec(place, [topology.python, "-c", code], user=user).ok


class Late(_Tampered):
    """A datagram of the agent gets out for real, long after it was sent."""

    kept = ""

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Keep one datagram of the agent until the last beats are due."""
        if errand.is_the_agents and b'"id": "NET-05' in errand.stdin:
            operations = taken_apart(errand.stdin)[1]["operations"]
            one = next(o for o in operations if o["id"].startswith("NET-05"))
            where = (one["host"], one["port"])
            self.kept = f"sendto({one['nonce'].encode()!r}, {where!r})"
        if b'"id": "beat after' in errand.stdin and self.kept:
            self.run(
                errand.topology, Vantage.OPEN, f"import socket; socket.socket(2, 2).{self.kept}"
            )
        return errand


class RootOpen(_Tampered):
    """Only the agent's user is held back; its root is not (a firewall by user)."""

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Let root's stimuli go out from the open guest."""
        roots = errand.is_the_agents and errand.user is User.ROOT
        leaks = roots and b'"NET-0' in errand.stdin
        return errand._replace(vantage=Vantage.OPEN) if leaks else errand


class Corrupt(_Tampered):
    """The proxy keeps a body's length, and nothing else of it."""

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Replace the body of the agent's POST."""
        if b'"id": "PXY-01 POST"' in errand.stdin:
            program, request = taken_apart(errand.stdin)
            for operation in request["operations"]:
                if operation["id"] == "PXY-01 POST":
                    operation["body"] = "Y" * operation.pop("size")
            return errand._replace(stdin=program + json.dumps(request).encode())
        return errand


class OtherPage(_Tampered):
    """The proxy asks the origin for another page."""

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Change the path of the agent's GET."""
        if b'"id": "PXY-01 GET"' in errand.stdin:
            program, request = taken_apart(errand.stdin)
            for operation in request["operations"]:
                if operation["id"] == "PXY-01 GET":
                    operation["url"] = "http://allowed.test/another"
            return errand._replace(stdin=program + json.dumps(request).encode())
        return errand


class Dials(_Tampered):
    """The sidecar does something upstream about a denied name, and then denies."""

    code = ""

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Run the code in the sidecar when the agent asks for the denied name."""
        if b'"id": "PXY-02 GET"' in errand.stdin and errand.is_the_agents:
            operations = taken_apart(errand.stdin)[1]["operations"]
            name = next(o["url"] for o in operations if o["id"] == "PXY-02 GET").split("/")[2]
            self.run(
                errand.topology, Vantage.SIDECAR, f"import socket; name = {name!r}; {self.code}"
            )
        return errand


class DialsVersion6(Dials):
    """It connects over IPv6."""

    code = (
        "there = socket.getaddrinfo('denied.test', 80, socket.AF_INET6, 1)[0][4]; "
        "socket.create_connection(there[:2], 30)"
    )


class LooksUp(Dials):
    """It only looks the name up."""

    code = "socket.getaddrinfo(name, 80)"


class SecondProcess(NetnsBackend):
    """Beside the agent's first process there is one with capabilities."""

    def up(self, spec: Any) -> Topology:
        """Start the process; it ends with its bottle."""
        topology = super().up(spec)
        code = "import time; time.sleep(600)"

        def stay() -> None:
            with contextlib.suppress(Exception):  # cut off by the end of the guest
                argv = [topology.python, "-c", code]
                self.netns.exec(topology.agent.name, argv, user="privileged", timeout=601)

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
        bridge = self.netns.bridges[topology.internal.name]
        self.netns.configure("host", [["sysctl", f"net/ipv4/conf/{bridge}/forwarding", "1"]])
        self.add_rules(
            topology,
            Rule(50, iif=bridge, to=outer),
            Rule(60, FR_ACT_PROHIBIT, iif=bridge),
            Rule(40, iif=self.netns.bridges[topology.egress.name], to=inner),
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
        {
            *(f"NET-0{n}" for n in (1, 2, 3, 4, 5, 6, 8)),
            *(f"DNS-0{n}" for n in range(1, 6)),
            *("IP6-01", "NET-10", "NET-11", "PRV-08", "PXY-18"),
        },
    ),
    (Corrupt, {"PXY-01"}),
    (OtherPage, {"PXY-01"}),
    (DialsVersion6, {"PXY-02"}),
    (LooksUp, {"PXY-02"}),
    (SecondProcess, {"PRV-01", "PRV-08"}),
    (Dns, {"DNS-01", "DNS-04", "NET-05", "NET-10"}),
    (OddUdpPort, {"NET-05"}),
    (ToEgressOnly, {"NET-09"}),
    (InwardTcp, {"LAT-05"}),
    (OutwardOddPort, {"LAT-05"}),
]


@pytest.mark.parametrize(("make", "checks"), LEAKS, ids=[make.__name__ for make, _ in LEAKS])
def test_each_leak_and_each_lie_is_found(make: type[NetnsBackend], checks: set[str]) -> None:
    """What a hasty suite would let pass turns just its own checks red."""
    verdicts = judge_row(make, checks)

    violated = {check for check, verdict in verdicts.items() if verdict is Verdict.VIOLATED}
    assert violated == checks, verdicts


class BrokenFetches(_Tampered):
    """Single fetches of the agent and its sibling fail by a defect of the prober."""

    def meddle(self, errand: Errand) -> Errand | ExecResult:
        """Answer like a guest that lacks what the probe needs."""
        operations = taken_apart(errand.stdin)[1]["operations"] if errand.stdin else []
        if errand.is_the_agents and {o["kind"] for o in operations} == {"http"}:
            records = [{"id": o["id"], "outcome": "tool-error"} for o in operations]
            lines = [json.dumps(record) for record in (*records, {"done": len(records)})]
            return ExecResult(0, "\n".join(lines).encode() + b"\n", b"")
        return errand


def test_a_fetch_that_could_not_be_tried_proves_nothing() -> None:
    """HST-03 is inconclusive when the prober failed by itself."""
    verdicts = judge(BrokenFetches(), only={"HST-03"})

    assert verdicts["HST-03"] is Verdict.INCONCLUSIVE, verdicts
