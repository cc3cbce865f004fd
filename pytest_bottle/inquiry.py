"""One stimulus, asked properly: before and after it the sidecar speaks, then the same bytes openly.

The open guest fires in a window of its own, after the first one is closed: a stimulus may name an
address such as 1.1.1.1, and then only time tells the two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import Feature, User, Vantage
from pytest_bottle.errors import Inconclusive, NotSupported
from pytest_bottle.firing import Operation, Volley, fire, heard
from pytest_bottle.internet.zone import IPV4_PREFIX, is_of_far_side
from pytest_bottle.stimulus import Shot, aimed_at, sendable
from pytest_bottle.verdict import Finding, judge

if TYPE_CHECKING:
    from pytest_bottle.backends.contract import Backend, Topology
    from pytest_bottle.internet.records import Heard
    from pytest_bottle.stimulus import Stimulus


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What became of one stimulus.

    Attributes:
        finding: the judgement, made by the far end.
        outcome: how the prober saw it, typed by cause.
        heard: the witness's records of it.
        why: what made it inconclusive; empty otherwise.
    """

    stimulus: Stimulus
    finding: Finding
    outcome: str | None
    heard: tuple[Heard, ...]
    why: str = ""

    @property
    def blocked(self) -> bool:
        """Whether it did not get out, and would have been heard if it had.

        Raises:
            Inconclusive: a control failed or the record is missing, so silence proves nothing.
        """
        if self.finding in (Finding.INCONCLUSIVE, Finding.NOT_SENDABLE):
            raise Inconclusive(
                "nothing can be concluded from this probe",
                where=str(self.stimulus),
                expected="green controls and a record of the prober",
                seen=self.why or f"{self.finding.value}: {self.outcome}",
                next_step="a silent far end is evidence only if it would have heard",
            )
        return self.finding in (Finding.BLOCKED, Finding.TERMINATED_LOCALLY)

    @property
    def leaked(self) -> bool:
        """Whether the far end heard it."""
        return self.finding in (Finding.LEAKED, Finding.LEAKED_ONE_WAY)


def inquire(
    backend: Backend,
    topology: Topology,
    vantage: Vantage,
    stimulus: Stimulus,
    deadline: float,
) -> ProbeResult:
    """Send a stimulus with its controls and judge it.

    Raises:
        NotSupported: the open guest's control would be sent to a real address, outside.
    """
    internet = backend.internet
    if Feature.EVERY_ADDRESS not in backend.describe().features:
        _require_ours(topology, stimulus.host)
    key = stimulus.key
    internet.listen(
        tcp=[key.port] if key.protocol == "tcp" else [],
        udp=[key.port] if key.protocol == "udp" else [],
    )
    start = internet.mark()
    before = _beat(backend, topology, stimulus, "before")
    shot = Shot("shot", vantage, stimulus, User.AGENT)
    volley = fire(backend, topology, [Operation.of(shot)], deadline)
    after = _beat(backend, topology, stimulus, "after")
    window = internet.heard(start)
    control = Shot("control", Vantage.OPEN, sendable(stimulus), User.AGENT)
    opened = fire(backend, topology, [Operation.of(control)], deadline)
    controls = internet.heard(window.end)

    silent = [beat.name for beat in (before, after) if not heard(beat, window.records)]
    why = ""
    if silent:
        why = f"the witness did not hear the sidecar's beat {' and '.join(silent)} the stimulus"
    elif window.lost:
        why = f"the witness lost {window.lost} packets in the window"
    elif not _reached(control, opened, controls.records):
        why = f"the same bytes from the open guest did not arrive: {opened.outcome('control')}"
    elif volley.outcome("shot") in (None, "tool-error"):
        why = str(volley.failures or volley.records.get("shot"))
    found = tuple(heard(shot, window.records))
    # The beats and the stimulus differ in destination, so what was heard is the stimulus's own.
    finding = judge(
        volley.outcome("shot"), echo=volley.echo("shot"), heard=bool(found), controls=not why
    )
    return ProbeResult(stimulus, finding, volley.outcome("shot"), found, why)


def _require_ours(topology: Topology, host: str) -> None:
    """Require that what is sent there stays where somebody of ours hears it.

    That is so of the far side's own addresses, of the bottle's networks, and of a guest's loopback.

    Raises:
        NotSupported: it is another address, a real one. Public ones that may be sent to
            (``guest,live``) are no exception: nobody of ours is there to hear what left.
    """
    if not host or is_of_far_side(host):
        return
    address, networks = ip_address(host), (topology.internal, topology.egress)
    subnets = [one for network in networks for one in (network.subnet, network.subnet6) if one]
    if address.is_loopback or any(address in ip_network(one) for one in subnets):
        return
    raise NotSupported(
        f"{host} is not the far side's here: a probe and its control would be sent to the real one",
        where="probe",
        expected=f"an address of the far side, such as {IPV4_PREFIX}200",
        seen=host,
        next_step="use --bottle-internet=lab, where every address is the far side's, "
        "or probe an address of the far side",
    )


def _beat(backend: Backend, topology: Topology, stimulus: Stimulus, name: str) -> Shot:
    """Let the sidecar send the same kind of stimulus to an address of its own."""
    target = aimed_at(sendable(stimulus), backend.internet.fresh_address(stimulus.key.family))
    beat = Shot(name, Vantage.SIDECAR, target, User.AGENT)
    fire(backend, topology, [Operation.of(beat)])
    return beat


def _reached(shot: Shot, volley: Volley, records: tuple[Heard, ...]) -> bool:
    answered = volley.echo(shot.name) or volley.outcome(shot.name) in ("sent", "answered")
    return answered and bool(heard(shot, records))
