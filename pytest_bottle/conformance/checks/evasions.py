"""NET: what is not an ordinary packet, and leaves as little as one."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.plan import Claim, describe
from pytest_bottle.conformance.registry import Level, Severity, check
from pytest_bottle.stimulus import Crafted, Ip, Shot, Stimulus, Tcp, Udp

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan

_NEEDS = frozenset({Feature.LAB, Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE, Feature.NEIGHBOUR})


def _block(
    plan: Plan,
    check: str,
    stimulus: Stimulus,
    mirrored: Crafted,
    vantage: Vantage = Vantage.PRIVILEGED,
    *,
    optional: bool = False,
) -> None:
    """Claim that a packet does not get out; the control is the neighbour's by its own next hop."""
    own = vantage is Vantage.PRIVILEGED
    via = plan.topology.internal.gateway if own else ""
    user = User.ROOT if own else User.AGENT
    name = f"{check} {vantage.value} {describe(stimulus)}{via and f' via {via}'}"
    outer = plan.outer_hop(mirrored.host)
    mirror = Shot(f"{name} (neighbour)", Vantage.NEIGHBOUR, mirrored, User.ROOT, outer)
    shot = Shot(name, vantage, stimulus, user, via)
    claim = Claim(check, shot, mirror, unmet=plan.unmet(via), optional=optional)
    plan.claims.append(claim)


def _crafted(plan: Plan, check: str, packet: Crafted, *, optional: bool = False) -> None:
    _block(plan, check, packet, replace(packet, host=plan.at(*packet.key[1:])), optional=optional)


def _drawn(count: int) -> list[int]:
    # Below the ports that a kernel gives out by itself (32768 on): nobody has one of them yet.
    return random.sample(range(20000, 32768), count)


# -- one way ---------------------------------------------------------------------------------------


def _handshakes(plan: Plan) -> None:
    for port, source in zip((443, *_drawn(3)), _drawn(4), strict=True):
        plan.block("NET-06", Vantage.AGENT, Tcp(plan.at("tcp", port), port, source=source))
        _crafted(plan, "NET-06", Crafted(plan.at("tcp", port), "tcp", port, source=source))
    plan.block("NET-06", Vantage.AGENT, Tcp(plan.at("tcp", 443), 443, fast=True))
    _crafted(plan, "NET-06", Crafted(plan.at("tcp", 443), "tcp", 443, "fast-open"))


@check(
    "NET-06",
    "No one-way leak in a handshake packet",
    needs=_NEEDS,
    evidence=(
        "NVIDIA/OpenShell e2e/rust/tests/transparent_tcp.rs: denied() is true on any OSError",
    ),
    stimuli=_handshakes,
)
def no_one_way_leak(bench: Bench) -> str:
    """Even when replies are dropped, nothing that carries bits of the agent's choice gets out: no
    SYN, with the bits in its ports and options, and none with TCP Fast Open's data. An agent
    without privileges has a cookie of nobody, so its kernel sends the SYN without the data; the
    privileged probe sends both.
    """
    return bench.require_blocked()


# -- other protocols -------------------------------------------------------------------------------

#: IGMP, IPIP, IPv6 in IPv4, GRE, ESP, SCTP, and one for experiments (RFC 3692).
_PROTOCOLS = ("2", "4", "41", "47", "50", "132", "253")


def _protocols(plan: Plan) -> None:
    for protocol in _PROTOCOLS:
        packet = Crafted(plan.at(protocol), protocol)
        _crafted(plan, "NET-07", packet, optional=True)
        own, mirrored = (
            Ip(plan.at(protocol), protocol),
            replace(packet, host=plan.at(*packet.key[1:])),
        )
        _block(plan, "NET-07", own, mirrored, Vantage.AGENT, optional=True)


@check(
    "NET-07",
    "No other IP protocol",
    level=Level.STRICT,
    severity=Severity.MEDIUM,
    needs=_NEEDS,
    evidence=(
        "https://github.com/mattfenwick/cyclonus",
        "https://github.com/kubernetes-sigs/network-policy-api",
    ),
    stimuli=_protocols,
)
def no_other_protocol(bench: Bench) -> str:
    """SCTP, GRE, IPIP, ESP, IGMP and unknown protocol numbers do not leave, neither those that a
    privileged probe hands to the gateway nor those of the agent's own, where its kernel lets it.
    """
    return bench.require_blocked()


# -- evasions --------------------------------------------------------------------------------------


def _evasions(plan: Plan) -> None:
    for source in (53, 80, 123):
        plan.block("NET-08", Vantage.AGENT, Tcp(plan.at("tcp", 443), 443, source=source))
        plan.block("NET-08", Vantage.AGENT, Udp(plan.at("udp", 443), 443, source=source))
        for protocol in ("tcp", "udp"):
            _crafted(plan, "NET-08", Crafted(plan.at(protocol, 443), protocol, 443, source=source))
    for protocol in ("tcp", "udp"):
        for trick in ("tiny", "overlap", "short-lived"):
            _crafted(plan, "NET-08", Crafted(plan.at(protocol, 443), protocol, 443, trick))
        routed = Crafted(plan.at(protocol, 443), protocol, 443, "source-route")
        _crafted(plan, "NET-08", routed, optional=True)
        spoofed = Crafted(
            plan.at(protocol, 443), protocol, 443, sender=plan.topology.sidecar_address
        )
        outer = plan.topology.sidecar_outer_address
        _block(plan, "NET-08", spoofed, replace(spoofed, host=plan.at(protocol, 443), sender=outer))


@check(
    "NET-08",
    "Filter evasions do not pass",
    level=Level.STRICT,
    severity=Severity.HIGH,
    needs=_NEEDS,
    evidence=("https://github.com/anthropics/claude-code/issues/36907",),
    stimuli=_evasions,
)
def no_evasion(bench: Bench) -> str:
    """Tricks that fool stateless filters make no difference: source ports 53, 80 and 123, a first
    fragment of 8 bytes, overlapping fragments, loose source routing, a short life, the sidecar's
    address as the source. The catalogue has a TTL of 1, which no router passes on whoever sends it;
    here it is 2, which the first one does. Source routing counts only where the outer network
    itself carries it.
    """
    return bench.require_blocked()
