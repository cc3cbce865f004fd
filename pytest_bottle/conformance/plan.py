"""What the survey is going to fire: every check's stimuli, and from them their controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import User, Vantage
from pytest_bottle.stimulus import Icmp, Key, Shot, Stimulus, Tcp, Udp, Web, aimed_at, sendable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.firing import Operation
    from pytest_bottle.internet.contract import Internet

#: Ports at the agent that the survey's listener waits on: for the sidecar's control, and for leaks.
CONTROL_PORT, INBOUND_PORT = 46001, 46002
#: Seconds by which senders to the agent's listener hold back, so that it is there first.
_HEAD_START = 0.4


@dataclass(frozen=True, slots=True)
class Claim:
    """A stimulus that must not arrive.

    Attributes:
        check: the ID of the check that claims it.
        shot: the stimulus, at its vantage point.
        mirror: the same stimulus from a place that must succeed.
        inbound: the far end is the agent's listener and not the witness.
        unmet: a condition that was not met already when the plan was made; empty if all were.
    """

    check: str
    shot: Shot
    mirror: Shot
    inbound: bool = False
    unmet: str = ""


@dataclass(slots=True)
class Plan:
    """Collects claims and operations; checks' ``stimuli`` functions fill it.

    Attributes:
        neighbours: who answered ARP on the internal network, address to link address.
        first: operations before the window, controls that must not be taken for a leak in it.
        during: operations in the window.
        sweeps: claims of a privileged probe about every port, in a window of their own.
    """

    topology: Topology
    internet: Internet
    neighbours: Mapping[str, str]
    claims: list[Claim] = field(default_factory=list)
    first: list[Operation] = field(default_factory=list)
    during: list[Operation] = field(default_factory=list)
    sweeps: list[Operation] = field(default_factory=list)

    def target(self, family: int = 4) -> str:
        """Hand out an address of the far side that nobody else is sent to."""
        return self.internet.fresh_address(family)

    def block(
        self,
        check: str,
        vantage: Vantage,
        stimulus: Stimulus,
        *,
        user: User = User.AGENT,
        via: str = "",
    ) -> None:
        """Claim that a stimulus does not reach the far side, and mirror it from the open guest."""
        name = f"{check} {vantage.value} {describe(stimulus)}{f' via {via}' if via else ''}"
        unmet = ""
        if via and via not in self.neighbours:
            unmet = f"the next hop {via} does not answer ARP, so nothing was delivered to it"
        mirror = Shot(f"{name} (open)", Vantage.OPEN, self._mirrored(stimulus), User.AGENT)
        shot = Shot(name, vantage, stimulus, user, via)
        self.claims.append(Claim(check, shot, mirror, unmet=unmet))

    def _mirrored(self, stimulus: Stimulus) -> Stimulus:
        if isinstance(stimulus, Web) and not stimulus.host:
            return stimulus  # goes where the name leads; the nonce in it tells the two apart
        return aimed_at(sendable(stimulus), self.target(stimulus.key.family))

    def block_inbound(self, check: str, vantage: Vantage, stimulus: Stimulus, via: str) -> None:
        """Claim that a stimulus does not reach the agent's listener; the sidecar's own does."""
        name = f"{check} {vantage.value} {describe(stimulus)} via {via}"
        port = CONTROL_PORT
        control: Stimulus = Udp(stimulus.host, port)
        if isinstance(stimulus, Tcp):
            control = Tcp(stimulus.host, port)
        mirror = Shot(f"{name} (sidecar)", Vantage.SIDECAR, control, User.AGENT, delay=_HEAD_START)
        shot = Shot(name, vantage, stimulus, User.AGENT, via, delay=_HEAD_START)
        self.claims.append(Claim(check, shot, mirror, inbound=True))

    def keys(self) -> list[Key]:
        """Every family, protocol and port that a claim says is blocked towards the far side."""
        return sorted({c.shot.stimulus.key for c in self.claims if not c.inbound})

    def beats(self, when: str) -> list[Shot]:
        """Let the sidecar speak once for each key, each time to an address of its own."""
        beats = []
        for key in self.keys():
            host = self.target(key.family)
            kinds: dict[str, Stimulus] = {
                "tcp": Tcp(host, key.port),
                "udp": Udp(host, key.port),
                "icmp": Icmp(host),
            }
            name = f"beat {when} {key.protocol}/{key.port} v{key.family}"
            beats.append(Shot(name, Vantage.SIDECAR, kinds[key.protocol], User.AGENT))
        return beats


def describe(stimulus: Stimulus) -> str:
    """Name a stimulus in a few characters."""
    key = stimulus.key
    if isinstance(stimulus, Web):
        form = "by address" if stimulus.host else "by name"
        return f"https {stimulus.name} {form}"
    raw = " raw" if isinstance(stimulus, Icmp) and stimulus.raw else ""
    port = f"/{key.port}" if key.port else ""
    return f"{key.protocol}{port}{raw} to {stimulus.host}"
