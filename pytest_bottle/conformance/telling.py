"""What a verdict says of itself, for whoever has to find the cause: short, and alike for all kinds.

The cause is a guess from what is known: who got through, by which next hop, and who did not.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pytest_bottle.backends.contract import User, Vantage
from pytest_bottle.errors import Facts
from pytest_bottle.verdict import Finding, is_leak

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_bottle.conformance.plan import Sweep
    from pytest_bottle.conformance.registry import Check
    from pytest_bottle.conformance.ruling import Judged
    from pytest_bottle.firing import Operation, Volley
    from pytest_bottle.internet.records import Heard

#: How many stimuli of a kind a message names.
_MOST = 4
#: Where to look first if nothing better is known, by the area of a check's ID.
_AREAS = {
    "CTL": "the suite's own means: its guests, its probe or its witness do not work here",
    "NET": "the agent's network is not internal-only, or something on it forwards",
    "IP6": "what holds IPv4 back was not made to hold IPv6 back",
    "DNS": "a resolver serves more than the list, or port 53 is let through",
    "PXY": "the sidecar's policy, or how it reads a request",
    "HST": "something of the host listens where the bottle reaches it",
    "LAT": "bottles, or the networks of one, are not kept apart",
    "PRV": "how the agent is started: its user, capabilities, namespaces and filters",
    "LIFE": "what holds while all is well does not hold when a part is gone or has changed",
    "RES": "teardown, or whoever has to clean up when there is none",
    "TRN": "how the agent's connections are intercepted",
    "USER": "the bottle, or the row, is not what it was meant to be",
}
#: Why nothing could be concluded, by what the reason says.
_DOUBTS = {
    "control did not arrive": "the way to the far side is broken for everybody: look at the egress "
    "network first",
    "witness lost": "the machine is too busy: rerun it alone",
    "through the proxy failed": "the intended path is broken: look at the sidecar, and at PXY-01",
    "probe is broken": "the guest cannot run the probe: look at CTL-02",
    "did not report": "the guest cannot run the probe, or exec does not work: look at CTL-02",
    "no usable record": "the guest cannot run the probe, or exec does not work: look at CTL-02",
    "does not answer ARP": "nobody has that address on the internal network",
    "did not hear the sidecar": "the sidecar cannot speak on that port, or the witness is deaf",
    "has no address for": "the name cannot be had at this far side: choose another one",
}
_ANY_DOUBT = "a control is red: what it names comes first"


def packets(records: Sequence[Heard], nonce: str = "") -> str:
    """Say what the witness heard: how much, from whom, to whom and when."""
    first = records[0]
    port = f":{first.dport}" if first.dport else ""
    told = f"the witness heard {len(records)} packets" if len(records) > 1 else "the witness heard"
    begin = ", the first" if len(records) > 1 else " one packet"
    behind = f" (nonce {nonce})" if nonce else ""
    at = f"at {first.time_ns / 1e9:.3f} s{behind}"
    return f"{told}{begin} from {first.src} to {first.dst}{port} {at}"


def mechanisms(judged: Iterable[Judged]) -> str:
    """Count what the probers saw, by place."""
    return counted((one.claim.shot.vantage, str(one.outcome)) for one in judged)


def counted(seen: Iterable[tuple[Vantage, str]]) -> str:
    """Count outcomes, by place."""
    counts = Counter((vantage.value, outcome) for vantage, outcome in seen)
    return ", ".join(f"{vantage}: {n}x {outcome}" for (vantage, outcome), n in counts.items())


def some(texts: Sequence[str], most: int = _MOST) -> str:
    """Name a few, and say how many more there are."""
    more = f"; and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


# -- by kind ---------------------------------------------------------------------------------------


def claims(judged: Sequence[Judged]) -> Facts:
    """Say what was claimed, and what the probers saw of it."""
    return Facts(sent=some([one.claim.shot.name for one in judged]), how=mechanisms(judged))


def leaks(judged: Sequence[Judged]) -> tuple[str, Facts]:
    """Say which claims leaked, and what that rests on."""
    found = [one for one in judged if is_leak(one.finding)]
    kinds = Counter(one.finding.value for one in found)
    seen = ", ".join(f"{n} of {len(judged)} stimuli {kind}" for kind, n in kinds.items())
    return seen, Facts(
        sent=some([one.claim.shot.name for one in found]),
        heard=_heard(found),
        how=mechanisms(found),
        cause=_cause(found, judged),
    )


def _heard(found: Sequence[Judged]) -> str:
    first = next((one for one in found if one.heard), found[0])
    if first.heard:
        return packets(first.heard, first.claim.shot.nonce)
    ear = first.claim.ear.value if first.claim.ear else "the far side"
    return f"{ear} received {first.claim.shot.name} (nonce {first.claim.shot.nonce})"


def _cause(found: Sequence[Judged], judged: Sequence[Judged]) -> str:
    held = [one for one in judged if not is_leak(one.finding)]
    shots = [one.claim.shot for one in found]
    agents = [shot for shot in shots if shot.vantage is Vantage.AGENT]
    if any(one.claim.ear for one in found):
        cause = "what was handed the packets forwards between the networks of a bottle"
    elif agents and all(shot.user is User.ROOT for shot in agents):
        cause = "the agent's root may do what its user may not"
    elif agents:
        cause = "the agent has a way out past the sidecar: a route, and something that forwards"
    elif any(shot.via for shot in shots):
        hops = " and ".join(sorted({shot.via for shot in shots if shot.via}))
        cause = f"{hops} forwards what it is handed; the agent only has no route to it"
    elif {shot.vantage for shot in shots} == {Vantage.SIDECAR}:
        cause = "the sidecar is on a network that leads there"
    else:
        cause = "something on the internal network forwards"
    return cause + _narrowed(found, held)


def _narrowed(found: Sequence[Judged], held: Sequence[Judged]) -> str:
    """Say what those that got through have in common, and the others have not."""
    if all(one.finding is Finding.LEAKED_ONE_WAY for one in found):
        return "; no answer comes back, so whoever sends sees nothing of it"
    keys = {one.claim.shot.stimulus.key for one in found}
    places = {(one.claim.shot.vantage, one.claim.ear) for one in found}
    alike = [one for one in held if (one.claim.shot.vantage, one.claim.ear) in places]
    others = {one.claim.shot.stimulus.key for one in alike} - keys
    if {key.family for key in keys} == {6} and {key.family for key in others} >= {4}:
        return "; only IPv4 is held back"
    if others and len(keys) <= _MOST:
        names = sorted({f"{key.protocol}{f'/{key.port}' if key.port else ''}" for key in keys})
        return f"; only {', '.join(names)} got through: a rule lets more pass than it should"
    return ""


def swept(sweep: Sweep, ports: Sequence[int], records: Sequence[Heard]) -> tuple[str, Facts]:
    """Say which ports of a sweep leaked, and what that rests on."""
    most = len(ports) > 60_000
    via = sweep.operation.what.get("via", "its own next hop")  # a control of CTL-05 has none
    some_ports = ", ".join(map(str, ports[:10]))
    what = "whatever it is handed" if most else "some ports: a rule lets more pass than it should"
    return (
        f"{len(ports)} of 65535 {sweep.protocol} ports leaked, among them {some_ports}",
        Facts(
            sent=sweep.operation.name,
            heard=packets(records, str(sweep.operation.what["nonce"])),
            how="one packet to each port, handed to the next hop",
            cause=f"{via} forwards {what}",
        ),
    )


def attempts(volley: Volley, found: Sequence[Operation], tried: int) -> tuple[str, Facts]:
    """Say which attempts arrived at a listener of the suite's own, and what that rests on."""
    nonces = ", ".join(str(one.what.get("nonce", "")) for one in found[:_MOST])
    return f"{len(found)} of {tried} attempts arrived", Facts(
        sent=some(_varied([one.name for one in found]), 2 * _MOST),
        heard=f"the listener's own record names them (nonce {nonces})",
        how=counted((one.vantage, str(volley.outcome(one.name))) for one in found),
    )


