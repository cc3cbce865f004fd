"""What the survey is going to fire: every check's stimuli, and from them their controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.errors import ConfigurationError
from pytest_bottle.firing import Operation
from pytest_bottle.stimulus import (
    Crafted,
    Frame,
    Icmp,
    Key,
    Shot,
    Stimulus,
    Tcp,
    Udp,
    Web,
    aimed_at,
    new_nonce,
    sendable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bottle.backends.contract import Topology
    from pytest_bottle.conformance.rounds import Asked
    from pytest_bottle.internet.contract import Internet

#: The port that a guest listens on for visitors from the networks, and for the sidecar's control.
INSIDE_PORT = 46001
#: The protocols that the sidecar, which has no privileges, can speak for the witness to hear.
BEATEN = frozenset({"tcp", "udp", "icmp"})
#: Seconds by which senders to such a guest hold back, so that its listener is there first.
HEAD_START = 0.3


@dataclass(frozen=True, slots=True)
class Claim:
    """A stimulus that must not arrive.

    Attributes:
        check: the ID of the check that claims it.
        shot: the stimulus, at its vantage point.
        mirror: the same stimulus from a place that must succeed.
        ear: the guest that it must not reach; None is the far side, where the witness hears.
        unmet: a condition that was not met already when the plan was made; empty if all were.
        optional: the outer network itself may not carry it, whoever sends it: then it does not
            count, and that is said.
    """

    check: str
    shot: Shot
    mirror: Shot
    ear: Vantage | None = None
    unmet: str = ""
    optional: bool = False
    witnessed: bool = True
    """Whether a witness is where it goes to; if not, an answer to its mirror is the control."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A packet to each port of an address, which must not arrive, and a few that must.

    Attributes:
        check: the ID of the check that claims it.
        protocol: ``tcp`` or ``udp``.
        operation: the privileged probe's own, to each of the 65,535 ports by a next hop.
        control: the neighbour's, to a handful of them.
        unmet: as for a claim.
    """

    check: str
    protocol: str
    operation: Operation
    control: Operation
    unmet: str = ""


@dataclass(slots=True)
class Plan:
    """Collects claims and operations; checks' ``stimuli`` functions fill it.

    Attributes:
        features: what the backend can do.
        neighbours: who answered ARP on the internal network, address to link address.
        guests: the addresses of the agent and of the suite's own guests.
        first: operations before the window, controls that must not be taken for a leak in it.
        during: operations in the window.
        sweeps: claims of a privileged probe about every port, in a window of their own.
        asked: what the rows of the user's own policy ask, in rounds behind everything else.
        refusals: why a row can ask nothing, by its ID.
    """

    topology: Topology
    internet: Internet
    features: frozenset[Feature]
    neighbours: Mapping[str, str]
    guests: Mapping[Vantage, str]
    claims: list[Claim] = field(default_factory=list)
    first: list[Operation] = field(default_factory=list)
    during: list[Operation] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    _given: set[tuple[str, tuple[str, int] | None]] = field(default_factory=set)
    _twins: dict[tuple[str, Key], str] = field(default_factory=dict)

    def target(self, family: int = 4) -> str:
        """Hand out an address of the far side that nobody else is sent to.

        Raises:
            ConfigurationError: the far side has no further one: two would be taken for each other.
        """
        return self._hand_out(family, None)

    def at(self, protocol: str, port: int = 0, family: int = 4) -> str:
        """Hand out an address to which nobody else sends this, for a stimulus of no other kind.

        Raises:
            ConfigurationError: as for :meth:`target`.
        """
        return self._hand_out(family, (protocol, port))

    def _hand_out(self, family: int, at: tuple[str, int] | None) -> str:
        host = self.internet.fresh_address(family, at)
        if not {(host, None), (host, at)}.isdisjoint(self._given):
            raise ConfigurationError(
                "the survey needs more addresses than the far side has",
                where=f"internet {self.internet.name}",
                expected=f"more than {len(self._given)} addresses, none twice",
                seen=f"{host} again{f' for {at[0]}/{at[1]}' if at else ''}",
            )
        self._given.add((host, at))
        return host

    def block(
        self,
        check: str,
        vantage: Vantage,
        stimulus: Stimulus,
        *,
        user: User = User.AGENT,
        via: str = "",
    ) -> None:
        """Claim that a stimulus does not reach the far side, and mirror it from the open guest.

        What the agent may not send, its root may not send either, where there is one.
        """
        name = f"{check} {vantage.value} {describe(stimulus)}{f' via {via}' if via else ''}"
        unmet = self.unmet(via)
        mirror = Shot(f"{name} (open)", Vantage.OPEN, self._mirrored(stimulus), User.AGENT)
        shot = Shot(name, vantage, stimulus, user, via)
        self.claims.append(Claim(check, shot, mirror, unmet=unmet))
        if vantage is Vantage.AGENT and Feature.EXEC_ROOT in self.features:
            twin = aimed_at(stimulus, self._twin(stimulus))
            shot = Shot(f"{name} as root", vantage, twin, User.ROOT)
            self.claims.append(Claim(check, shot, mirror))

    def block_literals(self, check: str, vantage: Vantage, *stimuli: Stimulus) -> None:
        """Claim that nothing comes back from public addresses at which nobody of ours listens.

        Only where they may be sent to. The control is the sidecar, which gets an answer.
        """
        if Feature.EVERY_ADDRESS in self.features or not self.internet.literals:
            return
        users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in self.features else [])]
        for stimulus in stimuli:
            name = f"{check} {vantage.value} {describe(stimulus)}"
            sent = sendable(stimulus)
            mirror = Shot(f"{name} (sidecar)", Vantage.SIDECAR, sent, User.AGENT)
            for user in users if vantage is Vantage.AGENT else [User.AGENT]:
                shot = Shot(f"{name} as {user.value}", vantage, stimulus, user)
                self.claims.append(Claim(check, shot, mirror, witnessed=False))

    def block_like(self, check: str, stimulus: Stimulus, mirrored: Stimulus) -> None:
        """Claim what :meth:`block` does for the agent, with a mirror to such an address too.

        The agent's root has the agent's own target: whoever of them is heard, it is a leak.
        """
        name = f"{check} agent {describe(stimulus)}"
        mirror = Shot(f"{name} (open)", Vantage.OPEN, mirrored, User.AGENT)
        users = [User.AGENT, *([User.ROOT] if Feature.EXEC_ROOT in self.features else [])]
        for user in users:
            shot = Shot(f"{name} as {user.value}", Vantage.AGENT, stimulus, user)
            self.claims.append(Claim(check, shot, mirror))

    def _twin(self, stimulus: Stimulus) -> str:
        """Give root an address of its own for each that the agent was given."""
        host, key = stimulus.host, stimulus.key
        if self._given.isdisjoint({(host, None), (host, key[1:])}):
            return host
        if (host, key) not in self._twins:
            self._twins[host, key] = self.at(*key[1:], key.family)
        return self._twins[host, key]

    def outer_hop(self, host: str) -> str:
        """Tell to whom a guest on the egress network hands what is for an address of the far side.

        To the gateway, or to the far side itself where that is on the same network.
        """
        egress = self.topology.egress
        on_link = ip_address(host) in ip_network(egress.subnet)
        return host if on_link else egress.gateway

    def unmet(self, via: str) -> str:
        """Say why nothing can be handed to a next hop; empty if it can."""
        if not via or via in self.neighbours:
            return ""
        return f"the next hop {via} does not answer ARP, so nothing was delivered to it"

    def _mirrored(self, stimulus: Stimulus) -> Stimulus:
        if isinstance(stimulus, Web) and not stimulus.host:
            return stimulus  # goes where the name leads; the nonce in it tells the two apart
        sent = sendable(stimulus)
        return aimed_at(sent, self.at(*sent.key[1:], sent.key.family))

    def block_inside(self, check: str, vantage: Vantage, ear: Vantage, via: str) -> None:
        """Claim that no TCP, UDP or echo request reaches a guest by a next hop.

        The control is the sidecar, which is on that guest's network.
        """
        host = self.guests[ear]
        unmet = self.unmet(via) if vantage is Vantage.PRIVILEGED else ""
        stimuli = (Tcp(host, INSIDE_PORT), Udp(host, INSIDE_PORT), Icmp(host, raw=True))
        for stimulus in stimuli:
            name = f"{check} {vantage.value} {describe(stimulus)} ({ear.value}) via {via}"
            control = sendable(stimulus)
            mirror = Shot(
                f"{name} (sidecar)", Vantage.SIDECAR, control, User.AGENT, delay=HEAD_START
            )
            shot = Shot(name, vantage, stimulus, User.ROOT, via, delay=HEAD_START)
            self.claims.append(Claim(check, shot, mirror, ear, unmet))

    def sweep(self, check: str, protocol: str, via: str, some: Sequence[int]) -> None:
        """Claim that a next hop passes on nothing to any port; ``some`` are the control's ports."""
        kind = {"tcp": "syn-sweep", "udp": "udp-sweep"}[protocol]
        name = f"{check} every {protocol} port via {via}"
        every = {"kind": kind, "host": self.target(), "ports": [], "via": via, "nonce": new_nonce()}
        few = {"kind": kind, "host": self.target(), "ports": [*some], "nonce": new_nonce()}
        self.sweeps.append(
            Sweep(
                check,
                protocol,
                Operation(name, Vantage.PRIVILEGED, every),
                Operation(f"{name} (neighbour)", Vantage.NEIGHBOUR, few),
                self.unmet(via),
            )
        )

    def keys(self) -> list[Key]:
        """Every family, protocol and port that a claim says is blocked towards the far side."""
        return sorted({c.shot.stimulus.key for c in self.claims if c.ear is None and c.witnessed})

    def beats(self, when: str) -> list[Shot]:
        """Let the sidecar speak once for each key, each time to an address of its own."""
        beats = []
        for key in self.keys():
            if key.protocol not in BEATEN:
                continue
            host = self.at(*key[1:], key.family)
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
        told = "".join(f" {name}={value}" for name, value in stimulus.variables)
        return f"https {stimulus.name} {form}{told and ' with'}{told}"
    raw = " raw" if isinstance(stimulus, Icmp) and stimulus.raw else ""
    raw = " frame" if isinstance(stimulus, Frame) else raw
    if isinstance(stimulus, Crafted):
        spoofed = f"from {stimulus.sender}" if stimulus.sender else ""
        raw = f" {stimulus.trick or spoofed or 'crafted'}"
    raw += " fast open" if getattr(stimulus, "fast", False) else ""
    port = f"/{key.port}" if key.port else ""
    source = getattr(stimulus, "source", 0)
    mapped = "::ffff:" if getattr(stimulus, "mapped", False) else ""
    back = f" from port {source}" if source else ""
    return f"{key.protocol}{port}{raw}{back} to {mapped}{stimulus.host}"
