"""The black hole: a bottle in which nothing gets through, the proxy included.

It is the cheapest test for vacuity: a check that claims a block and passes here passes for the
wrong reason. Controls and PXY-01 are red on it, and negatives are INCONCLUSIVE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bottle.backends.engine_backend import EngineBackend
from pytest_bottle.backends.engines.netns.engine import NetnsEngine
from pytest_bottle.backends.engines.netns.rtnetlink import RTN_BLACKHOLE

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import BackendInfo, Topology
    from pytest_bottle.spec import BottleSpec


class BlackHole(EngineBackend):
    """The netns backend, with all traffic of guests dropped in silence."""

    def __init__(self) -> None:
        self._netns = NetnsEngine()
        super().__init__(self._netns)

    def describe(self) -> BackendInfo:
        """Name it, so that no report can be mistaken for another backend's."""
        return super().describe()._replace(name="black-hole")

    def up(self, spec: BottleSpec) -> Topology:
        """Bring a bottle up and then drop everything."""
        topology = super().up(spec)
        self._netns.configure(
            "host",
            [
                [
                    "sysctl",
                    f"net/ipv4/conf/{self._netns.bridges[topology.egress.name]}/forwarding",
                    "0",
                ],
                ["sysctl", "net/ipv6/conf/all/forwarding", "0"],
            ],
        )
        # The sidecar hears the agent and cannot answer: its own side of the road is a hole.
        hole = ["route", f"{topology.agent_address}/32", {"kind": RTN_BLACKHOLE}]
        self._netns.configure(topology.sidecar.name, [hole])
        return topology
