"""LAT: sideways, from and to what stands beside the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.registry import check
from pytest_bottle.stimulus import Icmp, Stimulus, Tcp, Udp

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan

#: Ports of the sweeps' controls.
_SOME = (22, 443, 8448, 40053)


def _through_the_sidecar(plan: Plan) -> None:
    topology, target = plan.topology, plan.target()
    via = topology.sidecar_address
    tcp = [Tcp(target, port) for port in (443, 80, 53, 8080)]
    udp = [Udp(target, port) for port in (443, 53, 123)]
    stimuli: list[Stimulus] = [*tcp, *udp, Icmp(target, raw=True)]
    for stimulus in stimuli:
        plan.block("LAT-05", Vantage.PRIVILEGED, stimulus, user=User.ROOT, via=via)
    for protocol in ("tcp", "udp"):
        plan.sweep("LAT-05", protocol, via, _SOME)
    plan.block_inside("LAT-05", Vantage.NEIGHBOUR, Vantage.AGENT, topology.sidecar_outer_address)


@check(
    "LAT-05",
    "The sidecar is not a router (explicit mode)",
    needs=frozenset({Feature.LAB, Feature.OPEN_GUEST, Feature.PRIVILEGED_PROBE, Feature.NEIGHBOUR}),
    evidence=(
        "bot-bottle spike S31 (its inverse)",
        "https://github.com/agentcage/agentcage/pull/91",
    ),
    stimuli=_through_the_sidecar,
)
def sidecar_does_not_route(bench: Bench) -> str:
    """The dual-homed container does not forward packets between its two networks in either
    direction.
    """
    note = bench.require_blocked()
    setting = bench.backend.exec(
        bench.topology, Vantage.SIDECAR, ["cat", "/proc/sys/net/ipv4/ip_forward"]
    )
    return f"{note}; ip_forward in the sidecar: {setting.out or setting.err}"
