"""NET: direct egress over IPv4."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.registry import Severity, check
from pytest_bottle.stimulus import Icmp, Tcp, Udp, Web
from pytest_bottle.verdict import Verdict, combine

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan

_DIRECT = frozenset({Feature.LAB, Feature.OPEN_GUEST})
_PRIVILEGED = _DIRECT | {Feature.PRIVILEGED_PROBE}
_APPLE = (
    "https://github.com/apple/container/issues/2062",
    "https://github.com/apple/container/pull/2072",
)
#: The spike's own target; in the lab this address is ours.
_LITERAL = "1.1.1.1"
#: Whose certificate the real one shows, for every first label.
_LITERALS_NAME = "cloudflare-dns.com"


def _tcp_literals(plan: Plan) -> None:
    target = plan.target()
    for port in (443, 80):
        plan.block("NET-01", Vantage.AGENT, Tcp(target, port))
        plan.block_literals("NET-01", Vantage.AGENT, Tcp(_LITERAL, port))


@check(
    "NET-01",
    "No TCP to a literal public IPv4",
    needs=_DIRECT,
    evidence=(*_APPLE, "https://github.com/aliyun-fc/fc-docs/pull/76"),
    stimuli=_tcp_literals,
    two_way=True,
)
def no_tcp_to_a_literal(bench: Bench) -> str:
    """A TCP connection from the agent to a public address given as an IP never completes and no SYN
    leaves.
    """
    return bench.require_blocked()


def _pings(plan: Plan) -> None:
    for target in (plan.target(), *([_LITERAL] if Feature.EVERY_ADDRESS in plan.features else [])):
        plan.block("NET-02", Vantage.AGENT, Icmp(target))
        plan.block("NET-02", Vantage.AGENT, Icmp(target, raw=True))
        plan.block("NET-02", Vantage.PRIVILEGED, Icmp(target, raw=True))
    plan.block_literals("NET-02", Vantage.AGENT, Icmp(_LITERAL), Icmp(_LITERAL, raw=True))
    plan.block_literals("NET-02", Vantage.PRIVILEGED, Icmp(_LITERAL, raw=True))


@check(
    "NET-02",
    "No ICMP echo out",
    severity=Severity.HIGH,
    needs=_PRIVILEGED,
    evidence=(
        "https://github.com/agentcage/agentcage/pull/290",
        "bot-bottle spike S6",
        "https://github.com/moby/libnetwork/issues/2261",
    ),
    stimuli=_pings,
    two_way=True,
)
def no_echo_request(bench: Bench) -> str:
    """Ping to a public IPv4 address gets no reply and no echo request reaches the far end."""
    return bench.require_blocked()


def _by_name(plan: Plan) -> None:
    # Not denied.test: PXY-02 wants to hear nothing at all go there.
    for name in ("allowed.test", "unlisted.test"):
        plan.block("NET-03", Vantage.AGENT, Web("", name))
        plan.block("NET-03", Vantage.AGENT, Web(plan.target(), name))
    plan.block_literals("NET-03", Vantage.AGENT, Web(_LITERAL, _LITERALS_NAME))


@check(
    "NET-03",
    "No HTTPS by name without the proxy",
    severity=Severity.HIGH,
    needs=_DIRECT,
    evidence=(
        "bot-bottle spike S7",
        "https://github.com/docker/sbx-releases/issues/611",
        _APPLE[0],
    ),
    stimuli=_by_name,
    two_way=True,
)
def no_https_by_name(bench: Bench) -> str:
    """An ordinary client with proxy settings cleared cannot fetch a page by name. The form by name
    alone never passes: it is credited only if NET-01 passed in the same run.
    """
    note = bench.require_blocked()
    literal = combine((one.finding for one in bench.judged("NET-01")), two_way=True)
    if literal is not Verdict.PASSED:
        raise bench.inconclusive(f"NET-01 is {literal.value}: a name that fails proves nothing")
    return note


_PORTS = (
    *(1, 22, 25, 53, 110, 123, 143, 179, 443, 465, 587, 853, 993, 1080, 3128, 3306, 5432, 6379),
    *(8080, 8443, 9418, 27017, 49152, 65535),
)


def _all_ports(plan: Plan) -> None:
    target = plan.target()
    drawn = random.sample([p for p in range(1, 65536) if p not in _PORTS], 8)
    for port in (*_PORTS, *drawn):
        plan.block("NET-04", Vantage.AGENT, Tcp(target, port))
    plan.sweep("NET-04", "tcp", plan.topology.internal.gateway, [8448, *drawn])


@check(
    "NET-04",
    "No TCP on any port",
    needs=_PRIVILEGED | {Feature.NEIGHBOUR},
    evidence=("https://github.com/agentcage/agentcage/pull/91",),
    stimuli=_all_ports,
)
def no_tcp_on_any_port(bench: Bench) -> str:
    """The block is not a list of ports: the agent reaches none of 24 well-known and 8 random ones,
    and of one bare SYN to each of the 65,535 ports, sent by a privileged probe to the gateway, the
    far end hears nothing.
    """
    return bench.require_blocked()


#: A QUIC Initial's first bytes (RFC 9000, 17.2.2): long header, version 1, an 8-byte connection ID.
_QUIC = "c00000000108"


def _datagrams(plan: Plan) -> None:
    target = plan.target()
    via = plan.topology.internal.gateway
    drawn = random.sample(range(20000, 60000), 4)
    for port in (53, 123, 443, 500, 514, 853, 1900, 3478, 4500, 5353, 51820, *drawn):
        prefix = _QUIC if port == 443 else ""
        plan.block("NET-05", Vantage.AGENT, Udp(target, port, prefix))
        plan.block("NET-05", Vantage.PRIVILEGED, Udp(plan.at("udp", port), port, prefix), via=via)
    plan.sweep("NET-05", "udp", via, [53, *drawn])


@check(
    "NET-05",
    "No UDP datagram leaves, answered or not",
    needs=_PRIVILEGED | {Feature.NEIGHBOUR},
    evidence=(
        "https://github.com/rappdw/sandy/issues/154",
        "https://github.com/rossoctl/cortex/pull/484",
        "https://github.com/agentcage/agentcage/pull/210",
    ),
    stimuli=_datagrams,
)
def no_datagram(bench: Bench) -> str:
    """A datagram sent by the agent never appears beyond the internal network, whatever the port;
    nor does one of those, to each of the 65,535 ports, that a privileged probe hands to the
    gateway.
    """
    return bench.require_blocked()


def _next_hops(plan: Plan) -> None:
    gateway = plan.topology.internal.gateway
    others = {plan.topology.sidecar_address, plan.topology.agent_address}
    hops = {gateway, *plan.neighbours} - others
    for hop in sorted(hops):
        target = plan.target()
        for stimulus in (Tcp(target, 443), Udp(target, 443), Icmp(target, raw=True)):
            plan.block("NET-09", Vantage.PRIVILEGED, stimulus, user=User.ROOT, via=hop)
    if Vantage.NEIGHBOUR in plan.guests:  # the way out may end at the egress network
        plan.block_inside("NET-09", Vantage.PRIVILEGED, Vantage.NEIGHBOUR, gateway)


@check(
    "NET-09",
    "The gateway will not route for the internal network",
    needs=_PRIVILEGED,
    evidence=(*_APPLE, "https://github.com/rappdw/sandy/pull/7"),
    stimuli=_next_hops,
)
def gateway_does_not_route(bench: Bench) -> str:
    """Isolation is a property of the network, not of the agent lacking a default route: whatever
    answers on the link, except the sidecar, forwards nothing that is handed to it, neither to the
    far side nor to a guest on the egress network.
    """
    return bench.require_blocked()
