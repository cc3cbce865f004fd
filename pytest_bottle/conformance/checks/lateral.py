"""LAT: sideways, from and to what stands beside the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.conformance.plan import INBOUND_PORT
from pytest_bottle.conformance.registry import check
from pytest_bottle.stimulus import Icmp, Tcp, Udp

if TYPE_CHECKING:
    from pytest_bottle.conformance.bench import Bench
    from pytest_bottle.conformance.plan import Plan


def _through_the_sidecar(plan: Plan) -> None:
    topology, target = plan.topology, plan.target()
    for stimulus in (Tcp(target, 443), Udp(target, 443), Icmp(target, raw=True)):
        plan.block(
            "LAT-05",
            Vantage.PRIVILEGED,
            stimulus,
            user=User.ROOT,
            via=topology.sidecar_address,
        )
    for inward in (
        Tcp(topology.agent_address, INBOUND_PORT),
        Udp(topology.agent_address, INBOUND_PORT),
    ):
        via = topology.sidecar_outer_address
        plan.block_inbound("LAT-05", Vantage.NEIGHBOUR, inward, via)


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