def _varied(names: Sequence[str]) -> list[str]:
    """Put one name for each destination first: they differ in more than their senders."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.rpartition(" to ")[2], name)
    return list(dict.fromkeys([*first.values(), *names]))


# -- whatever a check said -------------------------------------------------------------------------


def completed(facts: Facts, check: Check, doubt: str = "") -> Facts:
    """Fill in what a check itself did not say.

    Args:
        facts: what it said.
        check: which one it is.
        doubt: why nothing could be concluded; empty for a violation.
    """
    from pytest_bottle.conformance.sent import sent  # only who fails has to say what was sent

    cause = facts.cause or (_doubted(doubt) if doubt else _AREAS.get(check.id.split("-")[0], ""))
    return facts._replace(
        sent=facts.sent or some(sent(check)),
        cause=cause and f"probably {cause}",
        evidence=facts.evidence or _link(check.evidence),
    )


def _link(evidence: Sequence[str]) -> str:
    """Choose what can be opened, if anything can; a row of a user's own rests on its file."""
    links = [one for one in evidence if one.startswith("https://")]
    return next(iter([*links, *evidence]), "your own bottle.yaml")


def _doubted(doubt: str) -> str:
    return next((cause for part, cause in _DOUBTS.items() if part in doubt), _ANY_DOUBT)
