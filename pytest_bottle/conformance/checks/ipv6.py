"""IP6: IPv6."""

from __future__ import annotations

import secrets
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.plan import Claim, describe
from pytest_bottle.conformance.registry import Severity, Witness, check
from pytest_bottle.firing import Operation, fire
from pytest_bottle.stimulus import Frame, Icmp, Shot, Stimulus, Tcp, Udp, aimed_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan
    from pytest_bottle.firing import Record

_PRIVILEGED = frozenset({Feature.PRIVILEGED_PROBE})
_FAR = _PRIVILEGED | {Feature.LAB, Feature.OPEN_GUEST, Feature.NEIGHBOUR, Feature.IPV6}
#: NAT64's well-known prefix (RFC 6052): the last four bytes are an IPv4 address.
_NAT64 = IPv6Address("64:ff9b::")


def _ula() -> str:
    """Make an address of a unique local prefix that nobody else has (RFC 4193, 3.2.2)."""
    return str(IPv6Address(bytes([0xFD]) + secrets.token_bytes(5) + bytes(9) + b"\7"))


def _translated(plan: Plan) -> str:
    return str(IPv6Address(int(_NAT64) + int(IPv4Address(plan.target()))))


def _literals(plan: Plan) -> None:
    target = plan.target(6)
    tcp = [Tcp(target, port) for port in (443, 80)]
    udp = [Udp(target, port) for port in (53, 443)]
    stimuli: list[Stimulus] = [*tcp, *udp, Icmp(target)]
    for stimulus in stimuli:
        plan.block("IP6-01", Vantage.AGENT, stimulus)
    mapped = plan.target()
    plan.block("IP6-01", Vantage.AGENT, Tcp(mapped, 443, mapped=True))
    plan.block("IP6-01", Vantage.AGENT, Udp(mapped, 443, mapped=True))
    for make in (_ula, lambda: _translated(plan)):
        plan.block_like("IP6-01", Tcp(make(), 443), Tcp(make(), 443))
        plan.block_like("IP6-01", Udp(make(), 443), Udp(make(), 443))
    for hop in sorted({plan.topology.internal.gateway, *plan.neighbours}):
        if hop != plan.topology.agent_address:
            _block_frames(plan, hop)


def _block_frames(plan: Plan, hop: str) -> None:
    target = plan.target(6)
    frames = (Frame(target, "tcp", 443), Frame(target, "udp", 443), Frame(target, "icmp"))
    for frame in frames:
        block_frame(plan, "IP6-01", frame, hop)


def block_frame(plan: Plan, check: str, frame: Frame, hop: str) -> None:
    """Claim that a packet which a privileged probe hands to a next hop does not get out.

    The control is the same packet from the neighbour, handed to its own next hop.
    """
    name = f"{check} privileged {describe(frame)} via {hop}"
    control = aimed_at(frame, plan.at(*frame.key[1:], frame.key.family))
    outer = plan.outer_hop(control.host)
    mirror = Shot(f"{name} (neighbour)", Vantage.NEIGHBOUR, control, User.ROOT, outer)
    shot = Shot(name, Vantage.PRIVILEGED, frame, User.ROOT, hop)
    silent = "" if hop in plan.neighbours else f"the next hop {hop} does not answer ARP"
    plan.claims.append(Claim(check, shot, mirror, unmet=silent))


@check(
    "IP6-01",
    "No TCP/UDP/ICMPv6 to a literal IPv6",
    needs=_FAR,
    evidence=(
        "https://github.com/anthropics/claude-code/issues/24952",
        "https://github.com/anthropics/claude-code/pull/81423",
        "https://github.com/anthropics/claude-code/pull/36260",
        "https://github.com/github/gh-aw-firewall/pull/68",
    ),
    stimuli=_literals,
)
def no_ipv6_literal(bench: Bench) -> str:
    """NET-01, 02 and 05 hold for IPv6: the agent reaches no global-looking, unique local or NAT64
    address, and no IPv4 one by an IPv6 socket; nor does anything on the link pass on an IPv6 packet
    that is handed to it.
    """
    translated = _heard_translated(bench)
    if translated:
        raise bench.violation(f"a NAT64 gateway carried it: the witness heard {translated}")
    return bench.require_blocked()


def _heard_translated(bench: Bench) -> str:
    """Name an IPv4 destination that only a translator can have made of an IPv6 one."""
    evidence = bench.evidence
    hosts = {claim.shot.stimulus.host for claim in evidence.plan.claims if claim.check == "IP6-01"}
    inner = {
        str(IPv4Address(int(ip_address(host)) & 0xFFFFFFFF))
        for host in hosts
        if ":" in host and ip_address(host) in ip_network(f"{_NAT64}/96")
    }
    found = {record.dst for record in evidence.since_opened if record.dst in inner}
    return ", ".join(sorted(found))


# -- what the agent is configured to ---------------------------------------------------------------

#: Seconds from the moment that the control has taken a router's word to the agent's last look.
#: The catalogue's own number is for the thorough.
_SETTLE, _SETTLE_THOROUGH = 0.5, 3.0
#: Seconds that the prefix of a crafted router is good for.
_LIFETIME = 60


@check(
    "IP6-02",
    "No IPv6 address or route the backend did not mean to give",
    severity=Severity.HIGH,
    witness=Witness.NO,
    needs=_PRIVILEGED,
    evidence=("CVE-2020-13401", "CVE-2024-32473", "GHSA-x84c-p2g9-rqv9"),
    apart=True,
)
def no_unmeant_ipv6(bench: Bench) -> str:
    """The agent has no global or unique local address and no default IPv6 route, and ignores router
    advertisements, unless the topology declares IPv6.
    """
    with bench.another() as topology:  # the sidecar may believe the router, and be of no use then
        before = _tables(bench, topology)
        _require_declared(bench, topology, before, "before any router spoke")
        # Twice in vain on a slow machine is no control; a prefix is new each time.
        prefix = f"{_ula().partition('::')[0]}::"
        taken = _advertise(bench, topology, prefix)
        time.sleep(_SETTLE_THOROUGH if bench.thorough else _SETTLE)
        after = _tables(bench, topology)
        _require_declared(bench, topology, after, f"after a router that announced {prefix}/64")
        if not taken.get("there"):
            raise bench.inconclusive(f"the control did not take the router's prefix up: {taken}")
        if _view(before) != _view(after):
            raise bench.violation(f"a router changed {_view(before)} to {_view(after)}")
    listened = ", ".join(f"{device} {value}" for device, value in after["accept_ra"].items())
    return f"{_view(after)[0] or 'no address'}; a router is ignored; accept_ra: {listened}"


def _tables(bench: Bench, topology: Topology) -> Record:
    record = bench.probe(Vantage.AGENT, {"kind": "ipv6"}, topology=topology)
    if "addresses" not in record:
        raise bench.inconclusive(f"the agent's IPv6 tables cannot be read: {record}")
    return record


def _view(record: Record) -> tuple[Sequence[str], Sequence[str]]:
    """What of a guest's tables can lead out: addresses beyond the link's own, default routes."""
    beyond = [
        f"{one['device']} {one['address']}"
        for one in record["addresses"]
        if not ip_address(one["address"]).is_link_local and one["address"] != "::1"
    ]
    return sorted(beyond), sorted(record["defaults"])


def _require_declared(bench: Bench, topology: Topology, record: Record, when: str) -> None:
    addresses, routes = _view(record)
    declared = topology.internal.subnet6
    if not declared and (addresses or routes):
        raise bench.violation(f"{when} the agent has {[*addresses, *routes]}, and none is declared")
    strange = [a for a in addresses if ip_address(a.split()[1]) not in ip_network(declared)]
    if strange:
        raise bench.violation(f"{when} the agent has {strange}, which are not in {declared}")


def _advertise(bench: Bench, topology: Topology, prefix: str) -> Record:
    """Let a router speak on the internal network; tell what a guest that listens made of it."""
    conf = "net/ipv6/conf/eth0"
    values = [(f"{conf}/accept_ra", "2"), (f"{conf}/autoconf", "1"), (f"{conf}/disable_ipv6", "0")]
    listens = {"kind": "set", "values": values}
    ready = bench.probe(Vantage.BYSTANDER, listens, topology=topology)
    if ready["outcome"] != "answered":
        raise bench.inconclusive(f"the control cannot be made to listen to routers: {ready}")
    says = {"kind": "advertise", "prefix": prefix, "lifetime": _LIFETIME}
    volley = fire(
        bench.backend,
        topology,
        [
            Operation("router", Vantage.PRIVILEGED, says),
            Operation("control", Vantage.BYSTANDER, {"kind": "ipv6", "prefix": prefix}),
        ],
    )
    return volley.records.get("control", {"failures": volley.failures})
